//! Objects of a recovery point back in a cluster, against a real API server and etcd.

use serde_json::{Value, json};
use tests::cli::Done;
use tests::{Agent, KubeServer};

use crate::kubernetes::world;

/// A restore of the newest point into a server, with the agent's KEK.
pub(crate) async fn restore(agent: &Agent, server: &KubeServer, more: &[&str]) -> Done {
    let (kek, kubeconfig) = (agent.kek(), server.kubeconfig("admin"));
    let safety = agent.directory().join("safety");
    std::fs::create_dir_all(&safety).expect("a directory can be made");
    let text = |path: &std::path::Path| path.to_str().expect("test paths are UTF-8").to_owned();
    let (kek, kubeconfig, safety) = (text(&kek), text(&kubeconfig), text(&safety));
    let mut arguments = vec![
        "restore",
        "--cluster",
        &agent.cluster,
        "--to-kubernetes",
        "--kubeconfig",
        &kubeconfig,
        "--kek",
        &kek,
        "--safety-dir",
        &safety,
    ];
    arguments.extend(more);
    agent.cli.run(&arguments).await
}

/// What a report says of one object.
fn outcome(report: &Value, path: &str) -> String {
    let objects = report["report"]["objects"].as_array().expect("a report");
    let object = objects.iter().find(|object| object["path"] == path);
    let object = object.unwrap_or_else(|| panic!("{path} is not in {report}"));
    object["outcome"].as_str().expect("an outcome").to_owned()
}

const SHOP: &str = "/api/v1/namespaces/shop";

#[tokio::test]
async fn kubernetes_objects_come_back_and_what_is_in_the_way_is_kept_before() {
    let Some((_fleet, server, agent)) = world("kubernetes_objects_come_back_*", "").await else {
        return;
    };
    server.create("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}})).await;
    let map = json!({"metadata": {"name": "app", "labels": {"tier": "web"}},
        "data": {"greeting": "hello"}});
    server.create(&format!("{SHOP}/configmaps"), &map).await;
    let secret = json!({"metadata": {"name": "db"}, "data": {"password": "aHVudGVyMg=="}});
    server.create(&format!("{SHOP}/secrets"), &secret).await;
    assert_eq!(agent.backup().await, 1);

    // Gone, and back: only what was asked for.
    server.delete(&format!("{SHOP}/secrets/db")).await;
    server.delete(&format!("{SHOP}/configmaps/app")).await;
    let done = restore(&agent, &server, &["--kind", "Secret", "-n", "shop"]).await;
    let report = done.success().json();
    assert_eq!(outcome(&report, "core/Secret/shop/db"), "created");
    let back = server.get(&format!("{SHOP}/secrets/db")).await;
    assert_eq!(back["data"], json!({"password": "aHVudGVyMg=="}));
    let manager = &back["metadata"]["managedFields"][0];
    assert_eq!(
        (&manager["manager"], &manager["operation"]),
        (&json!("strongroom"), &json!("Apply"))
    );
    assert!(!server.has(&format!("{SHOP}/configmaps/app")).await);
    let _ = restore(&agent, &server, &["--label", "tier=web"]).await.success();
    assert!(server.has(&format!("{SHOP}/configmaps/app")).await);

    // Again: nothing is left to do.
    let again = restore(&agent, &server, &[]).await;
    assert_eq!(again.success().json()["totals"]["create"], json!(0));

    // Changed since: refused, shown without the secret's value, and overwritten when told.
    let changed = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"},
        "data": {"password": "Y2hhbmdlZA==", "more": "eA=="}});
    server.apply(&format!("{SHOP}/secrets/db"), &changed).await;
    let refused = restore(&agent, &server, &[]).await;
    assert_eq!((refused.exit, refused.error().0.as_str()), (8, "CONFLICT"));
    let diff = restore(&agent, &server, &["--diff"]).await;
    let text = diff.success().stdout.clone();
    assert!(text.contains("data.password") && text.contains("hidden"), "{text}");
    for value in ["aHVudGVyMg", "Y2hhbmdlZA", "hunter2"] {
        assert!(!text.contains(value), "{text}");
    }
    let tried = restore(&agent, &server, &["--dry-run", "--on-conflict", "overwrite"]).await;
    assert_eq!(outcome(&tried.success().json(), "core/Secret/shop/db"), "overwritten");
    assert_eq!(server.get(&format!("{SHOP}/secrets/db")).await["data"], changed["data"]);
    let done = restore(&agent, &server, &["--on-conflict", "overwrite"]).await;
    let report = done.success().json();
    assert_eq!(outcome(&report, "core/Secret/shop/db"), "overwritten");
    let back = server.get(&format!("{SHOP}/secrets/db")).await;
    assert_eq!(back["data"], json!({"password": "aHVudGVyMg=="}));

    // What was overwritten is in the safety file, and comes back from it.
    let safety = report["report"]["safety_file"].as_str().expect("a safety file").to_owned();
    let (kek, kubeconfig) = (agent.kek(), server.kubeconfig("admin"));
    let arguments = [
        "restore",
        "--from",
        &safety,
        "--to-kubernetes",
        "--on-conflict",
        "overwrite",
        "--kek",
        kek.to_str().expect("UTF-8"),
        "--kubeconfig",
        kubeconfig.to_str().expect("UTF-8"),
        "--safety-dir",
        agent.directory().to_str().expect("UTF-8"),
    ];
    let _ = agent.cli.run(&arguments).await.success();
    assert_eq!(server.get(&format!("{SHOP}/secrets/db")).await["data"], changed["data"]);

    // Into another namespace, beside the first.
    let _ =
        restore(&agent, &server, &["-n", "shop", "--map-namespace", "shop=lab"]).await.success();
    let lab = server.get("/api/v1/namespaces/lab/secrets/db").await;
    assert_eq!(lab["data"], json!({"password": "aHVudGVyMg=="}));
}

/// Every object of the YAML files beneath a directory, in the order of their names.
fn manifests(directory: &std::path::Path) -> Vec<Value> {
    let mut files: Vec<_> = walkdir::WalkDir::new(directory)
        .into_iter()
        .map(|entry| entry.expect("the data is readable").into_path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    let mut objects = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("the data is readable");
        let found: Vec<Value> = serde_saphyr::from_multiple(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for object in found.into_iter().filter(Value::is_object) {
            match object["items"].as_array() {
                Some(items) => objects.extend(items.iter().cloned()),
                None => objects.push(object),
            }
        }
    }
    objects
}

/// Where an object of a kind that Kubernetes or these files bring lives.
fn path_of(object: &Value, plurals: &[(String, String, bool)]) -> String {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let (_, plural, namespaced) = plurals
        .iter()
        .find(|(known, _, _)| known == &format!("{version}/{kind}"))
        .unwrap_or_else(|| panic!("{version}/{kind} is not served"));
    let root = if version.contains('/') { "/apis" } else { "/api" };
    let namespace = match (*namespaced, text("/metadata/namespace")) {
        (false, _) => String::new(),
        (true, "") => "/namespaces/default".to_owned(),
        (true, namespace) => format!("/namespaces/{namespace}"),
    };
    format!("{root}/{version}{namespace}/{plural}/{name}")
}

async fn plurals(server: &KubeServer) -> Vec<(String, String, bool)> {
    let mut versions = vec![("/api/v1".to_owned(), "v1".to_owned())];
    let groups = server.get("/apis").await;
    for group in groups["groups"].as_array().expect("groups") {
        for version in group["versions"].as_array().expect("versions") {
            let version = version["groupVersion"].as_str().expect("a version").to_owned();
            versions.push((format!("/apis/{version}"), version));
        }
    }
    let mut plurals = Vec::new();
    for (path, version) in versions {
        // An aggregated API whose server does not run.
        let Ok(found) = server.ask("GET", &path, None).await else { continue };
        for kind in found["resources"].as_array().expect("resources") {
            let text = |field: &str| kind[field].as_str().unwrap_or_default().to_owned();
            if !text("name").contains('/') {
                let known = format!("{version}/{}", text("kind"));
                plurals.push((known, text("name"), kind["namespaced"] == json!(true)));
            }
        }
    }
    plurals
}

async fn served(server: &KubeServer, group: &str, kinds: usize) -> Vec<(String, String, bool)> {
    tests::wait::until("the defined kinds are served", async || {
        let plurals = plurals(server).await;
        let of_group = plurals.iter().filter(|(known, _, _)| known.starts_with(group)).count();
        (of_group >= kinds).then_some(plurals)
    })
    .await
}

#[tokio::test]
async fn kubernetes_prometheus_comes_back_into_an_empty_cluster_with_the_recovery_key_only() {
    let test = "kubernetes_prometheus_*";
    let Some(data) = tests::skip::kube_prometheus() else {
        tests::skip::skip(test, "../shared/data/kube-prometheus is missing");
        return;
    };
    let Some((fleet, server, agent)) = world(test, "").await else { return };
    let mut objects = manifests(&data.join("manifests/setup"));
    objects.extend(manifests(&data.with_file_name("crds")));
    let plural = plurals(&server).await;
    let definitions = objects.iter().filter(|o| o["kind"] == "CustomResourceDefinition").count();
    for object in &objects {
        server.apply(&path_of(object, &plural), object).await;
    }
    assert!(definitions > 10, "{definitions} definitions");
    let plural = served(&server, "monitoring.coreos.com/", 10).await;
    let known = objects.clone();
    for object in manifests(&data.join("manifests")) {
        if known.contains(&object) {
            continue;
        }
        let path = path_of(&object, &plural);
        server.apply(&path, &object).await;
        objects.push(object);
    }
    assert!(objects.len() > 90, "{} objects", objects.len());
    // An application that says of itself where it is.
    let binding = json!({"apiVersion": "appcatalog.appscode.com/v1alpha1", "kind": "AppBinding",
        "metadata": {"name": "vault", "namespace": "default"},
        "spec": {"type": "kubevault.com/vault", "clientConfig":
            {"service": {"name": "vault", "scheme": "https", "port": 8200}}}});
    server.apply(&path_of(&binding, &plural), &binding).await;
    objects.push(binding);
    let admin = server.kubeconfig("admin");
    let admin = admin.to_str().expect("test paths are UTF-8");
    let found = agent.cli.json(&["source", "discover", "--kubeconfig", admin]).await;
    let application = &found["applications"][0];
    assert_eq!((&application["name"], &application["source"]), (&json!("vault"), &json!("vault")));
    assert_eq!(application["address"], "https://vault.default.svc:8200");
    assert_eq!(agent.backup().await, 1);

    // Another cluster, empty, without any controller.
    let directory = tempfile::tempdir().expect("a directory can be made").keep();
    let empty = KubeServer::start(test, &directory).await.expect("it started once already");
    let refused = restore(&agent, &empty, &[]).await;
    assert_eq!((refused.exit, refused.error().0.as_str()), (6, "WRONG_CLUSTER"));
    assert!(!empty.has("/api/v1/namespaces/monitoring").await);
    let recovery = fleet.recovery_files().with_file_name("recovery.key");
    let kubeconfig = empty.kubeconfig("admin");
    let text = |path: &std::path::Path| path.to_str().expect("test paths are UTF-8").to_owned();
    let (recovery, kubeconfig) = (text(&recovery), text(&kubeconfig));
    let arguments = [
        "restore",
        "--cluster",
        "harbour",
        "--to-kubernetes",
        "--kubeconfig",
        &kubeconfig,
        "--recovery-key",
        &recovery,
        "--into-cluster",
        "test",
        "--on-conflict",
        "overwrite",
        "--safety-dir",
        &text(&directory),
    ];
    let done = agent.cli.run(&arguments).await;
    let report = done.success().json();
    let made = report["totals"]["create"].as_u64().expect("a number");
    assert!(made as usize >= objects.len() - 5, "{made} of {}", objects.len());

    // Object by object: what people wrote is there, field by field.
    let plural = served(&empty, "monitoring.coreos.com/", 10).await;
    for object in &objects {
        let path = path_of(object, &plural);
        let (here, there) = (server.get(&path).await, empty.get(&path).await);
        for field in ["spec", "data", "rules", "subjects", "roleRef", "webhooks", "stringData"] {
            assert_eq!(there[field], here[field], "{path} {field}");
        }
        for field in ["labels", "annotations", "name", "namespace"] {
            assert_eq!(there["metadata"][field], here["metadata"][field], "{path} {field}");
        }
    }
    // Started again, nothing is left to do.
    let again = agent.cli.run(&arguments).await;
    let totals = again.success().json()["totals"].clone();
    assert_eq!((&totals["create"], &totals["overwrite"]), (&json!(0), &json!(0)), "{totals}");
}

/// The note of one object in a report.
fn note(report: &Value, path: &str) -> String {
    let objects = report["report"]["objects"].as_array().expect("a report");
    let object = objects.iter().find(|object| object["path"] == path);
    let object = object.unwrap_or_else(|| panic!("{path} is not in {report}"));
    object["note"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn kubernetes_bad_input_is_an_error_of_its_object_and_the_rest_goes_on() {
    let Some((_fleet, server, agent)) = world("kubernetes_bad_input_*", "").await else { return };
    let map = |name: &str| json!({"metadata": {"name": name}, "data": {"k": "1"}});
    for namespace in ["shop", "stuck"] {
        let object = json!({"metadata": {"name": namespace}});
        server.create("/api/v1/namespaces", &object).await;
    }
    let maps = "/api/v1/namespaces/shop/configmaps";
    for name in ["fine", "denied", "parent"] {
        server.create(maps, &map(name)).await;
    }
    let fixed = json!({"metadata": {"name": "fixed"}, "immutable": true, "data": {"k": "1"}});
    server.create(maps, &fixed).await;
    let parent = server.get(&format!("{maps}/parent")).await;
    let old_uid = parent["metadata"]["uid"].clone();
    let mut child = map("child");
    child["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "parent", "uid": old_uid}]);
    server.create(maps, &child).await;
    server.create("/api/v1/namespaces/stuck/configmaps", &map("inside")).await;
    assert_eq!(agent.backup().await, 1);

    for name in ["fine", "denied", "parent", "child", "fixed"] {
        server.delete(&format!("{maps}/{name}")).await;
    }
    let mut other = fixed.clone();
    other["data"]["k"] = json!("2");
    server.create(maps, &other).await;
    // Nobody ends what is being deleted: no controller runs.
    server.delete("/api/v1/namespaces/stuck/configmaps/inside").await;
    server.delete("/api/v1/namespaces/stuck").await;
    let policies = "/apis/admissionregistration.k8s.io/v1";
    let policy = json!({"metadata": {"name": "no-denied"}, "spec": {"failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]},
        "validations": [{"expression": "object.metadata.name != 'denied'",
            "message": "not for this cluster"}]}});
    server.create(&format!("{policies}/validatingadmissionpolicies"), &policy).await;
    let binding = json!({"metadata": {"name": "no-denied"},
        "spec": {"policyName": "no-denied", "validationActions": ["Deny"]}});
    server.create(&format!("{policies}/validatingadmissionpolicybindings"), &binding).await;
    tests::wait::until("the policy is enforced", async || {
        let tried = format!("{maps}?dryRun=All");
        server.ask("POST", &tried, Some(&map("denied"))).await.err()
    })
    .await;

    let only = ["-n", "shop", "-n", "stuck", "--on-conflict"];
    let done = restore(&agent, &server, &[&only[..], &["overwrite"]].concat()).await;
    assert_eq!((done.exit, done.error().0.as_str()), (6, "PARTIAL"), "{}", done.stderr);
    let report = done.json();
    for (path, expected, words) in [
        ("core/ConfigMap/shop/fine", "created", ""),
        ("core/ConfigMap/shop/parent", "created", ""),
        ("core/ConfigMap/shop/child", "created", ""),
        ("core/ConfigMap/shop/denied", "failed", "not for this cluster"),
        ("core/ConfigMap/shop/fixed", "failed", "--on-conflict recreate"),
        ("core/Namespace/stuck", "failed", "it is being deleted"),
        ("core/ConfigMap/stuck/inside", "failed", "being terminated"),
    ] {
        assert_eq!(outcome(&report, path), expected, "{path}: {}", note(&report, path));
        assert!(note(&report, path).contains(words), "{path}: {}", note(&report, path));
    }
    // What owned it before owns it again, under the UID that it has now.
    let (parent, child) =
        (server.get(&format!("{maps}/parent")).await, server.get(&format!("{maps}/child")).await);
    assert_ne!(parent["metadata"]["uid"], old_uid);
    assert_eq!(child["metadata"]["ownerReferences"][0]["uid"], parent["metadata"]["uid"]);

    let recreate = ["--include", "core/ConfigMap/shop/fixed", "--on-conflict", "recreate"];
    let done = restore(&agent, &server, &recreate).await;
    assert_eq!(outcome(&done.success().json(), "core/ConfigMap/shop/fixed"), "recreated");
    assert_eq!(server.get(&format!("{maps}/fixed")).await["data"]["k"], "1");

    // A token that is none, or not any more.
    let stranger = server.kubeconfig_with("nobody", "expired");
    let kek = agent.kek();
    let text = |path: &std::path::Path| path.to_str().expect("test paths are UTF-8").to_owned();
    let arguments = [
        "restore",
        "--cluster",
        "harbour",
        "--to-kubernetes",
        "--kubeconfig",
        &text(&stranger),
        "--kek",
        &text(&kek),
    ];
    let done = agent.cli.run(&arguments).await;
    assert_eq!((done.exit, done.error().0.as_str()), (4, "UNAUTHENTICATED"), "{}", done.stderr);
}
