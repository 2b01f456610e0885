//! The audit log: who did, or was refused, what. One entry per act, chained by hash; its head and the
//! entries since the last closed segment are state, closed segments leave it as an [`Event`] and
//! become files of every node. Which command is an act is a table (`acts`), how entries hang together
//! is in `chain`; neither decides what is allowed.
//!
//! Only a request that names its actor is recorded. The coordinator that authenticated the caller
//! names it, and for its own commands itself; a log of before the audit log names nobody.

mod acts;
mod chain;

use std::sync::Arc;

use imbl::{OrdMap, Vector};
use proto_types::{ClusterId, LogIndex, LogTime, NodeId, Sequence};

pub use acts::{Act, When};
pub use chain::{AuditHead, ChainError, Segment};

use crate::apply::Context;
use crate::codec;
use crate::command::{RecordAct, Request};
use crate::limits::{
    AUDIT_CODE_BYTES_MAX, AUDIT_PENDING_MAX, AUDIT_REFUSAL_MS, AUDIT_SEGMENT_ENTRIES,
    AUDIT_TEXT_BYTES_MAX, AUDIT_WORD_BYTES_MAX,
};
use crate::outcome::{Event, Outcome};
use crate::refusal::{Field, Refusal};
use crate::state::State;

/// What an operator's certificate lets it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperatorRole {
    /// Reads.
    Viewer,
    /// Backs up and restores.
    Operator,
    /// Changes the fleet.
    Admin,
}

impl OperatorRole {
    /// The word, as in certificates.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Actor {
    /// A person or a program of theirs, by the certificate's name.
    Operator {
        /// The name in the certificate.
        name: String,
        /// Its role.
        role: OperatorRole,
    },
    /// The agent of a cluster.
    Agent(ClusterId),
    /// A coordinator by itself.
    Coordinator(NodeId),
    /// Whoever holds a join token, by the first bytes of its hash.
    Token([u8; 8]),
    /// Whoever has the files of a stopped coordinator.
    Console(NodeId),
}

impl Actor {
    /// The kind, as a stable word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Operator { .. } => "operator",
            Self::Agent(_) => "agent",
            Self::Coordinator(_) => "coordinator",
            Self::Token(_) => "token",
            Self::Console(_) => "console",
        }
    }

    /// Which of its kind.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Operator { name, .. } => name.clone(),
            Self::Agent(cluster) => cluster.to_string(),
            Self::Coordinator(node) | Self::Console(node) => node.to_string(),
            Self::Token(hash) => hex::encode(hash),
        }
    }
}

/// Who sent a request, as the coordinator says that took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Who acts.
    pub actor: Actor,
    /// SHA-256 of the certificate (DER) that proved it; `None` where none did.
    pub certificate: Option<[u8; 32]>,
    /// The coordinator that authenticated the sender.
    pub via: NodeId,
}

/// What an act is about. Never names an item (K1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// A workload cluster.
    pub cluster: Option<ClusterId>,
    /// One of its points.
    pub sequence: Option<Sequence>,
    /// A coordinator.
    pub node: Option<NodeId>,
    /// What else says which: a finding's kind, a purpose, a name of the fleet's own.
    pub text: String,
}

impl Subject {
    /// A cluster.
    #[must_use]
    pub fn cluster(cluster: ClusterId) -> Self {
        Self { cluster: Some(cluster), ..Self::default() }
    }
    /// A coordinator.
    #[must_use]
    pub fn node(node: NodeId) -> Self {
        Self { node: Some(node), ..Self::default() }
    }
    /// A text, cut to what an entry takes and made plain.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self { text: plain(text), ..Self::default() }
    }
    /// The same with a text.
    #[must_use]
    pub fn with_text(self, text: &str) -> Self {
        Self { text: plain(text), ..self }
    }
}

/// Text without control characters, no longer than an entry takes.
fn plain(text: &str) -> String {
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.truncate(text.floor_char_boundary(AUDIT_TEXT_BYTES_MAX));
    text
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Counts from 1 without a gap.
    pub number: u64,
    /// Log time.
    pub time: LogTime,
    /// The log entry that it is, or that brought it to light.
    pub index: LogIndex,
    /// Who.
    pub sender: Sender,
    /// What, as a stable word.
    pub act: String,
    /// About what.
    pub subject: Subject,
    /// The refusal's code; empty: accepted.
    pub refusal: String,
    /// How many alike this entry stands for: refusals of one actor, act and code within a minute.
    pub count: u64,
}

impl AuditEntry {
    /// Whether it was refused.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        !self.refusal.is_empty()
    }
}

/// What makes refusals alike: actor, act, code.
pub(crate) type Alike = (Actor, String, String);

/// Refusals that were counted and not yet written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    /// When the last entry of these was written.
    pub(crate) since: LogTime,
    /// How many came after it.
    pub(crate) count: u64,
    /// The last one's.
    pub(crate) certificate: Option<[u8; 32]>,
    pub(crate) via: NodeId,
    pub(crate) subject: Subject,
}

/// The part of the audit log that is state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditLog {
    /// Where the last closed segment ends.
    pub(crate) base: AuditHead,
    /// The last entry.
    pub(crate) head: AuditHead,
    /// The encoded entries after `base`.
    pub(crate) tail: Vector<Arc<[u8]>>,
    pub(crate) pending: OrdMap<Alike, Pending>,
}

impl AuditLog {
    /// Where the last closed segment ends: what is before it is in files.
    #[must_use]
    pub const fn base(&self) -> AuditHead {
        self.base
    }
    /// The last entry's number and hash; number 0 before the first.
    #[must_use]
    pub const fn head(&self) -> AuditHead {
        self.head
    }
    /// The encoded entries after [`AuditLog::base`], oldest first.
    pub fn tail(&self) -> impl DoubleEndedIterator<Item = &Arc<[u8]>> {
        self.tail.iter()
    }
}

impl State {
    /// The audit log, as far as it is state.
    #[must_use]
    pub const fn audit(&self) -> &AuditLog {
        &self.audit
    }
}

/// Records what became of a request.
pub(crate) fn record(
    state: &mut State,
    context: &mut Context<'_>,
    request: &Request,
    outcome: &Outcome,
) {
    let Some(sender) = &request.sender else { return };
    let Some(act) = request.command.act() else { return };
    let is_machine = matches!(sender.actor, Actor::Coordinator(_));
    let draft = |subject| Draft { sender: sender.clone(), act: act.word.to_owned(), subject };
    match outcome.refusal() {
        // What a coordinator asks for by itself it asks for again: "not yet" is no news.
        Some(_) if is_machine => {}
        Some(refusal) => {
            let subject = acts::subject(state, &request.command, outcome);
            let code = refusal.code().as_str().to_owned();
            refused(state, context, draft(subject), code, 1);
        }
        None => {
            let is_act = match act.when {
                When::Always => true,
                When::ByOthers => !is_machine,
                When::Refused => false,
            };
            // What was not there was not taken away: agents say so with every backup.
            let is_nothing = *outcome == Outcome::FindingCleared { existed: false };
            let is_act = is_act && !is_nothing;
            if is_act {
                let mut subject = acts::subject(state, &request.command, outcome);
                if !context.audit_note.is_empty() {
                    subject = subject.with_text(&context.audit_note);
                }
                append(state, context, draft(subject), String::new(), 1);
            }
        }
    }
}

/// See [`RecordAct`].
pub(crate) fn record_act(
    state: &mut State,
    context: &mut Context<'_>,
    sender: Option<&Sender>,
    command: &RecordAct,
) -> Result<Outcome, Refusal> {
    crate::fleet::require(state)?;
    let is_word = |text: &str, max: usize, is_letter: fn(u8) -> bool| {
        text.len() <= max && text.bytes().all(is_letter)
    };
    let subject = &command.subject.text;
    let valid = !command.act.is_empty()
        && is_word(&command.act, AUDIT_WORD_BYTES_MAX, |b| b.is_ascii_lowercase() || b == b'-')
        && is_word(&command.refusal, AUDIT_CODE_BYTES_MAX, |b| b.is_ascii_uppercase() || b == b'_')
        && subject.len() <= AUDIT_TEXT_BYTES_MAX
        && !subject.chars().any(char::is_control)
        && command.count > 0
        && (command.count == 1 || !command.refusal.is_empty());
    let sender = sender.filter(|_| valid).ok_or(Refusal::InvalidField { field: Field::Act })?;
    let draft = Draft {
        sender: sender.clone(),
        act: command.act.clone(),
        subject: command.subject.clone(),
    };
    if command.refusal.is_empty() {
        append(state, context, draft, String::new(), 1);
    } else {
        refused(state, context, draft, command.refusal.clone(), command.count);
    }
    Ok(Outcome::ActRecorded { number: state.audit.head.number })
}

struct Draft {
    sender: Sender,
    act: String,
    subject: Subject,
}

/// Writes a refusal, or counts it where one alike was written less than a minute ago: who is refused
/// cannot fill the log, however often it asks.
fn refused(state: &mut State, context: &mut Context<'_>, draft: Draft, code: String, count: u64) {
    let alike = (draft.sender.actor.clone(), draft.act.clone(), code.clone());
    let Draft { sender: Sender { certificate, via, .. }, subject, .. } = &draft;
    let pending = Pending {
        since: context.now,
        count: 0,
        certificate: *certificate,
        via: *via,
        subject: subject.clone(),
    };
    if let Some(known) = state.audit.pending.get(&alike) {
        let (since, count) = (known.since, known.count.saturating_add(count));
        state.audit.pending.insert(alike, Pending { since, count, ..pending });
        return;
    }
    append(state, context, draft, code, count);
    if state.audit.pending.len() >= AUDIT_PENDING_MAX {
        let oldest = state.audit.pending.iter().min_by_key(|(_, row)| row.since);
        if let Some(oldest) = oldest.map(|(alike, _)| alike.clone()) {
            write_pending(state, context, &oldest);
            state.audit.pending.remove(&oldest);
        }
    }
    state.audit.pending.insert(alike, pending);
}

/// Writes what was counted, a minute after the last entry of its kind. Runs before every command: log
/// time moves with the log and in no other way.
pub(crate) fn settle(state: &mut State, context: &mut Context<'_>) {
    let now = context.now;
    let is_due = |row: &Pending| now.millis_since(row.since) >= AUDIT_REFUSAL_MS;
    let due = state.audit.pending.iter().filter(|(_, row)| is_due(row));
    let due: Vec<Alike> = due.map(|(alike, _)| alike.clone()).collect();
    for alike in due {
        if write_pending(state, context, &alike) {
            if let Some(row) = state.audit.pending.get_mut(&alike) {
                (row.since, row.count) = (now, 0);
            }
        } else {
            state.audit.pending.remove(&alike);
        }
    }
}

/// Whether there was anything.
fn write_pending(state: &mut State, context: &mut Context<'_>, alike: &Alike) -> bool {
    let Some(row) = state.audit.pending.get(alike).filter(|row| row.count > 0).cloned() else {
        return false;
    };
    let (actor, act, code) = alike.clone();
    let sender = Sender { actor, certificate: row.certificate, via: row.via };
    append(state, context, Draft { sender, act, subject: row.subject }, code, row.count);
    true
}

fn append(state: &mut State, context: &mut Context<'_>, draft: Draft, refusal: String, count: u64) {
    // What was asked for before there is a fleet belongs to nobody's log.
    let Some(fleet) = state.fleet().map(|fleet| fleet.id) else { return };
    let log = &mut state.audit;
    if log.head.number == 0 {
        log.head = AuditHead::first(fleet);
        log.base = log.head;
    }
    let is_refused = !refusal.is_empty();
    let entry = AuditEntry {
        number: log.head.number + 1,
        time: context.now,
        index: context.log.index,
        sender: draft.sender,
        act: draft.act,
        subject: draft.subject,
        refusal,
        count,
    };
    let encoded: Arc<[u8]> = codec::encode_audit_entry(&entry).into();
    log.head = log.head.link(&encoded);
    log.tail.push_back(encoded);
    context.events.push(Event::Audited { number: log.head.number, is_refused });
    if log.tail.len() >= AUDIT_SEGMENT_ENTRIES {
        let entries = std::mem::take(&mut log.tail).into_iter().collect();
        let segment = Segment { fleet, previous: log.base, entries };
        log.base = log.head;
        context.events.push(Event::AuditSegmentClosed { segment: Arc::new(segment) });
    }
}
