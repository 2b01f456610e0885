//! Workload clusters: their registration, and which agent instance may commit for them (E1).

use std::collections::BTreeMap;
use std::sync::Arc;

use proto_types::{ClusterId, Epoch, SigningPublicKey};

use crate::apply::Context;
use crate::command::{AcquireEpoch, RegisterCluster};
use crate::outcome::{Event, Outcome};
use crate::refusal::{Field, Refusal};
use crate::rows::{Cluster, Head};
use crate::state::State;
use crate::{fleet, leases, limits};

pub(crate) fn register(
    state: &mut State,
    context: &mut Context<'_>,
    command: &RegisterCluster,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    check_fields(command)?;
    if let Some(there) = state.cluster(&command.cluster) {
        let same = there.name == command.name
            && there.signing_key == command.signing_key
            && there.labels == command.labels
            && there.kube_system_uid == command.kube_system_uid;
        return if same {
            Ok(Outcome::ClusterRegistered { cluster: there.id })
        } else {
            Err(Refusal::ClusterExists { cluster: there.id })
        };
    }
    if let Some(there) = state.cluster_named(&command.name) {
        return Err(Refusal::ClusterNameTaken { name: there.name.clone(), cluster: there.id });
    }
    if let Some(uid) = &command.kube_system_uid
        && let Some(there) = state.clusters().find(|c| c.kube_system_uid.as_ref() == Some(uid))
    {
        return Err(Refusal::KubeSystemUidTaken { uid: uid.clone(), cluster: there.id });
    }
    let cluster = Cluster {
        id: command.cluster,
        name: command.name.clone(),
        signing_key: command.signing_key,
        labels: command.labels.clone(),
        kube_system_uid: command.kube_system_uid.clone(),
        registered: context.now,
        epoch: Epoch::new(0),
        instance: None,
        head: Head::default(),
        lineage: 0,
        sequence_floor: proto_types::Sequence::new(0),
    };
    state.clusters.insert(command.cluster, Arc::new(cluster));
    context.events.push(Event::ClusterRegistered { cluster: command.cluster });
    Ok(Outcome::ClusterRegistered { cluster: command.cluster })
}

fn check_fields(command: &RegisterCluster) -> Result<(), Refusal> {
    if proto_types::check_cluster_name(&command.name).is_err() {
        return Err(Refusal::InvalidField { field: Field::ClusterName });
    }
    check_labels(&command.labels)?;
    check_identity(&command.signing_key, command.kube_system_uid.as_ref())
}

/// What an agent says of its cluster.
pub(crate) fn check_identity(
    signing_key: &SigningPublicKey,
    kube_system_uid: Option<&String>,
) -> Result<(), Refusal> {
    if *signing_key == SigningPublicKey::ZERO {
        return Err(Refusal::InvalidField { field: Field::PublicKey });
    }
    if kube_system_uid.is_some_and(|uid| !is_uid(uid)) {
        return Err(Refusal::InvalidField { field: Field::KubeSystemUid });
    }
    Ok(())
}

pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if labels_fit(labels) { Ok(()) } else { Err(Refusal::InvalidField { field: Field::Labels }) }
}

fn labels_fit(labels: &BTreeMap<String, String>) -> bool {
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    labels.len() <= limits::LABELS_MAX
        && bytes <= limits::LABEL_BYTES_MAX
        && labels.keys().all(|key| !key.is_empty())
}

fn is_uid(uid: &str) -> bool {
    (1..=limits::KUBE_SYSTEM_UID_BYTES_MAX).contains(&uid.len())
        && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

pub(crate) fn acquire_epoch(
    state: &mut State,
    context: &mut Context<'_>,
    command: &AcquireEpoch,
) -> Result<Outcome, Refusal> {
    let cluster = require(state, &command.cluster)?;
    if cluster.instance == Some(command.instance) {
        return Ok(Outcome::EpochAcquired { cluster: cluster.id, epoch: cluster.epoch });
    }
    let mut cluster = cluster.clone();
    cluster.epoch = cluster.epoch.next().max(state.epochs_from());
    cluster.instance = Some(command.instance);
    let epoch = cluster.epoch;
    state.clusters.insert(command.cluster, Arc::new(cluster));
    // What the instance before had under way can never be committed: let go of it at once.
    leases::supersede_uploads(state, context, &command.cluster);
    context.events.push(Event::EpochIssued {
        cluster: command.cluster,
        epoch,
        instance: command.instance,
    });
    Ok(Outcome::EpochAcquired { cluster: command.cluster, epoch })
}

/// The cluster, or a refusal.
pub(crate) fn require<'a>(state: &'a State, id: &ClusterId) -> Result<&'a Cluster, Refusal> {
    state.cluster(id).ok_or(Refusal::ClusterUnknown { cluster: *id })
}

/// The cluster if `epoch` is the one that may act for it (E1).
pub(crate) fn require_epoch<'a>(
    state: &'a State,
    id: &ClusterId,
    epoch: Epoch,
) -> Result<&'a Cluster, Refusal> {
    let cluster = require(state, id)?;
    // Only a restore takes it away, and there is no newer agent then.
    if cluster.instance.is_none() && cluster.sequence_floor.get() > 0 {
        return Err(Refusal::SessionEnded { cluster: *id });
    }
    if cluster.instance.is_none() || cluster.epoch != epoch {
        return Err(Refusal::StaleEpoch { cluster: *id, offered: epoch, current: cluster.epoch });
    }
    Ok(cluster)
}
