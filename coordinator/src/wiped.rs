//! A coordinator whose data directory is empty although the fleet has seen it before must not vote
//! again under its old id: with its log and vote it lost what it had promised, and two such nodes
//! together could overwrite the history of the third. Here it asks the others before it starts.

use std::time::Duration;

use proto::{ApiError, v1};
use proto_types::{Code, NodeId};

use crate::peers::Peers;

/// Who does not answer in this time is taken for not started yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// Refuses to go on when another coordinator knows this node as a holder of bundles.
pub(crate) async fn refuse(this: NodeId, peers: &Peers) -> Result<(), ApiError> {
    let asked = peers.all().map(|(node, mut peer)| async move {
        let call = peer.get_node_status(v1::GetNodeStatusRequest {});
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(Ok(reply)) => reply.into_inner().knows_caller.then_some(node),
            Ok(Err(_)) | Err(_) => None,
        }
    });
    let known = futures::future::join_all(asked).await.into_iter().flatten().next();
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
