//! Each request of a session happens at most once: its result is kept, and a repeat is answered
//! from memory. What is older than the kept results is refused, never executed again. Refusals
//! that time alone may heal are not kept: they changed nothing.

use proto_types::SessionId;

use crate::apply::Context;
use crate::command::ExpireSessions;
use crate::leases::within;
use crate::limits::{EXPIRED_MAX, SESSION_RESULTS_MAX, SESSIONS_MAX};
use crate::outcome::Outcome;
use crate::query::is_idle;
use crate::refusal::{Field, Limit, Refusal};
use crate::state::State;
use crate::time;

/// Runs `execute` unless this request of the session was executed before.
pub(crate) fn once(
    state: &mut State,
    context: &mut Context<'_>,
    session: Option<(SessionId, u64)>,
    execute: impl FnOnce(&mut State, &mut Context<'_>) -> Outcome,
) -> Outcome {
    let Some((id, number)) = session else { return execute(state, context) };
    match recall(state, context, id, number) {
        Ok(Some(outcome)) => outcome,
        Ok(None) => {
            let outcome = execute(state, context);
            // It changed nothing, and the client sends it again under the same number until it
            // goes through: a kept result would answer "not yet" for ever.
            if outcome.refusal().is_some_and(|refusal| refusal.code().is_retryable()) {
                return outcome;
            }
            remember(state, context, id, number, &outcome);
            outcome
        }
        Err(refusal) => Outcome::Refused(refusal),
    }
}

/// The result of an earlier execution, or `None` if there was none for certain.
fn recall(
    state: &mut State,
    context: &Context<'_>,
    id: SessionId,
    number: u64,
) -> Result<Option<Outcome>, Refusal> {
    if number == 0 {
        return Err(Refusal::InvalidField { field: Field::RequestNumber });
    }
    let Some(session) = state.sessions.get_mut(&id) else {
        // Requests of a new session may overtake each other, but not by more than its window: a
        // larger number belongs to a session that has expired.
        if number > SESSION_RESULTS_MAX as u64 {
            return Err(Refusal::SessionExpired { session: id, number });
        }
        within(Limit::Sessions, state.sessions.len() + 1, SESSIONS_MAX)?;
        return Ok(None);
    };
    session.last_used = context.now;
    if number <= session.forgotten {
        return Err(Refusal::SessionExpired { session: id, number });
    }
    Ok(session.results.get(&number).cloned())
}

fn remember(
    state: &mut State,
    context: &Context<'_>,
    id: SessionId,
    number: u64,
    outcome: &Outcome,
) {
    let mut session = state.sessions.get(&id).cloned().unwrap_or_default();
    session.last_used = context.now;
    session.results.insert(number, outcome.clone());
    while session.results.len() > SESSION_RESULTS_MAX {
        let Some(oldest) = session.results.get_min().map(|(number, _)| *number) else { break };
        session.results.remove(&oldest);
        session.forgotten = oldest;
    }
    state.sessions.insert(id, session);
}

pub(crate) fn expire(
    state: &mut State,
    context: &mut Context<'_>,
    command: &ExpireSessions,
) -> Result<Outcome, Refusal> {
    within(Limit::Expired, command.sessions.len(), EXPIRED_MAX)?;
    time::require_flowing(state)?;
    let mut ended = 0;
    for id in &command.sessions {
        // Asked again here: the session may have been used after the leader looked.
        let due = state.sessions.get(id).is_some_and(|row| is_idle(row.last_used, context.now));
        if due && state.sessions.remove(id).is_some() {
            ended += 1;
        }
    }
    Ok(Outcome::Expired { ended, skipped: command.sessions.len() as u64 - ended })
}
