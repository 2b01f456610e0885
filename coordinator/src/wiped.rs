//! Who may start. A node that was removed from the fleet must not come back under its old id. And a
//! coordinator whose data directory is empty although the fleet has seen it before must not vote
//! again under its old id: with its log and vote it lost what it had promised, and two such nodes
//! together could overwrite the history of the third. Here it asks the others before it starts.

use std::time::Duration;

use proto::{ApiError, v1};
use proto_types::{Code, NodeId};

use crate::peers::Peers;

/// Who does not answer in this time is taken for not started yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two questions of a node that runs.
const ASK_EVERY: Duration = Duration::from_secs(30);

async fn ask(peers: &Peers) -> Vec<(NodeId, v1::GetNodeStatusResponse)> {
    let asked = peers.all_ever().map(|(node, mut peer)| async move {
        let call = peer.get_node_status(v1::GetNodeStatusRequest {});
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(Ok(reply)) => Some((node, reply.into_inner())),
            Ok(Err(_)) | Err(_) => None,
        }
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

/// Ends when another coordinator says that this node was removed. Asked from time to time: nobody
/// tells a removed node anything any more, and it still believes in the leader it last had.
pub(crate) async fn until_removed(this: NodeId, peers: &Peers) -> ApiError {
    let mut pause = PATIENCE;
    loop {
        tokio::time::sleep(pause).await;
        if ask(peers).await.iter().any(|(_, answer)| answer.removed_caller) {
            return removed(this);
        }
        pause = ASK_EVERY;
    }
}

/// Refuses to start on an empty directory when another coordinator says that this node was
/// removed, or knows it as a holder of bundles.
pub(crate) async fn refuse(this: NodeId, peers: &Peers) -> Result<(), ApiError> {
    let answers = ask(peers).await;
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
