//! What a cluster holds, as its watches tell: names and fingerprints of all objects, and the bytes
//! of those that changed since the last point, up to a bound. A backup of changes lists from here
//! and asks the server for nothing that did not change.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use proto_types::env::Clock;
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::CLUSTER_ITEM;
use super::debounce::Pending;
use super::kinds::{Kind, Kinds};
use super::name::{KindName, ObjectName};
use super::source::{HELD_BYTES_MAX, stat_of};
use crate::sources::{Entry, EntryKind, Listing, Place, Stat, Trouble};

/// How far the watching of one kind is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// It is being listed.
    Filling,
    /// Every change is heard.
    Following,
    /// It cannot be read.
    Troubled(Trouble, String),
}

/// One cluster's objects.
pub(crate) struct Mirror {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Rung when something changed, or a kind's standing did.
    pub(crate) rung: Notify,
    /// Rung when the cluster may serve other kinds than before.
    pub(crate) kinds_changed: Notify,
}

#[derive(Default)]
struct State {
    kinds: Kinds,
    standing: BTreeMap<KindName, Standing>,
    objects: BTreeMap<KindName, BTreeMap<Vec<u8>, (Stat, Place)>>,
    cluster: Option<Zeroizing<Vec<u8>>>,
    /// Bytes of what changed, with the number of the change.
    contents: HashMap<Vec<u8>, (u64, Zeroizing<Vec<u8>>)>,
    held_bytes: usize,
    /// How many changes were seen.
    changes: u64,
    /// The last of them that was listed.
    taken: u64,
    pending: Option<Pending>,
}

/// One object as a list or a watch gave it.
pub(crate) struct Seen {
    pub(crate) name: ObjectName,
    pub(crate) place: Place,
    pub(crate) bytes: Zeroizing<Vec<u8>>,
}

impl Mirror {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default(), rung: Notify::new(), kinds_changed: Notify::new() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The cluster's own item.
    pub(crate) fn set_cluster(&self, bytes: Zeroizing<Vec<u8>>) {
        self.with(|state| state.cluster = Some(bytes));
    }

    /// What the cluster serves, and which of it is followed. Kinds that are not any more are
    /// forgotten with their objects.
    pub(crate) fn set_kinds(&self, kinds: Kinds, followed: &[KindName]) {
        let now = self.clock.elapsed_millis();
        self.with(|state| {
            state.kinds = kinds;
            state.standing.retain(|kind, _| followed.contains(kind));
            for kind in followed {
                state.standing.entry(kind.clone()).or_insert(Standing::Filling);
            }
            let gone: Vec<KindName> =
                state.objects.keys().filter(|kind| !followed.contains(kind)).cloned().collect();
            for kind in gone {
                let objects = state.objects.remove(&kind).unwrap_or_default();
                if !objects.is_empty() {
                    state.change(now);
                }
                objects.keys().for_each(|path| state.forget(path));
            }
        });
        self.rung.notify_one();
    }

    /// A kind was listed whole: what is not among these is gone.
    pub(crate) fn settle(&self, kind: &Kind, there: &HashSet<Vec<u8>>) {
        let now = self.clock.elapsed_millis();
        self.with(|state| {
            let objects = state.objects.remove(&kind.name).unwrap_or_default();
            let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
                objects.into_iter().partition(|(path, _)| there.contains(path));
            state.objects.insert(kind.name.clone(), kept);
            gone.keys().for_each(|path| state.forget(path));
            let before = state.standing.insert(kind.name.clone(), Standing::Following);
            // That a kind can be read again is to be told, too.
            if !gone.is_empty() || matches!(before, Some(Standing::Troubled(..))) {
                state.change(now);
            }
        });
        self.rung.notify_one();
    }

    /// An object is there, new, changed or as it was.
    pub(crate) fn put(&self, seen: Seen) {
        let now = self.clock.elapsed_millis();
        if self.with(|state| state.take(seen, now)) {
            self.rung.notify_one();
        }
    }

    /// An object is gone.
    pub(crate) fn remove(&self, name: &ObjectName) {
        let now = self.clock.elapsed_millis();
        let path = name.path();
        let removed = self.with(|state| {
            let objects = state.objects.get_mut(&name.kind);
            let removed = objects.is_some_and(|objects| objects.remove(&path).is_some());
            if removed {
                state.change(now);
                state.forget(&path);
            }
            removed
        });
        if removed {
            self.rung.notify_one();
        }
    }

    /// A kind cannot be read.
    pub(crate) fn trouble(&self, kind: &KindName, trouble: Trouble, words: String) {
        let now = self.clock.elapsed_millis();
        self.with(|state| {
            let standing = Standing::Troubled(trouble, words);
            if state.standing.insert(kind.clone(), standing.clone()) != Some(standing) {
                state.change(now);
            }
            for path in state.objects.remove(kind).unwrap_or_default().keys() {
                state.forget(path);
            }
        });
        self.rung.notify_one();
    }

    /// Milliseconds until changes are to be backed up; `None`: nothing changed, or not every kind
    /// was listed yet.
    pub(crate) fn wait(&self) -> Option<u64> {
        let now = self.clock.elapsed_millis();
        self.with(|state| state.pending.filter(|_| state.is_whole()).map(|p| p.wait(now)))
    }

    /// Everything, if every kind was listed.
    pub(crate) fn snapshot(&self) -> Option<Listing> {
        self.with(|state| {
            let cluster = state.cluster.as_ref().filter(|_| state.is_whole())?;
            let mut listing = Listing::default();
            listing.entries.push(Entry {
                path: CLUSTER_ITEM.to_vec(),
                kind: EntryKind::File,
                stat: stat_of(cluster),
                place: Place::Config,
            });
            for (path, (stat, place)) in state.objects.values().flatten() {
                let (path, kind) = (path.clone(), EntryKind::Object);
                listing.entries.push(Entry { path, kind, stat: *stat, place: *place });
            }
            listing.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
            for (kind, standing) in &state.standing {
                if let Standing::Troubled(trouble, words) = standing {
                    listing.troubles.push((*trouble, format!("{kind} ({words})").into_bytes()));
                }
            }
            state.pending = None;
            state.taken = state.changes;
            Some(listing)
        })
    }

    /// The bytes of an object, where they are at hand.
    pub(crate) fn content(&self, path: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.with(|state| {
            if path == CLUSTER_ITEM {
                return state.cluster.clone();
            }
            let (_, bytes) = state.contents.remove(path)?;
            state.held_bytes -= bytes.len();
            Some(bytes)
        })
    }

    pub(crate) fn kind(&self, name: &KindName) -> Option<Kind> {
        self.with(|state| state.kinds.get(name).cloned())
    }

    /// A point holds what was listed last: its bytes need not be held any more.
    pub(crate) fn committed(&self) {
        self.with(|state| {
            let change = state.taken;
            state.contents.retain(|_, (number, _)| *number > change);
            state.held_bytes = state.contents.values().map(|(_, bytes)| bytes.len()).sum();
        });
    }

    /// A backup failed: what it should have taken is still to be taken.
    pub(crate) fn again(&self) {
        let now = self.clock.elapsed_millis();
        self.with(|state| state.pending = Some(Pending::seen(state.pending, now)));
    }
}

impl State {
    fn is_whole(&self) -> bool {
        self.cluster.is_some()
            && !self.standing.is_empty()
            && self.standing.values().all(|standing| *standing != Standing::Filling)
    }

    fn change(&mut self, now: u64) {
        self.changes += 1;
        self.pending = Some(Pending::seen(self.pending, now));
    }

    /// Notes an object; whether it changed.
    fn take(&mut self, seen: Seen, now: u64) -> bool {
        let (path, stat) = (seen.name.path(), stat_of(&seen.bytes));
        let objects = self.objects.entry(seen.name.kind).or_default();
        if objects.insert(path.clone(), (stat, seen.place)) == Some((stat, seen.place)) {
            return false;
        }
        self.change(now);
        self.forget(&path);
        if self.held_bytes + seen.bytes.len() <= HELD_BYTES_MAX {
            self.held_bytes += seen.bytes.len();
            self.contents.insert(path, (self.changes, seen.bytes));
        }
        true
    }

    fn forget(&mut self, path: &[u8]) {
        if let Some((_, bytes)) = self.contents.remove(path) {
            self.held_bytes -= bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use proto_types::LogTime;

    use super::*;

    struct Still;

    impl Clock for Still {
        fn now(&self) -> LogTime {
            LogTime::from_millis(0)
        }
        fn elapsed_millis(&self) -> u64 {
            0
        }
    }

    fn kind() -> Kind {
        Kind {
            name: KindName::new("", "ConfigMap"),
            version: "v1".to_owned(),
            plural: "configmaps".to_owned(),
            namespaced: true,
            verbs: vec!["list".to_owned(), "get".to_owned()],
        }
    }

    fn seen(name: &str, bytes: &str) -> Seen {
        Seen {
            name: kind().object(Some("shop"), name),
            place: Place::Config,
            bytes: Zeroizing::new(bytes.as_bytes().to_vec()),
        }
    }

    fn fill(mirror: &Mirror, seen: Vec<Seen>) {
        let there = seen.iter().map(|seen| seen.name.path()).collect();
        seen.into_iter().for_each(|seen| mirror.put(seen));
        mirror.settle(&kind(), &there);
    }

    fn paths(mirror: &Mirror) -> Vec<String> {
        let listing = mirror.snapshot().unwrap();
        listing.entries.iter().map(|e| String::from_utf8(e.path.clone()).unwrap()).collect()
    }

    #[test]
    fn kubernetes_mirror_tells_changes_from_noise() {
        let mirror = Mirror::new(Arc::new(Still));
        assert!(mirror.snapshot().is_none());
        mirror.set_cluster(Zeroizing::new(b"{}".to_vec()));
        mirror.set_kinds(Kinds::default(), &[kind().name]);
        // Not every kind was listed yet: what is there is no whole.
        mirror.put(seen("a", "1"));
        assert_eq!((mirror.wait(), mirror.snapshot().is_none()), (None, true));
        fill(&mirror, vec![seen("a", "1"), seen("b", "1")]);
        assert_eq!(mirror.wait(), Some(500));
        assert_eq!(
            paths(&mirror),
            ["cluster.json", "core/ConfigMap/shop/a", "core/ConfigMap/shop/b"]
        );
        // Taken; the same bytes again are no change, other ones are.
        assert_eq!(mirror.wait(), None);
        mirror.put(seen("a", "1"));
        assert_eq!(mirror.wait(), None);
        mirror.put(seen("a", "2"));
        assert_eq!(mirror.wait(), Some(500));
        mirror.snapshot().unwrap();
        let content = mirror.content(b"core/ConfigMap/shop/a").unwrap();
        assert_eq!(&content[..], b"2");
        mirror.committed();
        assert!(mirror.content(b"core/ConfigMap/shop/b").is_none());
        // A new list without an object: it is gone.
        fill(&mirror, vec![seen("a", "2")]);
        assert_eq!(mirror.wait(), Some(500));
        assert_eq!(paths(&mirror), ["cluster.json", "core/ConfigMap/shop/a"]);
        mirror.remove(&kind().object(Some("shop"), "b"));
        assert_eq!(mirror.wait(), None);
        mirror.remove(&kind().object(Some("shop"), "a"));
        assert_eq!(mirror.wait(), Some(500));
        // A kind that is not served any more, and one that cannot be read.
        fill(&mirror, vec![seen("a", "2")]);
        mirror.trouble(&kind().name, Trouble::Forbidden, "no".to_owned());
        let listing = mirror.snapshot().unwrap();
        assert_eq!(listing.entries.len(), 1);
        assert_eq!(listing.troubles, [(Trouble::Forbidden, b"core/ConfigMap (no)".to_vec())]);
        // It can be read again, and holds nothing: that is a change all the same.
        assert_eq!(mirror.wait(), None);
        fill(&mirror, Vec::new());
        assert_eq!(mirror.wait(), Some(500));
        assert!(mirror.snapshot().unwrap().troubles.is_empty());
    }
}
