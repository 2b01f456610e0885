//! The names of Kubernetes objects as items: `group/Kind/namespace/name`, or `group/Kind/name`
//! for what has no namespace; the core group is written `core`. The version is not part of it, so
//! that an upgrade of the cluster, which serves the same object in another version, does not make
//! another item of it (decision 0016). Pure.

use std::fmt;

/// How the core group, whose name is empty, is written.
const CORE: &str = "core";

/// A kind of objects, without a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KindName {
    /// API group; empty for the core group.
    pub group: String,
    /// Kind, for example `ConfigMap`.
    pub kind: String,
}

impl KindName {
    /// A kind of a group; the core group is empty or `core`.
    #[must_use]
    pub fn new(group: &str, kind: &str) -> Self {
        let group = if group == CORE { "" } else { group };
        Self { group: group.to_owned(), kind: kind.to_owned() }
    }

    /// Whether it is this kind of this group.
    #[must_use]
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }
}

impl fmt::Display for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = if self.group.is_empty() { CORE } else { &self.group };
        write!(f, "{group}/{}", self.kind)
    }
}

/// One object of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Its kind.
    pub kind: KindName,
    /// Its namespace, if it lives in one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectName {
    /// Reads an item's path. `None` when it is no object's.
    #[must_use]
    pub fn parse(path: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(path).ok()?;
        let parts: Vec<&str> = text.split('/').collect();
        let (group, kind, namespace, name) = match parts[..] {
            [group, kind, name] => (group, kind, None, name),
            [group, kind, namespace, name] => (group, kind, Some(namespace), name),
            _ => return None,
        };
        let parts = [Some(group), Some(kind), namespace, Some(name)];
        if parts.into_iter().flatten().any(|part| !is_part(part)) {
            return None;
        }
        Some(Self {
            kind: KindName::new(group, kind),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        })
    }

    /// The item's path.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.kind, self.name),
            None => write!(f, "{}/{}", self.kind, self.name),
        }
    }
}

/// Whether a text can be part of a path of the API: the server has the same rule for names.
fn is_part(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '%', '?', '#', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_names_are_paths_and_back() {
        for (path, group, kind, namespace, name) in [
            ("core/Secret/shop/db", "", "Secret", Some("shop"), "db"),
            ("core/Namespace/shop", "", "Namespace", None, "shop"),
            ("apps/Deployment/shop/web", "apps", "Deployment", Some("shop"), "web"),
            (
                "rbac.authorization.k8s.io/ClusterRole/system:node",
                "rbac.authorization.k8s.io",
                "ClusterRole",
                None,
                "system:node",
            ),
        ] {
            let parsed = ObjectName::parse(path.as_bytes()).unwrap();
            assert_eq!(
                parsed,
                ObjectName {
                    kind: KindName { group: group.to_owned(), kind: kind.to_owned() },
                    namespace: namespace.map(str::to_owned),
                    name: name.to_owned(),
                }
            );
            assert_eq!(parsed.path(), path.as_bytes());
        }
        for bad in ["", "a", "a/b", "a/b/c/d/e", "core/Secret//db", "core/Secret/../db", "a/b/c?x"]
        {
            assert_eq!(ObjectName::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(ObjectName::parse(b"core/Secret/\xff/db"), None);
    }
}
