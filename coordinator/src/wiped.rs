//! Who may start. A node that was removed from the fleet must not come back under its old id. And a
//! coordinator whose data directory is empty although the fleet has seen it before must not vote
//! again under its old id: with its log and vote it lost what it had promised, and two such nodes
//! together could overwrite the history of the third. Here it asks the others before it starts.

use std::time::Duration;

use proto::{ApiError, v1};
use proto_types::{Code, NodeId};

use crate::peers::Peers;
use crate::raft::RaftNode;
use crate::roll_call::levels::Levels;

/// Who does not answer in this time is taken for not started yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two questions of a node that runs.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// Asks every other coordinator that this node knows of; those that answer.
pub(crate) async fn ask(peers: &Peers) -> Vec<(NodeId, v1::GetNodeStatusResponse)> {
    let asked = peers.all_ever().map(|(node, mut peer)| async move {
        let call = peer.get_node_status(v1::GetNodeStatusRequest::default());
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(Ok(reply)) => Some((node, reply.into_inner())),
            Ok(Err(_)) | Err(_) => None,
        }
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

/// Ends when another coordinator says that this node was removed, or that the fleet is above what
/// this program can do. Asked from time to time: nobody tells a removed node anything any more, and
/// it still believes in the leader it last had.
///
/// The first time before this node stands for any election: coordinators that were lost, and come
/// back after another was recovered by force, must not first elect a leader of the old fleet.
pub(crate) async fn until_out(
    this: NodeId,
    levels: Levels,
    peers: &Peers,
    raft: &RaftNode,
) -> ApiError {
    let mut pauses = [PATIENCE].into_iter().chain(std::iter::repeat(ASK_EVERY));
    loop {
        let answers = ask(peers).await;
        let recoveries = raft.local().state.recovery_count();
        if answers.iter().any(|(_, answer)| is_out(answer, recoveries)) {
            return removed(this);
        }
        if let Err(error) = check_levels(levels, &answers) {
            tracing::error!(event = "too_old", %error, "this coordinator ends");
            return error;
        }
        raft.allow_elections();
        // Sooner when somebody refuses a message of ours, but not for every one of them.
        tokio::time::sleep(PATIENCE / 4).await;
        if let Some(pause) = pauses.next() {
            let _ = tokio::time::timeout(pause, peers.refused()).await;
        }
    }
}

/// Whether an answer puts this node out. One from before a forced recovery that this node went
/// through does not count: it is the one who answers that is out.
const fn is_out(answer: &v1::GetNodeStatusResponse, recoveries: u64) -> bool {
    answer.removed_caller && answer.recoveries >= recoveries
}

fn check_levels(
    levels: Levels,
    answers: &[(NodeId, v1::GetNodeStatusResponse)],
) -> Result<(), ApiError> {
    for (node, answer) in answers {
        let theirs = Levels::told(answer.level_min, answer.level_max);
        levels.check_fleet(Levels::told(1, answer.level_active).max)?;
        if theirs.min > levels.max {
            levels.check_peer(*node, theirs, levels.min)?;
        }
    }
    Ok(())
}

/// Refuses to start on an empty directory when the fleet is above what this program can do, or
/// another coordinator says that this node was
/// removed, or knows it as a holder of bundles.
pub(crate) async fn refuse(this: NodeId, levels: Levels, peers: &Peers) -> Result<(), ApiError> {
    let answers = ask(peers).await;
    check_levels(levels, &answers)?;
    if answers.iter().any(|(_, answer)| answer.removed_caller) {
        return Err(removed(this));
    }
    let known = answers.iter().find(|(_, answer)| answer.knows_caller).map(|(node, _)| *node);
    match known {
        None => Ok(()),
        Some(node) => Err(ApiError::new(
            Code::Damaged,
            format!(
                "the data directory of node {this} is empty, but node {node} knows it as a holder \
                 of bundles: its disk was lost or its data_dir is wrong. Correct data_dir; if the \
                 data is gone, do not start it under its old id: rejoin as a new node"
            ),
        )),
    }
}

/// Why a removed node ends.
pub(crate) fn removed(this: NodeId) -> ApiError {
    ApiError::new(
        Code::PermissionDenied,
        format!(
            "node {this} was removed from the fleet and its id is not used again: to take it back, \
             move its data_dir away, add it with `strongroom node add`, and start it under its \
             new id"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_believes_only_who_knows_as_many_recoveries_as_itself() {
        for (removed_caller, theirs, ours, expected) in [
            (false, 0, 0, false),
            (true, 0, 0, true),
            (true, 1, 0, true),
            (true, 0, 1, false),
            (true, 1, 1, true),
            (false, 2, 1, false),
        ] {
            let answer = v1::GetNodeStatusResponse {
                removed_caller,
                recoveries: theirs,
                ..Default::default()
            };
            assert_eq!(is_out(&answer, ours), expected, "{removed_caller} {theirs} {ours}");
        }
    }
}
