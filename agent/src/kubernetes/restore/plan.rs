//! What a restore will do, object by object, decided before anything is touched (invariant P1).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bundle::{ItemKind, Location, Piece};
use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::compare::Live;
use super::{KubeError, KubeOptions};
use crate::kubernetes::api::Api;
use crate::kubernetes::decide::{self, Found, ObjectAction, decide};
use crate::kubernetes::kinds::{Kind, Kinds};
use crate::kubernetes::name::{KindName, ObjectName};
use crate::kubernetes::order::{self, Ordered, Phase};
use crate::kubernetes::{CLUSTER_ITEM, normal};
use crate::opened::OpenedPoint;
use crate::patterns::Selection;
use crate::point_store::coalesce;

/// One line of the plan.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedObject {
    /// Its name in the target: `group/Kind/namespace/name`.
    pub path: String,
    /// What is done.
    pub action: ObjectAction,
    /// Why.
    pub reason: String,
    #[serde(skip)]
    pub(super) name: ObjectName,
    /// Its normal form, without status, as it will be in the target.
    #[serde(skip)]
    pub(super) bytes: Arc<Zeroizing<Vec<u8>>>,
    /// Its kind in the version that is used; none until its definition is restored.
    #[serde(skip)]
    pub(super) kind: Option<Kind>,
    /// What is there now, if it is different.
    #[serde(skip)]
    pub(super) live: Option<Live>,
    /// Whether the point keeps it among the keys.
    #[serde(skip)]
    pub(super) key: bool,
}

/// Everything that a restore into a cluster will do.
#[derive(Clone, Serialize)]
pub struct KubePlan {
    /// By name.
    pub objects: Vec<PlannedObject>,
    /// The target's name in its kubeconfig.
    pub cluster: String,
    #[serde(skip)]
    pub(super) waves: Vec<(Phase, Vec<usize>)>,
    #[serde(skip)]
    pub(super) api: Api,
    #[serde(skip)]
    pub(super) kinds: Kinds,
}

impl KubePlan {
    /// How many objects have this action.
    #[must_use]
    pub fn count(&self, action: ObjectAction) -> usize {
        self.objects.iter().filter(|object| object.action == action).count()
    }

    /// Objects as the waves have them, for a plan that people read in the order of what happens.
    pub fn in_order(&self) -> impl Iterator<Item = (Phase, &PlannedObject)> {
        let place = |(phase, places): &(Phase, Vec<usize>)| {
            let phase = *phase;
            places.clone().into_iter().map(move |place| (phase, place))
        };
        let places: Vec<(Phase, usize)> = self.waves.iter().flat_map(place).collect();
        places.into_iter().map(|(phase, place)| (phase, &self.objects[place]))
    }
}

/// Looks at the cluster and decides what to do with every chosen object. Changes nothing.
///
/// # Errors
/// When nothing matches, the cluster is another one, or it cannot be read. Conflicts are part of
/// the plan.
pub async fn plan(point: &OpenedPoint, options: &KubeOptions) -> Result<KubePlan, KubeError> {
    let api = Api::connect(&options.connection).await?;
    let chosen = choose(point, options)?;
    check_cluster(point, options, &api).await?;
    let mut objects = read(point, options, chosen).await?;
    objects.sort_by(|a, b| a.name.cmp(&b.name));
    if objects.is_empty() {
        return Err(KubeError::NothingMatches);
    }
    if let Some(pair) = objects.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(KubeError::Collision { path: pair[0].path.clone() });
    }
    let kinds = Kinds::discover(&api).await?;
    let defined = defined(&objects);
    for object in &mut objects {
        match served(&kinds, object) {
            Some(kind) => object.kind = Some(kind),
            None if defined.contains(&object.name.kind) => {
                (object.action, object.reason) =
                    (ObjectAction::Create, "its kind comes with its definition".to_owned());
            }
            None => {
                object.action = ObjectAction::Refused;
                object.reason = format!(
                    "this cluster does not serve {}, and no definition of it is restored",
                    object.name.kind
                );
            }
        }
    }
    let live = super::compare::observe(&api, &objects).await?;
    for object in &mut objects {
        let Some(kind) = &object.kind else { continue };
        let found = match live.get(&object.name) {
            None => Found::Absent,
            Some(live) if live.is_ending => Found::Ending,
            Some(live) if live.bytes == *object.bytes => Found::Same,
            Some(_) => Found::Different,
        };
        let (action, reason) = decide(found, options.on_conflict);
        (object.action, object.reason) = (action, reason.to_owned());
        if !kind.can("patch") || !kind.can("create") {
            let is_same = found == Found::Same;
            if !is_same {
                object.action = ObjectAction::Refused;
                object.reason = "the server does not let objects of this kind be made".to_owned();
            }
        }
        if found == Found::Different {
            object.live = live.get(&object.name).cloned();
            if let Some(live) = &object.live {
                let fields = live.differing(&object.bytes);
                object.reason = format!("{}: {}", object.reason, fields.join(", "));
            }
        }
    }
    let waves = order::waves(&ordered(&objects, &kinds, &defined));
    Ok(KubePlan { objects, cluster: api.name().to_owned(), waves, api, kinds })
}

fn ordered(objects: &[PlannedObject], kinds: &Kinds, defined: &HashSet<KindName>) -> Vec<Ordered> {
    let ordered = |object: &PlannedObject| {
        let value: Value = serde_json::from_slice(&object.bytes).unwrap_or_default();
        let kind = &object.name.kind;
        let custom = defined.contains(kind) || kinds.get(kind).is_none() || is_custom(&kind.group);
        Ordered {
            name: object.name.clone(),
            phase: order::phase(kind, custom),
            owners: order::owners(&object.name, &value),
        }
    };
    objects.iter().map(ordered).collect()
}

/// Groups of Kubernetes itself are single words or end in `.k8s.io`; definitions may not use those
/// but by approval.
fn is_custom(group: &str) -> bool {
    group.contains('.') && !group.ends_with(".k8s.io")
}

/// The kind that an object is restored as: in the version it was kept in, where that is served.
fn served(kinds: &Kinds, object: &PlannedObject) -> Option<Kind> {
    let value: Value = serde_json::from_slice(&object.bytes).ok()?;
    let version = value["apiVersion"].as_str()?;
    kinds.in_version(&object.name.kind, version).or_else(|| kinds.get(&object.name.kind)).cloned()
}

/// The kinds that definitions among the objects bring.
fn defined(objects: &[PlannedObject]) -> HashSet<KindName> {
    let definition = |object: &PlannedObject| {
        if !object.name.kind.is("apiextensions.k8s.io", "CustomResourceDefinition") {
            return None;
        }
        let value: Value = serde_json::from_slice(&object.bytes).ok()?;
        let group = value["spec"]["group"].as_str()?;
        Some(KindName::new(group, value["spec"]["names"]["kind"].as_str()?))
    };
    objects.iter().filter_map(definition).collect()
}

/// The chosen items, by their places.
fn choose(
    point: &OpenedPoint,
    options: &KubeOptions,
) -> Result<Vec<(usize, ObjectName)>, KubeError> {
    let selection =
        Selection { include: options.include.clone(), exclude: options.exclude.clone() };
    let mut chosen = Vec::new();
    for (index, item) in point.manifest().items.iter().enumerate() {
        if item.kind != ItemKind::Object {
            continue;
        }
        let name = ObjectName::parse(&item.key.path).ok_or(KubeError::NotAnObject { index })?;
        if selection.chooses(&item.key.path)
            && decide::is_of(&name, &options.kinds, &options.in_namespaces)
        {
            chosen.push((index, name));
        }
    }
    if chosen.is_empty() { Err(KubeError::NothingMatches) } else { Ok(chosen) }
}

/// Refuses another cluster than the point's, unless told its name.
async fn check_cluster(
    point: &OpenedPoint,
    options: &KubeOptions,
    api: &Api,
) -> Result<(), KubeError> {
    let found = api.cluster_uid().await?;
    if let Some(expected) = &options.into_cluster {
        if expected != api.name() {
            let (expected, found) = (expected.clone(), api.name().to_owned());
            return Err(KubeError::OtherName { expected, found });
        }
        return Ok(());
    }
    let places: Vec<usize> = (0..point.manifest().items.len())
        .filter(|place| {
            let item = &point.manifest().items[*place];
            item.key.path == CLUSTER_ITEM && item.kind == ItemKind::File
        })
        .collect();
    for bytes in contents(point, &places).await?.values() {
        let about: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let expected = about["kubeSystemUid"].as_str().unwrap_or_default().to_owned();
        if expected != found {
            let name = api.name().to_owned();
            return Err(KubeError::OtherCluster { expected, found, name });
        }
    }
    Ok(())
}

/// Opens the chosen objects and brings them into the form that they will have in the target.
async fn read(
    point: &OpenedPoint,
    options: &KubeOptions,
    chosen: Vec<(usize, ObjectName)>,
) -> Result<Vec<PlannedObject>, KubeError> {
    let places: Vec<usize> = chosen.iter().map(|(place, _)| *place).collect();
    let mut contents = contents(point, &places).await?;
    let mut objects = Vec::with_capacity(chosen.len());
    for (index, name) in chosen {
        let bytes = contents.remove(&index).unwrap_or_default();
        let mut value: Value =
            serde_json::from_slice(&bytes).map_err(|_| KubeError::NotAnObject { index })?;
        if !has_labels(&value, &options.labels) {
            continue;
        }
        normal::normalise(&name.kind, &mut value, false);
        decide::map_namespaces(&name.kind, &mut value, &options.namespaces);
        let name = decide::mapped(&name, &options.namespaces);
        let content = &point.manifest().items[index].content;
        objects.push(PlannedObject {
            path: name.to_string(),
            action: ObjectAction::Create,
            reason: String::new(),
            name,
            bytes: Arc::new(normal::encode(&value)),
            kind: None,
            live: None,
            key: content
                .iter()
                .any(|piece| matches!(piece, Piece::Blob { location: Location::Key, .. })),
        });
    }
    Ok(objects)
}

fn has_labels(object: &Value, wanted: &BTreeMap<String, Option<String>>) -> bool {
    wanted.iter().all(|(key, value)| {
        let found = object["metadata"]["labels"][key].as_str();
        found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
    })
}

type Contents = HashMap<usize, Zeroizing<Vec<u8>>>;

/// The bytes of items.
async fn contents(point: &OpenedPoint, places: &[usize]) -> Result<Contents, KubeError> {
    let manifest = point.manifest();
    let mut wanted = Vec::new();
    let mut contents = Contents::new();
    for place in places {
        let item = &manifest.items[*place];
        let length = usize::try_from(item.size).unwrap_or(0);
        let mut bytes = Zeroizing::new(vec![0; length]);
        let mut offset = 0_usize;
        for piece in &item.content {
            if let Some((bundle, blob)) = piece.config_blob() {
                wanted.push((bundle, blob, (*place, offset)));
            } else if let Piece::Blob { id, .. } = piece {
                let secret = point.secret(id)?;
                if let Some(part) = bytes.get_mut(offset..offset + secret.len()) {
                    part.copy_from_slice(secret);
                }
            }
            offset += usize::try_from(piece.plain_len()).unwrap_or(0);
        }
        contents.insert(*place, bytes);
    }
    let contents = Arc::new(Mutex::new(contents));
    let filling = contents.clone();
    point
        .for_each_blob(coalesce(wanted), move |(place, offset): (usize, usize), plain| {
            let mut contents = filling.lock().unwrap_or_else(PoisonError::into_inner);
            let part = contents
                .get_mut(&place)
                .and_then(|bytes| bytes.get_mut(offset..offset + plain.len()));
            if let Some(part) = part {
                part.copy_from_slice(&plain);
            }
            Ok::<_, KubeError>(())
        })
        .await?;
    let mut contents = contents.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *contents))
}
