//! Who may start. A node that was removed from the fleet must not come back under its old id. And a
//! coordinator whose data directory is empty although the fleet has seen it before must not vote
//! again under its old id: with its log and vote it lost what it had promised, and two such nodes
//! together could overwrite the history of the third. Here it asks the others before it starts.

use std::time::Duration;

use proto::{ApiError, v1};
use proto_types::{Code, NodeId};

use crate::peers::Peers;
use crate::roll_call::levels::Levels;

/// Who does not answer in this time is taken for not started yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two questions of a node that runs.
const ASK_EVERY: Duration = Duration::from_secs(30);

async fn ask(peers: &Peers) -> Vec<(NodeId, v1::GetNodeStatusResponse)> {
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
pub(crate) async fn until_out(this: NodeId, levels: Levels, peers: &Peers) -> ApiError {
    let mut pause = PATIENCE;
    loop {
        tokio::time::sleep(pause).await;
        let answers = ask(peers).await;
        if answers.iter().any(|(_, answer)| answer.removed_caller) {
            return removed(this);
        }
        if let Err(error) = check_levels(levels, &answers) {
            tracing::error!(event = "too_old", %error, "this coordinator ends");
            return error;
        }
        pause = ASK_EVERY;
    }
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

/// Refuses to start on an empty directory when the fleet is above what this program can do, or another coordinator says that this node was
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
