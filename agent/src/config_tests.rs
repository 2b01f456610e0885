use super::*;

const GOOD: &str = r#"
cluster = "prod-eu"
coordinators = ["127.0.0.1:7401", "b.example:7401"]
state_dir = "state"
recovery_key = "recovery.pub"

[tls]
ca = "ca.pem"
certificate = "agent.pem"
key = "/keys/agent.key"

[upload]
limit_bytes_per_second = 5

[[sources]]
kind = "directory"
path = "/etc/cluster"
keys = ["secrets/**", "*.key"]
exclude = ["tmp"]
"#;

#[test]
fn config_paths_are_relative_to_the_file() {
    let config = Config::parse(Path::new("/conf/agent.toml"), GOOD).unwrap();
    assert_eq!(config.cluster, "prod-eu");
    assert_eq!(config.state_dir, Path::new("/conf/state"));
    assert_eq!(config.socket, Path::new("/conf/state/agent.sock"));
    assert_eq!(config.recovery_key, Path::new("/conf/recovery.pub"));
    assert_eq!(config.tls.ca, Path::new("/conf/ca.pem"));
    assert_eq!(config.tls.key, Path::new("/keys/agent.key"));
    assert_eq!(config.upload.limit_bytes_per_second, 5);
    assert_eq!(config.sources.len(), 1);
    assert_eq!(config.sources[0].name, "directory");
    let SourceKind::Directory(directory) = &config.sources[0].kind else { panic!("a directory") };
    assert_eq!(directory.path, Path::new("/etc/cluster"));
    assert!(directory.keys.matches(b"secrets/a/b"));
}

#[test]
fn config_problems_name_file_line_key_and_remedy() {
    let swap = |from: &str, to: &str| GOOD.replace(from, to);
    for (text, expected) in [
        (
            swap("state_dir =", "state_dri ="),
            "/conf/agent.toml:4: unknown key `state_dri`: did you mean `state_dir`?",
        ),
        (
            swap("exclude =", "banana ="),
            "/conf/agent.toml:19: unknown key `banana`: known here are kind, name, path, keys, \
             include, exclude",
        ),
        (swap("cluster = \"prod-eu\"\n", ""), "the key `cluster` is missing: add it"),
        (swap("\"prod-eu\"", "\"Prod EU\""), "cluster: \"Prod EU\" is not a cluster name"),
        (swap("b.example:7401", "b.example"), "\"b.example\" is not an address: use host:port"),
        (swap("[\"tmp\"]", "[\"a[\"]"), "sources.exclude: "),
        (swap("\"directory\"", "\"vault\""), "sources.kind: \"vault\" is unknown"),
        (swap("\"state\"", "\"/etc/cluster/state\""), "state_dir: it lies in the source"),
        (swap("= 5", "= \"fast\""), "/conf/agent.toml:13: invalid type"),
        (
            swap("[upload]", "[upload]\ncarry_bytes_max = 20000"),
            "upload.carry_bytes_max: 20000: use 0 to 11264",
        ),
        (swap("[[sources]]", "[sources]"), "/conf/agent.toml:15: invalid type"),
        (swap("cluster = \"prod-eu\"", "cluster = "), "/conf/agent.toml:2: "),
    ] {
        let error = Config::parse(Path::new("/conf/agent.toml"), &text).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}\nexpected {expected}");
        assert_eq!(error.code(), Code::InvalidConfig);
    }
    let missing = Config::load(Path::new("/nowhere/agent.toml")).unwrap_err();
    assert!(missing.to_string().contains("/nowhere/agent.toml"), "{missing}");
}

#[test]
fn config_reports_all_value_problems_together() {
    let text = GOOD.replace("\"prod-eu\"", "\"\"").replace("\"127.0.0.1:7401\"", "\"x\"");
    let error = Config::parse(Path::new("a.toml"), &text).unwrap_err().to_string();
    assert!(error.contains("cluster:") && error.contains("coordinators:"), "{error}");
}

#[test]
fn config_of_a_kubernetes_source() {
    let begin = GOOD.find("[[sources]]").unwrap();
    let parse = |source: &str| {
        let text = format!("{}[[sources]]\nkind = \"kubernetes\"\n{source}", &GOOD[..begin]);
        Config::parse(Path::new("/conf/agent.toml"), &text)
    };
    let config = parse("").unwrap();
    let SourceKind::Kubernetes(kubernetes) = &config.sources[0].kind else { panic!("a cluster") };
    assert_eq!(kubernetes.connection, Connection::default());
    assert!(kubernetes.on_change && !kubernetes.policy.everything);
    let config = parse(
        "name = \"prod\"\nkubeconfig = \"k\"\ncontext = \"c\"\non_change = false\nlabels = \"a=b\"\n",
    );
    let config = config.unwrap();
    let SourceKind::Kubernetes(kubernetes) = &config.sources[0].kind else { panic!("a cluster") };
    assert_eq!(kubernetes.connection.kubeconfig.as_deref(), Some(Path::new("/conf/k")));
    assert_eq!((kubernetes.on_change, kubernetes.policy.labels.as_str()), (false, "a=b"));
    for (source, expected) in [
        ("path = \"/etc\"\n", "sources.path: a source of kind \"kubernetes\" has no such key"),
        ("context = \"c\"\n", "sources.context: it needs a kubeconfig"),
        ("keys = [\"a[\"]\n", "sources.keys: "),
    ] {
        let error = parse(source).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
