//! Reads every bundle again and repairs what is not good: on demand at full speed, by itself
//! each week at a bounded rate.

use std::time::Duration;

use bytes::Bytes;
use coordinator_core::BundleRow;
use proto::v1;
use proto::{ApiError, env::Env};
use proto_types::{BundleId, LogIndex};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Keeper;
use crate::config::ScrubConfig;
use crate::service::ReceiverStreamOf;
use crate::telemetry;

/// Progress messages that a slow reader may lag behind.
const MESSAGES_IN_FLIGHT: usize = 64;
/// Pause between two looks for bundles that are due.
const ROUND: Duration = Duration::from_secs(60);

/// Bundles looked at in one round.
const BATCH: usize = 256;

/// What one bundle turned out to be.
enum Found {
    Good,
    Damaged { repaired: bool },
    Missing { repaired: bool },
}

impl Found {
    const fn is_lost(&self) -> bool {
        matches!(self, Self::Damaged { repaired: false } | Self::Missing { repaired: false })
    }
}

/// Where a bundle is to be read.
struct Places {
    disk: bool,
    /// The generation of its object in the bucket.
    object: Option<LogIndex>,
}

impl Keeper {
    /// Scrubs everything that the state says this node should have, and everything it has.
    pub(crate) fn scrub_progress(self) -> ReceiverStreamOf<v1::PeerScrubProgress> {
        let (sender, receiver) = mpsc::channel(MESSAGES_IN_FLIGHT);
        let spawn = self.inner.env.spawn.clone();
        spawn.task(
            "scrub",
            Box::pin(async move {
                if let Err(error) = self.scrub_all(&sender).await {
                    // A reader that has gone hears nothing.
                    let _ = sender.send(Err(error.into())).await;
                }
            }),
        );
        ReceiverStream::new(receiver)
    }

    async fn scrub_all(
        &self,
        progress: &mpsc::Sender<Result<v1::PeerScrubProgress, tonic::Status>>,
    ) -> Result<(), ApiError> {
        let bundles = self.to_scrub().await?;
        let mut report =
            v1::PeerScrubProgress { total: bundles.len() as u64, ..Default::default() };
        for (bundle, places) in bundles {
            let mut found = Found::Good;
            if places.disk {
                found = self.scrub_one(bundle).await?;
            }
            if let Some(generation) = places.object
                && !self.scrub_object(bundle, generation).await?
            {
                // A copy on a disk is what it is made anew from.
                let repaired = places.disk && !found.is_lost();
                found = Found::Damaged { repaired };
            }
            if found.is_lost() {
                report.unrepaired_ids.push(Bytes::copy_from_slice(bundle.as_bytes()));
            }
            match found {
                Found::Good => {}
                Found::Damaged { repaired } => {
                    report.damaged += 1;
                    report.repaired += u64::from(repaired);
                }
                Found::Missing { repaired } => {
                    report.missing += 1;
                    report.repaired += u64::from(repaired);
                }
            }
            report.checked += 1;
            if report.checked.is_multiple_of(16) && progress.send(Ok(report.clone())).await.is_err()
            {
                // Nobody listens any more; what was begun is finished all the same.
                tracing::debug!("the scrub goes on unwatched");
            }
        }
        report.done = true;
        let _ = progress.send(Ok(report)).await;
        Ok(())
    }

    /// All bundles that points need, and where this node should find each.
    async fn to_scrub(&self) -> Result<Vec<(BundleId, Places)>, ApiError> {
        let state = self.inner.raft.read().await?.state;
        let places = |row: &BundleRow| Places {
            disk: state.wants_copies(row) || row.holders.contains(&self.inner.this),
            object: row.object,
        };
        Ok(state.bundles().map(|(id, row)| (*id, places(row))).collect())
    }

    async fn scrub_one(&self, bundle: BundleId) -> Result<Found, ApiError> {
        let found = if !self.holds(bundle).await? {
            let repaired = self.repair(bundle).await.is_ok();
            telemetry::scrubbed(bundle, "missing");
            Found::Missing { repaired }
        } else if self.verify(bundle).await? {
            telemetry::scrubbed(bundle, "good");
            let now = self.inner.env.clock.now();
            self.blocking("note-scrub", move |inner| {
                inner.noted(inner.ledger.mark_scrubbed(&bundle, now))
            })
            .await?;
            Found::Good
        } else {
            telemetry::scrubbed(bundle, "damaged");
            Found::Damaged { repaired: self.repair(bundle).await.is_ok() }
        };
        match found {
            Found::Good => {}
            Found::Damaged { repaired } | Found::Missing { repaired } => {
                self.report_damage(bundle, !repaired).await;
            }
        }
        Ok(found)
    }

    /// Reads what is due, slowly, for ever.
    pub(crate) async fn scrub_by_itself(&self, env: &Env, config: ScrubConfig) {
        let interval_ms = config.interval_hours * 3_600_000;
        loop {
            tokio::time::sleep(ROUND).await;
            let now = env.clock.now();
            let due = self
                .blocking("find-due", move |inner| inner.noted(inner.ledger.due_for_scrub(BATCH)))
                .await
                .unwrap_or_default();
            for (bundle, row) in due {
                if row.last_scrubbed.is_some_and(|at| now.millis_since(at) < interval_ms) {
                    continue;
                }
                if let Err(error) = self.scrub_one(bundle).await {
                    tracing::warn!(%bundle, %error, "a bundle could not be scrubbed");
                }
                let pause =
                    Duration::from_millis(row.bytes * 1000 / config.bytes_per_second.max(1));
                tokio::time::sleep(pause).await;
            }
        }
    }
}
