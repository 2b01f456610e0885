//! Telling the fleet a coordinator's new address, with that coordinator's own certificate: before it
//! is started there.

use std::time::Duration;

use bytes::Bytes;
use coordinator_core::{Command, MoveNode, Outcome, codec};
use proto::env::Env;
use proto::{ApiError, v1};
use proto_types::Code;

use crate::config::Config;
use crate::peers::Peers;
use crate::server::load_tls;
use crate::service::core_request;

/// Who does not answer in this time is passed over.
const CALL: Duration = Duration::from_secs(5);
/// An election may be under way.
const PATIENCE_MS: u64 = 30_000;
const PAUSE: Duration = Duration::from_millis(250);

/// Has the leader record the address at which this coordinator will be reached.
///
/// # Errors
/// When the fleet refuses, or no leader among the others was found in half a minute.
pub async fn announce(config: &Config, env: &Env, address: &str) -> Result<(), ApiError> {
    let tls = load_tls(config)?;
    let connect = Duration::from_millis(config.raft.election_timeout_min_ms);
    let peers = Peers::new(env, config.fleet.id, config.node_id, &config.members, &tls, connect)?;
    peers.say(config.upgrade.levels());
    let command = Command::MoveNode(MoveNode {
        node: config.node_id,
        name: config.name.clone(),
        address: address.to_owned(),
    });
    let request = Bytes::from(codec::encode_request(&core_request(None, command)));
    let started = env.clock.elapsed_millis();
    let mut last = ApiError::new(
        Code::InvalidConfig,
        "the config names no other coordinator that could be told: list one in `members`",
    );
    loop {
        for (_, mut peer) in peers.all() {
            let call =
                peer.propose(v1::ProposeRequest { request: request.clone(), sender: Bytes::new() });
            let error = match tokio::time::timeout(CALL, call).await {
                Ok(Ok(reply)) => return accepted(&reply.into_inner().outcome),
                Ok(Err(status)) => ApiError::from(status),
                Err(_) => ApiError::new(Code::DeadlineExceeded, "a coordinator did not answer"),
            };
            if !error.is_retryable() {
                return Err(error);
            }
            last = error;
        }
        if env.clock.elapsed_millis().saturating_sub(started) >= PATIENCE_MS {
            return Err(ApiError::new(
                Code::Unavailable,
                format!(
                    "no leader among the other coordinators took the new address ({last}): stop this \
                     coordinator first, so that another leads, and see that a majority runs"
                ),
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn accepted(outcome: &[u8]) -> Result<(), ApiError> {
    match codec::decode_outcome(outcome) {
        Ok(Outcome::NodeMoved { .. }) => Ok(()),
        Ok(Outcome::Refused(refusal)) => Err(ApiError::new(refusal.code(), refusal.to_string())),
        Ok(outcome) => Err(ApiError::new(Code::Internal, format!("answered {outcome:?}"))),
        Err(error) => Err(ApiError::new(Code::UnsupportedVersion, error.to_string())),
    }
}
