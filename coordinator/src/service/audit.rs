//! The audit log, to be read by people: listed, verified, exported. For operators of every role, so
//! that who audits need not be able to change anything; never for agents.

use std::collections::BTreeMap;

use bytes::Bytes;
use coordinator_core::{Actor, AuditEntry, AuditHead, State, Subject};
use futures::future::join_all;
use proto::identity::Role;
use proto::v1::audit_server::Audit;
use proto::{ApiError, v1};
use proto_types::{ClusterId, Code, LogIndex, NodeId};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::{ReceiverStreamOf, Shared, convert, members};
use crate::audit::{Hashed, PER_SEGMENT, Problem, hashed, last};

/// Entries of one answer.
const PAGE_MAX: usize = 1000;
/// Entries of one answer where nothing is said.
const PAGE: usize = 100;
/// Segments that one page may read in search of entries that match.
const SEGMENTS_PER_PAGE: usize = 32;
/// Entries in one message of an export: some 100 KiB.
const ENTRIES_PER_MESSAGE: usize = 256;
/// Messages of an export on their way.
const MESSAGES_IN_FLIGHT: usize = 4;

/// The `Audit` service.
pub(crate) struct AuditService(pub(crate) Shared);

type Names = BTreeMap<ClusterId, String>;

fn names(state: &State) -> Names {
    state.clusters().map(|cluster| (cluster.id, cluster.name.clone())).collect()
}

fn place(at: AuditHead) -> v1::AuditPlace {
    v1::AuditPlace { number: at.number, hash: convert::bytes_of(&at.hash) }
}

fn actor(entry: &AuditEntry, names: &Names) -> v1::AuditActor {
    let sender = &entry.sender;
    let (role, cluster_name) = match &sender.actor {
        Actor::Operator { role, .. } => (role.as_str().to_owned(), String::new()),
        Actor::Agent(cluster) => (String::new(), names.get(cluster).cloned().unwrap_or_default()),
        Actor::Coordinator(_) | Actor::Token(_) | Actor::Console(_) => Default::default(),
    };
    v1::AuditActor {
        kind: sender.actor.kind().to_owned(),
        name: sender.actor.name(),
        role,
        certificate_sha256: sender.certificate.map_or(Bytes::new(), |d| convert::bytes_of(&d)),
        via: sender.via.get(),
        cluster_name,
    }
}

fn message_of((entry, hash): &Hashed, names: &Names) -> v1::AuditEntry {
    let subject = &entry.subject;
    let cluster_name = subject.cluster.and_then(|id| names.get(&id).cloned()).unwrap_or_default();
    v1::AuditEntry {
        number: entry.number,
        time_ms: entry.time.as_millis(),
        log_index: entry.index.get(),
        actor: Some(actor(entry, names)),
        act: entry.act.clone(),
        cluster_id: subject.cluster.map_or(Bytes::new(), |id| convert::bytes_of(id.as_bytes())),
        sequence: subject.sequence.map(proto_types::Sequence::get),
        node_id: subject.node.map(NodeId::get),
        text: subject.text.clone(),
        refusal: entry.refusal.clone(),
        count: entry.count,
        hash: convert::bytes_of(hash),
        cluster_name,
    }
}

/// What of an entry was asked for.
struct Filter {
    since_ms: u64,
    until_ms: u64,
    actor: String,
    act: String,
    cluster: Option<ClusterId>,
    refused_only: bool,
}

impl Filter {
    fn of(message: &v1::ListActsRequest, names: &Names) -> Result<Self, ApiError> {
        let cluster = match &*message.cluster {
            "" => None,
            wanted => {
                let named = names.iter().find(|(_, name)| *name == wanted).map(|(id, _)| *id);
                // By its id also of a cluster that is gone.
                let cluster = named.or_else(|| wanted.parse().ok());
                Some(cluster.ok_or_else(|| {
                    let what = format!("there is no cluster {wanted:?}, and it is no cluster id");
                    ApiError::new(Code::ClusterNotFound, what)
                })?)
            }
        };
        Ok(Self {
            since_ms: message.since_ms,
            until_ms: if message.until_ms == 0 { u64::MAX } else { message.until_ms },
            actor: message.actor.clone(),
            act: message.act.clone(),
            cluster,
            refused_only: message.refused_only,
        })
    }

    fn matches(&self, entry: &AuditEntry, names: &Names) -> bool {
        let time = entry.time.as_millis();
        let is_actor = || {
            let actor = &entry.sender.actor;
            let (kind, name) = (actor.kind(), actor.name());
            let shown = match actor {
                Actor::Agent(cluster) => names.get(cluster).cloned().unwrap_or_default(),
                _ => String::new(),
            };
            [name, shown].into_iter().any(|name| {
                !name.is_empty() && (name == self.actor || format!("{kind} {name}") == self.actor)
            }) || kind == self.actor
        };
        let is_of_cluster = |cluster| {
            entry.subject.cluster == Some(cluster) || entry.sender.actor == Actor::Agent(cluster)
        };
        (self.since_ms..=self.until_ms).contains(&time)
            && (self.act.is_empty() || entry.act == self.act)
            && (!self.refused_only || entry.is_refused())
            && self.cluster.is_none_or(is_of_cluster)
            && (self.actor.is_empty() || is_actor())
    }
}

fn problem(problem: &Problem) -> v1::AuditProblem {
    v1::AuditProblem {
        segment: problem.segment,
        // From there back nothing is vouched for: what would, is in the file that is not whole.
        first: 1,
        last: last(problem.segment),
        what: problem.to_string(),
    }
}

impl Shared {
    fn not_whole(&self, problem: &Problem) -> ApiError {
        self.book.doubt();
        ApiError::new(
            Code::Damaged,
            format!(
                "node {}: {problem}. It is fetched from another coordinator; ask that one, or again \
                 in a moment, and look at `strongroom finding list`",
                self.config.node_id
            ),
        )
    }

    async fn list_acts(
        &self,
        message: v1::ListActsRequest,
    ) -> Result<v1::ListActsResponse, ApiError> {
        let view = self.view(message.stale).await?;
        let names = names(&view.state);
        let filter = Filter::of(&message, &names)?;
        let size = match usize::try_from(message.page_size) {
            Ok(0) | Err(_) => PAGE,
            Ok(size) => size.min(PAGE_MAX),
        };
        let before = if message.before == 0 { u64::MAX } else { message.before };
        let (book, log) = (self.book.clone(), view.state.audit().clone());
        let head = log.head();
        let search = move || {
            let mut entries = Vec::new();
            let mut is_over = false;
            let found = book.backwards(&log, before, SEGMENTS_PER_PAGE, |hashed| {
                // Log time never goes back.
                is_over = hashed.0.time.as_millis() < filter.since_ms;
                if filter.matches(&hashed.0, &names) {
                    entries.push(message_of(&hashed, &names));
                }
                !is_over && entries.len() < size
            });
            (entries, found, is_over)
        };
        let searched = self.env.blocking("list-acts", search).await;
        let (entries, found, is_over) =
            searched.map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
        let next_before = match found {
            Ok(_) if is_over => 0,
            // The first entry was told: before it there is none.
            Ok(next) if next <= 1 => 0,
            Ok(next) => next,
            // What was found is told; whoever goes on from there hears why it ends.
            Err(problem) if !entries.is_empty() => {
                self.book.doubt();
                last(problem.segment) + 1
            }
            Err(problem) => return Err(self.not_whole(&problem)),
        };
        Ok(v1::ListActsResponse {
            read: Some(self.read_info(&view, message.stale)),
            entries,
            next_before,
            head: Some(place(head)),
        })
    }

    /// This node's part of a verification.
    pub(super) async fn check_audit_here(
        &self,
        index: LogIndex,
        number: u64,
    ) -> Result<v1::NodeAudit, ApiError> {
        let view = self.raft.applied(index).await?;
        let (book, log) = (self.book.clone(), view.state.audit().clone());
        let head = log.head();
        let checked = self.env.blocking("verify-audit", move || book.check(&log, number)).await;
        let verdict = checked.map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
        if verdict.problem.is_some() {
            self.book.doubt();
        }
        Ok(v1::NodeAudit {
            node_id: self.config.node_id.get(),
            reachable: true,
            head: Some(place(head)),
            compared: verdict.compared.map(place),
            segments: verdict.segments,
            problems: verdict.problem.iter().map(problem).collect(),
        })
    }

    async fn verify_audit(&self, node: u64) -> Result<v1::VerifyAuditResponse, ApiError> {
        let view = self.view(false).await?;
        let head = view.state.audit().head();
        let known = members::known(&view);
        let wanted: Vec<NodeId> = match node {
            0 => known.keys().copied().collect(),
            node if known.contains_key(&NodeId::new(node)) => vec![NodeId::new(node)],
            node => {
                return Err(convert::invalid(format!(
                    "there is no coordinator {node}; `strongroom status` lists them"
                )));
            }
        };
        let asked = wanted.into_iter().map(|node| async move {
            let away = v1::NodeAudit { node_id: node.get(), ..Default::default() };
            if node == self.config.node_id {
                return self.check_audit_here(view.applied, head.number).await.unwrap_or(away);
            }
            let Some(mut peer) = self.peers.for_bundles(node) else { return away };
            let request =
                v1::CheckAuditRequest { log_index: view.applied.get(), number: head.number };
            // As long as it takes: who asked gives it up, and the call with it.
            match peer.check_audit(request).await {
                Ok(answer) => answer.into_inner(),
                Err(_) => away,
            }
        });
        let nodes = join_all(asked).await;
        Ok(v1::VerifyAuditResponse {
            read: Some(self.read_info(&view, false)),
            head: Some(place(head)),
            nodes,
        })
    }

    async fn export_audit(&self) -> Result<ReceiverStreamOf<v1::ExportAuditPart>, ApiError> {
        self.record_act("export-audit", Subject::default()).await?;
        let view = self.view(false).await?;
        let (sender, receiver) = mpsc::channel(MESSAGES_IN_FLIGHT);
        let shared = self.clone();
        self.env.spawn.task(
            "export-audit",
            Box::pin(async move {
                if let Err(error) = shared.send_audit(&view.state, &sender).await {
                    // Who does not read any more needs no reason.
                    let _ = sender.send(Err(error.into())).await;
                }
            }),
        );
        Ok(ReceiverStreamOf::new(receiver))
    }

    async fn send_audit(
        &self,
        state: &State,
        out: &mpsc::Sender<Result<v1::ExportAuditPart, Status>>,
    ) -> Result<(), ApiError> {
        use v1::export_audit_part::Part;
        let names = names(state);
        let log = state.audit();
        let send = async |part| {
            let sent = out.send(Ok(v1::ExportAuditPart { part: Some(part) })).await;
            sent.map_err(|_| ApiError::new(Code::Unavailable, "nobody reads the export any more"))
        };
        send(Part::Opening(v1::ExportAuditOpening {
            fleet_id: convert::bytes_of(self.config.fleet.id.as_bytes()),
            fleet_name: state.fleet().map(|fleet| fleet.name.clone()).unwrap_or_default(),
            head: Some(place(log.head())),
        }))
        .await?;
        let send_all = async |entries: Vec<Hashed>| {
            for some in entries.chunks(ENTRIES_PER_MESSAGE) {
                let entries = some.iter().map(|entry| message_of(entry, &names)).collect();
                send(Part::Entries(v1::ExportAuditEntries { entries })).await?;
            }
            Ok::<_, ApiError>(())
        };
        let base = log.base();
        for segment in 0..base.number / PER_SEGMENT {
            let book = self.book.clone();
            let read = move || book.entries_of(base, segment);
            let read = self.env.blocking("export-audit", read).await;
            let read = read.map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
            let entries = read.map_err(|problem| self.not_whole(&problem))?;
            send_all(entries).await?;
        }
        let tail: Vec<_> = log.tail().cloned().collect();
        send_all(hashed(base, &tail)).await
    }

    /// A closed segment as it lies here; whoever asks knows whether it is what it was.
    pub(super) async fn audit_segment(
        &self,
        segment: u64,
    ) -> Result<v1::FetchAuditSegmentResponse, ApiError> {
        let book = self.book.clone();
        let read = self.env.blocking("read-audit-segment", move || book.raw(segment)).await;
        let read = read.map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
        let bytes = read.map_err(|error| ApiError::new(Code::LocalIo, error.to_string()))?;
        Ok(v1::FetchAuditSegmentResponse { segment: bytes.unwrap_or_default().into() })
    }
}

#[tonic::async_trait]
impl Audit for AuditService {
    async fn list_acts(
        &self,
        request: Request<v1::ListActsRequest>,
    ) -> Result<Response<v1::ListActsResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("read the audit log", Role::Viewer)?;
            self.0.list_acts(request.into_inner()).await
        };
        self.0.answer("ListActs", work).await
    }

    async fn verify_audit(
        &self,
        request: Request<v1::VerifyAuditRequest>,
    ) -> Result<Response<v1::VerifyAuditResponse>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("verify the audit log", Role::Viewer)?;
            self.0.verify_audit(request.get_ref().node_id).await
        };
        self.0.answer("VerifyAudit", work).await
    }

    type ExportAuditStream = ReceiverStreamOf<v1::ExportAuditPart>;

    async fn export_audit(
        &self,
        request: Request<v1::ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        let work = async {
            self.0.caller(&request)?.operator("export the audit log", Role::Viewer)?;
            self.0.export_audit().await
        };
        self.0.answer("ExportAudit", work).await
    }
}
