//! What a restore would change, to be read by a person: the lines of each object that differ. The
//! values of Secrets, and of objects that are kept among the keys, are never shown.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use similar::TextDiff;

use super::plan::{KubePlan, PlannedObject};
use crate::kubernetes::decide::ObjectAction;

/// Where tools keep a copy of a whole object, values and all.
const COPIES: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "kapp.k14s.io/original"];

/// What would change of one object.
#[derive(Debug, Clone, Serialize)]
pub struct ObjectDiff {
    /// Its name.
    pub path: String,
    /// What the plan does.
    pub action: ObjectAction,
    /// Why.
    pub reason: String,
    /// A unified diff from what is there to what would be.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// Describes every object of the plan that is not as it was.
#[must_use]
pub fn diff(plan: &KubePlan) -> Vec<ObjectDiff> {
    let differs = |object: &&PlannedObject| object.action != ObjectAction::Unchanged;
    plan.objects.iter().filter(differs).map(describe).collect()
}

fn describe(object: &PlannedObject) -> ObjectDiff {
    let hide = object.key || object.name.kind.is("", "Secret");
    let shown = |bytes: &[u8]| {
        let mut value: Value = serde_json::from_slice(bytes).unwrap_or_default();
        if hide {
            hide_values(&mut value, object.key && !object.name.kind.is("", "Secret"));
        }
        serde_json::to_string_pretty(&value).unwrap_or_default() + "\n"
    };
    let text = object.live.as_ref().map(|live| {
        let (there, wanted) = (shown(&live.bytes), shown(&object.bytes));
        TextDiff::from_lines(&there, &wanted).unified_diff().context_radius(3).to_string()
    });
    ObjectDiff {
        path: object.path.clone(),
        action: object.action,
        reason: object.reason.clone(),
        text: text.unwrap_or_default(),
    }
}

/// Puts a mark in the place of each value, so that equal ones are equal and nothing else is told.
fn hide_values(object: &mut Value, all: bool) {
    if let Some(annotations) = object.pointer_mut("/metadata/annotations") {
        for copy in COPIES {
            if let Some(value) = annotations.get_mut(copy) {
                *value = "(hidden)".into();
            }
        }
    }
    let fields: &[&str] =
        if all { &["data", "binaryData", "spec"] } else { &["data", "stringData"] };
    // Salted by the process, so that a printed mark cannot be looked up in a table of passwords.
    for field in fields {
        match object.get_mut(*field) {
            Some(Value::Object(values)) => {
                for value in values.values_mut() {
                    *value = mark(value).into();
                }
            }
            Some(value) => *value = "(hidden)".into(),
            None => {}
        }
    }
}

fn mark(value: &Value) -> String {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::OnceLock;
    static SALT: OnceLock<u64> = OnceLock::new();
    let salt = SALT.get_or_init(|| RandomState::new().hash_one("salt"));
    let mut hash = Sha256::new();
    hash.update(salt.to_le_bytes());
    hash.update(value.to_string().as_bytes());
    format!("(hidden {})", &hex::encode(hash.finalize())[..8])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kubernetes_diff_hides_the_values_of_secrets() {
        let secret = |password: &str| {
            json!({"kind": "Secret", "metadata": {"name": "s", "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "{\"data\":\"aHVudGVyMg==\"}"}},
                "data": {"password": password, "same": "c2FtZQ=="}, "type": "Opaque"})
        };
        let (mut left, mut right) = (secret("aHVudGVyMg=="), secret("aHVudGVyMw=="));
        hide_values(&mut left, false);
        hide_values(&mut right, false);
        assert_ne!(left["data"]["password"], right["data"]["password"]);
        assert_eq!(left["data"]["same"], right["data"]["same"]);
        assert_eq!(left["type"], "Opaque");
        for text in [left.to_string(), right.to_string()] {
            for hidden in ["aHVudGVy", "c2FtZQ"] {
                assert!(!text.contains(hidden), "{text}");
            }
        }
    }
}
