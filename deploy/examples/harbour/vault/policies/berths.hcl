# What the berths application may read.
path "kv/data/berths/*" {
  capabilities = ["read"]
}

path "database/creds/berths-writer" {
  capabilities = ["read"]
}
