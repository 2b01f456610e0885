//! Carrying a plan out: safety file, waves of server-side applies, comparison.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::kube::api::{
    DeleteParams, Patch, PatchParams, PostParams, Preconditions, Request, ValidationDirective,
};
use futures::{StreamExt, stream};
use serde_json::Value;
use tokio::sync::RwLock;

use super::compare::{self, Live};
use super::plan::{KubePlan, PlannedObject};
use super::{
    FIELD_MANAGER, KubeError, KubeOptions, KubeReport, ObjectOutcome, ObjectReport, writes,
};
use crate::kubernetes::api::{Api, ApiFailure};
use crate::kubernetes::decide::{self, ObjectAction, ObjectPolicy};
use crate::kubernetes::kinds::{Kind, Kinds};
use crate::kubernetes::name::ObjectName;
use crate::kubernetes::normal;
use crate::kubernetes::order::{Phase, owners};
use crate::opened::OpenedPoint;
use crate::progress::{Phase as Shown, Progress, ProgressEvent};

/// Objects of a wave that are sent at once.
const AT_ONCE: usize = 16;
/// A definition is served within seconds, and what is deleted is gone.
const SERVED_DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// Carries a plan out, or with `dry_run` lets the server try each object and keep nothing.
///
/// # Errors
/// [`KubeError::Conflicts`] before anything is touched, and what keeps the safety file from being
/// made. What happens to single objects is in the report.
pub async fn execute(
    point: &OpenedPoint,
    plan: &KubePlan,
    options: &KubeOptions,
    dry_run: bool,
    progress: Arc<dyn Progress>,
) -> Result<KubeReport, KubeError> {
    let conflicts = plan.count(ObjectAction::Conflict);
    if let Some(example) = plan.objects.iter().find(|o| o.action == ObjectAction::Conflict)
        && !dry_run
    {
        let example = example.path.clone();
        return Err(KubeError::Conflicts { count: conflicts, example });
    }
    let mut report = KubeReport::default();
    if !dry_run && plan.count(ObjectAction::Overwrite) > 0 {
        progress.on(ProgressEvent::begin(Shown::Safety));
        report.safety_file = Some(super::safety::make(point, plan, options, &progress).await?);
    }
    let work = Work {
        api: &plan.api,
        plan,
        policy: options.on_conflict,
        dry_run,
        kinds: RwLock::new(plan.kinds.clone()),
        uids: RwLock::default(),
    };
    let mut done: BTreeMap<usize, Done> = BTreeMap::new();
    let total = plan.objects.iter().filter(|object| writes(object.action)).count() as u64;
    let mut event =
        ProgressEvent { items_changed: total, ..ProgressEvent::begin(Shown::Restoring) };
    for (phase, places) in &plan.waves {
        let mut wave = stream::iter(places.iter().copied())
            .map(|place| {
                let work = &work;
                async move { (place, work.object(&plan.objects[place]).await) }
            })
            .buffer_unordered(AT_ONCE);
        while let Some((place, result)) = wave.next().await {
            event.items += u64::from(writes(plan.objects[place].action));
            progress.on(event);
            done.insert(place, result);
        }
        if *phase == Phase::Definitions && !dry_run {
            work.wait_until_served(places).await;
        }
    }
    if !dry_run {
        progress.on(ProgressEvent::begin(Shown::Comparing));
        report.compared = compare_all(&work, &mut done).await?;
    }
    report.objects = plan
        .objects
        .iter()
        .enumerate()
        .filter_map(|(place, object)| {
            let done = done.remove(&place)?;
            Some(ObjectReport { path: object.path.clone(), outcome: done.outcome, note: done.note })
        })
        .collect();
    Ok(report)
}

/// How one object ended.
struct Done {
    outcome: ObjectOutcome,
    note: String,
    /// What it should be now.
    expected: Option<(Kind, Vec<u8>)>,
}

impl Done {
    fn failed(note: impl Into<String>) -> Self {
        Self { outcome: ObjectOutcome::Failed, note: note.into(), expected: None }
    }
}

struct Work<'a> {
    api: &'a Api,
    plan: &'a KubePlan,
    policy: ObjectPolicy,
    dry_run: bool,
    /// Grows when definitions are restored.
    kinds: RwLock<Kinds>,
    /// Of objects that were made or seen.
    uids: RwLock<HashMap<ObjectName, String>>,
}

impl Work<'_> {
    async fn object(&self, object: &PlannedObject) -> Done {
        let outcome = match object.action {
            ObjectAction::Create | ObjectAction::Overwrite => return self.write(object).await,
            ObjectAction::Unchanged => ObjectOutcome::Unchanged,
            ObjectAction::Skip => ObjectOutcome::Skipped,
            ObjectAction::Conflict | ObjectAction::Refused => {
                return Done::failed(object.reason.clone());
            }
        };
        Done { outcome, note: String::new(), expected: None }
    }

    async fn write(&self, object: &PlannedObject) -> Done {
        let kind = match &object.kind {
            Some(kind) => kind.clone(),
            None => match self.kinds.read().await.get(&object.name.kind) {
                Some(kind) => kind.clone(),
                None if self.dry_run => {
                    return Done {
                        outcome: ObjectOutcome::Created,
                        note: "not tried: its kind comes with its definition".to_owned(),
                        expected: None,
                    };
                }
                None => return Done::failed("its definition did not come to be served"),
            },
        };
        let mut value: Value = serde_json::from_slice(&object.bytes).unwrap_or_default();
        value["apiVersion"] = kind.api_version().into();
        let mut notes = Vec::new();
        let dropped = self.resolve_owners(&object.name, &mut value).await;
        if !dropped.is_empty() {
            notes.push(format!("without its owner {}, which is not there", dropped.join(", ")));
        }
        let mut result = self.send(object, &kind, &value).await;
        if let Err(ApiFailure::Invalid(message)) = &result
            && is_about_cluster_ip(message)
            && let Some(without) = without_cluster_ip(&value)
        {
            notes.push("with another cluster IP: its own is not free here".to_owned());
            value = without;
            result = self.send(object, &kind, &value).await;
        }
        let mut outcome = match object.action {
            ObjectAction::Create => ObjectOutcome::Created,
            _ => ObjectOutcome::Overwritten,
        };
        if let (Err(ApiFailure::Invalid(message)), Some(live)) = (&result, &object.live)
            && is_immutable(message)
        {
            if self.policy != ObjectPolicy::Recreate {
                return Done::failed(format!(
                    "{message}: --on-conflict recreate deletes it and makes it anew"
                ));
            }
            if !decide::may_recreate(&kind.name) {
                return Done::failed(format!("{message}: what holds other things is not deleted"));
            }
            outcome = ObjectOutcome::Recreated;
            if self.dry_run {
                notes.push("it would be deleted and made anew".to_owned());
                return Done { outcome, note: notes.join("; "), expected: None };
            }
            result = match self.delete(object, &kind, live).await {
                Ok(()) => self.create_anew(object, &kind, &value).await,
                Err(failure) => Err(failure),
            };
        }
        match result {
            Ok(written) => {
                if let Some(uid) = written["metadata"]["uid"].as_str() {
                    self.uids.write().await.insert(object.name.clone(), uid.to_owned());
                }
                normal::normalise(&kind.name, &mut value, false);
                let expected = Some((kind, normal::encode(&value).to_vec()));
                Done { outcome, note: notes.join("; "), expected }
            }
            Err(ApiFailure::NotFound) if self.dry_run => Done {
                outcome,
                note: "not tried: its namespace would be made first".to_owned(),
                expected: None,
            },
            Err(ApiFailure::NotFound) => {
                let namespace = object.name.namespace.as_deref().unwrap_or_default();
                Done::failed(format!(
                    "its namespace {namespace} is not there: restore or make it first"
                ))
            }
            Err(ApiFailure::Conflict(_)) if object.action == ObjectAction::Overwrite => {
                Done::failed("it changed after the plan was made and was left as it is")
            }
            Err(failure) => Done::failed(failure.to_string()),
        }
    }

    /// One server-side apply; where the object has more than the point says, what is left of that
    /// is taken away by replacing it.
    async fn send(
        &self,
        object: &PlannedObject,
        kind: &Kind,
        value: &Value,
    ) -> Result<Value, ApiFailure> {
        let mut sent = value.clone();
        let overwrite = object.action == ObjectAction::Overwrite;
        if let (true, Some(live)) = (overwrite, &object.live) {
            // Nothing that was changed meanwhile is overwritten.
            sent["metadata"]["resourceVersion"] = live.version.clone().into();
        }
        let parameters = PatchParams {
            dry_run: self.dry_run,
            // What somebody made meanwhile, otherwise, is not taken from them.
            force: overwrite,
            field_manager: Some(FIELD_MANAGER.to_owned()),
            field_validation: Some(ValidationDirective::Ignore),
        };
        let url = kind.url(object.name.namespace.as_deref());
        let asked = kind.asked("patch", object.name.namespace.as_deref());
        let request = || {
            Request::new(url.clone()).patch(&object.name.name, &parameters, &Patch::Apply(&sent))
        };
        let written: Value = self.api.ask(&asked, request).await?;
        if !overwrite || self.dry_run {
            return Ok(written);
        }
        let live = Live::of(kind, written.clone());
        let mut wanted = value.clone();
        normal::normalise(&kind.name, &mut wanted, false);
        if live.bytes == normal::encode(&wanted) {
            return Ok(written);
        }
        let mut whole = value.clone();
        whole["metadata"]["resourceVersion"] = live.version.into();
        whole["metadata"]["uid"] = live.uid.into();
        let body = normal::encode(&whole);
        let parameters =
            PostParams { dry_run: false, field_manager: Some(FIELD_MANAGER.to_owned()) };
        let asked = kind.asked("update", object.name.namespace.as_deref());
        let request =
            || Request::new(url.clone()).replace(&object.name.name, &parameters, body.to_vec());
        self.api.ask(&asked, request).await
    }

    async fn delete(
        &self,
        object: &PlannedObject,
        kind: &Kind,
        live: &Live,
    ) -> Result<(), ApiFailure> {
        let namespace = object.name.namespace.as_deref();
        let url = kind.url(namespace);
        let asked = kind.asked("delete", namespace);
        let parameters = DeleteParams::background()
            .preconditions(Preconditions { uid: Some(live.uid.clone()), resource_version: None });
        let request = || Request::new(url.clone()).delete(&object.name.name, &parameters);
        match self.api.ask_text(&asked, request).await {
            Ok(_) | Err(ApiFailure::NotFound) => {}
            Err(failure) => return Err(failure),
        }
        let begun = Instant::now();
        loop {
            match kind.read(self.api, &object.name).await {
                Err(ApiFailure::NotFound) => return Ok(()),
                Err(failure) => return Err(failure),
                Ok(_) if begun.elapsed() > SERVED_DEADLINE => {
                    return Err(ApiFailure::Invalid(
                        "it was deleted to be made anew, and a finalizer keeps it: start the \
                         restore again when it is gone"
                            .to_owned(),
                    ));
                }
                Ok(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn create_anew(
        &self,
        object: &PlannedObject,
        kind: &Kind,
        value: &Value,
    ) -> Result<Value, ApiFailure> {
        let gone = PlannedObject { action: ObjectAction::Create, live: None, ..object.clone() };
        self.send(&gone, kind, value).await
    }

    /// Gives references to owners the UIDs of this cluster; returns the owners that are not there.
    async fn resolve_owners(&self, name: &ObjectName, value: &mut Value) -> Vec<String> {
        let mut uids: HashMap<(String, String), String> = HashMap::new();
        for owner in owners(name, value) {
            let key = (owner.kind.kind.clone(), owner.name.clone());
            if uids.contains_key(&key) {
                continue;
            }
            if let Some(uid) = self.uid(&owner).await {
                uids.insert(key, uid);
            }
        }
        decide::resolve_owners(value, |reference| {
            let text = |field: &str| reference[field].as_str().unwrap_or_default().to_owned();
            uids.get(&(text("kind"), text("name"))).cloned()
        })
    }

    async fn uid(&self, name: &ObjectName) -> Option<String> {
        if let Some(uid) = self.uids.read().await.get(name) {
            return Some(uid.clone());
        }
        let kind = self.kinds.read().await.get(&name.kind).cloned()?;
        if kind.namespaced != name.namespace.is_some() {
            return None;
        }
        let found = kind.read(self.api, name).await.ok()?;
        let uid = found["metadata"]["uid"].as_str()?.to_owned();
        self.uids.write().await.insert(name.clone(), uid.clone());
        Some(uid)
    }

    /// Waits until the server serves the kinds that these definitions bring.
    async fn wait_until_served(&self, places: &[usize]) {
        let waited = places.iter().map(|place| &self.plan.objects[*place]);
        if !waited.into_iter().any(|object| writes(object.action)) {
            return;
        }
        let missing = |kinds: &Kinds| {
            let mut objects = self.plan.objects.iter().filter(|object| object.kind.is_none());
            objects.any(|object| writes(object.action) && kinds.get(&object.name.kind).is_none())
        };
        let begun = Instant::now();
        while begun.elapsed() < SERVED_DEADLINE {
            if let Ok(kinds) = Kinds::discover(self.api).await {
                let is_missing = missing(&kinds);
                *self.kinds.write().await = kinds;
                if !is_missing {
                    return;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Reads everything again that was written, and compares it with what it should be.
async fn compare_all(work: &Work<'_>, done: &mut BTreeMap<usize, Done>) -> Result<u64, KubeError> {
    let mut objects = Vec::new();
    for (place, result) in done.iter() {
        let planned = &work.plan.objects[*place];
        let kind = match (&result.expected, planned.action) {
            (Some((kind, _)), _) => Some(kind.clone()),
            (None, ObjectAction::Unchanged) => planned.kind.clone(),
            (None, _) => continue,
        };
        objects.push(PlannedObject { kind, ..planned.clone() });
    }
    let found = compare::observe(work.api, &objects).await?;
    for (place, result) in done.iter_mut() {
        let planned = &work.plan.objects[*place];
        let expected = match (&result.expected, planned.action) {
            (Some((_, bytes)), _) => bytes.as_slice(),
            (None, ObjectAction::Unchanged) => planned.bytes.as_slice(),
            (None, _) => continue,
        };
        let difference = match found.get(&planned.name) {
            None => Some("it is not there any more".to_owned()),
            Some(live) if live.bytes.as_slice() == expected => None,
            Some(live) => Some(format!("it differs in {}", live.differing(expected).join(", "))),
        };
        if let Some(difference) = difference {
            result.outcome = ObjectOutcome::NotEqual;
            let between = if result.note.is_empty() { "" } else { "; " };
            result.note = format!("{difference}{between}{}", result.note);
        }
    }
    Ok(objects.len() as u64)
}

/// The words of the API server's validation where a field may not change.
fn is_immutable(message: &str) -> bool {
    message.contains("immutable")
        || message.contains("may not change")
        || message.contains("are forbidden")
}

fn is_about_cluster_ip(message: &str) -> bool {
    message.contains("clusterIP") || message.contains("spec.clusterIPs")
}

/// A Service without the addresses it had, unless it had none on purpose.
fn without_cluster_ip(value: &Value) -> Option<Value> {
    if value["kind"] != "Service" || value["spec"]["clusterIP"] == "None" {
        return None;
    }
    let mut value = value.clone();
    let spec = value["spec"].as_object_mut()?;
    spec.remove("clusterIP");
    spec.remove("clusterIPs");
    Some(value)
}
