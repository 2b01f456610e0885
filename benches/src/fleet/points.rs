//! Points by the thousand: signed statements that nothing changed, committed through the API
//! without an agent's own work around them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::home::Home;
use anyhow::{Context, Result};
use bytes::Bytes;
use proto::fleet_client::FleetClient;
use proto::v1;
use proto::v1::backup_client::BackupClient;
use proto_types::env::{Clock, SystemClock};
use proto_types::{BundleId, ClusterId, Epoch, FleetId, PointStatement, Sequence};
use tokio::task::JoinSet;

use super::CROWD;
use super::agents::{self, Opened};
use crate::interrupt;
use crate::strongroom::Fleet;

/// One cluster's way to say that nothing changed.
pub(super) struct Stating {
    home: Home,
    client: Arc<FleetClient>,
    statement: PointStatement,
    head: v1::Point,
}

impl Stating {
    /// Takes the session of an agent that has a point and does not run.
    pub(super) async fn start(fleet: &Fleet, number: usize, first: Option<&str>) -> Result<Self> {
        let Opened { home, client, .. } = agents::open(fleet, number, first)?;
        let request = v1::OpenAgentSessionRequest {
            write_id: Some(client.next_write_id()),
            instance_id: home.instance().as_bytes().to_vec().into(),
        };
        let session = client
            .call("opening the session", |channel| {
                let request = request.clone();
                async move { BackupClient::new(channel).open_agent_session(request).await }
            })
            .await?;
        let cluster = session.cluster.context("a session without a cluster")?;
        let head = session.head.context("the cluster has no point yet")?;
        let statement = PointStatement {
            fleet: FleetId::from_slice(&session.fleet_id)?,
            cluster: ClusterId::from_slice(&cluster.cluster_id)?,
            lineage: cluster.lineage,
            sequence: Sequence::new(head.sequence),
            epoch: Epoch::new(session.epoch),
            taken: SystemClock.now(),
            manifest: BundleId::from_slice(&head.manifest_id)?,
            key_bundle: BundleId::from_slice(&head.key_bundle_id)?,
        };
        Ok(Self { home, client, statement, head })
    }

    /// Commits one point.
    pub(super) async fn state(&mut self) -> Result<()> {
        self.statement.sequence = self.statement.sequence.next();
        self.statement.taken = SystemClock.now();
        let signature = self.home.signing_key().sign_statement(&self.statement);
        let unchanged = v1::UnchangedPoint { signature: Bytes::copy_from_slice(&signature) };
        let request = v1::CommitPointRequest {
            write_id: Some(self.client.next_write_id()),
            epoch: self.statement.epoch.get(),
            lease_id: Bytes::new(),
            sequence: self.statement.sequence.get(),
            parent_manifest_id: self.head.manifest_id.clone(),
            taken_ms: self.statement.taken.as_millis(),
            content: Some(v1::commit_point_request::Content::Unchanged(unchanged)),
            proofs: self.head.proofs.clone(),
            items: self.head.items,
            logical_bytes: self.head.logical_bytes,
        };
        self.client
            .call("committing a point", |channel| {
                let request = request.clone();
                async move { BackupClient::new(channel).commit_point(request).await }
            })
            .await?;
        Ok(())
    }

    /// Commits one after the other until `until`; the longest time between two acknowledgements.
    pub(super) async fn longest_gap(&mut self, until: &dyn Fn() -> bool) -> Result<Duration> {
        let mut longest = Duration::ZERO;
        let mut last = Instant::now();
        loop {
            self.state().await?;
            let now = Instant::now();
            longest = longest.max(now - last);
            last = now;
            if until() {
                return Ok(longest);
            }
        }
    }
}

/// Commits points of all clusters until there are so many in the fleet.
pub(super) async fn load(fleet: &Fleet, points: usize) -> Result<()> {
    let share = (points / CROWD + 1) as u64;
    let mut tasks = JoinSet::new();
    for number in 0..CROWD {
        let mut cluster = Stating::start(fleet, number, None).await?;
        tasks.spawn(async move {
            while cluster.statement.sequence.get() < share {
                cluster.state().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        interrupt::check()?;
        task.context("loading panicked")??;
    }
    Ok(())
}
