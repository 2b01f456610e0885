use super::*;

const GOOD: &str = r#"
node_id = 1
name = "coordinator-1"
data_dir = "data"
listen = "127.0.0.1:7401"

[tls]
ca = "ca.pem"
certificate = "/etc/c.pem"
key = "k.pem"

[fleet]
id = "000102030405060708090a0b0c0d0e0f"
name = "dev"
recovery_hpke = "1111111111111111111111111111111111111111111111111111111111111111"
recovery_signing = "2222222222222222222222222222222222222222222222222222222222222222"

[[members]]
id = 1
name = "coordinator-1"
address = "127.0.0.1:7401"

[[members]]
id = 2
name = "coordinator-2"
address = "127.0.0.1:7402"

[[members]]
id = 3
name = "coordinator-3"
address = "127.0.0.1:7403"
"#;

#[test]
fn config_takes_paths_from_the_files_directory() {
    let config = Config::parse(GOOD, Path::new("/etc/strongroom")).unwrap();
    assert_eq!(config.data_dir, Path::new("/etc/strongroom/data"));
    assert_eq!(config.tls.certificate, Path::new("/etc/c.pem"));
    assert_eq!(config.members.len(), 3);
    assert_eq!(config.raft.heartbeat_ms, 200);
}

#[test]
fn config_refuses_with_place_and_remedy() {
    for (from, to, expected) in [
        ("listen =", "lisen =", "line 5: unknown field `lisen`"),
        ("name = \"coordinator-1\"\ndata", "data", "missing field `name`"),
        ("id = \"0001", "id = \"xx01", "fleet.id:"),
        ("\"1111", "\"11", "fleet.recovery_hpke: expected 64 hexadecimal digits"),
        ("node_id = 1", "node_id = 9", "node_id 9 is not among them"),
        ("node_id = 1", "node_id = \"one\"", "line 2:"),
        ("id = 2", "id = 3", "an id stands twice"),
        ("[fleet]", "[raft]\nheartbeat_ms = 900\n[fleet]", "heartbeat_ms 900 must be at most half"),
        ("[fleet]", "[limits]\nuploads_per_cluster_max = 0\n[fleet]", "would refuse every backup"),
        ("[fleet]", "[limits]\ncluster_bytes_max = 0\n[fleet]", "remove the key for no limit"),
        ("[fleet]", "[raft]\nhartbeat_ms = 1\n[fleet]", "unknown field `hartbeat_ms`"),
        ("[fleet]", "[upgrade]\nlevel_max = 3\n[fleet]", "supports the levels 1 to 2"),
        ("[fleet]", "[upgrade]\nlevel_max = 0\n[fleet]", "or remove the key"),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from} is not in the file");
        let problems = Config::parse(&text, Path::new("/")).unwrap_err().join("\n");
        assert!(problems.contains(expected), "{to}: {problems}");
    }
}
