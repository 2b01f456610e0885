//! The normal form of an object: without what the server sets, so that an object nobody changed is
//! the same bytes whenever it is read, from whichever server. Pure.

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::name::KindName;

/// Set by the server in every object's metadata.
const METADATA: [&str; 8] = [
    "managedFields",
    "resourceVersion",
    "uid",
    "generation",
    "creationTimestamp",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];
/// What the job controller puts on a Job and its pods, to tell them from others'.
const JOB_LABELS: [&str; 4] = [
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
    "job-name",
    "batch.kubernetes.io/job-name",
];

/// Takes out of an object what the server sets. `keep_status` keeps `status`.
pub(crate) fn normalise(kind: &KindName, object: &mut Value, keep_status: bool) {
    let Some(object) = object.as_object_mut() else { return };
    if !keep_status {
        object.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in METADATA {
            metadata.remove(field);
        }
        // A uid names an owner only as long as it lives; kind and name find it again.
        let owners = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut);
        for owner in owners.into_iter().flatten().filter_map(Value::as_object_mut) {
            owner.remove("uid");
        }
        if kind.is("apps", "Deployment") {
            remove_from(metadata, "annotations", &["deployment.kubernetes.io/revision"]);
        }
        if kind.is("", "Secret") {
            remove_from(metadata, "annotations", &["kubernetes.io/service-account.uid"]);
        }
    }
    if kind.is("", "Namespace") {
        remove_from(object, "spec", &["finalizers"]);
    }
    if kind.is("", "Pod") {
        remove_from(object, "spec", &["nodeName"]);
    }
    if kind.is("batch", "Job") {
        normalise_job(object);
    }
}

/// The selector of a Job is made by the server, of its uid, unless somebody chose one.
fn normalise_job(object: &mut Map<String, Value>) {
    let chosen = object.get("spec").and_then(|spec| spec.get("manualSelector"));
    if chosen.and_then(Value::as_bool) == Some(true) {
        return;
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        remove_from(metadata, "labels", &JOB_LABELS);
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    spec.remove("selector");
    let template = spec.get_mut("template").and_then(|template| template.get_mut("metadata"));
    if let Some(metadata) = template.and_then(Value::as_object_mut) {
        remove_from(metadata, "labels", &JOB_LABELS);
    }
}

/// Removes keys from a map within a map; the inner one goes when it is empty then.
fn remove_from(outer: &mut Map<String, Value>, inner: &str, keys: &[&str]) {
    let Some(map) = outer.get_mut(inner).and_then(Value::as_object_mut) else { return };
    let mut removed = false;
    for key in keys {
        removed |= map.remove(*key).is_some();
    }
    if removed && map.is_empty() {
        outer.remove(inner);
    }
}

/// The bytes of an object: JSON with sorted keys and no spaces.
#[must_use]
pub(crate) fn encode(object: &Value) -> Zeroizing<Vec<u8>> {
    // Room from the beginning, so that no copy of a secret is left behind by growing.
    let mut length = Length(0);
    // Neither a map of texts nor a counter can fail.
    let _ = serde_json::to_writer(&mut length, object);
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.0));
    let _ = serde_json::to_writer(&mut *bytes, object);
    bytes
}

struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn normal(group: &str, kind: &str, mut object: Value, keep_status: bool) -> Value {
        normalise(&KindName::new(group, kind), &mut object, keep_status);
        object
    }

    #[test]
    fn kubernetes_normal_form_has_nothing_that_the_server_sets() {
        let read = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7",
                "generation": 3, "creationTimestamp": "2026-11-21T00:00:00Z", "selfLink": "/x",
                "deletionTimestamp": "2026-11-21T00:00:00Z", "deletionGracePeriodSeconds": 30,
                "managedFields": [{}], "labels": {"app": "web"},
                "annotations": {"deployment.kubernetes.io/revision": "4"},
                "finalizers": ["kept.example/x"],
                "ownerReferences": [{"kind": "App", "name": "a", "apiVersion": "e/v1", "uid": "x"}],
            },
            "spec": {"replicas": 3}, "status": {"replicas": 3},
        });
        let expected = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "web", "namespace": "shop", "labels": {"app": "web"},
                "finalizers": ["kept.example/x"],
                "ownerReferences": [{"kind": "App", "name": "a", "apiVersion": "e/v1"}],
            },
            "spec": {"replicas": 3},
        });
        assert_eq!(normal("apps", "Deployment", read.clone(), false), expected);
        assert_eq!(normal("apps", "Deployment", read, true)["status"], json!({"replicas": 3}));
    }

    #[test]
    fn kubernetes_normal_form_of_single_kinds() {
        for (group, kind, read, expected) in [
            (
                "",
                "Namespace",
                json!({"spec": {"finalizers": ["kubernetes"]}, "status": {}}),
                json!({}),
            ),
            ("", "Pod", json!({"spec": {"nodeName": "n", "x": 1}}), json!({"spec": {"x": 1}})),
            (
                "",
                "Secret",
                json!({"metadata": {"annotations": {"kubernetes.io/service-account.uid": "u",
                    "kubernetes.io/service-account.name": "n"}}}),
                json!({"metadata": {"annotations": {"kubernetes.io/service-account.name": "n"}}}),
            ),
            (
                "batch",
                "Job",
                json!({"metadata": {"labels": {"controller-uid": "u", "mine": "1"}},
                    "spec": {"selector": {"matchLabels": {"controller-uid": "u"}},
                    "template": {"metadata": {"labels": {"job-name": "j"}}}}}),
                json!({"metadata": {"labels": {"mine": "1"}},
                    "spec": {"template": {"metadata": {}}}}),
            ),
            (
                "batch",
                "Job",
                json!({"spec": {"manualSelector": true, "selector": {"a": 1}}}),
                json!({"spec": {"manualSelector": true, "selector": {"a": 1}}}),
            ),
        ] {
            assert_eq!(normal(group, kind, read, false), expected, "{kind}");
        }
    }

    #[test]
    fn kubernetes_bytes_of_an_object_do_not_depend_on_the_order_of_its_fields() {
        let one: Value = serde_json::from_str(r#"{"b": 1, "a": {"d": "x", "c": null}}"#).unwrap();
        let two: Value = serde_json::from_str(r#"{"a": {"c": null, "d": "x"}, "b": 1}"#).unwrap();
        assert_eq!(&encode(&one)[..], br#"{"a":{"c":null,"d":"x"},"b":1}"#);
        assert_eq!(encode(&one), encode(&two));
    }
}
