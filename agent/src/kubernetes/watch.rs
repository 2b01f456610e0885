//! Following a cluster: one list of each kind, then its watch, for as long as the agent runs. What
//! the watches tell goes into the mirror; nothing that did not change is asked for again.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ::kube::api::{Request, WatchEvent, WatchParams};
use futures::TryStreamExt;
use proto::env::Env;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::api::{Api, ApiFailure, failure_of, refusal};
use super::kinds::{Kind, Kinds};
use super::list::{Listed, Lister, Which};
use super::mirror::{Mirror, Seen};
use super::name::KindName;
use super::normal;
use super::source::{form, name_of};
use crate::config::KubernetesConfig;
use crate::sources::Trouble;

/// The server ends a watch after so many seconds; it is begun again where it was.
const WATCH_SECONDS: u32 = 290;
/// Bookmarks come each minute: a watch that is silent for longer leads nowhere.
const SILENCE_MAX: Duration = Duration::from_secs(150);
/// Between two tries at what does not work.
const PAUSE: Duration = Duration::from_secs(2);
const PAUSE_LONG: Duration = Duration::from_secs(60);
/// Definitions come in flocks.
const KINDS_PAUSE: Duration = Duration::from_secs(1);

/// Follows one cluster into its mirror until `stop`.
pub(crate) async fn follow(
    source: String,
    config: KubernetesConfig,
    mirror: Arc<Mirror>,
    env: Env,
    stop: CancellationToken,
) {
    let work = Arc::new(Follower { source, config, mirror });
    let ended = stop.clone();
    tokio::select! {
        () = work.run(&env, &stop) => {}
        () = ended.cancelled() => {}
    }
}

struct Follower {
    source: String,
    config: KubernetesConfig,
    mirror: Arc<Mirror>,
}

impl Follower {
    async fn run(self: &Arc<Self>, env: &Env, stop: &CancellationToken) {
        let mut followed: BTreeMap<KindName, (Kind, CancellationToken)> = BTreeMap::new();
        loop {
            let (api, kinds) = match self.look().await {
                Ok(found) => found,
                Err(failure) => {
                    tracing::warn!(source = self.source, %failure, "the cluster is not followed");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let policy = &self.config.policy;
            let wanted: BTreeMap<KindName, Kind> = kinds
                .listable()
                .filter(|kind| kind.can("watch") && policy.lists(&kind.name))
                .map(|kind| (kind.name.clone(), kind.clone()))
                .collect();
            followed.retain(|name, (kind, token)| {
                let stays = wanted.get(name) == Some(kind);
                if !stays {
                    token.cancel();
                }
                stays
            });
            let names: Vec<KindName> = wanted.keys().cloned().collect();
            self.mirror.set_kinds(kinds, &names);
            for (name, kind) in wanted {
                if followed.contains_key(&name) {
                    continue;
                }
                let token = stop.child_token();
                followed.insert(name, (kind.clone(), token.clone()));
                let (work, api) = (self.clone(), api.clone());
                let task = async move {
                    tokio::select! {
                        () = work.follow_kind(&api, &kind) => {}
                        () = token.cancelled() => {}
                    }
                };
                env.spawn.task("follow a kind", Box::pin(task));
            }
            self.mirror.kinds_changed.notified().await;
            tokio::time::sleep(KINDS_PAUSE).await;
        }
    }

    /// Connects, and asks which cluster it is and what it serves.
    async fn look(&self) -> Result<(Api, Kinds), ApiFailure> {
        let api = Api::connect(&self.config.connection).await?;
        let uid = api.cluster_uid().await?;
        self.mirror.set_cluster(normal::encode(&json!({ "kubeSystemUid": uid })));
        let kinds = Kinds::discover(&api).await?;
        Ok((api, kinds))
    }

    async fn follow_kind(&self, api: &Api, kind: &Kind) {
        loop {
            let mut version = match self.list(api, kind).await {
                Ok(version) => version,
                Err(failure) => {
                    tokio::time::sleep(self.note(kind, &failure)).await;
                    continue;
                }
            };
            loop {
                match self.watch(api, kind, &mut version).await {
                    Ok(()) => {}
                    // What happened meanwhile is not told any more: only a list can say.
                    Err(ApiFailure::Gone) => break,
                    Err(ApiFailure::NotFound) => {
                        self.mirror.kinds_changed.notify_one();
                        tokio::time::sleep(PAUSE).await;
                        break;
                    }
                    Err(failure @ ApiFailure::Forbidden { .. }) => {
                        tokio::time::sleep(self.note(kind, &failure)).await;
                        break;
                    }
                    Err(failure) => {
                        tracing::debug!(source = self.source, kind = %kind.name, %failure, "watch");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// Notes that a kind cannot be listed; how long to wait before the next try.
    fn note(&self, kind: &Kind, failure: &ApiFailure) -> Duration {
        tracing::warn!(source = self.source, kind = %kind.name, %failure, "not followed");
        match failure {
            ApiFailure::OutOfReach(_) => PAUSE,
            ApiFailure::NotFound => {
                self.mirror.settle(kind, &HashSet::new());
                self.mirror.kinds_changed.notify_one();
                PAUSE
            }
            ApiFailure::Forbidden { .. } => {
                self.mirror.trouble(&kind.name, Trouble::Forbidden, failure.to_string());
                PAUSE_LONG
            }
            // Of this kind alone, for half a minute: the others do not wait for it.
            _ => {
                self.mirror.trouble(&kind.name, Trouble::Unreadable, failure.to_string());
                PAUSE_LONG
            }
        }
    }

    async fn list(&self, api: &Api, kind: &Kind) -> Result<String, ApiFailure> {
        // Only names: the objects of a kind may be more than memory should hold.
        let mut there = HashSet::new();
        let which = Which { namespace: None, labels: self.config.policy.labels.clone() };
        let version = Lister::new(api, kind, which)
            .all(|listed| match listed {
                Listed::Begin => there.clear(),
                Listed::Object(object) => {
                    let Some(seen) = self.seen(kind, *object) else { return };
                    there.insert(seen.name.path());
                    self.mirror.put(seen);
                }
            })
            .await?;
        self.mirror.settle(kind, &there);
        Ok(version)
    }

    /// An object in the form that is kept, if the policy takes it.
    fn seen(&self, kind: &Kind, object: Value) -> Option<Seen> {
        let policy = &self.config.policy;
        let name = name_of(kind, &object).filter(|name| policy.takes(name, &object))?;
        let place = policy.place(&name);
        let bytes = form(policy, kind, &name, object);
        Some(Seen { name, place, bytes })
    }

    /// One watch, from a version to its end.
    async fn watch(&self, api: &Api, kind: &Kind, version: &mut String) -> Result<(), ApiFailure> {
        let labels = &self.config.policy.labels;
        let parameters = WatchParams {
            label_selector: (!labels.is_empty()).then(|| labels.clone()),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            ..WatchParams::default()
        };
        let asked = kind.asked("watch", None);
        let request = Request::new(kind.url(None))
            .watch(&parameters, version)
            .map_err(|error| ApiFailure::Invalid(error.to_string()))?;
        let events = api.client().request_events::<Value>(request);
        let begun = tokio::time::timeout(SILENCE_MAX, events).await;
        let silent = || ApiFailure::OutOfReach("a watch is silent".to_owned());
        let events = begun.map_err(|_| silent())?.map_err(|error| failure_of(error, &asked))?;
        futures::pin_mut!(events);
        loop {
            let next = tokio::time::timeout(SILENCE_MAX, events.try_next()).await;
            let next = next.map_err(|_| silent())?.map_err(|error| failure_of(error, &asked))?;
            match next {
                None => return Ok(()),
                Some(WatchEvent::Bookmark(bookmark)) => {
                    *version = bookmark.metadata.resource_version;
                }
                Some(WatchEvent::Error(status)) => return Err(refusal(&status, &asked)),
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    self.note_version(&object, version);
                    let name = name_of(kind, &object);
                    match (self.seen(kind, object), name) {
                        (Some(seen), _) => self.mirror.put(seen),
                        // No longer what the policy takes.
                        (None, Some(name)) => self.mirror.remove(&name),
                        (None, None) => {}
                    }
                    self.tell_of_kinds(kind);
                }
                Some(WatchEvent::Deleted(object)) => {
                    self.note_version(&object, version);
                    if let Some(name) = name_of(kind, &object) {
                        self.mirror.remove(&name);
                    }
                    self.tell_of_kinds(kind);
                }
            }
        }
    }

    fn note_version(&self, object: &Value, version: &mut String) {
        if let Some(newer) = object["metadata"]["resourceVersion"].as_str() {
            newer.clone_into(version);
        }
    }

    /// Where a kind's objects bring or take other kinds.
    fn tell_of_kinds(&self, kind: &Kind) {
        if kind.name.is("apiextensions.k8s.io", "CustomResourceDefinition")
            || kind.name.is("apiregistration.k8s.io", "APIService")
        {
            self.mirror.kinds_changed.notify_one();
        }
    }
}
