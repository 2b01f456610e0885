//! Findings: what a person should know, raised and cleared by commands, listed by `status`.

use std::sync::Arc;

use crate::apply::Context;
use crate::command::{ClearFinding, RaiseFinding};
use crate::leases::within;
use crate::limits::{
    FINDING_KIND_BYTES_MAX, FINDING_SUBJECT_BYTES_MAX, FINDING_TEXT_BYTES_MAX,
    FINDINGS_PER_SCOPE_MAX,
};
use crate::outcome::{Event, Outcome};
use crate::refusal::{Field, Limit, Refusal};
use crate::rows::{Finding, FindingKey, Scope};
use crate::state::State;
use crate::{clusters, fleet};

pub(crate) fn raise(
    state: &mut State,
    context: &mut Context<'_>,
    command: &RaiseFinding,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    check_key(&command.key)?;
    if let Scope::Cluster(cluster) = &command.key.scope {
        clusters::require(state, cluster)?;
    }
    for text in [&command.message, &command.remedy] {
        if !(1..=FINDING_TEXT_BYTES_MAX).contains(&text.len()) {
            return Err(Refusal::InvalidField { field: Field::FindingText });
        }
    }
    let since = state.findings.get(&command.key).map(|finding| finding.since);
    let new = since.is_none();
    if new {
        let have = state.findings_of(command.key.scope).count() + 1;
        within(Limit::Findings, have, FINDINGS_PER_SCOPE_MAX)?;
        context.events.push(Event::FindingRaised { key: command.key.clone() });
    }
    let finding = Finding {
        severity: command.severity,
        since: since.unwrap_or(context.now),
        last_seen: context.now,
        message: command.message.clone(),
        remedy: command.remedy.clone(),
    };
    state.findings.insert(command.key.clone(), Arc::new(finding));
    Ok(Outcome::FindingRaised { new })
}

pub(crate) fn clear(
    state: &mut State,
    context: &mut Context<'_>,
    command: &ClearFinding,
) -> Result<Outcome, Refusal> {
    let existed = state.findings.remove(&command.key).is_some();
    if existed {
        context.events.push(Event::FindingCleared { key: command.key.clone() });
    }
    Ok(Outcome::FindingCleared { existed })
}

fn check_key(key: &FindingKey) -> Result<(), Refusal> {
    if !is_word(&key.kind, FINDING_KIND_BYTES_MAX) {
        return Err(Refusal::InvalidField { field: Field::FindingKind });
    }
    if key.subject.len() > FINDING_SUBJECT_BYTES_MAX || key.subject.chars().any(char::is_control) {
        return Err(Refusal::InvalidField { field: Field::FindingSubject });
    }
    Ok(())
}

/// Lower-case letters, digits and hyphens, which are safe as metric labels and in URLs.
pub(crate) fn is_word(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
