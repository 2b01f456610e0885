//! What upload and read leases share, and the read leases. A lease lives from the log entry that
//! opens it to the one that ends it; clocks only decide when an end may be proposed (B2).

use proto_types::{ClusterId, LeaseId};

use crate::apply::Context;
use crate::command::{EndReadLease, ExpireLeases, OpenReadLease, RenewLease};
use crate::outcome::{Event, LeaseEnd, Outcome};
use crate::refusal::{Field, Limit, Refusal};
use crate::rows::ReadLease;
use crate::state::State;
use crate::{bucket, clusters, limits, time};

pub(crate) fn open_read(
    state: &mut State,
    context: &mut Context<'_>,
    command: &OpenReadLease,
) -> Result<Outcome, Refusal> {
    clusters::require(state, &command.cluster)?;
    if !(1..=limits::READ_TTL_MS_MAX).contains(&command.ttl_ms) {
        return Err(Refusal::InvalidField { field: Field::Ttl });
    }
    let opened = |lease: &ReadLease| Outcome::ReadOpened {
        lease: command.lease,
        index: lease.index,
        expires: lease.expires,
    };
    if let Some(lease) = state.reads.get(&command.lease) {
        let same = lease.cluster == command.cluster
            && lease.sequence == command.sequence
            && lease.purpose == command.purpose
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
    let point = state
        .point(&command.cluster, command.sequence)
        .ok_or(Refusal::PointUnknown { cluster: command.cluster, sequence: command.sequence })?;
    let have = state.reads.values().filter(|lease| lease.cluster == command.cluster).count() + 1;
    within(Limit::Reads, have, limits::READS_PER_CLUSTER_MAX)?;
    let lease = ReadLease {
        cluster: command.cluster,
        sequence: command.sequence,
        purpose: command.purpose,
        index: context.log.index,
        ttl_ms: command.ttl_ms,
        expires: context.now.plus_millis(command.ttl_ms),
        pinned: point.needs.clone(),
    };
    let outcome = opened(&lease);
    state.reads.insert(command.lease, lease);
    context.events.push(Event::ReadOpened {
        lease: command.lease,
        cluster: command.cluster,
        sequence: command.sequence,
    });
    Ok(outcome)
}

pub(crate) fn end_read(
    state: &mut State,
    context: &mut Context<'_>,
    command: &EndReadLease,
) -> Result<Outcome, Refusal> {
    let was_live = end_read_lease(state, context, command.lease, LeaseEnd::ReadDone);
    Ok(Outcome::LeaseEnded { lease: command.lease, was_live })
}

pub(crate) fn renew(
    state: &mut State,
    context: &mut Context<'_>,
    command: &RenewLease,
) -> Result<Outcome, Refusal> {
    let lease = command.lease;
    let expires = if let Some(upload) = state.uploads.get_mut(&lease) {
        upload.expires = context.now.plus_millis(upload.ttl_ms);
        upload.expires
    } else if let Some(read) = state.reads.get_mut(&lease) {
        read.expires = context.now.plus_millis(read.ttl_ms);
        read.expires
    } else {
        return Err(Refusal::LeaseGone { lease });
    };
    Ok(Outcome::LeaseRenewed { lease, expires })
}

pub(crate) fn expire(
    state: &mut State,
    context: &mut Context<'_>,
    command: &ExpireLeases,
) -> Result<Outcome, Refusal> {
    within(Limit::Expired, command.leases.len(), limits::EXPIRED_MAX)?;
    time::require_flowing(state)?;
    let mut ended = 0;
    for lease in &command.leases {
        // Asked again here: the lease may have been renewed after the leader looked.
        let due = |expires| expires <= context.now;
        let gone = if state.uploads.get(lease).is_some_and(|upload| due(upload.expires)) {
            end_upload(state, context, *lease, LeaseEnd::Expired)
        } else if state.reads.get(lease).is_some_and(|read| due(read.expires)) {
            end_read_lease(state, context, *lease, LeaseEnd::Expired)
        } else {
            false
        };
        ended += u64::from(gone);
    }
    Ok(Outcome::Expired { ended, skipped: command.leases.len() as u64 - ended })
}

/// Ends an upload lease if it is live, and says whether it was.
pub(crate) fn end_upload(
    state: &mut State,
    context: &mut Context<'_>,
    lease: LeaseId,
    end: LeaseEnd,
) -> bool {
    let Some(row) = state.uploads.remove(&lease) else { return false };
    bucket::abandon(state, row.index);
    context.events.push(Event::LeaseEnded { lease, cluster: row.cluster, end });
    true
}

/// Ends every upload of a cluster.
pub(crate) fn supersede_uploads(state: &mut State, context: &mut Context<'_>, cluster: &ClusterId) {
    let superseded: Vec<_> = state.uploads_of(cluster).map(|(id, _)| *id).collect();
    for lease in superseded {
        end_upload(state, context, lease, LeaseEnd::Superseded);
    }
}

fn end_read_lease(
    state: &mut State,
    context: &mut Context<'_>,
    lease: LeaseId,
    end: LeaseEnd,
) -> bool {
    let Some(row) = state.reads.remove(&lease) else { return false };
    context.events.push(Event::LeaseEnded { lease, cluster: row.cluster, end });
    true
}

/// Refuses when there would be more than `max`.
pub(crate) fn within(limit: Limit, have: usize, max: usize) -> Result<(), Refusal> {
    if have > max {
        return Err(Refusal::LimitReached { limit, have: have as u64, max: max as u64 });
    }
    Ok(())
}
