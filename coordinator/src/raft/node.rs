//! The door to Raft for the rest of the coordinator: propose, read, watch. No openraft type
//! passes through it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use coordinator_core::{Actor, Command, Outcome, Request, Sender, State, Voters, When, codec};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, LinearizableReadError, RaftError};
use openraft::{Config as OpenraftConfig, Raft, ReadPolicy, SnapshotPolicy};
use proto::env::Env;
use proto::{ApiError, v1};
use proto_types::{Code, FleetId, Level, LogIndex, LogTime, NodeId};
use storage::raft_types::{Command as CommandBytes, Member as RaftMember, TypeConfig as C};
use tokio::sync::{RwLock, watch};

use super::figures::Elections;
use super::network::Network;
use super::snapshot_data::SnapshotData;
use super::state_machine::StateMachine;
use super::wire;
use crate::config::{Config, Member, RaftConfig};
use crate::peers::Peers;
use crate::roll_call::RollCall;
use crate::roll_call::levels::HeldBack;
use crate::telemetry;

/// A consistent view of the replicated state: cheap to clone, never changes.
#[derive(Clone)]
pub(crate) struct Published {
    /// The state after `applied`.
    pub(crate) state: State,
    /// The last entry applied.
    pub(crate) applied: LogIndex,
    /// The voters as of then.
    pub(crate) voters: Voters,
    /// All nodes that Raft replicates to, voters or not. Shared: views are cloned all the time.
    pub(crate) members: Arc<BTreeMap<NodeId, Member>>,
}

impl Published {
    /// Who has to have a bundle before it counts as durable (invariant B1).
    pub(crate) fn durable_on(&self) -> Voters {
        self.state.durable_on(&self.voters)
    }
}

/// Where this node stands in the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RaftStatus {
    pub(crate) leader: Option<NodeId>,
    pub(crate) is_leader: bool,
    pub(crate) term: u64,
    pub(crate) last_log_index: u64,
    pub(crate) applied_index: u64,
    pub(crate) voters: BTreeSet<NodeId>,
    /// Since the state in this node's newest snapshot; `None`: it has none.
    pub(crate) snapshot_age: Option<Duration>,
    /// Why the node has stopped taking part, if it has.
    pub(crate) stopped: Option<String>,
}

/// This node's part in Raft.
#[derive(Clone)]
pub(crate) struct RaftNode {
    pub(super) raft: Raft<C, StateMachine>,
    env: Env,
    pub(super) this: NodeId,
    peers: Peers,
    published: watch::Receiver<Published>,
    pub(super) timing: RaftConfig,
    roll: Arc<RollCall>,
    snapshot_time: Arc<AtomicU64>,
    /// Held for reading by every write under way; whether this node stops.
    stopping: Arc<RwLock<bool>>,
}

impl RaftNode {
    /// Starts Raft over an opened log and state machine.
    ///
    /// # Errors
    /// When openraft refuses the settings, or storage cannot be read.
    pub(crate) async fn start(
        config: &Config,
        env: Env,
        peers: Peers,
        log: storage::raft_log::RaftLogStore,
        machine: StateMachine,
        roll: Arc<RollCall>,
    ) -> Result<Self, ApiError> {
        let this = config.node_id;
        let published = machine.subscribe();
        let snapshot_time = machine.snapshot_time();
        let settings = settings(&config.raft, config.fleet.id)?;
        let elections = Elections::default();
        let network = Network { env: env.clone(), this, peers: peers.clone(), elections };
        let raft = Raft::new(this.get(), Arc::new(settings), network, log, machine)
            .await
            .map_err(|error| stopped(&error.to_string()))?;
        Ok(Self {
            raft,
            env,
            this,
            peers,
            published,
            timing: config.raft,
            roll,
            snapshot_time,
            stopping: Arc::default(),
        })
    }

    /// Makes the first membership, the same on every node of a new fleet. Does nothing where
    /// there is one already.
    pub(crate) async fn initialize(&self, config: &Config) -> Result<(), ApiError> {
        let members: BTreeMap<u64, RaftMember> = config
            .members
            .iter()
            .map(|(id, member)| {
                let node =
                    RaftMember { name: member.name.clone(), address: member.address.clone() };
                (id.get(), node)
            })
            .collect();
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(stopped(&error.to_string())),
        }
    }

    /// This node.
    pub(crate) const fn this(&self) -> NodeId {
        self.this
    }

    /// What the leader hears from everybody.
    pub(crate) fn roll(&self) -> &RollCall {
        &self.roll
    }

    /// The state as this node last applied it, without asking anybody: for `stale` reads and for
    /// the node's own housekeeping.
    pub(crate) fn local(&self) -> Published {
        self.published.borrow().clone()
    }

    /// Waits until this node has applied the log up to `index`.
    pub(crate) async fn applied(&self, index: LogIndex) -> Result<Published, ApiError> {
        let mut published = self.published.clone();
        let waiting = published.wait_for(|p| p.applied >= index);
        match tokio::time::timeout(self.timing.leader_patience(), waiting).await {
            Ok(Ok(found)) => Ok(found.clone()),
            Ok(Err(_)) => Err(stopped("the state machine has ended")),
            Err(_) => Err(ApiError::new(
                Code::Unavailable,
                format!("node {} lags behind log index {index}; ask again", self.this),
            )),
        }
    }

    /// Changes as they are applied.
    pub(crate) fn watch(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }

    /// Where this node stands.
    pub(crate) fn status(&self) -> RaftStatus {
        let metrics = self.raft.metrics().borrow_watched().clone();
        RaftStatus {
            leader: metrics.current_leader.map(NodeId::new),
            is_leader: metrics.current_leader == Some(self.this.get()),
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: metrics.last_applied.map_or(0, |id| id.index()),
            voters: metrics.membership_config.membership().voter_ids().map(NodeId::new).collect(),
            snapshot_age: self.snapshot_age(),
            stopped: metrics.running_state.err().map(|error| error.to_string()),
        }
    }

    fn snapshot_age(&self) -> Option<Duration> {
        let of = self.snapshot_time.load(Ordering::Relaxed);
        let of = (of > 0).then(|| LogTime::from_millis(of))?;
        Some(Duration::from_millis(self.env.clock.now().millis_since(of)))
    }

    /// Log time as it is now, as far as this node knows: what a leader would stamp (invariant T1).
    pub(crate) async fn log_time_now(&self) -> LogTime {
        let state = self.published.borrow().state.clone();
        // The state's time is the largest any leader stamped; ours may lie behind it.
        self.roll.stamp(state.level(), state.log_time()).await.max(state.log_time())
    }

    /// A linearizable view: of a moment after this call began, confirmed by a quorum.
    pub(crate) async fn read(&self) -> Result<Published, ApiError> {
        let index = self
            .through_leader("read", Code::Unavailable, |leader| async move {
                match leader {
                    Leader::This => self.read_index().await,
                    Leader::Peer(mut peer) => {
                        let reply = peer.get_read_index(v1::GetReadIndexRequest {}).await?;
                        Ok(LogIndex::new(reply.into_inner().log_index))
                    }
                }
            })
            .await?;
        self.applied(index).await
    }

    /// On the leader: the index a linearizable read must have applied.
    pub(crate) async fn read_index(&self) -> Result<LogIndex, ApiError> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(LogIndex::new(linearizer.read_log_id().index())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => {
                Err(not_leader(self.this))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(
                ApiError::new(Code::Unavailable, "the leader does not reach a majority; ask again"),
            ),
            Err(RaftError::Fatal(error)) => Err(stopped(&error.to_string())),
        }
    }

    /// Has a request committed and applied, by this node or through the leader; answered with
    /// its outcome and index. Repeats go on through a leader change, which is safe because a
    /// request carries its session and number, or is the same done twice as done once.
    pub(crate) async fn propose(&self, request: Request) -> Result<(Outcome, LogIndex), ApiError> {
        let stopping = self.stopping.read().await;
        if *stopping {
            return Err(ApiError::new(
                Code::Unavailable,
                format!("node {} is being stopped; ask another coordinator", self.this),
            ));
        }
        self.require_known(request.command.level())?;
        // The sender travels beside: only the leader knows whether the log has it yet.
        let sender = request.sender.as_ref().map(codec::encode_sender).unwrap_or_default();
        let sender = Bytes::from(sender);
        let plain = Request { sender: None, ..request.clone() };
        let bytes = Bytes::from(codec::encode_request(&plain));
        let request = &request;
        let (outcome, index) = self
            .through_leader("write", Code::DeadlineExceeded, |leader| {
                let (bytes, sender) = (bytes.clone(), sender.clone());
                async move {
                    match leader {
                        Leader::This => self.propose_here(request.clone()).await,
                        Leader::Peer(mut peer) => {
                            let call = v1::ProposeRequest { request: bytes, sender };
                            let reply = peer.propose(call).await?.into_inner();
                            let outcome = codec::decode_outcome(&reply.outcome)
                                .map_err(|error| internal(&error.to_string()))?;
                            Ok((outcome, LogIndex::new(reply.log_index)))
                        }
                    }
                }
            })
            .await?;
        // The caller reads its own write on this node.
        self.applied(index).await?;
        Ok((outcome, index))
    }

    /// Waits until the writes that came through this node are answered, which takes the entries that
    /// other nodes send it, and takes no more.
    pub(crate) async fn settle_writes(&self) {
        let limit = self.timing.leader_patience() * 2;
        match tokio::time::timeout(limit, self.stopping.write()).await {
            Ok(mut stopping) => *stopping = true,
            Err(_) => tracing::info!("writes through this node are not answered yet"),
        }
    }

    /// On the leader: stamps the time and commits. Refused by any other node.
    pub(crate) async fn propose_here(
        &self,
        request: Request,
    ) -> Result<(Outcome, LogIndex), ApiError> {
        let name = request.command.name();
        let confirms = matches!(request.command, Command::ConfirmTime(_));
        let (time, bytes) = match self.entry(request).await {
            Ok(entry) => entry,
            Err(error) => {
                telemetry::not_proposed(name, &error);
                return Err(error);
            }
        };
        let command = CommandBytes::new(bytes);
        let limit = self.timing.leader_patience();
        let written = match tokio::time::timeout(limit, self.raft.client_write(command)).await {
            Ok(written) => written,
            Err(_) => {
                return Err(ApiError::new(
                    Code::DeadlineExceeded,
                    "the write was not committed in time; it may be yet",
                ));
            }
        };
        match written {
            Ok(written) => {
                let outcome = codec::decode_outcome(written.data.bytes())
                    .map_err(|error| internal(&error.to_string()))?;
                telemetry::proposal(name, &outcome);
                if confirms && matches!(outcome, Outcome::TimeConfirmed { was_frozen: true, .. }) {
                    self.roll.confirmed(time);
                }
                Ok((outcome, LogIndex::new(written.log_id.index())))
            }
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                Err(internal(&error.to_string()))
            }
            Err(RaftError::APIError(_)) => Err(not_leader(self.this)),
            Err(RaftError::Fatal(error)) => Err(stopped(&error.to_string())),
        }
    }

    /// The bytes of a log entry, with log time. Refused when the fleet's level does not have the
    /// command.
    pub(super) async fn entry(&self, mut request: Request) -> Result<(LogTime, Vec<u8>), ApiError> {
        if request.command.waits_for_level() {
            self.require_level(request.command.level()).await?;
        }
        self.await_audit_log(&request).await;
        let state = self.published.borrow().state.clone();
        // Below this level programs could not read it. Nobody named is the coordinator itself.
        let is_audited = state.level().max(request.command.level()) >= AUDITED;
        let this =
            || Sender { actor: Actor::Coordinator(self.this), certificate: None, via: self.this };
        request.sender = is_audited.then(|| request.sender.take().unwrap_or_else(this));
        request.time = match request.command {
            Command::ConfirmTime(_) if state.time_is_frozen() => {
                self.roll.median(&self.membership().voters, state.log_time())?
            }
            _ => self.roll.stamp(state.level(), state.log_time()).await,
        };
        Ok((request.time, entry_of(&request)?))
    }

    /// Lets a party's act wait for the level that has the audit log where the fleet is about to rise to
    /// it: the first acts in a new fleet would otherwise not be recorded. Where a member is too old, or
    /// away, nobody waits.
    async fn await_audit_log(&self, request: &Request) {
        let is_act = request.command.act().is_some_and(|act| act.when != When::Refused);
        let is_party =
            request.sender.as_ref().is_some_and(|s| !matches!(s.actor, Actor::Coordinator(_)));
        let mut published = self.published.clone();
        let has_log = |view: &Published| view.state.level() >= AUDITED;
        if is_act && is_party && self.rises_to_audit_log().await {
            let limit = self.timing.leader_patience() / 2;
            // What comes too late is answered all the same.
            let _ = tokio::time::timeout(limit, published.wait_for(has_log)).await;
        }
    }

    /// On the leader: whether the fleet is about to get the level that has the audit log.
    pub(crate) async fn rises_to_audit_log(&self) -> bool {
        let active = self.published.borrow().state.level();
        if active >= AUDITED || self.roll.levels().max < AUDITED {
            return false;
        }
        self.roll.first_round().await;
        let members = self.membership().members.into_keys().collect();
        self.roll.supported(&members, AUDITED).is_ok()
    }

    /// What is above this program's level is not known to it.
    fn require_known(&self, needed: Level) -> Result<(), ApiError> {
        let max = self.roll.levels().max;
        if needed <= max {
            return Ok(());
        }
        Err(ApiError::new(
            Code::UnsupportedVersion,
            format!(
                "node {} knows commands up to level {max}, and this is one of level {needed}: \
                 upgrade it, or remove its upgrade.level_max",
                self.this
            ),
        ))
    }

    /// Waits a little for a level that every member supports: a new fleet gets it in its first
    /// moments.
    async fn require_level(&self, needed: Level) -> Result<(), ApiError> {
        let mut published = self.published.clone();
        let active = published.borrow().state.level();
        if needed <= active {
            return Ok(());
        }
        self.require_known(needed)?;
        let held_back = || {
            let members = self.membership().members.into_keys().collect();
            self.roll.supported(&members, needed).err()
        };
        if let Some(older @ HeldBack::Older { .. }) = held_back() {
            return Err(older.refusal(needed, active));
        }
        let raised = published.wait_for(|view| view.state.level() >= needed);
        // Whoever forwarded the write waits no longer than twice this.
        match tokio::time::timeout(self.timing.leader_patience() / 2, raised).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(stopped("the state machine has ended")),
            Err(_) => Err(match held_back() {
                Some(held_back) => held_back.refusal(needed, active),
                None => ApiError::new(
                    Code::Unavailable,
                    format!("this needs level {needed}, to which the fleet rises now; ask again"),
                ),
            }),
        }
    }

    /// Runs one attempt after the other at whoever leads, until one succeeds, fails for good, or
    /// patience ends.
    pub(super) async fn through_leader<T, F, Fut>(
        &self,
        what: &str,
        too_late: Code,
        attempt: F,
    ) -> Result<T, ApiError>
    where
        F: Fn(Leader) -> Fut,
        Fut: Future<Output = Result<T, ApiError>>,
    {
        let patience = self.timing.leader_patience();
        let started = self.env.clock.elapsed_millis();
        let mut delays = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(5))
            .with_max_delay(Duration::from_millis(100))
            .without_max_times()
            .build();
        loop {
            let error = match self.leader(self.known_leader()?) {
                None => ApiError::new(
                    Code::Unavailable,
                    "the fleet has no leader at the moment; ask again, and look at `strongroom \
                     status` if it stays so",
                ),
                Some(leader) => match tokio::time::timeout(patience, attempt(leader)).await {
                    Ok(Ok(done)) => return Ok(done),
                    // Of a node that the leader does not take, another one has to be asked.
                    Ok(Err(error)) if error.code() == Code::PermissionDenied => {
                        ApiError::new(Code::Unavailable, error.message())
                    }
                    Ok(Err(error)) => error,
                    Err(_) => ApiError::new(
                        too_late,
                        format!("the leader did not answer the {what} in {patience:?}"),
                    ),
                },
            };
            let waited = self.env.clock.elapsed_millis().saturating_sub(started);
            if !error.is_retryable() || u128::from(waited) >= patience.as_millis() {
                return Err(error);
            }
            if let Some(delay) = delays.next() {
                tokio::time::sleep(delay).await;
            }
        }
    }

    /// Who leads, without a copy of all that [`Self::status`] tells.
    fn known_leader(&self) -> Result<Option<NodeId>, ApiError> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        match &metrics.running_state {
            Ok(()) => Ok(metrics.current_leader.map(NodeId::new)),
            Err(error) => Err(stopped(&error.to_string())),
        }
    }

    fn leader(&self, leader: Option<NodeId>) -> Option<Leader> {
        let leader = leader?;
        if leader == self.this {
            return Some(Leader::This);
        }
        self.peers.get(leader).map(|peer| Leader::Peer(Box::new(peer)))
    }

    /// Stops taking part.
    pub(crate) async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
    }

    /// Resolves with the reason when Raft has stopped by itself: the node must end (R3).
    pub(crate) async fn failed(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(error) = &metrics.borrow_watched().running_state {
                return error.to_string();
            }
            if metrics.changed().await.is_err() {
                return "raft has ended".to_owned();
            }
        }
    }

    // The peer service's entry points: bytes in, bytes out.

    pub(crate) async fn handle_append(&self, payload: &[u8]) -> Result<Vec<u8>, ApiError> {
        let request = wire::read_append_request(payload)?;
        let reply = self.raft.append_entries(request).await;
        reply.map(|r| wire::append_reply(&r)).map_err(|error| stopped(&error.to_string()))
    }

    pub(crate) async fn handle_vote(&self, payload: &[u8]) -> Result<Vec<u8>, ApiError> {
        let reply = self.raft.vote(wire::read_vote_request(payload)?).await;
        reply.map(|r| wire::vote_reply(&r)).map_err(|error| stopped(&error.to_string()))
    }

    pub(crate) async fn handle_pre_vote(&self, payload: &[u8]) -> Result<Vec<u8>, ApiError> {
        let reply = self.raft.pre_vote(wire::read_vote_request(payload)?).await;
        reply.map(|r| wire::vote_reply(&r)).map_err(|error| stopped(&error.to_string()))
    }

    pub(crate) async fn handle_transfer(&self, payload: &[u8]) -> Result<Vec<u8>, ApiError> {
        let reply = self.raft.handle_transfer_leader(wire::read_transfer_request(payload)?).await;
        reply.map(|r| wire::transfer_reply(&r)).map_err(|error| stopped(&error.to_string()))
    }

    pub(crate) async fn handle_snapshot(
        &self,
        head: &[u8],
        data: SnapshotData,
    ) -> Result<Vec<u8>, ApiError> {
        let (vote, meta, _) = wire::read_snapshot_head(head)?;
        let snapshot = openraft::Snapshot { meta, snapshot: data };
        let reply = self.raft.install_full_snapshot(vote, snapshot).await;
        reply.map(|r| wire::snapshot_reply(&r)).map_err(|error| stopped(&error.to_string()))
    }
}

/// From this level on log entries say who sent them.
const AUDITED: Level = Level::new(2);
/// Bytes of the largest log entry: no command that `apply` accepts comes near.
const ENTRY_BYTES_MAX: usize = 16 << 10;

/// The bytes of a log entry. What is in the log is there for every node and for ever, and one that
/// cannot be read stops them all: so a request too large, or one that does not read back, is
/// refused before.
fn entry_of(request: &Request) -> Result<Vec<u8>, ApiError> {
    let bytes = codec::encode_request(request);
    if bytes.len() > ENTRY_BYTES_MAX {
        return Err(ApiError::new(
            Code::TooLarge,
            format!(
                "the request has {} bytes, a log entry at most {ENTRY_BYTES_MAX}: send less at once",
                bytes.len()
            ),
        ));
    }
    match codec::decode_request(&bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(ApiError::new(
            Code::InvalidArgument,
            format!("the request cannot be written to the log: {error}"),
        )),
    }
}

pub(super) enum Leader {
    This,
    Peer(Box<crate::peers::Peer>),
}

fn settings(timing: &RaftConfig, fleet: FleetId) -> Result<OpenraftConfig, ApiError> {
    let config = OpenraftConfig {
        cluster_name: fleet.to_string(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_timeout_min_ms,
        election_timeout_max: timing.election_timeout_max_ms,
        enable_pre_vote: Some(true),
        // Only once the others were asked: see `allow_elections`.
        enable_elect: false,
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(timing.snapshot_every_entries),
        max_in_snapshot_log_to_keep: timing.snapshot_keep_entries,
        // More than the policy, or a follower a little behind would be sent snapshots for ever.
        replication_lag_threshold: timing.snapshot_every_entries * 2,
        // For the whole transfer (openraft hands it to the transport).
        install_snapshot_timeout: 60_000,
        // A batch of entries of at most 4 KiB stays far under the message limit.
        max_payload_entries: 512,
        ..OpenraftConfig::default()
    };
    config.validate().map_err(|error| {
        ApiError::new(Code::InvalidConfig, format!("raft: {error}; correct the [raft] section"))
    })
}

pub(super) fn not_leader(this: NodeId) -> ApiError {
    ApiError::new(Code::Unavailable, format!("node {this} is not the leader any more; ask again"))
}

pub(super) fn stopped(reason: &str) -> ApiError {
    ApiError::new(
        Code::Unavailable,
        format!("this coordinator has stopped taking part ({reason}); look at its log"),
    )
}

pub(super) fn internal(reason: &str) -> ApiError {
    ApiError::new(Code::Internal, reason.to_owned())
}

#[cfg(test)]
mod tests {
    use coordinator_core::{Command, FindingKey, RaiseFinding, Scope, Severity};
    use proto_types::LogTime;

    use super::*;

    fn finding(text: String) -> Request {
        let key = FindingKey { scope: Scope::Fleet, kind: "k".into(), subject: "s".into() };
        let command = Command::RaiseFinding(RaiseFinding {
            key,
            severity: Severity::Info,
            message: text,
            remedy: String::new(),
        });
        Request { session: None, time: LogTime::ZERO, sender: None, command }
    }

    #[test]
    fn a_request_too_large_for_the_log_never_gets_there() {
        assert!(entry_of(&finding("x".repeat(1024))).is_ok());
        let error = entry_of(&finding("x".repeat(3 << 20))).unwrap_err();
        assert_eq!(error.code(), Code::TooLarge);
    }
}
