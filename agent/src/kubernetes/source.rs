//! A Kubernetes cluster as a source. Listing brings the objects themselves, so what is read soon
//! after is held in memory up to a bound, and read again from the server beyond it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

use super::api::{Api, ApiFailure};
use super::kinds::{Kind, Kinds};
use super::list::{Listed, Lister, Which};
use super::name::{KindName, ObjectName};
use super::{CLUSTER_ITEM, Mirror, Policy, normal};
use crate::config::KubernetesConfig;
use crate::sources::{
    Attribute, Content, Entry, EntryKind, Listing, Place, ReadError, Source, SourceError, Stat,
    Timestamp, Trouble,
};

/// Objects are held between listing and sealing up to so many bytes.
pub(crate) const HELD_BYTES_MAX: usize = 48 << 20;
/// More objects of a kind than this are listed again instead of asked for one by one.
const SINGLE_MAX: u64 = 32;
/// Objects are for their owner's eyes, where they become files.
const MODE: u32 = 0o600;

/// A Kubernetes cluster.
pub struct KubernetesSource {
    name: String,
    config: KubernetesConfig,
    api: Api,
    runtime: Handle,
    held: Mutex<Held>,
    /// What watches tell, where a backup of changes is made.
    mirror: Option<Arc<Mirror>>,
    again: tokio::sync::Mutex<Again>,
}

/// A kind whose objects are read again.
#[derive(Default)]
struct Again {
    kind: Option<KindName>,
    /// How many were asked for.
    asked: u64,
    lister: Option<Lister>,
    page: BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>,
}

#[derive(Default)]
struct Held {
    contents: HashMap<Vec<u8>, Zeroizing<Vec<u8>>>,
    bytes: usize,
    kinds: Kinds,
}

impl KubernetesSource {
    /// Reads the connection's files; the server is asked when the source is listed. Must be called
    /// within a Tokio runtime, and off its async threads.
    ///
    /// # Errors
    /// When the connection cannot be used.
    pub(crate) fn open(
        name: &str,
        config: &KubernetesConfig,
        mirror: Option<Arc<Mirror>>,
    ) -> Result<Self, SourceError> {
        let runtime = Handle::current();
        let api = runtime
            .block_on(Api::connect(&config.connection))
            .map_err(|failure| SourceError::Api { name: name.to_owned(), failure })?;
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            api,
            runtime,
            held: Mutex::default(),
            mirror,
            again: tokio::sync::Mutex::default(),
        })
    }

    async fn collect(&self) -> Result<Listing, ApiFailure> {
        let mut listing = Listing::default();
        let mut held = Held::default();
        let uid = self.api.cluster_uid().await?;
        let about = normal::encode(&json!({ "kubeSystemUid": uid }));
        let stat = stat_of(&about);
        let kind = EntryKind::File;
        let path = CLUSTER_ITEM.to_vec();
        held.keep(&path, about);
        listing.entries.push(Entry { path, kind, stat, place: Place::Config });
        held.kinds = Kinds::discover(&self.api).await?;
        for kind in held.kinds.clone().listable() {
            if !self.config.policy.lists(&kind.name) {
                continue;
            }
            match self.collect_kind(kind, &mut held).await {
                Ok(entries) => listing.entries.extend(entries),
                // A kind that went away between being named and being listed has no objects.
                Err(ApiFailure::NotFound) => {}
                Err(
                    failure @ (ApiFailure::OutOfReach(_)
                    | ApiFailure::Unauthenticated(_)
                    | ApiFailure::Config { .. }),
                ) => return Err(failure),
                Err(failure) => {
                    let trouble = match failure {
                        ApiFailure::Forbidden { .. } => Trouble::Forbidden,
                        _ => Trouble::Unreadable,
                    };
                    tracing::warn!(source = self.name, kind = %kind.name, %failure, "not listed");
                    let line = format!("{} ({failure})", kind.name);
                    listing.troubles.push((trouble, line.into_bytes()));
                }
            }
        }
        listing.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        Ok(listing)
    }

    async fn collect_kind(&self, kind: &Kind, held: &mut Held) -> Result<Vec<Entry>, ApiFailure> {
        let policy = &self.config.policy;
        let which = Which { namespace: None, labels: policy.labels.clone() };
        let mut entries: Vec<Entry> = Vec::new();
        Lister::new(&self.api, kind, which)
            .all(|listed| match listed {
                Listed::Begin => {
                    for entry in entries.drain(..) {
                        held.forget(&entry.path);
                    }
                }
                Listed::Object(object) => {
                    let Some(name) = name_of(kind, &object) else { return };
                    if !policy.takes(&name, &object) {
                        return;
                    }
                    let bytes = form(policy, kind, &name, *object);
                    let (path, stat) = (name.path(), stat_of(&bytes));
                    held.keep(&path, bytes);
                    let place = policy.place(&name);
                    entries.push(Entry { path, kind: EntryKind::Object, stat, place });
                }
            })
            .await?;
        Ok(entries)
    }

    /// An object that is not held: one alone is asked for, many of a kind are listed again, page by
    /// page, beside the reading, which is in the order of names as lists are.
    async fn read(&self, path: &[u8]) -> Result<Zeroizing<Vec<u8>>, ReadError> {
        let name = ObjectName::parse(path).ok_or(ReadError::Vanished)?;
        let mut again = self.again.lock().await;
        if again.kind.as_ref() != Some(&name.kind) {
            *again = Again { kind: Some(name.kind.clone()), ..Again::default() };
        }
        again.asked += 1;
        if again.asked <= SINGLE_MAX {
            return self.read_one(path).await;
        }
        if again.lister.is_none() {
            let kind = self.kind_of(&name).ok_or(ReadError::Vanished)?;
            let labels = self.config.policy.labels.clone();
            again.lister = Some(Lister::new(&self.api, &kind, Which { namespace: None, labels }));
        }
        while !again.page.contains_key(path) {
            // Beyond it: it is gone, or was made since.
            if again.page.last_key_value().is_some_and(|(last, _)| last.as_slice() > path) {
                return self.read_one(path).await;
            }
            let Again { lister: Some(lister), page, .. } = &mut *again else { break };
            let Ok(Some(objects)) = lister.page(&mut |_| {}).await else {
                return self.read_one(path).await;
            };
            let kind = self.kind_of(&name).ok_or(ReadError::Vanished)?;
            page.clear();
            for object in objects {
                let Some(name) = name_of(&kind, &object) else { continue };
                let bytes = form(&self.config.policy, &kind, &name, object);
                page.insert(name.path(), bytes);
            }
        }
        again.page.remove(path).ok_or(ReadError::Vanished)
    }

    fn kind_of(&self, name: &ObjectName) -> Option<Kind> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mirrored = || self.mirror.as_ref().and_then(|mirror| mirror.kind(&name.kind));
        held.kinds.get(&name.kind).cloned().or_else(mirrored)
    }

    async fn read_one(&self, path: &[u8]) -> Result<Zeroizing<Vec<u8>>, ReadError> {
        let name = ObjectName::parse(path).ok_or(ReadError::Vanished)?;
        let kind = self.kind_of(&name).ok_or(ReadError::Vanished)?;
        match kind.read(&self.api, &name).await {
            Ok(object) => Ok(form(&self.config.policy, &kind, &name, object)),
            Err(ApiFailure::NotFound) => Err(ReadError::Vanished),
            Err(failure) => {
                tracing::warn!(source = self.name, kind = %kind.name, %failure, "not read");
                Err(ReadError::Unreadable(std::io::ErrorKind::Other))
            }
        }
    }
}

impl Held {
    fn keep(&mut self, path: &[u8], bytes: Zeroizing<Vec<u8>>) {
        if self.bytes + bytes.len() <= HELD_BYTES_MAX {
            self.bytes += bytes.len();
            self.contents.insert(path.to_vec(), bytes);
        }
    }

    fn forget(&mut self, path: &[u8]) {
        if let Some(bytes) = self.contents.remove(path) {
            self.bytes -= bytes.len();
        }
    }
}

impl Source for KubernetesSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "kubernetes"
    }

    fn list(&self) -> Result<Listing, SourceError> {
        if let Some(listing) = self.mirror.as_ref().and_then(|mirror| mirror.snapshot()) {
            return Ok(listing);
        }
        self.runtime
            .block_on(self.collect())
            .map_err(|failure| SourceError::Api { name: self.name.clone(), failure })
    }

    fn open(&self, entry: &Entry) -> Result<Content, ReadError> {
        let held =
            self.held.lock().unwrap_or_else(PoisonError::into_inner).contents.remove(&entry.path);
        let mirrored = || self.mirror.as_ref().and_then(|mirror| mirror.content(&entry.path));
        let bytes = match held.or_else(mirrored) {
            Some(bytes) => bytes,
            None => self.runtime.block_on(self.read(&entry.path))?,
        };
        Ok(Content::held(stat_of(&bytes), bytes))
    }

    fn attributes(&self, _entry: &Entry) -> Result<Vec<Attribute>, ReadError> {
        Ok(Vec::new())
    }

    fn link_target(&self, _entry: &Entry) -> Result<Vec<u8>, ReadError> {
        Err(ReadError::Vanished)
    }
}

/// An object's bytes as they are kept.
pub(crate) fn form(
    policy: &Policy,
    kind: &Kind,
    name: &ObjectName,
    mut object: Value,
) -> Zeroizing<Vec<u8>> {
    // Objects of a list do not say what they are.
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.name.kind.clone().into();
    normal::normalise(&kind.name, &mut object, policy.keeps_status(name));
    normal::encode(&object)
}

/// The name of an object that the server gave.
pub(crate) fn name_of(kind: &Kind, object: &Value) -> Option<ObjectName> {
    let metadata = &object["metadata"];
    Some(kind.object(metadata["namespace"].as_str(), metadata["name"].as_str()?))
}

/// What a file system would say of an object. Two equal ones mean equal content, because most of a
/// SHA-256 of it stands where a file's inode and time of change do. Nothing of it but the size and
/// the mode gets into a manifest.
pub(crate) fn stat_of(bytes: &[u8]) -> Stat {
    let digest = Sha256::digest(bytes);
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| digest[at + i]));
    // Before the epoch: a time that no clock has to be waited for.
    let seconds = (word(8) | 1 << 63).cast_signed();
    Stat {
        size: bytes.len() as u64,
        mode: MODE,
        uid: 0,
        gid: 0,
        modified: Timestamp::default(),
        changed: Timestamp { seconds, nanoseconds: 0 },
        device: 0,
        inode: word(0),
        links: 1,
    }
}
