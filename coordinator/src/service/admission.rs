//! Who may upload now: so many streams on this node, so many of one cluster, and no cluster beyond
//! the bytes it may store. Decided before the first byte is taken. Deliberately not part of the
//! replicated state: each node protects itself, by its own config.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coordinator_core::{BundleRow, State};
use proto::ApiError;
use proto_types::{BundleId, ByteCount, ClusterId, Code};

use crate::config::Limits;

/// Counts the uploads under way. Clones count together.
#[derive(Clone)]
pub(crate) struct Admission {
    limits: Limits,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    streams: usize,
    /// Clusters that upload at the moment, and no others.
    clusters: BTreeMap<ClusterId, UnderWay>,
}

#[derive(Clone, Copy, Default)]
struct UnderWay {
    streams: usize,
    bytes: u64,
}

/// An upload that was let in. Ends with its drop.
pub(crate) struct Admitted {
    counts: Arc<Mutex<Counts>>,
    cluster: ClusterId,
    bytes: u64,
}

impl Admission {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, counts: Arc::default() }
    }

    /// Lets an upload of so many bytes in, or says which limit it met.
    pub(super) fn admit(
        &self,
        state: &State,
        cluster: ClusterId,
        bundle: BundleId,
        bytes: u64,
    ) -> Result<Admitted, ApiError> {
        // A bundle that points need is counted already: this is a repeat, and adds nothing.
        let bytes = if state.bundle(&bundle).is_some() { 0 } else { bytes };
        let mut counts = self.lock();
        let under_way = counts.clusters.get(&cluster).copied().unwrap_or_default();
        if counts.streams >= self.limits.uploads_max {
            return Err(exhausted(format!(
                "{} uploads are under way on this coordinator; ask another, or again later",
                counts.streams
            )));
        }
        if under_way.streams >= self.limits.uploads_per_cluster_max {
            return Err(exhausted(format!(
                "cluster {} has {} uploads under way on this coordinator, as many as \
                 limits.uploads_per_cluster_max allows; end one, or ask again later",
                name_of(state, cluster),
                under_way.streams
            )));
        }
        self.check_bytes(state, cluster, under_way.bytes, bytes)?;
        counts.streams += 1;
        let entry = counts.clusters.entry(cluster).or_default();
        entry.streams += 1;
        entry.bytes += bytes;
        Ok(Admitted { counts: self.counts.clone(), cluster, bytes })
    }

    /// Refuses a commit that would bring a cluster beyond its limit: its bundles may each have
    /// been let in alone, or through other nodes.
    pub(super) fn check_commit(
        &self,
        state: &State,
        cluster: ClusterId,
        added: impl Iterator<Item = (BundleId, u64)>,
    ) -> Result<(), ApiError> {
        let new = added.filter(|(id, _)| state.bundle(id).is_none()).map(|(_, bytes)| bytes).sum();
        self.check_bytes(state, cluster, 0, new)
    }

    fn check_bytes(
        &self,
        state: &State,
        cluster: ClusterId,
        under_way: u64,
        more: u64,
    ) -> Result<(), ApiError> {
        let Some(limit) = self.limits.cluster_bytes_max else { return Ok(()) };
        let stored = stored_bytes(state.bundles(), cluster);
        if more == 0 || stored.saturating_add(under_way).saturating_add(more) <= limit {
            return Ok(());
        }
        // What is stored stays; what is under way may yet fail.
        let (code, under_way) = match under_way {
            0 => (Code::LimitReached, String::new()),
            bytes => (
                Code::ResourceExhausted,
                format!(" and uploads {} at the moment", ByteCount::new(bytes)),
            ),
        };
        let message = format!(
            "cluster {} may store {} (limits.cluster_bytes_max), stores {}{under_way}, and would \
             add {}: raise the limit on all coordinators, or have the cluster keep less",
            name_of(state, cluster),
            ByteCount::new(limit),
            ByteCount::new(stored),
            ByteCount::new(more),
        );
        Err(ApiError::new(code, message))
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        counts.streams -= 1;
        if let Some(under_way) = counts.clusters.get_mut(&self.cluster) {
            under_way.streams -= 1;
            under_way.bytes -= self.bytes;
            if under_way.streams == 0 {
                counts.clusters.remove(&self.cluster);
            }
        }
    }
}

/// Bytes of all bundles that the points of a cluster need, one copy. Asked only where there is a
/// limit: it walks all bundles of the fleet, a millisecond for some ten thousand.
fn stored_bytes<'a>(
    bundles: impl Iterator<Item = (&'a BundleId, &'a BundleRow)>,
    cluster: ClusterId,
) -> u64 {
    let own = bundles.filter(|(_, row)| row.facts.cluster == cluster);
    own.map(|(_, row)| row.facts.bytes).sum()
}

fn name_of(state: &State, cluster: ClusterId) -> String {
    state.cluster(&cluster).map_or_else(|| cluster.short(), |row| row.name.clone())
}

fn exhausted(message: String) -> ApiError {
    ApiError::new(Code::ResourceExhausted, message)
}

/// The counts are whole between any two statements that could panic.
fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use coordinator_core::BundleFacts;
    use proto_types::BundleKind;

    use super::*;

    const HARBOUR: ClusterId = ClusterId::from_bytes([1; 16]);
    const VILLAGE: ClusterId = ClusterId::from_bytes([2; 16]);

    fn admission(limits: Limits) -> Admission {
        Admission::new(limits)
    }

    fn admit(admission: &Admission, cluster: ClusterId, bytes: u64) -> Result<Admitted, String> {
        let bundle = BundleId::of(b"new");
        admission.admit(&State::new(), cluster, bundle, bytes).map_err(|error| {
            assert!(matches!(error.code(), Code::ResourceExhausted | Code::LimitReached));
            error.to_string()
        })
    }

    #[test]
    fn one_cluster_does_not_take_all_streams_of_a_node() {
        let limits = Limits { uploads_max: 3, uploads_per_cluster_max: 2, ..Limits::default() };
        let admission = admission(limits);
        let first = admit(&admission, HARBOUR, 1).unwrap();
        let _second = admit(&admission, HARBOUR, 1).unwrap();
        let refused = admit(&admission, HARBOUR, 1).err().unwrap();
        assert!(refused.contains("has 2 uploads under way"), "{refused}");
        assert!(refused.contains("limits.uploads_per_cluster_max"), "{refused}");

        let _other = admit(&admission, VILLAGE, 1).unwrap();
        let refused = admit(&admission, VILLAGE, 1).err().unwrap();
        assert!(refused.contains("3 uploads are under way on this coordinator"), "{refused}");
        // One that ends makes room for another, of whomever.
        drop(first);
        admit(&admission, VILLAGE, 1).unwrap();
        admit(&admission, HARBOUR, 1).unwrap();
    }

    #[test]
    fn what_is_under_way_counts_and_an_end_gives_it_back() {
        let limits = Limits { cluster_bytes_max: Some(10 << 20), ..Limits::default() };
        let admission = admission(limits);
        let first = admit(&admission, HARBOUR, 9 << 20).unwrap();
        let refused = admit(&admission, HARBOUR, 2 << 20).err().unwrap();
        assert_eq!(
            refused,
            format!(
                "cluster {} may store 10.0 MiB (limits.cluster_bytes_max), stores 0 B and uploads \
                 9.0 MiB at the moment, and would add 2.0 MiB: raise the limit on all \
                 coordinators, or have the cluster keep less",
                HARBOUR.short()
            )
        );
        let _other = admit(&admission, VILLAGE, 10 << 20).unwrap();
        let small = admit(&admission, HARBOUR, 1).unwrap();
        drop(first);
        assert!(admit(&admission, HARBOUR, 10 << 20).is_err(), "the small one is under way");
        admit(&admission, HARBOUR, (10 << 20) - 1).unwrap();
        drop(small);
        assert!(admit(&admission, HARBOUR, (10 << 20) + 1).is_err());
        assert_eq!(admission.lock().clusters.len(), 1, "only the one that uploads is kept");
    }

    #[test]
    fn a_commit_of_bundles_that_were_let_in_one_by_one_is_refused() {
        let check = |limit, added: &[u64]| {
            let limits = Limits { cluster_bytes_max: limit, ..Limits::default() };
            let added = added.iter().map(|bytes| (BundleId::of(&bytes.to_le_bytes()), *bytes));
            admission(limits).check_commit(&State::new(), HARBOUR, added)
        };
        assert!(check(Some(10), &[4, 6]).is_ok());
        assert_eq!(check(Some(10), &[4, 7]).unwrap_err().code(), Code::LimitReached);
        assert!(check(None, &[u64::MAX]).is_ok(), "without a limit there is none");
    }

    #[test]
    fn only_the_clusters_own_bundles_count() {
        let row = |cluster, bytes| BundleRow {
            facts: Arc::new(BundleFacts {
                cluster,
                kind: BundleKind::Config,
                bytes,
                dek_ids: Vec::new(),
                predecessor: None,
                base: None,
                recovery: 0,
            }),
            holders: BTreeSet::new(),
            in_log: false,
            points: 1,
            object: None,
        };
        let rows = [
            (BundleId::of(b"a"), row(HARBOUR, 5)),
            (BundleId::of(b"b"), row(VILLAGE, 70)),
            (BundleId::of(b"c"), row(HARBOUR, 6)),
        ];
        assert_eq!(stored_bytes(rows.iter().map(|(id, row)| (id, row)), HARBOUR), 11);
    }
}
