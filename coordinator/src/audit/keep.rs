//! Looks after this node's part of the audit log: reads every segment when the node starts, when one
//! is doubted, and again every few hours; brings what is missing or damaged from a peer; and tells
//! people. What a peer sends is believed only where the chain says the same.

use std::collections::BTreeSet;
use std::time::Duration;

use coordinator_core::{
    AuditHead, ClearFinding, Command, FindingKey, RaiseFinding, Scope, Severity, State,
};
use proto::env::Env;
use proto::{ApiError, v1};
use proto_types::{Code, NodeId};

use super::book::{Book, Damage, Lack, Problem, first, last};
use crate::peers::Peers;
use crate::raft::RaftNode;
use crate::service::core_request;
use crate::telemetry;

/// Between two looks at whether a segment is missing.
const ROUND: Duration = Duration::from_secs(5);
/// Every segment is read again after this time, like bundles: disks rot.
const AGAIN_MS: u64 = 6 * 60 * 60 * 1000;
/// Who does not give a segment in this time is passed over.
const FETCH: Duration = Duration::from_secs(10);
/// Rounds in which no peer had a segment before people are told: peers start one after the other.
const ROUNDS_IN_VAIN: u32 = 3;

/// A segment was not what it should be. Stands until a person has looked at it: somebody may have
/// changed it on purpose.
const FINDING_DAMAGED: &str = "audit-segment-damaged";
/// Entries that neither this node nor any other it asked has.
const FINDING_INCOMPLETE: &str = "audit-incomplete";

/// Keeps the log whole until dropped.
pub(crate) async fn keep(env: &Env, raft: &RaftNode, peers: &Peers, book: &Book) {
    let mut keeper =
        Keeper { env, raft, peers, book, whole: BTreeSet::new(), since_ms: 0, in_vain: 0 };
    loop {
        if let Err(error) = keeper.round().await {
            tracing::debug!(%error, "the audit log is not looked after yet; it will be");
        }
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            () = book.doubted() => keeper.whole.clear(),
        }
    }
}

struct Keeper<'a> {
    env: &'a Env,
    raft: &'a RaftNode,
    peers: &'a Peers,
    book: &'a Book,
    /// Segments that were read and found whole, since the last time all of them were.
    whole: BTreeSet<u64>,
    since_ms: u64,
    in_vain: u32,
}

impl Keeper<'_> {
    async fn round(&mut self) -> Result<(), ApiError> {
        let now_ms = self.env.clock.elapsed_millis();
        if now_ms.saturating_sub(self.since_ms) >= AGAIN_MS {
            self.whole.clear();
            self.since_ms = now_ms;
        }
        let state = self.raft.local().state;
        telemetry::audit_head(state.audit().head().number);
        let mut lacks = None;
        let mut mended = BTreeSet::new();
        while let Some(problem) = self.check(state.audit().base()).await? {
            // A disk that takes a good file and gives another is not asked for ever.
            if !mended.insert(problem.segment) || !self.mend(&problem).await? {
                lacks = Some(problem);
                break;
            }
        }
        self.report(&state, lacks).await
    }

    /// Reads what was not read yet; gives the first that is not whole.
    async fn check(&mut self, base: AuditHead) -> Result<Option<Problem>, ApiError> {
        let (book, whole) = (self.book.clone(), self.whole.clone());
        let checked = move || book.check_files(base, |segment| whole.contains(&segment));
        let (read, problem) = self.blocking(checked).await?;
        self.whole.extend(read);
        Ok(problem)
    }

    /// Whether the segment is there now.
    async fn mend(&self, problem: &Problem) -> Result<bool, ApiError> {
        let (segment, end) = (problem.segment, problem.end);
        if let Lack::Damaged(_) | Lack::Io(_) = problem.lack {
            let (book, what) = (self.book.clone(), problem.lack.to_string());
            let aside = self.blocking(move || book.set_aside(segment, &what)).await?;
            if let Err(error) = aside {
                tracing::warn!(segment, %error, "a damaged segment cannot be put aside");
            }
            telemetry::audit_segment("damaged");
        }
        for (node, mut peer) in self.peers.all_for_bundles() {
            let request = v1::FetchAuditSegmentRequest { segment };
            let asked = tokio::time::timeout(FETCH, peer.fetch_audit_segment(request)).await;
            let Ok(Ok(answer)) = asked else { continue };
            let bytes = answer.into_inner().segment;
            if bytes.is_empty() {
                continue;
            }
            let book = self.book.clone();
            match self.blocking(move || book.take(&bytes, end)).await? {
                Ok(()) => {
                    let (segment, from) = (problem.segment, node.get());
                    tracing::info!(event = "audit_segment_repaired", segment, from);
                    telemetry::audit_segment("repaired");
                    return Ok(true);
                }
                Err(error) => {
                    tracing::warn!(event = "audit_segment_refused", segment, from = node.get(), %error);
                }
            }
        }
        telemetry::audit_segment("missing");
        Ok(false)
    }

    async fn report(&mut self, state: &State, lacks: Option<Problem>) -> Result<(), ApiError> {
        let this = self.raft.this();
        for damage in self.book.damages() {
            self.propose(Command::RaiseFinding(damaged(this, &damage))).await?;
            self.book.told(&damage);
        }
        self.in_vain = if lacks.is_some() { self.in_vain.saturating_add(1) } else { 0 };
        let key = incomplete_key(this);
        let stands = state.findings_of(key.scope).any(|(found, _)| *found == key);
        match lacks {
            Some(problem) if !stands && self.in_vain >= ROUNDS_IN_VAIN => {
                self.propose(Command::RaiseFinding(incomplete(this, &problem))).await
            }
            None if stands => self.propose(Command::ClearFinding(ClearFinding { key })).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn propose(&self, command: Command) -> Result<(), ApiError> {
        let (outcome, _) = self.raft.propose(core_request(None, command)).await?;
        match outcome.refusal() {
            None => Ok(()),
            Some(refusal) => Err(ApiError::new(refusal.code(), refusal.to_string())),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let done = self.env.blocking("keep-audit", work).await;
        done.map_err(|error| ApiError::new(Code::Internal, error.to_string()))
    }
}

fn damaged(this: NodeId, damage: &Damage) -> RaiseFinding {
    let segment = damage.segment;
    let name = damage.aside.file_name().unwrap_or_default().to_string_lossy().into_owned();
    RaiseFinding {
        key: FindingKey {
            scope: Scope::Node(this),
            kind: FINDING_DAMAGED.to_owned(),
            subject: segment.to_string(),
        },
        severity: Severity::Critical,
        message: format!(
            "node {this} found entries {} to {} of the audit log changed on its disk ({}), put the \
             file aside as {name} and takes a good one from another coordinator",
            first(segment),
            last(segment),
            damage.what
        ),
        remedy:
            "compare the file that was put aside with another coordinator's; find out who wrote \
                 to this node's disk, or replace the disk; see that `strongroom audit verify` is \
                 good, then clear the finding"
                .to_owned(),
    }
}

fn incomplete_key(this: NodeId) -> FindingKey {
    FindingKey {
        scope: Scope::Node(this),
        kind: FINDING_INCOMPLETE.to_owned(),
        subject: String::new(),
    }
}

fn incomplete(this: NodeId, problem: &Problem) -> RaiseFinding {
    RaiseFinding {
        key: incomplete_key(this),
        severity: Severity::Critical,
        message: format!(
            "node {this} lacks entries of the audit log, and no other coordinator gives them: \
             {problem}"
        ),
        remedy:
            "start the other coordinators; if none has them, they may be in a saved snapshot or \
                 an export, which `strongroom audit verify FILE` checks. The finding ends by itself"
                .to_owned(),
    }
}
