//! Clusters that write all the time, through whichever coordinator answers, as agents do: the
//! same write again until it is acknowledged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::env::Env;
use proto::fleet_client::{FleetClient, RetryPolicy};
use proto::identity::Role;
use proto::v1;
use proto::v1::backup_client::BackupClient;
use tokio::task::JoinHandle;

use super::check::Canary;
use crate::client::Answer;
use crate::fleet::Fleet;
use crate::raw::RawCluster;
use crate::sealed::Content;

/// Between two writes of one writer: some thousand in a long run, not millions.
const PACE: Duration = Duration::from_millis(20);

/// A paused coordinator is given up soon, so that there are writes while it is paused.
const POLICY: RetryPolicy = RetryPolicy {
    call_timeout: Duration::from_millis(700),
    total_timeout: Duration::from_secs(60),
    delay_min: Duration::from_millis(20),
    delay_max: Duration::from_millis(100),
};

/// The writers and what they wrote.
#[derive(Default)]
pub(super) struct Writers {
    written: Arc<Mutex<Vec<Canary>>>,
    over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Registers a cluster and begins to write.
    pub(super) async fn begin(&mut self, fleet: &Fleet, name: &str) {
        let mut cluster = RawCluster::register(fleet, name).await;
        let began = Instant::now();
        let point = cluster.backup(&fleet.address(1), &[Content::file("a", b"a")]).await;
        self.note(Canary {
            cluster: cluster.id,
            sequence: point.sequence,
            begun: began,
            acknowledged: Some((Instant::now(), point.log_index)),
        });
        let tls = cluster.party.files().load().expect("a test's certificate can be read");
        let client = FleetClient::new(Env::system(), fleet.addresses(), &tls, POLICY)
            .expect("a client can be made");
        let (written, over) = (self.written.clone(), self.over.clone());
        self.tasks.push(tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                write(&mut cluster, &client, &written).await;
                tokio::time::sleep(PACE).await;
            }
        }));
    }

    fn note(&self, canary: Canary) {
        lock(&self.written).push(canary);
    }

    /// What was written so far.
    pub(super) fn so_far(&self) -> Vec<Canary> {
        lock(&self.written).clone()
    }

    /// Acknowledgements so far.
    pub(super) fn acknowledged(&self) -> usize {
        lock(&self.written).iter().filter(|canary| canary.acknowledged.is_some()).count()
    }

    /// Ends the writers, each after its last acknowledgement.
    pub(super) async fn end(self) -> Vec<Canary> {
        self.over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a writer ends well");
        }
        lock(&self.written).clone()
    }
}

fn lock(written: &Mutex<Vec<Canary>>) -> std::sync::MutexGuard<'_, Vec<Canary>> {
    written.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(cluster: &mut RawCluster, client: &FleetClient, written: &Mutex<Vec<Canary>>) {
    let request = cluster.unchanged_request(client.next_write_id());
    let at = {
        let mut written = lock(written);
        written.push(Canary {
            cluster: cluster.id,
            sequence: request.sequence,
            begun: Instant::now(),
            acknowledged: None,
        });
        written.len() - 1
    };
    let answer = client.call("writing a canary", |channel| {
        let request = request.clone();
        async move { BackupClient::new(channel).commit_point(request).await }
    });
    // The fleet is never away for long, and nobody else writes for this cluster: no refusal is
    // right.
    let point = answer.await.unwrap_or_else(|error| {
        panic!("a canary of {} was refused: {}: {error}", cluster.name, error.code())
    });
    let point = point.point.expect("a commit answers with the point");
    lock(written)[at].acknowledged = Some((Instant::now(), point.log_index));
    cluster.head = Some(point);
}

/// Acknowledged writes that the fleet does not have, or not where it said.
pub(super) async fn lost(fleet: &Fleet, canaries: &[Canary]) -> Vec<String> {
    let viewer = fleet.operator(Role::Viewer);
    let mut wrong = Vec::new();
    let mut last: Vec<&Canary> = Vec::new();
    for canary in canaries {
        match last.iter_mut().find(|known| known.cluster == canary.cluster) {
            Some(known) => *known = canary,
            None => last.push(canary),
        }
    }
    for canary in last {
        let name = format!("point {} of {}", canary.sequence, canary.cluster);
        let status = fleet.status(fleet.running()[0]).await;
        let cluster_name = status
            .clusters
            .into_iter()
            .filter_map(|row| row.cluster)
            .find(|row| row.cluster_id[..] == canary.cluster.as_bytes()[..])
            .map(|row| row.name)
            .expect("the writer's cluster is known");
        let request = v1::GetPointRequest {
            cluster_name,
            which: Some(v1::get_point_request::Which::Newest(true)),
            stale: false,
        };
        let mut catalog = viewer.catalog(&fleet.address(fleet.running()[0]));
        let newest = catalog.get_point(request).await.answer().ok().and_then(|answer| answer.point);
        let newest = newest.map(|point| (point.sequence, point.log_index));
        let expected = canary.acknowledged.map(|(_, index)| (canary.sequence, index));
        if newest != expected {
            wrong.push(format!("{name}: acknowledged as {expected:?}, the fleet has {newest:?}"));
        }
    }
    wrong
}
