//! What only the leader does by itself: creating the fleet's state in an empty log, and ending
//! leases and sessions whose time is over. Every end is a log entry, decided again by `apply`.

use std::time::Duration;

use coordinator_core::{
    Command, ExpireLeases, ExpireSessions, InitFleet, Outcome, PerformAct, RecoveryPublicKey,
    limits,
};
use proto::ApiError;
use proto_types::Code;

use crate::absent::AbsentWatch;
use crate::authority::Authority;
use crate::certificates;
use crate::config::Config;
use crate::key_care;
use crate::membership;
use crate::raft::RaftNode;
use crate::service::core_request;
use crate::telemetry;

/// Between two looks at the leases: an expired one may live this much longer, which harms nobody.
const ROUND: Duration = Duration::from_secs(2);

/// Leads, as often as this node is the leader, until dropped.
pub(crate) async fn lead(config: &Config, authority: Option<&Authority>, raft: &RaftNode) {
    let mut leader = None;
    let mut absent = AbsentWatch::default();
    loop {
        let status = raft.status();
        if status.leader != leader {
            leader = status.leader;
            telemetry::leader_changed(leader, status.term, status.is_leader);
        }
        telemetry::raft_status(&status, raft.local().state.level());
        if status.is_leader
            && let Err(error) = round(config, authority, raft, &mut absent).await
        {
            // What time does not heal, somebody must hear of; and not ten times a second.
            if error.is_retryable() {
                tracing::debug!(%error, "a leader's round is not complete; the next one follows");
            } else {
                tracing::warn!(%error, "a leader's round failed; the next one follows");
                tokio::time::sleep(ROUND).await;
            }
        }
        let state = raft.local().state;
        let waited_for = state.fleet().is_none()
            || authority.is_some_and(|authority| authority.is_owed(&state))
            || membership::is_owed(raft, &state);
        tokio::time::sleep(if waited_for { ROUND / 20 } else { ROUND }).await;
    }
}

async fn round(
    config: &Config,
    authority: Option<&Authority>,
    raft: &RaftNode,
    absent: &mut AbsentWatch,
) -> Result<(), ApiError> {
    let state = raft.local().state;
    if state.fleet().is_none() {
        // So that the audit log begins with it.
        if raft.rises_to_audit_log().await {
            return Ok(());
        }
        let fleet = &config.fleet;
        let command = Command::InitFleet(InitFleet {
            fleet: fleet.id,
            name: fleet.name.clone(),
            recovery: RecoveryPublicKey {
                hpke: fleet.recovery_hpke,
                signing: fleet.recovery_signing,
            },
        });
        let (outcome, _) = raft.propose_here(core_request(None, command)).await?;
        if let Outcome::Refused(refusal) = outcome {
            return Err(ApiError::new(Code::InvalidConfig, refusal.to_string()));
        }
        return Ok(());
    }
    membership::drive(config.node_id, raft).await?;
    let now = raft.log_time_now().await;
    if let Some(authority) = authority {
        authority.look_after(raft, &state, now).await?;
    }
    for command in certificates::owed(&state, now) {
        raft.propose_here(core_request(None, command)).await?;
    }
    if state.time_is_frozen() {
        return Ok(());
    }
    for act in state.acts_due(now) {
        let command = Command::PerformAct(PerformAct { act });
        raft.propose_here(core_request(None, command)).await?;
    }
    let leases = state.leases_due(now);
    if !leases.is_empty() {
        let command = Command::ExpireLeases(ExpireLeases { leases });
        raft.propose_here(core_request(None, command)).await?;
    }
    let mut sessions = state.sessions_due(now);
    sessions.truncate(limits::EXPIRED_MAX);
    if !sessions.is_empty() {
        let command = Command::ExpireSessions(ExpireSessions { sessions });
        raft.propose_here(core_request(None, command)).await?;
    }
    if let Some(command) = key_care::due(&state, now) {
        raft.propose_here(core_request(None, command)).await?;
    }
    if let Some(command) = absent.look(&state) {
        raft.propose_here(core_request(None, command)).await?;
    }
    Ok(())
}
