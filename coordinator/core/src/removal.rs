//! A cluster goes, with everything that the state knows of it. What only its points needed is needed
//! no more: nodes sweep their copies, and the leader deletes what is in the bucket.

use proto_types::{BundleId, ClusterId, Sequence};

use crate::apply::Context;
use crate::enrolment::{self, PartyId};
use crate::leases;
use crate::outcome::Event;
use crate::rows::{ObjectRow, Scope};
use crate::state::State;

pub(crate) fn delete_cluster(state: &mut State, context: &mut Context<'_>, cluster: &ClusterId) {
    leases::supersede_uploads(state, context, cluster);
    let points: Vec<(ClusterId, Sequence)> =
        state.points(cluster).map(|point| (*cluster, point.sequence)).collect();
    for point in points {
        state.points.remove(&point);
    }
    // Bundles are of one cluster.
    let bundles: Vec<BundleId> = state
        .bundles
        .iter()
        .filter(|(_, row)| row.facts.cluster == *cluster)
        .map(|(id, _)| *id)
        .collect();
    for bundle in bundles {
        let row = state.bundles.remove(&bundle);
        if let Some((generation, bytes)) = row.and_then(|row| Some((row.object?, row.facts.bytes)))
        {
            state.objects.insert((generation, bundle), ObjectRow { bytes, lease: None });
        }
    }
    let findings: Vec<_> = state
        .findings
        .keys()
        .filter(|key| key.scope == Scope::Cluster(*cluster))
        .cloned()
        .collect();
    for key in findings {
        state.findings.remove(&key);
        context.events.push(Event::FindingCleared { key });
    }
    enrolment::forget(state, &PartyId::Agent(*cluster));
    state.clusters.remove(cluster);
}
