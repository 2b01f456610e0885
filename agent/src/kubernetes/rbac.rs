//! The rights that an account needs, by policy: the least that a backup, or a restore, can do with.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::kinds::Kind;
use super::select::Policy;

/// What the account is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Name of the role, its binding, and the service account.
    pub name: String,
    /// Namespace of the service account.
    pub namespace: String,
    /// Whether it restores, too.
    pub restores: bool,
}

const READS: [&str; 3] = ["get", "list", "watch"];
const WRITES: [&str; 4] = ["create", "delete", "patch", "update"];

/// The objects to apply: a service account, a role with exactly the kinds of the policy, a binding.
#[must_use]
pub fn rbac<'a>(
    policy: &Policy,
    kinds: impl Iterator<Item = &'a Kind>,
    account: &Account,
) -> Vec<Value> {
    let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for kind in kinds.filter(|kind| policy.lists(&kind.name)) {
        groups.entry(&kind.name.group).or_default().insert(&kind.plural);
    }
    let mut verbs: Vec<&str> = READS.to_vec();
    if account.restores {
        verbs.extend(WRITES);
    }
    // Which cluster it is; a restore asks, too.
    let mut rules = vec![json!({
        "apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"],
        "verbs": ["get"],
    })];
    rules.extend(groups.iter().map(|(group, resources)| {
        json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
    }));
    if account.restores && groups.contains_key("rbac.authorization.k8s.io") {
        // The server lets nobody give rights that they do not have, but by these two verbs.
        rules.push(json!({
            "apiGroups": ["rbac.authorization.k8s.io"],
            "resources": ["clusterroles", "roles"], "verbs": ["bind", "escalate"],
        }));
    }
    let Account { name, namespace, .. } = account;
    let api = "rbac.authorization.k8s.io";
    vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": name, "namespace": namespace } }),
        json!({ "apiVersion": format!("{api}/v1"), "kind": "ClusterRole",
            "metadata": { "name": name }, "rules": rules }),
        json!({ "apiVersion": format!("{api}/v1"), "kind": "ClusterRoleBinding",
            "metadata": { "name": name },
            "roleRef": { "apiGroup": api, "kind": "ClusterRole", "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": namespace }] }),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::name::KindName;
    use super::*;
    use crate::patterns::{Patterns, Selection};

    fn kind(group: &str, kind: &str, plural: &str) -> Kind {
        Kind {
            name: KindName::new(group, kind),
            version: "v1".to_owned(),
            plural: plural.to_owned(),
            namespaced: true,
            verbs: Vec::new(),
        }
    }

    #[test]
    fn kubernetes_rights_are_those_of_the_policy_and_no_more() {
        let kinds = [
            kind("", "Secret", "secrets"),
            kind("", "ConfigMap", "configmaps"),
            kind("", "Event", "events"),
            kind("apps", "Deployment", "deployments"),
            kind("rbac.authorization.k8s.io", "Role", "roles"),
        ];
        let account = |restores| Account {
            name: "strongroom".to_owned(),
            namespace: "backup".to_owned(),
            restores,
        };
        let include = Patterns::new(&["core/ConfigMap/**", "Secret"]).unwrap();
        let policy = Policy {
            selection: Selection { include, ..Selection::default() },
            ..Policy::default()
        };
        let made = rbac(&policy, kinds.iter(), &account(false));
        assert_eq!(
            made[1]["rules"],
            json!([
                {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"],
                    "verbs": ["get"]},
                {"apiGroups": [""], "resources": ["configmaps", "secrets"],
                    "verbs": ["get", "list", "watch"]},
            ])
        );
        assert_eq!(made[2]["subjects"][0]["namespace"], "backup");
        let made = rbac(&Policy::default(), kinds.iter(), &account(true));
        let rules = made[1]["rules"].as_array().unwrap();
        assert_eq!(rules.len(), 5);
        assert_eq!(rules[2]["verbs"].as_array().unwrap().len(), 7);
        assert_eq!(rules[4]["verbs"], json!(["bind", "escalate"]));
        assert!(!made[1].to_string().contains("events"));
    }
}
