# What the tariffs application may read.
path "kv/data/tariffs/*" {
  capabilities = ["read"]
}
