//! The gRPC services, one file each, and what they share: who calls, which view of the state,
//! how a write becomes an outcome, and how an error leaves the house.

mod acts;
mod admission;
mod audit;
mod backup;
mod bundles;
mod catalog;
pub(crate) mod convert;
mod enrol;
mod enrolment;
mod fleet;
mod join;
mod keys;
mod members;
mod peer;
mod restore;
mod snapshot;

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coordinator_core::{Actor, Command, Outcome, RecordAct, Request as CoreRequest, Subject};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use proto::env::Env;
use proto::{ApiError, v1};
use proto_types::{ClusterId, Code, Level, NodeId};
use storage::snapshots::SnapshotStore;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::audit::{Asked, Book, Recent, Refusals, is_refusal, word_of};
use crate::auth::Caller;
use crate::authority::Authority;
use crate::config::Config;
use crate::keeper::Keeper;
use crate::peers::Peers;
use crate::raft::{Published, RaftNode};
use crate::roll_call::levels::Levels;
use crate::telemetry;

pub(crate) use acts::ActsService;
pub(crate) use admission::Admission;
pub(crate) use audit::AuditService;
pub(crate) use backup::{BackupService, lease_gone};
pub(crate) use catalog::CatalogService;
pub(crate) use enrolment::EnrolmentService;
pub(crate) use fleet::{FleetService, core_request};
pub(crate) use join::{JoinService, MESSAGE_BYTES_MAX as JOIN_BYTES_MAX};
pub(crate) use keys::KeysService;
pub(crate) use peer::PeerService;
pub(crate) use restore::RestoreService;

/// The stream type of all server-streaming methods.
pub(crate) type ReceiverStreamOf<M> = ReceiverStream<Result<M, Status>>;

/// A peer that does not tell its status in this time is shown as not reachable.
const STATUS_DEADLINE: Duration = Duration::from_millis(800);

/// What all services work with.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Parts>);

/// The parts of a running coordinator.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) authority: Option<Arc<Authority>>,
    pub(crate) env: Env,
    pub(crate) raft: RaftNode,
    pub(crate) keeper: Keeper,
    pub(crate) peers: Peers,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) uploads: Admission,
    pub(crate) snapshots_out: Arc<Semaphore>,
    pub(crate) book: Book,
    pub(crate) refusals: Refusals,
    pub(crate) readers: Recent,
}

impl Deref for Shared {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Makes clocks, of which only the differences mean something, distances from their median.
fn relative_to_median(statuses: &mut [v1::NodeStatus]) {
    let mut clocks: Vec<i64> = statuses.iter().filter_map(|node| node.clock_offset_ms).collect();
    clocks.sort_unstable();
    let Some(median) = clocks.get(clocks.len().saturating_sub(1) / 2).copied() else { return };
    for node in statuses {
        node.clock_offset_ms = node.clock_offset_ms.map(|clock| clock.saturating_sub(median));
    }
}

/// A refusal that `apply` did not foresee for this command: a bug.
fn unexpected(outcome: &Outcome) -> ApiError {
    ApiError::new(Code::Internal, format!("the state answered something else: {outcome:?}"))
}

fn vanished(what: &str) -> ApiError {
    ApiError::new(Code::Internal, format!("the {what} is not in the state it was just written to"))
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, ApiError> {
        let caller = Caller::of(request, self.config.fleet.id)?;
        Asked::by(caller.sender(self.config.node_id));
        caller.require_valid(&self.raft.local().state, self.env.clock.now())?;
        Ok(caller)
    }

    /// The state to answer from: confirmed by a quorum, unless stale was asked for (R4).
    async fn view(&self, stale: bool) -> Result<Published, ApiError> {
        if stale { Ok(self.raft.local()) } else { self.raft.read().await }
    }

    fn read_info(&self, view: &Published, stale: bool) -> v1::ReadInfo {
        v1::ReadInfo { stale, log_index: view.applied.get(), node_id: self.config.node_id.get() }
    }

    /// Has a command of a client committed; a refusal becomes its error.
    async fn write(
        &self,
        write_id: Option<&v1::WriteId>,
        command: Command,
    ) -> Result<Outcome, ApiError> {
        let session = convert::write_id(write_id)?;
        self.accepted(core_request(Some(session), command)).await
    }

    async fn accepted(&self, mut request: CoreRequest) -> Result<Outcome, ApiError> {
        request.sender = request.sender.or_else(Asked::sender);
        let (outcome, _) = self.raft.propose(request).await?;
        match outcome {
            Outcome::Refused(refusal) => {
                // `apply` recorded it.
                Asked::recorded();
                Err(ApiError::new(refusal.code(), refusal.to_string()))
            }
            outcome => Ok(outcome),
        }
    }

    /// Records an act that is no command of its own: before it is done, so that none is done unseen.
    async fn record_act(&self, act: &str, subject: Subject) -> Result<(), ApiError> {
        // Below this level there is no audit log.
        if self.raft.local().state.level() < Level::new(2) {
            return Ok(());
        }
        let act = RecordAct { act: act.to_owned(), subject, refusal: String::new(), count: 1 };
        let command = Command::RecordAct(Box::new(act));
        match self.accepted(core_request(None, command)).await? {
            Outcome::ActRecorded { .. } => Ok(()),
            outcome => Err(unexpected(&outcome)),
        }
    }

    /// Records that an operator reads a cluster's bundles: the first of many calls.
    async fn record_read(&self, cluster: ClusterId) -> Result<(), ApiError> {
        let Some(sender) = Asked::sender() else { return Ok(()) };
        let now_ms = self.env.clock.elapsed_millis();
        // An agent reads what it wrote.
        if matches!(sender.actor, Actor::Agent(_))
            || !self.readers.is_new(&sender.actor, cluster, now_ms)
        {
            return Ok(());
        }
        self.record_act("read-bundle", Subject::cluster(cluster)).await?;
        self.readers.note(sender.actor, cluster, now_ms);
        Ok(())
    }

    /// Runs a method, measures it, turns its error into a status, and has a refusal recorded.
    ///
    /// The work is boxed at once: methods' futures are nested deeper than the compiler follows.
    fn answer<'a, T: Send + 'a>(
        &'a self,
        method: &'static str,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<Response<T>, Status>> {
        self.answer_boxed(method, work.boxed()).boxed()
    }

    async fn answer_boxed<T>(
        &self,
        method: &'static str,
        work: BoxFuture<'_, Result<T, ApiError>>,
    ) -> Result<Response<T>, Status> {
        let started = self.env.clock.elapsed_millis();
        let (result, asked) = Asked::scope(work).await;
        let millis = self.env.clock.elapsed_millis().saturating_sub(started);
        let code = result.as_ref().err().map_or("OK", |error| error.code().as_str());
        telemetry::request(method, code, Duration::from_millis(millis).as_secs_f64());
        match result {
            Ok(answer) => Ok(Response::new(answer)),
            Err(error) => {
                tracing::debug!(method, code, %error, "request refused");
                if is_refusal(error.code()) {
                    if !asked.is_known() {
                        telemetry::unauthenticated();
                    }
                    if let Some(sender) = asked.unrecorded() {
                        self.refusals.note(sender, word_of(method), error.code());
                    }
                }
                Err(error.into())
            }
        }
    }

    fn check_size(&self, bytes: u64) -> Result<(), ApiError> {
        let limit = self.config.limits.bundle_bytes_max;
        if bytes <= limit {
            return Ok(());
        }
        Err(ApiError::new(
            Code::TooLarge,
            format!(
                "a bundle of {bytes} bytes is larger than the limit of {limit}: raise \
                 limits.bundle_bytes_max on all coordinators, or back up less at once"
            ),
        ))
    }

    /// What is told without counting anything.
    fn brief_status(&self) -> v1::GetNodeStatusResponse {
        let raft = self.raft.status();
        let mut status = v1::GetNodeStatusResponse {
            term: raft.term,
            last_log_index: raft.last_log_index,
            applied_index: raft.applied_index,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            leader: raft.is_leader,
            ..Default::default()
        };
        self.raft.roll().tell(self.raft.local().state.level(), &mut status);
        status
    }

    async fn own_status(&self) -> Result<v1::GetNodeStatusResponse, ApiError> {
        let (bundle_count, bundle_bytes, disk_free_bytes) = self.keeper.usage().await?;
        Ok(v1::GetNodeStatusResponse {
            disk_free_bytes,
            bundle_bytes,
            bundle_count,
            recoveries: self.raft.local().state.recovery_count(),
            bucket: self.keeper.bucket_url().unwrap_or_default(),
            ..self.brief_status()
        })
    }

    async fn status_of(&self, node: NodeId) -> Option<v1::GetNodeStatusResponse> {
        if node == self.config.node_id {
            return self.own_status().await.ok();
        }
        let mut peer = self.peers.get(node)?;
        let call = peer.get_node_status(v1::GetNodeStatusRequest::default());
        match tokio::time::timeout(STATUS_DEADLINE, call).await {
            Ok(Ok(reply)) => Some(reply.into_inner()),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    async fn node_statuses(&self, view: &Published) -> Vec<v1::NodeStatus> {
        let leader = self.raft.status().leader;
        let nodes = members::known(view);
        let voting = view.voters.all();
        let voting = &voting;
        let asked = nodes.iter().map(|(id, member)| async move {
            let reached = self.status_of(*id).await;
            let reachable = reached.is_some();
            let status = reached.unwrap_or_default();
            // What its clock would say at the same moment on all of them.
            let elapsed = i64::try_from(self.env.clock.elapsed_millis()).unwrap_or(i64::MAX);
            let clock = i64::try_from(status.clock_ms).ok().filter(|clock| *clock > 0);
            let level = Levels::told(status.level_min, status.level_max).max;
            v1::NodeStatus {
                level_max: if reachable { u32::from(level.get()) } else { 0 },
                clock_offset_ms: clock.map(|clock| clock.saturating_sub(elapsed)),
                log_sync_median_micros: status.log_sync_median_micros,
                log_sync_p99_micros: status.log_sync_p99_micros,
                node_id: id.get(),
                name: member.name.clone(),
                address: member.address.clone(),
                reachable,
                leader: leader == Some(*id),
                voter: voting.contains(id),
                term: status.term,
                last_log_index: status.last_log_index,
                applied_index: status.applied_index,
                disk_free_bytes: status.disk_free_bytes,
                bundle_bytes: status.bundle_bytes,
                bundle_count: status.bundle_count,
                version: status.version,
                missing_bundles: view.state.missing_on(*id).len() as u64,
            }
        });
        let mut statuses = futures::future::join_all(asked).await;
        relative_to_median(&mut statuses);
        statuses
    }

    /// Scrubs this node or, through it, another.
    async fn scrub_stream(
        &self,
        node: NodeId,
    ) -> Result<ReceiverStreamOf<v1::ScrubProgress>, ApiError> {
        let progress = move |p: v1::PeerScrubProgress| v1::ScrubProgress {
            checked: p.checked,
            total: p.total,
            damaged: p.damaged,
            repaired: p.repaired,
            missing: p.missing,
            unrepaired_ids: p.unrepaired_ids.into_iter().collect::<Vec<Bytes>>(),
            done: p.done,
            node_id: node.get(),
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let mut source: std::pin::Pin<
            Box<dyn futures::Stream<Item = Result<v1::PeerScrubProgress, Status>> + Send>,
        > = if node == self.config.node_id {
            Box::pin(self.keeper.clone().scrub_progress())
        } else {
            let mut peer = self.peers.get(node).ok_or_else(|| {
                ApiError::new(
                    Code::InvalidArgument,
                    format!("there is no coordinator {node}; `strongroom status` lists them"),
                )
            })?;
            Box::pin(peer.scrub(v1::PeerScrubRequest {}).await?.into_inner())
        };
        self.env.spawn.task(
            "forward-scrub",
            Box::pin(async move {
                while let Some(item) = source.next().await {
                    if sender.send(item.map(progress)).await.is_err() {
                        return;
                    }
                }
            }),
        );
        Ok(ReceiverStream::new(receiver))
    }
}
