//! Which objects a policy takes: by patterns over their names, and without what a cluster makes by
//! itself. Pure; label selectors are the server's to apply.

use serde_json::Value;

use super::name::{KindName, ObjectName};
use crate::patterns::{Patterns, Selection};
use crate::sources::Place;

/// Kinds that say how a cluster is doing, or that its own programs write all the time. `*` stands
/// for every kind of the group.
const NOISE: [(&str, &str); 17] = [
    ("", "Event"),
    ("events.k8s.io", "Event"),
    ("coordination.k8s.io", "*"),
    ("", "Endpoints"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("", "Node"),
    ("", "ComponentStatus"),
    ("apps", "ControllerRevision"),
    ("storage.k8s.io", "CSINode"),
    ("storage.k8s.io", "CSIStorageCapacity"),
    ("storage.k8s.io", "VolumeAttachment"),
    ("certificates.k8s.io", "CertificateSigningRequest"),
    ("networking.k8s.io", "IPAddress"),
    ("resource.k8s.io", "ResourceSlice"),
    ("metrics.k8s.io", "*"),
    ("custom.metrics.k8s.io", "*"),
    ("external.metrics.k8s.io", "*"),
];
/// Kinds that are made again by what controls them.
const MADE_BY_OWNERS: [(&str, &str); 3] = [("", "Pod"), ("apps", "ReplicaSet"), ("batch", "Job")];
/// Objects that the control plane makes in every cluster. `*` stands for every namespace.
const MADE_BY_CLUSTER: [(&str, &str, &str, &str); 7] = [
    ("", "Service", "default", "kubernetes"),
    ("", "ConfigMap", "*", "kube-root-ca.crt"),
    ("", "ConfigMap", "kube-system", "extension-apiserver-authentication"),
    ("", "ConfigMap", "kube-system", "kube-apiserver-legacy-service-account-token-tracking"),
    ("networking.k8s.io", "ServiceCIDR", "", "kubernetes"),
    ("scheduling.k8s.io", "PriorityClass", "", "system-cluster-critical"),
    ("scheduling.k8s.io", "PriorityClass", "", "system-node-critical"),
];
/// Annotations and labels by which the API server marks what it keeps up to date by itself.
const KEPT_BY_SERVER: [(&str, &str, &str); 3] = [
    ("annotations", "rbac.authorization.kubernetes.io/autoupdate", "true"),
    ("annotations", "apf.kubernetes.io/autoupdate-spec", "true"),
    ("labels", "kube-aggregator.kubernetes.io/automanaged", ""),
];

/// What a policy takes of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// What to take, by name, and what to leave out.
    pub selection: Selection,
    /// Secrets and others whose content goes into the key bundle.
    pub keys: Patterns,
    /// Kinds and objects whose `status` is kept.
    pub status: Patterns,
    /// A label selector as the API takes it; empty: all.
    pub labels: String,
    /// Also what the cluster makes by itself.
    pub everything: bool,
}

impl Policy {
    /// Whether objects of a kind can be among what is taken, so that it has to be listed.
    #[must_use]
    pub fn lists(&self, kind: &KindName) -> bool {
        let noise = |(group, name): &(&str, &str)| {
            *group == kind.group && (*name == "*" || *name == kind.kind)
        };
        let include = &self.selection.include;
        (self.everything || !NOISE.iter().any(noise))
            && !self.selection.exclude.matches(kind.to_string().as_bytes())
            && (include.is_empty() || include.globs().iter().any(|glob| may_match(glob, kind)))
    }

    /// Whether an object is taken, as the server gave it.
    #[must_use]
    pub fn takes(&self, name: &ObjectName, object: &Value) -> bool {
        self.selection.chooses(&name.path()) && (self.everything || !is_made(name, object))
    }

    /// Where its content goes.
    #[must_use]
    pub fn place(&self, name: &ObjectName) -> Place {
        if self.keys.matches(&name.path()) {
            Place::KeyBundle
        } else if name.kind.is("", "Secret") {
            Place::Secret
        } else {
            Place::Config
        }
    }

    /// Whether its `status` is kept.
    #[must_use]
    pub fn keeps_status(&self, name: &ObjectName) -> bool {
        self.status.matches(&name.path())
    }
}

/// Whether a pattern can match any object of a kind. Doubt says yes: then the objects decide.
fn may_match(glob: &str, kind: &KindName) -> bool {
    let anchored = glob.trim_start_matches("./");
    let trimmed = anchored.trim_start_matches('/').trim_end_matches('/');
    let matches = |glob: &str| {
        Patterns::new(&[glob]).map_or(true, |one| one.matches(kind.to_string().as_bytes()))
    };
    let mut parts = trimmed.split('/');
    match (parts.next(), parts.next()) {
        (Some(group), Some(of)) if !group.contains("**") && !of.contains("**") => {
            matches(&format!("/{group}/{of}"))
        }
        // Alone, it may name a group, a kind, a namespace or an object. Only kinds begin with a
        // capital letter.
        (Some(name), None) if !anchored.starts_with('/') => {
            !name.starts_with(|c: char| c.is_ascii_uppercase()) || matches(name)
        }
        (Some(group), None) if !group.contains("**") => matches(&format!("/{group}/*")),
        _ => true,
    }
}

/// Whether the cluster made it by itself and would make it again.
fn is_made(name: &ObjectName, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let kind = &name.kind;
    let controlled = || {
        let owners = metadata["ownerReferences"].as_array();
        owners.into_iter().flatten().any(|owner| owner["controller"] == Value::Bool(true))
    };
    if MADE_BY_OWNERS.iter().any(|(group, name)| kind.is(group, name)) && controlled() {
        return true;
    }
    let namespace = name.namespace.as_deref().unwrap_or_default();
    let by_cluster = |(group, of, at, called): &(&str, &str, &str, &str)| {
        kind.is(group, of) && name.name == *called && (*at == "*" || *at == namespace)
    };
    let kept = |(place, key, value): &(&str, &str, &str)| {
        metadata[*place][*key].as_str().is_some_and(|is| value.is_empty() || is == *value)
    };
    MADE_BY_CLUSTER.iter().any(by_cluster) || KEPT_BY_SERVER.iter().any(kept)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(path: &str) -> ObjectName {
        ObjectName::parse(path.as_bytes()).unwrap()
    }

    #[test]
    fn kubernetes_default_set_is_what_people_write() {
        let policy = Policy::default();
        let controlled = json!({"metadata": {"ownerReferences": [{"controller": true}]}});
        let owned = json!({"metadata": {"ownerReferences": [{"controller": false}]}});
        let automatic = json!({"metadata": {"annotations":
            {"rbac.authorization.kubernetes.io/autoupdate": "true"}}});
        let by_hand = json!({"metadata": {"annotations":
            {"rbac.authorization.kubernetes.io/autoupdate": "false"}}});
        let managed = json!({"metadata": {"labels":
            {"kube-aggregator.kubernetes.io/automanaged": "onstart"}}});
        let plain = json!({"metadata": {}});
        for (path, object, expected) in [
            ("core/ConfigMap/shop/app", &plain, true),
            ("core/ConfigMap/shop/kube-root-ca.crt", &plain, false),
            ("core/Service/default/kubernetes", &plain, false),
            ("core/Service/shop/kubernetes", &plain, true),
            ("core/Pod/shop/bare", &plain, true),
            ("core/Pod/shop/bare", &owned, true),
            ("core/Pod/shop/web-1", &controlled, false),
            ("apps/ReplicaSet/shop/web", &controlled, false),
            // A Secret that an operator made is nothing that comes again by itself.
            ("core/Secret/shop/unseal", &controlled, true),
            ("apps/StatefulSet/shop/vault", &controlled, true),
            ("rbac.authorization.k8s.io/ClusterRole/view", &automatic, false),
            ("rbac.authorization.k8s.io/ClusterRole/view", &by_hand, true),
            ("apiregistration.k8s.io/APIService/v1.apps", &managed, false),
            ("scheduling.k8s.io/PriorityClass/system-node-critical", &plain, false),
            ("scheduling.k8s.io/PriorityClass/gold", &plain, true),
        ] {
            assert_eq!(policy.takes(&name(path), object), expected, "{path}");
            let everything = Policy { everything: true, ..Policy::default() };
            assert!(everything.takes(&name(path), object), "{path}");
        }
        for (group, kind, expected) in [
            ("", "Event", false),
            ("events.k8s.io", "Event", false),
            ("coordination.k8s.io", "Lease", false),
            ("metrics.k8s.io", "PodMetrics", false),
            ("example.com", "Event", true),
            ("", "Secret", true),
            ("apiextensions.k8s.io", "CustomResourceDefinition", true),
        ] {
            assert_eq!(policy.lists(&KindName::new(group, kind)), expected, "{group}/{kind}");
        }
    }

    #[test]
    fn kubernetes_patterns_choose_by_kind_namespace_and_name() {
        for (include, exclude, path, expected) in [
            (&[][..], &[][..], "core/Secret/shop/db", true),
            (&["Secret"], &[], "core/Secret/shop/db", true),
            (&["Secret"], &[], "core/ConfigMap/shop/db", false),
            (&["core/*/shop/**"], &[], "core/ConfigMap/shop/db", true),
            (&["core/*/shop/**"], &[], "core/ConfigMap/mine/db", false),
            (&["apps"], &[], "apps/Deployment/shop/web", true),
            (&["apps"], &["web-*"], "apps/Deployment/shop/web-1", false),
            (&[], &["*/*/kube-system/**"], "core/Secret/kube-system/x", false),
            (&["core/Secret/*/db-?"], &[], "core/Secret/shop/db-1", true),
        ] {
            let policy = Policy {
                selection: Selection {
                    include: Patterns::new(include).unwrap(),
                    exclude: Patterns::new(exclude).unwrap(),
                },
                ..Policy::default()
            };
            assert_eq!(policy.takes(&name(path), &json!({})), expected, "{include:?} {path}");
        }
        for (include, group, kind, expected) in [
            ("core/Secret/shop/**", "", "Secret", true),
            ("core/Secret/shop/**", "", "ConfigMap", false),
            ("core/*/shop/**", "", "ConfigMap", true),
            ("core/*/shop/**", "apps", "Deployment", false),
            ("**/shop/**", "apps", "Deployment", true),
            ("Secret", "", "Secret", true),
            ("Secret", "", "ConfigMap", false),
            ("*Map", "", "ConfigMap", true),
            ("shop", "", "ConfigMap", true),
            ("/apps", "apps", "Deployment", true),
            ("/apps", "", "ConfigMap", false),
        ] {
            let include = Patterns::new(&[include]).unwrap();
            let selection = Selection { include, ..Selection::default() };
            let policy = Policy { selection, ..Policy::default() };
            let kind = KindName::new(group, kind);
            assert_eq!(policy.lists(&kind), expected, "{:?} {kind}", policy.selection.include);
        }
        let policy = Policy {
            selection: Selection {
                exclude: Patterns::new(&["Secret"]).unwrap(),
                ..Selection::default()
            },
            keys: Patterns::new(&["core/Secret/vault/unseal-*"]).unwrap(),
            ..Policy::default()
        };
        assert!(!policy.lists(&KindName::new("", "Secret")));
        for (path, place) in [
            ("core/Secret/vault/unseal-1", Place::KeyBundle),
            ("core/Secret/vault/other", Place::Secret),
            ("core/ConfigMap/vault/unseal-1", Place::Config),
        ] {
            assert_eq!(policy.place(&name(path)), place, "{path}");
        }
    }
}
