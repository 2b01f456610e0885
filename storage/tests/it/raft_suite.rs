//! openraft's own storage suite over this log, with a small state machine of the test's own (the
//! coordinator runs it again with the real one).

use std::io;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, RaftSnapshotBuilder, StorageError};
use proto_types::{FleetId, NodeId};
use storage::disk::{Disk, RealDisk, sim::SimDisk};
use storage::home::{DataDir, HomeIdentity};
use storage::log::LogOptions;
use storage::raft_log::RaftLogStore;
use storage::raft_types::{
    EntryPayload, LogId, Outcome, SnapshotMeta, StoredMembership, TypeConfig,
};
use storage::snapshots::{SnapshotStore, StoredSnapshot};
use storage::spawn::Driver;

/// Remembers what was applied last, and nothing else.
struct Machine {
    last: Option<LogId>,
    membership: StoredMembership,
    snapshots: SnapshotStore,
}

struct Builder {
    meta: SnapshotMeta,
    snapshots: SnapshotStore,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = StoredSnapshot;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf, io::Error> {
        let mut writer = self.snapshots.writer(&self.meta).map_err(io::Error::other)?;
        writer.write(b"state").map_err(io::Error::other)?;
        let snapshot = writer.finish(None).map_err(io::Error::other)?;
        self.snapshots.publish(&snapshot).map_err(io::Error::other)?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}

type SnapshotOf = openraft::alias::SnapshotOf<TypeConfig, StoredSnapshot>;

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = StoredSnapshot;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.last = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(Outcome::default());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta =
            SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() };
        Builder { meta, snapshots: self.snapshots.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: StoredSnapshot,
    ) -> Result<(), io::Error> {
        self.snapshots.publish(&snapshot).map_err(io::Error::other)?;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf>, io::Error> {
        let newest = self.snapshots.newest();
        Ok(newest.map(|snapshot| Snapshot { meta: snapshot.meta().clone(), snapshot }))
    }
}

/// What one run of the suite is built on.
struct On {
    is_real: bool,
    driver: Driver,
    options: LogOptions,
}

impl StoreBuilder<TypeConfig, RaftLogStore, Machine, Option<tempfile::TempDir>> for On {
    async fn build(
        &self,
    ) -> Result<(Option<tempfile::TempDir>, RaftLogStore, Machine), StorageError<TypeConfig>> {
        let directory = self.is_real.then(|| tempfile::tempdir().unwrap());
        let disk: Arc<dyn Disk> =
            if self.is_real { Arc::new(RealDisk) } else { Arc::new(SimDisk::new()) };
        let path = directory.as_ref().map_or("/home".into(), |d| d.path().join("home"));
        let identity = HomeIdentity { fleet: FleetId::from_bytes([7; 16]), node: NodeId::new(1) };
        let home = DataDir::create(disk, &path, identity).unwrap();
        let log = RaftLogStore::open(&home, self.options, self.driver.clone()).unwrap();
        let (snapshots, damaged) = SnapshotStore::open(&home, log.bounds()).unwrap();
        assert!(damaged.is_empty());
        let machine = Machine { last: None, membership: StoredMembership::default(), snapshots };
        Ok((directory, log, machine))
    }
}

fn run(on: On) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(on)).unwrap();
}

#[test]
fn log_passes_openrafts_suite_on_the_real_disk_with_a_writer_thread() {
    run(On { is_real: true, driver: Driver::threads(), options: LogOptions::default() });
}

#[test]
fn log_passes_openrafts_suite_on_the_simulated_disk_without_cache() {
    // Segments of a few entries and no cache: every read comes from disk, across segments.
    let options = LogOptions { segment_bytes: 512, cache_bytes: 0, ..LogOptions::default() };
    run(On { is_real: false, driver: Driver::Inline, options });
}
