//! What the cluster holds at the places of objects: single ones are asked for, many of a kind are
//! listed.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use zeroize::Zeroizing;

use super::plan::PlannedObject;
use crate::kubernetes::api::{Api, ApiFailure};
use crate::kubernetes::decide::differing;
use crate::kubernetes::kinds::Kind;
use crate::kubernetes::list::{Listed, Lister, Which};
use crate::kubernetes::name::ObjectName;
use crate::kubernetes::normal;
use crate::kubernetes::source::name_of;

/// More objects of a kind than this are listed instead of asked for one by one.
const SINGLE_MAX: usize = 20;
const AT_ONCE: usize = 8;
/// Fields of a difference that are named.
const FIELDS_MAX: usize = 5;

/// An object as it is in the cluster.
#[derive(Debug, Clone)]
pub(super) struct Live {
    /// Its normal form, without status.
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Its version, to tell whether somebody changed it meanwhile.
    pub(super) version: String,
    pub(super) uid: String,
    /// Whether it is being deleted.
    pub(super) is_ending: bool,
}

impl Live {
    pub(super) fn of(kind: &Kind, mut object: Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (version, uid) = (text("resourceVersion"), text("uid"));
        let is_ending = object["metadata"]["deletionTimestamp"].is_string();
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = kind.name.kind.clone().into();
        normal::normalise(&kind.name, &mut object, false);
        Self { bytes: normal::encode(&object), version, uid, is_ending }
    }

    /// The fields that differ, by name.
    pub(super) fn differing(&self, wanted: &[u8]) -> Vec<String> {
        let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
        differing(&read(&self.bytes), &read(wanted), FIELDS_MAX)
    }
}

/// What is at the places of these objects.
pub(super) async fn observe(
    api: &Api,
    objects: &[PlannedObject],
) -> Result<HashMap<ObjectName, Live>, ApiFailure> {
    let mut groups: BTreeMap<String, (Kind, Vec<&ObjectName>)> = BTreeMap::new();
    for object in objects {
        let Some(kind) = &object.kind else { continue };
        let group = groups.entry(kind.url(None)).or_insert_with(|| (kind.clone(), Vec::new()));
        group.1.push(&object.name);
    }
    let mut found = HashMap::new();
    for (kind, names) in groups.into_values() {
        if names.len() > SINGLE_MAX {
            found.extend(listed(api, &kind, &names).await?);
            continue;
        }
        let single: Vec<Option<(ObjectName, Live)>> = stream::iter(names)
            .map(|name| {
                let kind = &kind;
                async move {
                    match kind.read(api, name).await {
                        Ok(object) => Ok(Some((name.clone(), Live::of(kind, object)))),
                        Err(ApiFailure::NotFound) => Ok(None),
                        Err(failure) => Err(failure),
                    }
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        found.extend(single.into_iter().flatten());
    }
    Ok(found)
}

async fn listed(
    api: &Api,
    kind: &Kind,
    names: &[&ObjectName],
) -> Result<HashMap<ObjectName, Live>, ApiFailure> {
    let wanted: HashSet<&ObjectName> = names.iter().copied().collect();
    let namespaces: HashSet<Option<&str>> =
        names.iter().map(|name| name.namespace.as_deref()).collect();
    let only = match namespaces.len() {
        1 => namespaces.into_iter().next().flatten(),
        _ => None,
    };
    let which = Which { namespace: only.map(str::to_owned), labels: String::new() };
    let mut found = HashMap::new();
    let read = Lister::new(api, kind, which)
        .all(|listed| match listed {
            Listed::Begin => found.clear(),
            Listed::Object(object) => {
                let Some(name) = name_of(kind, &object) else { return };
                if wanted.contains(&name) {
                    found.insert(name, Live::of(kind, *object));
                }
            }
        })
        .await;
    match read {
        // The namespace, or the kind, is not there.
        Ok(_) | Err(ApiFailure::NotFound) => Ok(found),
        Err(failure) => Err(failure),
    }
}
