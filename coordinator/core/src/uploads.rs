//! Uploads: a lease that pins what the new point's parent needs until the commit, the agent or the
//! log ends it (B2).

use imbl::OrdSet;
use proto_types::{BundleId, Sequence};

use crate::apply::Context;
use crate::command::{EndUpload, OpenUpload, UploadEnd};
use crate::outcome::{Event, LeaseEnd, Outcome};
use crate::refusal::{Field, Limit, Refusal};
use crate::rows::UploadLease;
use crate::state::State;
use crate::{clusters, leases, limits};

pub(crate) fn open(
    state: &mut State,
    context: &mut Context<'_>,
    command: &OpenUpload,
) -> Result<Outcome, Refusal> {
    let cluster = clusters::require_epoch(state, &command.cluster, command.epoch)?;
    if !(1..=limits::UPLOAD_TTL_MS_MAX).contains(&command.ttl_ms) {
        return Err(Refusal::InvalidField { field: Field::Ttl });
    }
    let head = cluster.head;
    let opened = |lease: &UploadLease| Outcome::UploadOpened {
        lease: command.lease,
        index: lease.index,
        parent_manifest: head.manifest.unwrap_or(BundleId::ZERO),
        expires: lease.expires,
    };
    if command.parent != head.sequence {
        return Err(Refusal::StaleHead {
            cluster: cluster.id,
            // Saturating: the number is whatever somebody sent.
            offered: Sequence::new(command.parent.get().saturating_add(1)),
            head: head.sequence,
        });
    }
    if let Some(lease) = state.uploads.get(&command.lease) {
        let same = lease.cluster == command.cluster
            && lease.epoch == command.epoch
            && lease.parent == command.parent
            && lease.ttl_ms == command.ttl_ms;
        return if same {
            Ok(opened(lease))
        } else {
            Err(Refusal::LeaseExists { lease: command.lease })
        };
    }
    if state.lease_live(&command.lease) {
        return Err(Refusal::LeaseExists { lease: command.lease });
    }
    let have = state.uploads_of(&command.cluster).count() + 1;
    leases::within(Limit::Uploads, have, limits::UPLOADS_PER_CLUSTER_MAX)?;
    let lease = UploadLease {
        cluster: command.cluster,
        epoch: command.epoch,
        parent: command.parent,
        index: context.log.index,
        ttl_ms: command.ttl_ms,
        expires: context.now.plus_millis(command.ttl_ms),
        pinned: state
            .point(&command.cluster, head.sequence)
            .map_or_else(OrdSet::new, |parent| parent.needs.clone()),
    };
    let outcome = opened(&lease);
    state.uploads.insert(command.lease, lease);
    context.events.push(Event::UploadOpened { lease: command.lease, cluster: command.cluster });
    Ok(outcome)
}

pub(crate) fn end(
    state: &mut State,
    context: &mut Context<'_>,
    command: &EndUpload,
) -> Result<Outcome, Refusal> {
    let end = match command.reason {
        UploadEnd::Abandoned => LeaseEnd::Abandoned,
        UploadEnd::Failed => LeaseEnd::Failed,
    };
    let was_live = leases::end_upload(state, context, command.lease, end);
    Ok(Outcome::LeaseEnded { lease: command.lease, was_live })
}
