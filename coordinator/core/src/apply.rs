//! The one way to change the state. Dispatches to the module of the concern and keeps log time;
//! has no rules of its own.

use proto_types::LogTime;

use crate::command::{Command, ConfirmTime, LogContext, Request};
use crate::outcome::{Applied, Event, Outcome};
use crate::refusal::Refusal;
use crate::state::State;
use crate::{
    audit, authority, bucket, clusters, commit, delayed, enrolment, findings, fleet, holders,
    joining, keys, leases, levels, members, moves, recover, restore, sessions, snapshots, time,
    uploads,
};

/// What a handler knows besides state and command.
pub(crate) struct Context<'a> {
    pub(crate) log: LogContext<'a>,
    /// Log time as of this entry.
    pub(crate) now: LogTime,
    pub(crate) events: Vec<Event>,
    /// What the audit log's entry should say besides what the command does.
    pub(crate) audit_note: String,
}

/// Applies one log entry. A function of its arguments alone (R1); what it refuses is an outcome
/// (R3) and leaves everything but log time, the session and the audit log as it was.
#[must_use]
pub fn apply(state: &mut State, request: &Request, log: &LogContext<'_>) -> Applied {
    state.time = state.time.max(request.time);
    let audit_note = String::new();
    let mut context = Context { log: *log, now: state.time, events: Vec::new(), audit_note };
    audit::settle(state, &mut context);
    let mut is_executed = false;
    let outcome = sessions::once(state, &mut context, request.session, |state, context| {
        is_executed = true;
        let outcome = execute(state, context, request).unwrap_or_else(Outcome::Refused);
        audit::record(state, context, request, &outcome);
        outcome
    });
    // Refused for what it says of its session, and not a repeat, which was recorded when it was new.
    if !is_executed && outcome.refusal().is_some_and(Refusal::is_of_session) {
        audit::record(state, &mut context, request, &outcome);
    }
    Applied { outcome, events: context.events }
}

/// Handlers check everything before they change anything, so that a refusal changes nothing.
fn execute(
    state: &mut State,
    context: &mut Context<'_>,
    request: &Request,
) -> Result<Outcome, Refusal> {
    let command = &request.command;
    levels::require(state, command)?;
    match command {
        Command::InitFleet(command) => fleet::init(state, context, command),
        Command::RegisterCluster(command) => clusters::register(state, context, command),
        Command::AcquireEpoch(command) => clusters::acquire_epoch(state, context, command),
        Command::OpenUpload(command) => uploads::open(state, context, command),
        Command::EndUpload(command) => uploads::end(state, context, command),
        Command::CommitPoint(command) => commit::commit(state, context, command),
        Command::OpenReadLease(command) => leases::open_read(state, context, command),
        Command::EndReadLease(command) => leases::end_read(state, context, command),
        Command::RenewLease(command) => leases::renew(state, context, command),
        Command::ExpireLeases(command) => leases::expire(state, context, command),
        Command::ExpireSessions(command) => sessions::expire(state, context, command),
        Command::RecordHolders(command) => holders::record(state, context, command),
        Command::RaiseFinding(command) => findings::raise(state, context, command),
        Command::ClearFinding(command) => findings::clear(state, context, command),
        Command::AddNode(command) => members::add(state, context, command),
        Command::BeginChange(command) => members::begin(state, context, command),
        Command::SealChange(command) => members::seal(state, *command),
        Command::EndChange(command) => members::end(state, context, *command),
        Command::RemoveNode(command) => members::remove(state, context, command),
        Command::RecoverByForce(command) => recover::recover(state, context, command),
        Command::MoveNode(command) => moves::move_node(state, context, command),
        Command::SealSnapshot(_) => {
            fleet::require(state)?;
            Ok(Outcome::SnapshotSealed { index: context.log.index })
        }
        Command::BeginRestore(command) => restore::begin(state, context, command),
        Command::RestorePiece(command) => restore::piece(state, command),
        Command::FinishRestore(command) => restore::finish(state, context, command),
        Command::AbandonRestore(command) => restore::abandon(state, context, command),
        Command::SetBundleHome(command) => bucket::set_home(state, context, *command),
        Command::AnnounceObject(command) => bucket::announce(state, command),
        Command::RecordObjects(command) => bucket::record(state, command),
        Command::RecordSnapshot(command) => snapshots::record(state, context, command),
        Command::SetAuthority(command) => authority::set(state, context, command),
        Command::CreateJoinToken(command) => joining::create(state, context, command),
        Command::RedeemJoinToken(command) => joining::redeem(state, context, command),
        Command::RaiseLevel(command) => Ok(levels::raise(state, context, *command)),
        Command::FreezeTime(command) => time::freeze(state, context, command),
        Command::ConfirmTime(ConfirmTime) => Ok(time::confirm(state, context)),
        Command::RecordAct(command) => {
            audit::record_act(state, context, request.sender.as_ref(), command)
        }
        Command::Keys(command) => keys::run(state, context, command),
        Command::CreateEnrolToken(command) => enrolment::create(state, context, command),
        Command::RedeemEnrolToken(command) => enrolment::redeem(state, context, command),
        Command::RecordCertificate(command) => enrolment::renew(state, context, command),
        Command::RevokeParty(command) => {
            enrolment::revoke(state, context, request.sender.as_ref(), command)
        }
        Command::DecideEnrolment(command) => enrolment::decide(state, context, *command),
        Command::RequestAct(command) => {
            delayed::request(state, context, request.sender.as_ref(), command)
        }
        Command::DecideAct(command) => {
            delayed::decide(state, context, request.sender.as_ref(), *command)
        }
        Command::PerformAct(command) => delayed::perform(state, context, *command),
        Command::SetActDelay(command) => delayed::set_delay(state, *command),
    }
}
