//! In which order objects are made: what others need first, owners before what they own, what
//! guards the API last. Pure.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::name::{KindName, ObjectName};

/// The phases of a restore, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Namespaces.
    Namespaces,
    /// Definitions of kinds; their objects wait until they are served.
    Definitions,
    /// What others name: Secrets, ConfigMaps, classes, volumes.
    Contents,
    /// Accounts and their rights.
    Rights,
    /// The rest of the built-in kinds.
    Rest,
    /// Objects of defined kinds.
    Custom,
    /// What could refuse or redirect requests of this restore.
    Guards,
}

/// The phase of a kind; `custom`: whether a definition brings it.
#[must_use]
pub(crate) fn phase(kind: &KindName, custom: bool) -> Phase {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Namespace") => Phase::Namespaces,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => Phase::Definitions,
        (
            "",
            "Secret" | "ConfigMap" | "PersistentVolume" | "PersistentVolumeClaim" | "LimitRange",
        )
        | ("storage.k8s.io", "StorageClass")
        | ("scheduling.k8s.io", "PriorityClass")
        | ("node.k8s.io", "RuntimeClass")
        | ("networking.k8s.io", "IngressClass") => Phase::Contents,
        ("", "ServiceAccount") | ("rbac.authorization.k8s.io", _) => Phase::Rights,
        ("admissionregistration.k8s.io" | "apiregistration.k8s.io", _) | ("", "ResourceQuota") => {
            Phase::Guards
        }
        _ if custom => Phase::Custom,
        _ => Phase::Rest,
    }
}

/// What ordering needs to know of an object.
#[derive(Debug, Clone)]
pub(crate) struct Ordered {
    /// Its name.
    pub name: ObjectName,
    /// Its kind's phase.
    pub phase: Phase,
    /// Its owners, as candidates: in its own namespace, or without one.
    pub owners: Vec<ObjectName>,
}

/// The owners that an object names. Each is there twice: owners live in the same namespace, or in
/// none.
#[must_use]
pub(crate) fn owners(name: &ObjectName, object: &Value) -> Vec<ObjectName> {
    let mut owners = Vec::new();
    for reference in object["metadata"]["ownerReferences"].as_array().into_iter().flatten() {
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let group = text("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
        let kind = KindName::new(group, text("kind"));
        for namespace in [name.namespace.clone(), None] {
            owners.push(ObjectName {
                kind: kind.clone(),
                namespace,
                name: text("name").to_owned(),
            });
        }
    }
    owners.dedup();
    owners
}

/// Puts objects, by their places in the list, into waves: each begins when the one before is done.
#[must_use]
pub(crate) fn waves(objects: &[Ordered]) -> Vec<(Phase, Vec<usize>)> {
    let places: HashMap<&ObjectName, usize> =
        objects.iter().enumerate().map(|(place, object)| (&object.name, place)).collect();
    let mut ranks: Vec<Option<(Phase, usize)>> = vec![None; objects.len()];
    for place in 0..objects.len() {
        rank(place, objects, &places, &mut ranks, 0);
    }
    let mut waves: BTreeMap<(Phase, usize), Vec<usize>> = BTreeMap::new();
    for (place, rank) in ranks.into_iter().enumerate() {
        waves.entry(rank.unwrap_or((objects[place].phase, 0))).or_default().push(place);
    }
    waves.into_iter().map(|((phase, _), places)| (phase, places)).collect()
}

fn rank(
    place: usize,
    objects: &[Ordered],
    places: &HashMap<&ObjectName, usize>,
    ranks: &mut Vec<Option<(Phase, usize)>>,
    depth: usize,
) -> (Phase, usize) {
    if let Some(known) = ranks[place] {
        return known;
    }
    let mut own = (objects[place].phase, 0);
    // Owners that own each other in a circle are nobody's; they are made in any order.
    if depth > objects.len().min(64) {
        return own;
    }
    for owner in objects[place].owners.iter().filter_map(|owner| places.get(owner)) {
        if *owner != place {
            let (phase, below) = rank(*owner, objects, places, ranks, depth + 1);
            own = own.max((phase, below + 1));
        }
    }
    ranks[place] = Some(own);
    own
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ordered(path: &str, custom: bool, owners: &[&str]) -> Ordered {
        let name = |path: &str| ObjectName::parse(path.as_bytes()).unwrap();
        let parsed = name(path);
        Ordered {
            phase: phase(&parsed.kind, custom),
            name: parsed,
            owners: owners.iter().map(|owner| name(owner)).collect(),
        }
    }

    #[test]
    fn kubernetes_restore_order_is_what_needs_comes_after_what_is_needed() {
        let objects = [
            ordered("admissionregistration.k8s.io/ValidatingWebhookConfiguration/w", false, &[]),
            ordered("core/Pod/shop/p", false, &["apps/ReplicaSet/shop/r"]),
            ordered("apps/ReplicaSet/shop/r", false, &["apps/Deployment/shop/d"]),
            ordered("apps/Deployment/shop/d", false, &[]),
            ordered("example.com/App/shop/a", true, &[]),
            // Owned by what comes in a later phase: it waits for it.
            ordered("core/Secret/shop/of-app", false, &["example.com/App/shop/a"]),
            ordered("rbac.authorization.k8s.io/Role/shop/r", false, &[]),
            ordered("core/Secret/shop/s", false, &["apps/Deployment/shop/not-restored"]),
            ordered("core/ConfigMap/shop/c", false, &[]),
            ordered("apiextensions.k8s.io/CustomResourceDefinition/apps.example.com", false, &[]),
            ordered("core/Namespace/shop", false, &[]),
        ];
        assert_eq!(
            waves(&objects),
            [
                (Phase::Namespaces, vec![10]),
                (Phase::Definitions, vec![9]),
                (Phase::Contents, vec![7, 8]),
                (Phase::Rights, vec![6]),
                (Phase::Rest, vec![3]),
                (Phase::Rest, vec![2]),
                (Phase::Rest, vec![1]),
                (Phase::Custom, vec![4]),
                (Phase::Custom, vec![5]),
                (Phase::Guards, vec![0]),
            ]
        );
    }

    #[test]
    fn kubernetes_owners_in_a_circle_end_too() {
        let objects = [
            ordered("core/ConfigMap/shop/a", false, &["core/ConfigMap/shop/b"]),
            ordered("core/ConfigMap/shop/b", false, &["core/ConfigMap/shop/a"]),
            ordered("core/ConfigMap/shop/c", false, &["core/ConfigMap/shop/c"]),
        ];
        let placed: usize = waves(&objects).iter().map(|(_, places)| places.len()).sum();
        assert_eq!(placed, 3);
    }

    #[test]
    fn kubernetes_owners_are_read_from_references() {
        let name = ObjectName::parse(b"core/Secret/shop/s").unwrap();
        let object = json!({"metadata": {"ownerReferences": [
            {"apiVersion": "example.com/v1", "kind": "App", "name": "a"},
            {"apiVersion": "v1", "kind": "Node", "name": "n"},
        ]}});
        let found: Vec<String> = owners(&name, &object).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["example.com/App/shop/a", "example.com/App/a", "core/Node/shop/n", "core/Node/n"]
        );
    }
}
