//! Reads every object of the bucket again, as slowly as the disks: whoever leads does it.

use std::time::Duration;

use proto::ApiError;
use proto_types::{BundleId, LogIndex};

use super::{Keeper, lock};
use crate::config::ScrubConfig;
use crate::telemetry;

/// Between two looks whether this node leads and a pass is due.
const ROUND: Duration = Duration::from_secs(60);
/// Objects read before the list is looked at anew.
const BATCH: usize = 64;

impl Keeper {
    /// Reads the objects in the order of their names, round and round, for ever. Where a new leader
    /// begins is drawn, so that often changing ones leave no part out.
    pub(crate) async fn scrub_bucket(&self, config: ScrubConfig) {
        let mut next = BundleId::ZERO;
        let mut pass_began: Option<u64> = None;
        loop {
            tokio::time::sleep(ROUND).await;
            if self.inner.bucket.is_none() || !self.inner.raft.status().is_leader {
                pass_began = None;
                continue;
            }
            let now = self.inner.env.clock.elapsed_millis();
            let due = match pass_began {
                Some(began) => now.saturating_sub(began) >= config.interval_hours * 3_600_000,
                None => {
                    let mut drawn = [0; 32];
                    self.inner.env.random.fill(&mut drawn);
                    next = BundleId::from_bytes(drawn);
                    true
                }
            };
            if !due {
                continue;
            }
            pass_began = Some(now);
            let end = next;
            let mut wrapped = false;
            while self.inner.raft.status().is_leader {
                let batch = self.objects_from(next, BATCH);
                let Some((last, ..)) = batch.last().copied() else {
                    if wrapped || end == BundleId::ZERO {
                        break;
                    }
                    (next, wrapped) = (BundleId::ZERO, true);
                    continue;
                };
                for (bundle, generation, bytes) in batch {
                    if wrapped && bundle >= end {
                        break;
                    }
                    if let Err(error) = self.scrub_object(bundle, generation).await {
                        tracing::warn!(%bundle, %error, "an object could not be scrubbed");
                    }
                    let pause = bytes * 1000 / config.bytes_per_second.max(1);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                if wrapped && last >= end {
                    break;
                }
                let Some(following) = successor(last) else { break };
                next = following;
            }
        }
    }

    fn objects_from(&self, first: BundleId, count: usize) -> Vec<(BundleId, LogIndex, u64)> {
        let state = self.inner.raft.local().state;
        let objects = state.bundles().filter(|(id, _)| **id >= first);
        let objects = objects.filter_map(|(id, row)| Some((*id, row.object?, row.facts.bytes)));
        objects.take(count).collect()
    }

    /// Reads one object again; says whether it is whole. What is lost is recorded: then every node
    /// looks for a copy.
    pub(super) async fn scrub_object(
        &self,
        bundle: BundleId,
        generation: LogIndex,
    ) -> Result<bool, ApiError> {
        lock(&self.inner.verified_objects).remove(&(bundle, generation));
        if self.verify_object(bundle, generation).await? {
            telemetry::scrubbed(bundle, "good");
            return Ok(true);
        }
        let state = self.inner.raft.read().await?.state;
        if state.bundle(&bundle).and_then(|row| row.object) != Some(generation) {
            // The log gave it up meanwhile.
            return Ok(true);
        }
        telemetry::scrubbed(bundle, "damaged");
        self.report_lost_object(bundle, generation).await?;
        Ok(false)
    }
}

fn successor(id: BundleId) -> Option<BundleId> {
    let mut bytes = *id.as_bytes();
    for byte in bytes.iter_mut().rev() {
        let (next, carries) = byte.overflowing_add(1);
        *byte = next;
        if !carries {
            return Some(BundleId::from_bytes(bytes));
        }
    }
    None
}
