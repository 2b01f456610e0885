//! The replicated state under openraft: applies entries to `coordinator-core`, publishes each
//! result, and turns states into snapshot files and back. Decides nothing.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use coordinator_core::{Command, Event, LogContext, Outcome, Segment, State, Voters, apply, codec};
use futures::{Stream, StreamExt};
use openraft::alias::SnapshotOf;
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftLogReader, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use proto::env::Env;
use proto_types::{BundleId, Level, LogIndex, NodeId};
use storage::home::DataDir;
use storage::raft_log::RaftLogStore;
use storage::raft_types::{
    LogId, Outcome as OutcomeBytes, SnapshotMeta, StoredMembership, TypeConfig as C,
};
use storage::snapshots::SnapshotStore;
use tokio::sync::watch;

use super::node::Published;
use super::snapshot_data::SnapshotData;
use crate::audit::Book;
use crate::config::Member;
use crate::keeper::Carried;
use crate::telemetry;

/// What a batch of entries leaves to be done.
#[derive(Default)]
struct Batch {
    closed: Vec<Arc<Segment>>,
    /// Bundles that came with commits, to be written to files of their own.
    carried: Vec<(BundleId, Vec<u8>)>,
    /// Whether somebody waits for the entry's answer on this node.
    is_asked: bool,
}

/// The state machine. Lives in memory; its snapshots and the log are what is durable.
pub(crate) struct StateMachine {
    env: Env,
    snapshots: SnapshotStore,
    home: DataDir,
    book: Book,
    carried: Carried,
    log: RaftLogStore,
    level_max: Level,
    /// Log time of the state in the newest snapshot, in milliseconds; 0: there is none.
    snapshot_time: Arc<AtomicU64>,
    state: State,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    published: watch::Sender<Published>,
}

/// Who votes.
pub(super) fn voters(membership: &StoredMembership) -> Voters {
    let sets = membership.membership().get_joint_config().iter();
    Voters::joint(sets.map(|set| set.iter().copied().map(NodeId::new).collect()))
}

/// All of Raft's nodes, learners included.
pub(super) fn members(membership: &StoredMembership) -> BTreeMap<NodeId, Member> {
    let nodes = membership.membership().nodes();
    nodes
        .map(|(id, node)| {
            let member = Member { name: node.name.clone(), address: node.address.clone() };
            (NodeId::new(*id), member)
        })
        .collect()
}

/// An error that stops the node: a log entry this program cannot read must not be passed over.
fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What is above the level of this program it must neither apply nor pass over.
fn require_level(needed: Level, level_max: Level) -> io::Result<()> {
    if needed <= level_max {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "the log or state is of level {needed}, and this coordinator supports up to \
             {level_max}: start the newer strongroom, or remove upgrade.level_max from its config"
        ),
    ))
}

impl StateMachine {
    /// An empty state; openraft installs the newest snapshot and replays the log behind it.
    /// It takes no part in anything above `level_max`.
    /// `log` is only read: what of it a snapshot passes over.
    pub(crate) fn new(
        env: Env,
        snapshots: SnapshotStore,
        home: DataDir,
        level_max: Level,
        carried: Carried,
        log: RaftLogStore,
    ) -> Self {
        let state = State::new();
        let (published, _) = watch::channel(Published {
            state: state.clone(),
            applied: LogIndex::new(0),
            voters: Voters::default(),
            members: Arc::default(),
        });
        Self {
            env,
            snapshots,
            book: Book::new(home.clone()),
            home,
            carried,
            log,
            level_max,
            snapshot_time: Arc::default(),
            state,
            last_applied: None,
            membership: StoredMembership::default(),
            published,
        }
    }

    /// Log time of the state in the newest snapshot.
    pub(crate) fn snapshot_time(&self) -> Arc<AtomicU64> {
        self.snapshot_time.clone()
    }

    /// This node's part of the audit log.
    pub(crate) fn book(&self) -> Book {
        self.book.clone()
    }

    /// Every state as it is applied, the newest only.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    fn publish(&self) {
        self.published.send_replace(Published {
            state: self.state.clone(),
            applied: LogIndex::new(self.last_applied.map_or(0, |id| id.index())),
            voters: voters(&self.membership),
            members: Arc::new(members(&self.membership)),
        });
    }

    fn apply_command(
        &mut self,
        index: u64,
        bytes: &[u8],
        batch: &mut Batch,
    ) -> io::Result<OutcomeBytes> {
        let request = codec::decode_request(bytes).map_err(unreadable)?;
        require_level(request.command.level(), self.level_max)?;
        if let Command::RaiseLevel(command) = &request.command {
            // Before this node is at the level: an older program is to be refused by HOME.
            self.home.raise_level(command.to).map_err(io::Error::other)?;
        }
        let voters = voters(&self.membership);
        let context = LogContext { index: LogIndex::new(index), voters: &voters };
        let applied = apply(&mut self.state, &request, &context);
        for event in &applied.events {
            if let Event::RecoveredByForce { node, number } = event {
                tracing::warn!(event = "recovered_by_force", node = node.get(), number, index);
            }
            match event {
                Event::AuditSegmentClosed { segment } => batch.closed.push(segment.clone()),
                // Counted where the answer goes out from: by one node of all.
                Event::Audited { is_refused, .. } if batch.is_asked => {
                    telemetry::audited(*is_refused);
                }
                _ => {}
            }
            tracing::debug!(?event, index, "applied");
        }
        if let (Command::CommitPoint(commit), Outcome::Committed { .. }) =
            (request.command, &applied.outcome)
        {
            batch.carried.extend(commit.into_carried());
        }
        Ok(OutcomeBytes::new(codec::encode_outcome(&applied.outcome)))
    }

    /// Writes the bundles that the log brought, at the latest before a snapshot takes the log's place.
    async fn put_carried(&self, bundles: Vec<(BundleId, Vec<u8>)>, sync: bool) -> io::Result<()> {
        let carried = self.carried.clone();
        self.env
            .blocking("put-carried", move || {
                carried.put(&bundles)?;
                if sync { carried.sync() } else { Ok(()) }
            })
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)
    }

    /// Takes the bundles out of the entries up to `last` that are in this node's log and will never be
    /// applied here, because a snapshot passes over them: this node may be one of the majority whose
    /// log alone has them (B1). What was never committed is removed like all that nobody needs.
    async fn keep_passed_over(&mut self, last: LogId) -> io::Result<()> {
        let mut next = self.last_applied.map_or(0, |id| id.index() + 1);
        loop {
            let entries = self.log.limited_get_log_entries(next, last.index() + 1).await?;
            let Some(end) = entries.last() else { return Ok(()) };
            next = end.log_id().index() + 1;
            let mut bundles = Vec::new();
            for entry in entries {
                if let EntryPayload::Normal(command) = entry.payload
                    && let Command::CommitPoint(commit) =
                        codec::decode_request(command.bytes()).map_err(unreadable)?.command
                {
                    bundles.extend(commit.into_carried());
                }
            }
            self.put_carried(bundles, true).await?;
        }
    }
}

impl RaftStateMachine<C> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<C>, io::Error>> + Unpin + OptionalSend,
    {
        // Answers go out only after the batch is published, so that whoever hears of a write
        // also finds it in this node's state.
        let mut answers = Vec::new();
        // Since the first entry was there: what comes before is waiting for writes.
        let mut began = None;
        let mut batch = Batch::default();
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            began.get_or_insert_with(Instant::now);
            let id = entry.log_id();
            batch.is_asked = responder.is_some();
            let outcome = match entry.payload {
                EntryPayload::Blank => OutcomeBytes::default(),
                EntryPayload::Normal(command) => {
                    self.apply_command(id.index(), command.bytes(), &mut batch)?
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(id), membership);
                    OutcomeBytes::default()
                }
            };
            self.last_applied = Some(id);
            if let Some(responder) = responder {
                answers.push((responder, outcome));
            }
        }
        // Before anybody hears of it, and so before any snapshot of a state that lacks them: what left
        // the state is in a file, or the node stops.
        if !batch.closed.is_empty() {
            let (book, closed) = (self.book.clone(), batch.closed);
            self.env
                .blocking("close-audit-segment", move || {
                    closed.iter().try_for_each(|segment| book.close(segment))
                })
                .await
                .map_err(io::Error::other)??;
        }
        let brought: Vec<_> =
            batch.carried.iter().map(|(id, bytes)| (*id, bytes.len() as u64)).collect();
        if !brought.is_empty() {
            self.put_carried(batch.carried, false).await?;
        }
        self.publish();
        if !brought.is_empty() {
            self.carried.published();
        }
        for (bundle, bytes) in brought {
            telemetry::bundle_stored(bundle, bytes, "log");
        }
        if let Some(began) = began {
            telemetry::applied(began.elapsed());
        }
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            env: self.env.clone(),
            snapshots: self.snapshots.clone(),
            state: self.state.clone(),
            carried: self.carried.clone(),
            snapshot_time: self.snapshot_time.clone(),
            meta: SnapshotMeta {
                last_log_id: self.last_applied,
                last_membership: self.membership.clone(),
            },
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        // This node's own newest came after a sync of what it covers.
        let is_own = self.snapshots.newest().is_some_and(|own| own.meta() == meta);
        if let Some(last) = meta.last_log_id.filter(|_| !is_own) {
            self.keep_passed_over(last).await?;
        }
        let (expected, store) = (meta.clone(), self.snapshots.clone());
        let (home, level_max) = (self.home.clone(), self.level_max);
        let accept = move |state: &State| {
            require_level(state.level(), level_max)?;
            home.raise_level(state.level()).map_err(io::Error::other)
        };
        let (state, found) = self
            .env
            .blocking("install-snapshot", move || snapshot.install(&store, accept))
            .await
            .map_err(io::Error::other)??;
        if found != expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the snapshot covers another part of the log than was announced",
            ));
        }
        self.snapshot_time.store(state.log_time().as_millis(), Ordering::Relaxed);
        self.state = state;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
        self.carried.published();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<C, SnapshotData>>, io::Error> {
        let newest = SnapshotData::newest(&self.snapshots);
        Ok(newest.map(|(meta, snapshot)| SnapshotOf::<C, SnapshotData> { meta, snapshot }))
    }
}

/// A state as of one moment, to be written to a snapshot file while `apply` goes on.
pub(crate) struct Builder {
    env: Env,
    snapshots: SnapshotStore,
    state: State,
    carried: Carried,
    snapshot_time: Arc<AtomicU64>,
    meta: SnapshotMeta,
}

impl RaftSnapshotBuilder<C> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<C, SnapshotData>, io::Error> {
        let (snapshots, state) = (self.snapshots.clone(), self.state.clone());
        let carried = self.carried.clone();
        let meta = self.meta.clone();
        let written = meta.clone();
        let snapshot = self
            .env
            .blocking("build-snapshot", move || {
                // The log behind a snapshot is not replayed, and is purged: what came by it has to be
                // on stable storage by itself.
                carried.sync().map_err(io::Error::other)?;
                SnapshotData::write(&snapshots, &written, &state)
            })
            .await
            .map_err(io::Error::other)??;
        self.snapshot_time.store(self.state.log_time().as_millis(), Ordering::Relaxed);
        Ok(SnapshotOf::<C, SnapshotData> { meta, snapshot })
    }
}

#[cfg(test)]
#[path = "state_machine_tests.rs"]
mod tests;
