//! Where the fleet keeps its bundles: what admins say, and how far the move is.

use coordinator_core::{BundleHome, Command, Outcome, SetBundleHome, SnapshotRow, State};
use proto::{ApiError, v1};
use proto_types::Code;

use super::{Shared, convert};

impl Shared {
    pub(super) async fn set_bundle_home(
        &self,
        message: v1::SetBundleHomeRequest,
    ) -> Result<v1::SetBundleHomeResponse, ApiError> {
        let to = match message.home() {
            v1::BundleHome::Disks => BundleHome::Disks,
            v1::BundleHome::Bucket => BundleHome::Bucket,
            v1::BundleHome::Unspecified => {
                return Err(convert::invalid("home: neither disks nor bucket is given"));
            }
        };
        let view = self.view(false).await?;
        if to == BundleHome::Bucket && view.state.home().to != BundleHome::Bucket {
            self.require_bucket_everywhere().await?;
            self.keeper.claim_bucket(self.config.fleet.id).await?;
        }
        let command = Command::SetBundleHome(SetBundleHome::Begin { to });
        match self.write(message.write_id.as_ref(), command).await? {
            Outcome::BundleHomeSet { .. } => {}
            outcome => return Err(super::unexpected(&outcome)),
        }
        self.keeper.wake();
        let status = self.bundle_home_of(&self.raft.local().state);
        Ok(v1::SetBundleHomeResponse { status: Some(status) })
    }

    /// Every coordinator that answers must have this node's bucket: one that has none could neither
    /// take bundles nor give them.
    async fn require_bucket_everywhere(&self) -> Result<(), ApiError> {
        let refused = |text: String| ApiError::new(Code::InvalidConfig, text);
        let ours = self.keeper.bucket_url().ok_or_else(|| {
            refused(format!(
                "node {} has no [bucket] in its config: give every coordinator the same one, start \
                 them again one by one, then say this again",
                self.config.node_id
            ))
        })?;
        let view = self.raft.local();
        for node in view.members.keys() {
            let Some(status) = self.status_of(*node).await else { continue };
            if status.bucket != ours {
                let theirs = match &*status.bucket {
                    "" => "no [bucket] in its config".to_owned(),
                    url => format!("the bucket {url}"),
                };
                return Err(refused(format!(
                    "node {node} has {theirs}, node {} has {ours}: give every coordinator the same",
                    self.config.node_id
                )));
            }
        }
        Ok(())
    }

    pub(super) async fn bundle_home(
        &self,
        stale: bool,
    ) -> Result<v1::GetBundleHomeResponse, ApiError> {
        let view = self.view(stale).await?;
        let status = self.bundle_home_of(&view.state);
        Ok(v1::GetBundleHomeResponse {
            read: Some(self.read_info(&view, stale)),
            status: Some(status),
        })
    }

    fn bundle_home_of(&self, state: &State) -> v1::BundleHomeStatus {
        let home = state.home();
        let voters = self.raft.local().durable_on();
        let (mut bundles, mut bytes, mut in_bucket, mut bucket_bytes) = (0, 0, 0, 0);
        for (_, row) in state.bundles() {
            bundles += 1;
            bytes += row.facts.bytes;
            if row.object.is_some() {
                in_bucket += 1;
                bucket_bytes += row.facts.bytes;
            }
        }
        v1::BundleHomeStatus {
            home: match home.to {
                BundleHome::Disks => v1::BundleHome::Disks,
                BundleHome::Bucket => v1::BundleHome::Bucket,
            }
            .into(),
            settled: home.settled,
            began_index: home.began.get(),
            bundles,
            bytes,
            in_bucket,
            bytes_in_bucket: bucket_bytes,
            on_disks: bundles - state.not_on_disks(&voters),
            objects_to_delete: state.objects_to_delete().count() as u64,
            bucket: self.keeper.bucket_url().unwrap_or_default(),
        }
    }
}

/// How a scheduled snapshot ended.
pub(super) fn scheduled_snapshot(row: &SnapshotRow) -> v1::ScheduledSnapshot {
    v1::ScheduledSnapshot {
        due_ms: row.due.as_millis(),
        ended_ms: row.ended.as_millis(),
        target: row.target.clone(),
        name: row.name.clone(),
        log_index: row.index.get(),
        term: row.term,
        bytes: row.bytes,
        took_ms: row.took_ms,
        sha256: row.sha256.map(|digest| convert::bytes_of(&digest)).unwrap_or_default(),
        good: row.is_good(),
        problem: row.problem.clone(),
    }
}
