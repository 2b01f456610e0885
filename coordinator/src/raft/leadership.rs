//! Proof that one leader led from the first to the last byte of something (invariant S1): its
//! confirmation by a quorum before, and an entry after that only it could have appended.

use coordinator_core::{Outcome, Request, codec};
use openraft::ReadPolicy;
use openraft::alias::CommittedLeaderIdOf;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use proto::ApiError;
use proto_types::{Code, LogIndex};
use storage::raft_types::{Command as CommandBytes, TypeConfig as C};

use super::node::{Published, RaftNode, internal, not_leader, stopped};

/// A leader in its term, confirmed by a quorum.
pub(crate) struct Leadership {
    id: CommittedLeaderIdOf<C>,
    pub(crate) term: u64,
    /// Up to where the log was known to be committed when it was confirmed.
    pub(crate) confirmed: LogIndex,
}

impl RaftNode {
    /// On the leader: itself, confirmed now, and the state at or after the confirmed index.
    pub(crate) async fn confirm(&self) -> Result<(Leadership, Published), ApiError> {
        // Before the confirmation: what is confirmed is this term, or nothing.
        let leader = self.raft.as_leader().map_err(|_| not_leader(self.this))?;
        let id = leader.to_committed_leader_id();
        let term = leader.leader_id().term;
        let confirmed = match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => LogIndex::new(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => {
                return Err(not_leader(self.this));
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                return Err(ApiError::new(
                    Code::Unavailable,
                    "the leader does not reach a majority; ask again",
                ));
            }
            Err(RaftError::Fatal(error)) => return Err(stopped(&error.to_string())),
        };
        let view = self.applied(confirmed).await?;
        Ok((Leadership { id, term, confirmed }, view))
    }

    /// Has an entry committed that only this leader in this term could have appended. Refused when
    /// somebody else leads, or led meanwhile.
    pub(crate) async fn seal(
        &self,
        leadership: &Leadership,
        request: Request,
    ) -> Result<(Outcome, LogIndex), ApiError> {
        let deposed = || {
            ApiError::new(
                Code::Unavailable,
                format!("node {} did not lead to the end; ask again", self.this),
            )
        };
        let (_, bytes) = self.entry(request).await?;
        let command = CommandBytes::new(bytes);
        let (responder, written) = ProgressResponder::<C, ClientWriteResult<C>>::complete_only();
        self.raft
            .write(command)
            .responder(responder)
            .with_leader(leadership.id)
            .await
            .map_err(|error| stopped(&error.to_string()))?;
        let patience = self.timing.leader_patience();
        let written = tokio::time::timeout(patience, written).await.map_err(|_| deposed())?;
        match written.map_err(|_| deposed())? {
            Ok(written) if written.log_id.committed_leader_id() == &leadership.id => {
                let outcome = codec::decode_outcome(written.data.bytes())
                    .map_err(|error| internal(&error.to_string()))?;
                Ok((outcome, LogIndex::new(written.log_id.index())))
            }
            Ok(_) | Err(ClientWriteError::ForwardToLeader(_)) | Err(_) => Err(deposed()),
        }
    }
}
