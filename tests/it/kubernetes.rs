//! Kubernetes as a source, against a real API server and etcd: what is taken, what is no change,
//! and what an agent is told when it lacks a right.

use serde_json::{Value, json};
use tests::{Agent, Fleet, KubeServer};

/// The table of a source that reads a server by an account.
pub(crate) fn source(server: &KubeServer, account: &str, more: &str) -> String {
    let kubeconfig = server.kubeconfig(account);
    format!(
        "[[sources]]\nkind = \"kubernetes\"\nkubeconfig = \"{}\"\non_change = false\n{more}",
        kubeconfig.display()
    )
}

/// A fleet, a server, and the agent of its cluster.
pub(crate) async fn world(test: &str, more: &str) -> Option<(Fleet, KubeServer, Agent)> {
    let directory = tempfile::tempdir().expect("a directory can be made").keep();
    let server = KubeServer::start(test, &directory).await?;
    let fleet = Fleet::start().await;
    let tables = source(&server, "admin", more);
    let agent = Agent::enrol_with(&fleet, "harbour", &directory, &tables).await;
    Some((fleet, server, agent))
}

/// The number of the newest point; 0 before the first.
pub(crate) async fn newest(agent: &Agent) -> u64 {
    let listed = agent.cli.json(&["backup", "list", "--cluster", "harbour"]).await;
    let points = listed.as_array().or_else(|| listed["points"].as_array()).cloned();
    let points = points.unwrap_or_default();
    points.iter().filter_map(|point| point["sequence"].as_u64()).max().unwrap_or(0)
}

/// The paths of the newest point's items.
pub(crate) async fn items(agent: &Agent) -> Vec<(String, bool)> {
    let kek = agent.kek();
    let kek = kek.to_str().expect("test paths are UTF-8");
    let point = format!("{}@{}", agent.cluster, newest(agent).await);
    let shown = agent.cli.json(&["backup", "show", &point, "--kek", kek]).await;
    let items = shown["contents"].as_array().expect("contents").clone();
    let text = |item: &Value| item["path"].as_str().expect("a path").to_owned();
    items.iter().map(|item| (text(item), item["secret"] == Value::Bool(true))).collect()
}

#[tokio::test]
async fn kubernetes_collects_what_people_write_and_an_unchanged_cluster_is_no_change() {
    let keys = "keys = [\"core/Secret/shop/unseal\"]\n";
    let Some((_fleet, server, agent)) = world("kubernetes_collects_*", keys).await else { return };
    let namespace = json!({"metadata": {"name": "shop"}});
    server.create("/api/v1/namespaces", &namespace).await;
    let map = json!({"metadata": {"name": "app"}, "data": {"greeting": "hello"}});
    server.create("/api/v1/namespaces/shop/configmaps", &map).await;
    for name in ["db", "unseal"] {
        // Bytes that are no text.
        let secret = json!({"metadata": {"name": name}, "data": {"password": "//79"}});
        server.create("/api/v1/namespaces/shop/secrets", &secret).await;
    }
    let event = json!({"metadata": {"name": "noise"}, "involvedObject": {"namespace": "shop"},
        "message": "m"});
    server.create("/api/v1/namespaces/shop/events", &event).await;
    assert_eq!(agent.backup().await, 1);
    let items = items(&agent).await;
    let of_shop: Vec<(&str, bool)> = items
        .iter()
        .filter(|(path, _)| path.contains("/shop"))
        .map(|(path, secret)| (path.as_str(), *secret))
        .collect();
    assert_eq!(
        of_shop,
        [
            ("core/ConfigMap/shop/app", false),
            ("core/Namespace/shop", false),
            ("core/Secret/shop/db", false),
            ("core/Secret/shop/unseal", true),
        ]
    );
    assert!(items.contains(&("cluster.json".to_owned(), false)));
    // What the server makes by itself is not there.
    for made in ["ClusterRole/view", "Service/default/kubernetes", "FlowSchema/exempt", "Lease"] {
        assert!(!items.iter().any(|(path, _)| path.contains(made)), "{made}");
    }

    // Only what the server sets moves: the point after it has no bytes of its own.
    let touched = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app"},
        "data": {"greeting": "hello"}});
    server.apply("/api/v1/namespaces/shop/configmaps/app", &touched).await;
    assert_eq!(agent.backup().await, 2);
    let listed = agent.cli.json(&["backup", "list", "--cluster", "harbour"]).await;
    let points = listed.as_array().or_else(|| listed["points"].as_array()).expect("points");
    let second = points.iter().find(|p| p["sequence"] == json!(2)).expect("point 2");
    assert_eq!(second["added_bytes"], json!(0), "{second}");
}

/// Makes or changes an object that says what it is.
async fn apply(server: &KubeServer, object: &Value) {
    let name = object["metadata"]["name"].as_str().expect("a name");
    let path = match object["kind"].as_str().expect("a kind") {
        "ServiceAccount" => format!("/api/v1/namespaces/strongroom/serviceaccounts/{name}"),
        "ClusterRole" => format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}"),
        "ClusterRoleBinding" => {
            format!("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{name}")
        }
        other => panic!("{other} is no part of rights"),
    };
    server.apply(&path, object).await;
}

#[tokio::test]
async fn kubernetes_printed_rights_are_enough_and_a_missing_one_is_named() {
    let directory = tempfile::tempdir().expect("a directory can be made").keep();
    let test = "kubernetes_printed_rights_*";
    let Some(server) = KubeServer::start(test, &directory).await else { return };
    server.create("/api/v1/namespaces", &json!({"metadata": {"name": "strongroom"}})).await;
    let account = json!({"metadata": {"name": "strongroom-agent"}});
    let accounts = "/api/v1/namespaces/strongroom/serviceaccounts";
    server.create(accounts, &account).await;
    let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600}});
    let token = server.create(&format!("{accounts}/strongroom-agent/token"), &asked).await;
    let token = token["status"]["token"].as_str().expect("a token");
    let kubeconfig = server.kubeconfig_with("strongroom-agent", token);
    let secret = json!({"metadata": {"name": "db"}, "data": {"password": "eA=="}});
    server.create("/api/v1/namespaces/strongroom/secrets", &secret).await;

    let fleet = Fleet::start().await;
    let tables = format!(
        "[[sources]]\nkind = \"kubernetes\"\non_change = false\nkubeconfig = \"{}\"\n",
        kubeconfig.display()
    );
    let agent = Agent::enrol_with(&fleet, "harbour", &directory, &tables).await;
    let (config, admin) = (agent.config(), server.kubeconfig("admin"));
    let text = |path: &std::path::Path| path.to_str().expect("test paths are UTF-8").to_owned();
    let (config, admin) = (text(&config), text(&admin));
    let refused = tests::wait::until("the agent takes a backup", async || {
        let done = agent.try_backup().await;
        (done.error().0 != "BUSY").then_some(done)
    })
    .await;
    assert_eq!(refused.error().0, "PERMISSION_DENIED", "{}", refused.stderr);
    assert!(refused.error().1.contains("may not get namespaces"), "{}", refused.stderr);

    let printed =
        agent.cli.json(&["agent", "rbac", "--config", &config, "--kubeconfig", &admin]).await;
    let mut objects = printed["objects"].as_array().expect("objects").clone();
    for object in &objects {
        apply(&server, object).await;
    }
    // The server's authorizer hears of new rights by a watch.
    tests::wait::until("the rights count", async || {
        let done = agent.try_backup().await;
        (done.exit == 0).then_some(())
    })
    .await;
    agent.backup().await;
    let listed = agent.cli.json(&["backup", "list", "--cluster", "harbour", "--limit", "1"]).await;
    assert!(!listed.to_string().contains("unproved"), "{listed}");
    assert!(items(&agent).await.iter().any(|(path, _)| path == "core/Secret/strongroom/db"));

    // Without one of them.
    let role = objects.iter_mut().find(|object| object["kind"] == "ClusterRole").expect("a role");
    let rules = role["rules"].as_array_mut().expect("rules");
    for rule in rules {
        let resources = rule["resources"].as_array_mut().expect("resources");
        resources.retain(|resource| resource != "secrets");
    }
    apply(&server, role).await;
    let skipped = tests::wait::until("the missing right is noticed", async || {
        agent.backup().await;
        std::fs::read_to_string(agent.directory().join("skipped.txt")).ok()
    })
    .await;
    assert!(skipped.contains("the account may not list secrets"), "{skipped}");
    assert!(!skipped.contains("configmaps"), "{skipped}");
    let listed = agent.cli.json(&["backup", "list", "--cluster", "harbour", "--limit", "1"]).await;
    assert!(listed.to_string().contains("unproved"), "{listed}");
    let status = agent.cli.json(&["status"]).await;
    assert!(status.to_string().contains("source-forbidden"), "{status}");
}
