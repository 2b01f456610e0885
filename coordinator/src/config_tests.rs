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

#[test]
fn config_by_environment_alone_and_over_a_file() {
    let set = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        let named = pairs.iter();
        named.map(|(k, v)| (format!("STRONGROOM_COORDINATOR_{k}"), (*v).to_owned())).collect()
    };
    let fleet = "1111111111111111111111111111111111111111111111111111111111111111";
    let alone = [
        ("NODE_ID", "1"),
        ("NAME", "one"),
        ("DATA_DIR", "/data"),
        ("LISTEN", "0.0.0.0:7401"),
        ("TLS__CA", "/run/secrets/ca.pem"),
        ("TLS__CERTIFICATE", "/run/secrets/node.pem"),
        ("TLS__KEY", "/run/secrets/node.key"),
        ("FLEET__ID", "000102030405060708090a0b0c0d0e0f"),
        ("FLEET__NAME", "home"),
        ("FLEET__RECOVERY_HPKE", fleet),
        ("FLEET__RECOVERY_SIGNING", fleet),
        ("MEMBERS", "[{id = 1, name = \"one\", address = \"one.example:7401\"}]"),
        ("LIMITS__UPLOADS_MAX", "7"),
    ];
    let config = Config::load_with(None, set(&alone)).unwrap();
    assert_eq!((config.node_id.get(), config.limits.uploads_max), (1, 7));
    assert_eq!(config.tls.key, Path::new("/run/secrets/node.key"));

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("coordinator.toml");
    std::fs::write(&path, GOOD).unwrap();
    let over = set(&[("RAFT__HEARTBEAT_MS", "150"), ("DATA_DIR", "elsewhere")]);
    let config = Config::load_with(Some(&path), over).unwrap();
    assert_eq!(config.raft.heartbeat_ms, 150);
    assert_eq!(config.data_dir, directory.path().join("elsewhere"));
    assert_eq!(config.name, "coordinator-1");

    for (name, value, expected) in [
        ("HARTBEAT_MS", "1", "unknown field `hartbeat_ms`"),
        ("RAFT__HARTBEAT_MS", "1", "unknown field `hartbeat_ms`"),
        ("RAFT__HEARTBEAT_MS", "soon", "invalid type: string \"soon\""),
        ("RAFT__HEARTBEAT_MS", "900", "heartbeat_ms 900 must be at most half"),
        ("NAME__X", "1", "there is no such key"),
    ] {
        let error = Config::load_with(Some(&path), set(&[(name, value)])).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(error.contains(&format!("STRONGROOM_COORDINATOR_{name}")), "{error}");
    }
    let error = Config::load_with(None, []).unwrap_err().to_string();
    assert!(error.contains("missing field"), "{error}");
}
