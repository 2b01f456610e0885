//! Changes of a cluster that become points by themselves, against a real API server and etcd.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::wait::{until, until_in};
use tests::{Agent, Fleet, KubeServer};

use crate::kubernetes::{items, newest};

/// From a change that the server acknowledged to a point that holds it.
const EXPOSED_MAX: Duration = Duration::from_secs(10);

async fn holds(agent: &Agent, path: &str) -> bool {
    newest(agent).await > 0 && items(agent).await.iter().any(|(item, _)| item == path)
}

fn tables(server: &KubeServer) -> String {
    let kubeconfig = server.kubeconfig("admin");
    format!("[[sources]]\nkind = \"kubernetes\"\nkubeconfig = \"{}\"\n", kubeconfig.display())
}

#[tokio::test]
async fn kubernetes_a_change_is_in_a_point_within_seconds_and_quiet_asks_for_nothing() {
    let directory = tempfile::tempdir().expect("a directory can be made").keep();
    let test = "kubernetes_a_change_is_in_a_point_*";
    let Some(mut server) = KubeServer::start(test, &directory).await else { return };
    server.create("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}})).await;
    let fleet = Fleet::start().await;
    let agent = Agent::enrol_with(&fleet, "harbour", &directory, &tables(&server)).await;
    until("the first point is made by itself", async || {
        holds(&agent, "core/Namespace/shop").await.then_some(())
    })
    .await;

    let map = |name: &str, value: &str| json!({"metadata": {"name": name}, "data": {"k": value}});
    let maps = "/api/v1/namespaces/shop/configmaps";
    server.create(maps, &map("late", "1")).await;
    until_in(EXPOSED_MAX, "the change is in a point", async || {
        holds(&agent, "core/ConfigMap/shop/late").await.then_some(())
    })
    .await;

    // Nobody writes: nothing is listed, and no point is made.
    let (lists, before) = (server.requests("LIST", true).await, newest(&agent).await);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(server.requests("LIST", true).await, lists, "an unchanged cluster was listed");
    assert_eq!(newest(&agent).await, before);

    // A storm makes a handful of points.
    let begun = Instant::now();
    for round in 0..1000 {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"},
            "data": {"k": format!("round {round}")}});
        server.apply(&format!("{maps}/late"), &object).await;
    }
    let stormed = begun.elapsed().as_secs();
    server.create(maps, &map("last", "1")).await;
    until_in(EXPOSED_MAX, "the end of the storm is in a point", async || {
        holds(&agent, "core/ConfigMap/shop/last").await.then_some(())
    })
    .await;
    let made = newest(&agent).await - before;
    assert!(made <= 2 + stormed / 3, "{made} points of 1000 changes in {stormed} s");

    // The server goes away and comes back; a new kind appears meanwhile, and its objects count.
    server.kill_server();
    server.start_server().await;
    server.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition()).await;
    let boat = json!({"apiVersion": "example.com/v1", "kind": "Boat",
        "metadata": {"name": "one"}, "spec": {"length": 7}});
    until("boats are served", async || {
        server.ask("POST", "/apis/example.com/v1/namespaces/shop/boats", Some(&boat)).await.ok()
    })
    .await;
    until("the boat is in a point", async || {
        holds(&agent, "example.com/Boat/shop/one").await.then_some(())
    })
    .await;
}

/// A definition of a kind.
pub(crate) fn definition() -> Value {
    json!({
        "metadata": {"name": "boats.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"kind": "Boat", "plural": "boats", "singular": "boat", "listKind": "BoatList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema":
                {"openAPIV3Schema": {"type": "object",
                    "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    })
}
