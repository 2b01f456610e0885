//! Certificates that near their end: this coordinator's own, which it renews by itself, and those of
//! agents and operators, of which the leader tells people when they are not renewed.

use std::time::Duration;

use coordinator_core::{
    ClearFinding, Command, FindingKey, Outcome, PartyId, PartyRow, RaiseFinding, RecordCertificate,
    Scope, Severity, State,
};
use proto::ApiError;
use proto::authority::Term;
use proto::env::Env;
use proto::renewal;
use proto::tls::TlsMaterial;
use proto_types::{Code, LogTime};

use crate::authority::Authority;
use crate::config::Config;
use crate::raft::RaftNode;
use crate::service::core_request;

/// The finding that a certificate was not renewed when it should have been.
const FINDING: &str = "certificate-expires";
/// How many findings change in one round of the leader.
const ROUND_MAX: usize = 32;
const LOOK_MAX: Duration = Duration::from_secs(600);

/// Keeps this coordinator's certificate renewed, and tells people where that fails.
pub(crate) async fn keep_own(
    config: &Config,
    env: &Env,
    tls: &TlsMaterial,
    authority: Option<&Authority>,
    raft: &RaftNode,
) {
    let renewing = async {
        let Some(authority) = authority else { return std::future::pending().await };
        let ask =
            async |request: Vec<u8>| certify_own(config, env, tls, authority, raft, request).await;
        renewal::keep(env, &config.tls, tls, ask).await;
    };
    let telling = async {
        loop {
            let facts = tls.facts();
            let look = Duration::from_millis(facts.ends.millis_since(facts.made) / 12);
            tokio::time::sleep(look.clamp(Duration::from_secs(1), LOOK_MAX)).await;
            let party = PartyId::Coordinator(config.node_id);
            let state = raft.local().state;
            let (now, facts) = (env.clock.now(), tls.facts());
            let Some(command) = finding(&state, &party, facts.made, facts.ends, now) else {
                continue;
            };
            if let Err(error) = raft.propose(core_request(None, command)).await {
                tracing::debug!(%error, "the end of the certificate is not told yet");
            }
        }
    };
    futures::join!(renewing, telling);
}

async fn certify_own(
    config: &Config,
    env: &Env,
    tls: &TlsMaterial,
    authority: &Authority,
    raft: &RaftNode,
    request: Vec<u8>,
) -> Result<String, ApiError> {
    let now = raft.log_time_now().await;
    let life_ms = config.certificates.life_ms(&tls.identity().party);
    let generation = tls.facts().generation;
    let command = Command::RecordCertificate(RecordCertificate {
        party: PartyId::Coordinator(config.node_id),
        generation,
        ends: now.plus_millis(life_ms).min(authority.intermediate.ends()),
    });
    match raft.propose(core_request(None, command)).await?.0 {
        Outcome::CertificateRecorded { .. } => {}
        Outcome::Refused(refusal) => {
            return Err(ApiError::new(refusal.code(), refusal.to_string()));
        }
        outcome => return Err(ApiError::new(Code::Internal, format!("{outcome:?}"))),
    }
    let term = Term { generation, life_ms };
    let intermediate = &authority.intermediate;
    let certified =
        intermediate.certify_request(tls.identity(), &request, &term, now, &*env.random)?;
    Ok(certified.chain)
}

/// What the leader owes people: findings of agents' and operators' certificates, raised and cleared.
pub(crate) fn owed(state: &State, now: LogTime) -> Vec<Command> {
    let told = state.parties().filter(|(party, _)| !matches!(party, PartyId::Coordinator(_)));
    let owed = told.filter_map(|(party, row)| {
        let PartyRow { since, ends, .. } = *row;
        finding(state, party, since, ends, now)
    });
    owed.take(ROUND_MAX).collect()
}

/// Raises or clears the finding of one party, where it is not as it should be.
fn finding(
    state: &State,
    party: &PartyId,
    made: LogTime,
    ends: LogTime,
    now: LogTime,
) -> Option<Command> {
    let (scope, subject) = match party {
        PartyId::Coordinator(node) => (Scope::Node(*node), String::new()),
        PartyId::Agent(cluster) => (Scope::Cluster(*cluster), String::new()),
        PartyId::Operator(name) => (Scope::Fleet, name.clone()),
    };
    let key = FindingKey { scope, kind: FINDING.to_owned(), subject };
    let standing = state.findings().find(|(found, _)| **found == key);
    let standing = standing.map(|(_, finding)| finding.severity);
    // A revoked party has none that ends.
    let nears = ends > LogTime::ZERO && now >= made.plus_millis(ends.millis_since(made) / 6 * 5);
    if !nears {
        return standing.map(|_| Command::ClearFinding(ClearFinding { key }));
    }
    let is_over = now >= ends;
    let severity = match party {
        PartyId::Operator(_) => Severity::Info,
        PartyId::Agent(_) | PartyId::Coordinator(_) if is_over => Severity::Critical,
        PartyId::Agent(_) | PartyId::Coordinator(_) => Severity::Warning,
    };
    if standing == Some(severity) {
        return None;
    }
    let who = match party {
        PartyId::Coordinator(_) => "this coordinator's certificate",
        PartyId::Agent(_) => "the certificate of this cluster's agent",
        PartyId::Operator(_) => "this operator's certificate",
    };
    let message = if is_over {
        format!("{who} has ended: nobody lets it in any more")
    } else {
        format!("{who} should have renewed itself by now, and has not")
    };
    let remedy = match party {
        PartyId::Coordinator(_) => {
            "look for certificate_renewed and for warnings in its log; after its end, \
             `strongroom fleet renew` on its host, with the recovery key"
        }
        PartyId::Agent(_) => {
            "start the agent and look into its log; after its end, `strongroom cluster enroll NAME \
             --again`"
        }
        PartyId::Operator(_) => {
            "any verb of that operator renews it; after its end, `strongroom operator add NAME \
             --again`, or `operator revoke NAME` if nobody needs it"
        }
    };
    Some(Command::RaiseFinding(RaiseFinding { key, severity, message, remedy: remedy.to_owned() }))
}
