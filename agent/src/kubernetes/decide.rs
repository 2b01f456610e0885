//! What a restore does with one object, and how an object is changed on its way into a cluster.
//! Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::name::{KindName, ObjectName};

/// What to do where the cluster holds something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectPolicy {
    /// Leave it as it is.
    Skip,
    /// Make it what it was, after a safety file was made of it.
    Overwrite,
    /// The same, and where a field cannot be changed, delete it and make it anew.
    Recreate,
    /// Refuse the whole restore before anything is touched.
    #[default]
    Fail,
}

/// What is done with one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectAction {
    /// Nothing is there: it is made.
    Create,
    /// Something else is there and becomes what it was.
    Overwrite,
    /// It is already as it was.
    Unchanged,
    /// Something else is there and stays.
    Skip,
    /// Something else is there and the policy is to fail.
    Conflict,
    /// It cannot be restored here.
    Refused,
}

/// What is at an object's place now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Absent,
    /// The same.
    Same,
    /// Something else.
    Different,
    /// It is being deleted, and something keeps it from ending.
    Ending,
}

/// What to do with one object, and why in words.
pub(crate) const fn decide(found: Found, policy: ObjectPolicy) -> (ObjectAction, &'static str) {
    match (found, policy) {
        (Found::Absent, _) => (ObjectAction::Create, "nothing is there"),
        (Found::Same, _) => (ObjectAction::Unchanged, "already as it was"),
        (Found::Ending, _) => {
            (ObjectAction::Refused, "it is being deleted: let that end, then restore again")
        }
        (Found::Different, ObjectPolicy::Skip) => (ObjectAction::Skip, "it is different"),
        (Found::Different, ObjectPolicy::Overwrite | ObjectPolicy::Recreate) => {
            (ObjectAction::Overwrite, "it is different")
        }
        (Found::Different, ObjectPolicy::Fail) => (ObjectAction::Conflict, "it is different"),
    }
}

/// Whether an object may be deleted to be made anew: not what holds others.
pub(crate) fn may_recreate(kind: &KindName) -> bool {
    !kind.is("", "Namespace")
        && !kind.is("apiextensions.k8s.io", "CustomResourceDefinition")
        && !kind.is("", "PersistentVolume")
        && !kind.is("", "PersistentVolumeClaim")
}

/// Whether an object is of one of these kinds and in one of these namespaces; none: of any.
pub(crate) fn is_of(name: &ObjectName, kinds: &[String], namespaces: &[String]) -> bool {
    let KindName { group, kind } = &name.kind;
    let is_kind = |wanted: &String| {
        wanted.eq_ignore_ascii_case(kind)
            || wanted.eq_ignore_ascii_case(&name.kind.to_string())
            || wanted.eq_ignore_ascii_case(&format!("{kind}.{group}"))
    };
    let namespace = match &name.namespace {
        Some(namespace) => Some(namespace),
        None if name.kind.is("", "Namespace") => Some(&name.name),
        None => None,
    };
    let is_in = |wanted: &String| namespace == Some(wanted);
    (kinds.is_empty() || kinds.iter().any(is_kind))
        && (namespaces.is_empty() || namespaces.iter().any(is_in))
}

/// The name in the target.
pub(crate) fn mapped(name: &ObjectName, map: &BTreeMap<String, String>) -> ObjectName {
    let mut name = name.clone();
    if name.kind.is("", "Namespace")
        && let Some(to) = map.get(&name.name)
    {
        name.name.clone_from(to);
    }
    if let Some(to) = name.namespace.as_ref().and_then(|from| map.get(from)) {
        name.namespace = Some(to.clone());
    }
    name
}

/// Moves an object to the namespaces that its own and those it names are mapped to.
pub(crate) fn map_namespaces(kind: &KindName, object: &mut Value, map: &BTreeMap<String, String>) {
    if map.is_empty() {
        return;
    }
    let replace = |value: Option<&mut Value>| {
        let Some(value) = value else { return };
        if let Some(to) = value.as_str().and_then(|from| map.get(from)) {
            *value = to.clone().into();
        }
    };
    replace(object.pointer_mut("/metadata/namespace"));
    if kind.is("", "Namespace") {
        replace(object.pointer_mut("/metadata/name"));
        replace(object.pointer_mut("/metadata/labels/kubernetes.io~1metadata.name"));
    }
    if kind.group == "rbac.authorization.k8s.io" {
        let subjects = object.get_mut("subjects").and_then(Value::as_array_mut);
        for subject in subjects.into_iter().flatten() {
            replace(subject.get_mut("namespace"));
        }
    }
    if kind.group == "admissionregistration.k8s.io" {
        let webhooks = object.get_mut("webhooks").and_then(Value::as_array_mut);
        for webhook in webhooks.into_iter().flatten() {
            replace(webhook.pointer_mut("/clientConfig/service/namespace"));
        }
    }
    if kind.group == "apiregistration.k8s.io" {
        replace(object.pointer_mut("/spec/service/namespace"));
    }
    if kind.is("apiextensions.k8s.io", "CustomResourceDefinition") {
        replace(object.pointer_mut("/spec/conversion/webhook/clientConfig/service/namespace"));
    }
}

/// Gives references to owners the UIDs that these have in the target, and drops those whose owner
/// is not there: the cluster would take the object for an orphan and delete it. Returns the names
/// of the dropped.
pub(crate) fn resolve_owners(
    object: &mut Value,
    uid_of: impl Fn(&Value) -> Option<String>,
) -> Vec<String> {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Vec::new();
    };
    let Some(Value::Array(references)) = metadata.remove("ownerReferences") else {
        return Vec::new();
    };
    let mut dropped = Vec::new();
    let mut kept = Vec::new();
    for mut reference in references {
        match uid_of(&reference) {
            Some(uid) => {
                reference["uid"] = uid.into();
                kept.push(reference);
            }
            None => {
                let text = |field: &str| reference[field].as_str().unwrap_or_default().to_owned();
                dropped.push(format!("{}/{}", text("kind"), text("name")));
            }
        }
    }
    if !kept.is_empty() {
        metadata.insert("ownerReferences".to_owned(), kept.into());
    }
    dropped
}

/// Where two normal forms differ, as paths of fields; at most `max`.
pub(crate) fn differing(left: &Value, right: &Value, max: usize) -> Vec<String> {
    let mut found = Vec::new();
    walk(left, right, &mut String::new(), &mut found, max);
    found
}

fn walk(left: &Value, right: &Value, path: &mut String, found: &mut Vec<String>, max: usize) {
    if found.len() >= max || left == right {
        return;
    }
    let (Value::Object(left), Value::Object(right)) = (left, right) else {
        found.push(if path.is_empty() { "all of it".to_owned() } else { path.clone() });
        return;
    };
    let keys: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    for key in keys {
        let length = path.len();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
        let none = Value::Null;
        walk(left.get(key).unwrap_or(&none), right.get(key).unwrap_or(&none), path, found, max);
        path.truncate(length);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kubernetes_restore_decides_by_what_is_there_and_by_policy() {
        use ObjectAction as A;
        use ObjectPolicy as P;
        for (found, policy, action) in [
            (Found::Absent, P::Fail, A::Create),
            (Found::Absent, P::Skip, A::Create),
            (Found::Same, P::Overwrite, A::Unchanged),
            (Found::Different, P::Skip, A::Skip),
            (Found::Different, P::Overwrite, A::Overwrite),
            (Found::Different, P::Recreate, A::Overwrite),
            (Found::Different, P::Fail, A::Conflict),
            (Found::Ending, P::Recreate, A::Refused),
        ] {
            assert_eq!(decide(found, policy).0, action, "{found:?} {policy:?}");
        }
        for (group, kind, expected) in [
            ("", "Namespace", false),
            ("apiextensions.k8s.io", "CustomResourceDefinition", false),
            ("", "PersistentVolumeClaim", false),
            ("", "Secret", true),
            ("batch", "Job", true),
        ] {
            assert_eq!(may_recreate(&KindName::new(group, kind)), expected, "{kind}");
        }
    }

    #[test]
    fn kubernetes_namespaces_are_mapped_wherever_they_are_named() {
        let map = BTreeMap::from([("shop".to_owned(), "lab".to_owned())]);
        for (group, kind, before, after) in [
            (
                "",
                "Secret",
                json!({"metadata": {"namespace": "shop"}}),
                json!({"metadata": {"namespace": "lab"}}),
            ),
            (
                "",
                "Secret",
                json!({"metadata": {"namespace": "other"}}),
                json!({"metadata": {"namespace": "other"}}),
            ),
            (
                "",
                "Namespace",
                json!({"metadata": {"name": "shop",
                    "labels": {"kubernetes.io/metadata.name": "shop"}}}),
                json!({"metadata": {"name": "lab",
                    "labels": {"kubernetes.io/metadata.name": "lab"}}}),
            ),
            (
                "rbac.authorization.k8s.io",
                "ClusterRoleBinding",
                json!({"subjects": [{"namespace": "shop"}, {"name": "u"}]}),
                json!({"subjects": [{"namespace": "lab"}, {"name": "u"}]}),
            ),
            (
                "admissionregistration.k8s.io",
                "ValidatingWebhookConfiguration",
                json!({"webhooks": [{"clientConfig": {"service": {"namespace": "shop"}}}]}),
                json!({"webhooks": [{"clientConfig": {"service": {"namespace": "lab"}}}]}),
            ),
        ] {
            let mut object = before;
            map_namespaces(&KindName::new(group, kind), &mut object, &map);
            assert_eq!(object, after, "{kind}");
        }
        for (from, to) in [
            ("core/Secret/shop/s", "core/Secret/lab/s"),
            ("core/Namespace/shop", "core/Namespace/lab"),
            ("core/Secret/other/shop", "core/Secret/other/shop"),
        ] {
            let name = ObjectName::parse(from.as_bytes()).unwrap();
            assert_eq!(mapped(&name, &map).to_string(), to);
        }
    }

    #[test]
    fn kubernetes_objects_are_chosen_by_kind_and_namespace() {
        for (path, kinds, namespaces, expected) in [
            ("core/Secret/shop/s", &[][..], &[][..], true),
            ("core/Secret/shop/s", &["secret"], &["shop"], true),
            ("core/Secret/shop/s", &["core/Secret"], &["other"], false),
            ("apps/Deployment/shop/d", &["Deployment.apps"], &[], true),
            ("apps/Deployment/shop/d", &["Deployment.extensions"], &[], false),
            ("core/Namespace/shop", &[], &["shop"], true),
            ("core/Namespace/other", &[], &["shop"], false),
            ("rbac.authorization.k8s.io/ClusterRole/shop", &[], &["shop"], false),
        ] {
            let name = ObjectName::parse(path.as_bytes()).unwrap();
            let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
            assert_eq!(is_of(&name, &owned(kinds), &owned(namespaces)), expected, "{path}");
        }
    }

    #[test]
    fn kubernetes_owners_that_are_not_there_are_dropped() {
        let mut object = json!({"metadata": {"name": "x", "ownerReferences": [
            {"kind": "App", "name": "there"}, {"kind": "App", "name": "gone"}]}});
        let dropped = resolve_owners(&mut object, |reference| {
            (reference["name"] == "there").then(|| "u-1".to_owned())
        });
        assert_eq!(dropped, ["App/gone"]);
        assert_eq!(
            object,
            json!({"metadata": {"name": "x", "ownerReferences": [
                {"kind": "App", "name": "there", "uid": "u-1"}]}})
        );
        let mut alone = json!({"metadata": {"ownerReferences": [{"kind": "App", "name": "g"}]}});
        assert_eq!(resolve_owners(&mut alone, |_| None), ["App/g"]);
        assert_eq!(alone, json!({"metadata": {}}));
    }

    #[test]
    fn kubernetes_differences_are_named_by_field() {
        let left = json!({"spec": {"a": 1, "b": {"c": [1]}}, "data": {"x": "1"}});
        let right = json!({"spec": {"a": 2, "b": {"c": [2]}}, "data": {"x": "1", "y": "2"}});
        assert_eq!(differing(&left, &right, 9), ["data.y", "spec.a", "spec.b.c"]);
        assert_eq!(differing(&left, &right, 1), ["data.y"]);
        assert!(differing(&left, &left, 9).is_empty());
    }
}
