//! Tells people of a snapshot file of the replicated state that this node found damaged when it
//! started. The node works all the same, on the one before and the log; but a disk that rots once
//! rots again.

use coordinator_core::{Command, FindingKey, RaiseFinding, Scope, Severity};
use proto::ApiError;
use proto_types::NodeId;
use storage::snapshots::DamagedSnapshot;

use super::{Keeper, chain};

/// The finding for a snapshot file that was put aside. It stands until a person clears it: the
/// node has a good snapshot again within the second, its disk is the one that it was.
const FINDING_SNAPSHOT: &str = "snapshot-damaged";
/// Of the reason, which names a path of whatever length: with the words around it, less than the
/// kilobyte that a finding may have.
const REASON_BYTES_MAX: usize = 600;

impl Keeper {
    /// Raises a finding for each file that lies aside, and then removes the file.
    pub(super) async fn report_snapshots(&self) -> Result<(), ApiError> {
        // Waits while a snapshot is being published.
        let damaged = self.blocking("list-damaged", |inner| Ok(inner.snapshots.damaged())).await?;
        for snapshot in damaged {
            if !self.record_finding(finding(self.inner.this, &snapshot)).await {
                continue;
            }
            self.blocking("discard-damaged", move |inner| {
                let discarded = inner.snapshots.discard(&snapshot);
                discarded.map_err(|error| ApiError::new(error.code(), chain(&error)))
            })
            .await?;
        }
        Ok(())
    }
}

fn finding(this: NodeId, snapshot: &DamagedSnapshot) -> Command {
    let name = snapshot.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut reason = chain(&*snapshot.error);
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    Command::RaiseFinding(RaiseFinding {
        key: FindingKey {
            scope: Scope::Node(this),
            kind: FINDING_SNAPSHOT.to_owned(),
            subject: name,
        },
        severity: Severity::Warning,
        message: format!(
            "node {this} found a snapshot of its state damaged when it started, put it aside and \
             went on with the one before and the log; nothing is lost: {reason}"
        ),
        remedy: "look at this node's disk and kernel log, replace the disk if it shows more \
                 errors, then clear the finding"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use coordinator_core::{
        InitFleet, LogContext, Outcome, RecoveryPublicKey, Request, State, Voters, apply,
    };
    use proto_types::{FleetId, LogIndex, LogTime};
    use storage::disk::sim::SimDisk;
    use storage::home::{DataDir, HomeIdentity};
    use storage::raft_log::LogBounds;
    use storage::raft_types::{SnapshotMeta, log_id};
    use storage::snapshots::{SnapshotError, SnapshotStore};

    use super::*;

    const FLEET: FleetId = FleetId::from_bytes([7; 16]);
    const THIS: NodeId = NodeId::new(1);

    fn open(disk: &SimDisk) -> SnapshotStore {
        let identity = HomeIdentity { fleet: FLEET, node: THIS };
        let home = DataDir::open_or_create(Arc::new(disk.clone()), Path::new("/home"), identity);
        let log = LogBounds { purged: None, last: Some(log_id(1, 1, 99)) };
        SnapshotStore::open(&home.unwrap(), log).unwrap().0
    }

    fn publish(store: &SnapshotStore, index: u64) {
        let meta = SnapshotMeta { last_log_id: Some(log_id(1, 1, index)), ..Default::default() };
        let mut writer = store.writer(&meta).unwrap();
        writer.write(b"state").unwrap();
        store.publish(&writer.finish(None).unwrap()).unwrap();
    }

    fn run(state: &mut State, command: Command) {
        let request =
            Request { session: None, time: LogTime::from_millis(5), sender: None, command };
        let voters = Voters::of([THIS].into());
        let log = LogContext { index: LogIndex::new(1), voters: &voters };
        let applied = apply(state, &request, &log);
        assert!(!matches!(applied.outcome, Outcome::Refused(_)), "{:?}", applied.outcome);
    }

    #[test]
    fn a_snapshot_put_aside_is_a_finding_and_told_until_it_is_discarded() {
        let disk = SimDisk::new();
        let store = open(&disk);
        publish(&store, 10);
        publish(&store, 20);
        let newest = disk.files().into_iter().rfind(|f| f.starts_with("/home/snapshots")).unwrap();
        drop(store);
        disk.flip_bit(&newest, 100, 0).unwrap();

        // The next snapshot often follows at once, and the node may end before it could tell.
        let store = open(&disk);
        publish(&store, 30);
        assert_eq!(store.damaged().len(), 1);
        drop(store);
        let store = open(&disk);
        let [damaged] = &*store.damaged() else { panic!("{:?}", store.damaged()) };

        let mut state = State::new();
        let recovery = RecoveryPublicKey { hpke: [1; 32], signing: [2; 32] };
        run(&mut state, Command::InitFleet(InitFleet { fleet: FLEET, name: "f".into(), recovery }));
        run(&mut state, finding(THIS, damaged));
        let (key, found) = state.findings().next().unwrap();
        assert_eq!((key.scope, &*key.kind), (Scope::Node(THIS), "snapshot-damaged"));
        assert_eq!(found.severity, Severity::Warning);
        assert!(found.message.contains("node 1 found a snapshot"), "{}", found.message);
        assert!(found.message.contains(&*newest.to_string_lossy()), "{}", found.message);
        assert!(found.remedy.contains("disk"), "{}", found.remedy);

        store.discard(damaged).unwrap();
        drop(store);
        assert!(open(&disk).damaged().is_empty(), "told once");
    }

    #[test]
    fn a_reason_of_any_length_makes_a_finding_that_is_accepted() {
        let path = Path::new(&"\u{e9}".repeat(4_000)).join("1.snap.damaged");
        let error = SnapshotError::Damaged { path: path.clone(), what: "x" };
        let mut state = State::new();
        let recovery = RecoveryPublicKey { hpke: [1; 32], signing: [2; 32] };
        run(&mut state, Command::InitFleet(InitFleet { fleet: FLEET, name: "f".into(), recovery }));
        run(&mut state, finding(THIS, &DamagedSnapshot { path, error: Arc::new(error) }));
    }
}
