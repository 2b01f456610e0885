//! The whole state as a stream of rows, for Raft snapshots.
//!
//! ```text
//! state = "SRSTATE\0" version:u16 row* end
//! row   = length:u32 message            integers little-endian
//! ```
//! What a point needs is not written but made again from what its parent needs, so that a snapshot
//! grows with the changes and not with the points. Rows come in an order in which each one finds
//! what it refers to: meta, clusters, bundles, points (parents first), leases, sessions, findings,
//! nodes, the change of voters, the restore under way with its pieces, forced recoveries, the
//! bundles' home, objects, scheduled snapshots, the certificate authority, join tokens, the audit log,
//! parties, enrolment tokens, agents that wait, how long acts wait, and those that do, former recovery
//! keys, attested shares, orders for keys, lineages.

use std::io::{Read, Write};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use prost::Message;
use proto_types::{BundleId, LogTime};

use super::{
    DecodeError, STATE_MAGIC, STATE_VERSION, audit, bucket, delayed, enrolment, exact, keys,
};
use crate::audit::AuditLog;
use crate::delayed::ActDelay;
use crate::rows::{Home, PointRow};
use crate::state::State;
use rows::{Row, WireEnd, WireRow};

mod joining;
mod rows;

/// The longest rows are sessions: 64 results of at most a few hundred bytes. A hundred times that.
const ROW_BYTES_MAX: u32 = 4 << 20;
const WHAT: &str = "state";

pub(super) fn write(state: &State, out: &mut dyn Write) -> std::io::Result<()> {
    out.write_all(&STATE_MAGIC)?;
    out.write_all(&STATE_VERSION.to_le_bytes())?;
    let mut writer = RowWriter { out, buffer: Vec::new(), rows: 0 };
    writer.row(rows::put_meta(state))?;
    for cluster in state.clusters.values() {
        writer.row(rows::put_cluster(cluster))?;
    }
    for (id, bundle) in &state.bundles {
        writer.row(rows::put_bundle(id, bundle))?;
    }
    for point in state.points.values() {
        writer.row(rows::put_point(point))?;
    }
    for (id, lease) in &state.uploads {
        writer.row(rows::put_upload(id, lease))?;
    }
    for (id, lease) in &state.reads {
        writer.row(rows::put_read(id, lease))?;
    }
    for (id, session) in &state.sessions {
        writer.row(rows::put_session(id, session))?;
    }
    for (key, finding) in &state.findings {
        writer.row(rows::put_finding(key, finding))?;
    }
    for node in state.nodes.values() {
        writer.row(rows::put_node(node))?;
    }
    if let Some(change) = &state.change {
        writer.row(rows::put_change(change))?;
    }
    if let Some(restore) = &state.restore {
        writer.row(rows::put_restore(restore))?;
        for piece in &restore.pieces {
            writer.row(Row::RestorePiece(piece.to_vec()))?;
        }
    }
    for recovery in state.recoveries.values() {
        writer.row(rows::put_recovery(recovery))?;
    }
    if state.home != Home::default() {
        writer.row(Row::Home(bucket::put_home_row(&state.home)))?;
    }
    for (key, object) in &state.objects {
        writer.row(Row::Object(bucket::put_object(key, object)))?;
    }
    for snapshot in [&state.last_snapshot, &state.last_good_snapshot].into_iter().flatten() {
        writer.row(Row::Snapshot(bucket::put_snapshot(snapshot)))?;
    }
    if let Some(authority) = &state.authority {
        writer.row(joining::put_authority(authority))?;
    }
    for (hash, token) in &state.join_tokens {
        writer.row(joining::put_join_token(hash, token))?;
    }
    if state.audit.head.number > 0 {
        writer.row(Row::AuditLog(audit::put_log(&state.audit)))?;
        for entry in &state.audit.tail {
            writer.row(Row::AuditEntry(entry.to_vec()))?;
        }
        for (alike, pending) in &state.audit.pending {
            writer.row(Row::AuditPending(audit::put_pending(alike, pending)))?;
        }
    }
    for (party, row) in &state.parties {
        writer.row(Row::Party(enrolment::put_party(party, row)))?;
    }
    for (hash, token) in &state.enrol_tokens {
        writer.row(Row::EnrolToken(enrolment::put_token(hash, token)))?;
    }
    for (cluster, waiting) in &state.waiting {
        writer.row(Row::Waiting(enrolment::put_waiting(cluster, waiting)))?;
    }
    if state.act_delay != ActDelay::default() {
        writer.row(Row::ActDelay(delayed::put_delay(state.act_delay)))?;
    }
    for (act, row) in &state.acts {
        writer.row(Row::DelayedAct(delayed::put_row(*act, row)))?;
    }
    for former in &state.keys.former {
        writer.row(Row::FormerKey(keys::put_former(former)))?;
    }
    for (key, attest) in &state.keys.attests {
        writer.row(Row::Attest(keys::put_attest(*key, *attest)))?;
    }
    for (cluster, orders) in &state.keys.orders {
        writer.row(Row::KeyOrders(keys::put_orders(cluster, *orders)))?;
    }
    for (cluster, lineage) in &state.keys.lineages {
        writer.row(Row::Lineage(keys::put_lineage(cluster, lineage)))?;
    }
    let rows = writer.rows;
    writer.row(Row::End(WireEnd { rows }))
}

struct RowWriter<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
    rows: u64,
}

impl RowWriter<'_> {
    fn row(&mut self, row: Row) -> std::io::Result<()> {
        self.buffer.clear();
        WireRow { row: Some(row) }.encode_raw(&mut self.buffer);
        let length = u32::try_from(self.buffer.len()).expect("rows are bounded by the limits");
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&self.buffer)?;
        self.rows += 1;
        Ok(())
    }
}

pub(super) fn read(input: &mut dyn Read) -> Result<State, DecodeError> {
    let mut magic = [0; 8];
    input.read_exact(&mut magic).map_err(DecodeError::Read)?;
    if magic != STATE_MAGIC {
        return Err(DecodeError::NotAState);
    }
    let mut version = [0; 2];
    input.read_exact(&mut version).map_err(DecodeError::Read)?;
    let found = u16::from_le_bytes(version);
    if found != STATE_VERSION {
        return Err(DecodeError::UnsupportedVersion { what: WHAT, found, newest: STATE_VERSION });
    }
    let mut state = State::new();
    let mut found = 0;
    let expected = loop {
        match read_row(input)? {
            Row::End(end) => break end.rows,
            row => add(&mut state, row, found == 0)?,
        }
        found += 1;
    };
    if found != expected {
        return Err(DecodeError::RowCount { found, expected });
    }
    check_heads(&state)?;
    audit::check_log(&state.audit)?;
    Ok(state)
}

fn read_row(input: &mut dyn Read) -> Result<Row, DecodeError> {
    let mut length = [0; 4];
    input.read_exact(&mut length).map_err(DecodeError::Read)?;
    let length = u32::from_le_bytes(length);
    if length > ROW_BYTES_MAX {
        return Err(DecodeError::RowTooLong { bytes: length });
    }
    let mut bytes = vec![0; length as usize];
    input.read_exact(&mut bytes).map_err(DecodeError::Read)?;
    let row: WireRow = exact(WHAT, &bytes)?;
    row.row.ok_or(DecodeError::Unknown { what: WHAT })
}

fn add(state: &mut State, row: Row, is_first: bool) -> Result<(), DecodeError> {
    if is_first != matches!(row, Row::Meta(_)) {
        return Err(contradiction("the meta row is not the first"));
    }
    match row {
        Row::Meta(meta) => {
            state.time = LogTime::from_millis(meta.time_ms);
            state.level = rows::get_level(&meta)?;
            state.freeze = rows::get_freeze(&meta)?.map(Arc::new);
            state.fleet = rows::get_fleet(meta)?.map(Arc::new);
        }
        Row::Cluster(row) => {
            let cluster = rows::get_cluster(row)?;
            once(&mut state.clusters, cluster.id, Arc::new(cluster))?;
        }
        Row::Bundle(row) => {
            let (id, bundle) = rows::get_bundle(row)?;
            once(&mut state.bundles, id, bundle)?;
        }
        Row::Point(row) => {
            let point = with_needs(state, rows::get_point(row)?)?;
            once(&mut state.points, (point.cluster, point.sequence), Arc::new(point))?;
        }
        Row::Upload(row) => {
            let (id, mut lease) = rows::get_upload(row)?;
            if lease.parent.get() != 0 {
                let parent = state.point(&lease.cluster, lease.parent);
                let parent = parent.ok_or_else(|| contradiction("an upload without its parent"))?;
                lease.pinned = parent.needs.clone();
            }
            once(&mut state.uploads, id, lease)?;
        }
        Row::Read(row) => {
            let (id, mut lease) = rows::get_read(row)?;
            let point = state.point(&lease.cluster, lease.sequence);
            let point = point.ok_or_else(|| contradiction("a read without its point"))?;
            lease.pinned = point.needs.clone();
            once(&mut state.reads, id, lease)?;
        }
        Row::Session(row) => {
            let (id, session) = rows::get_session(row)?;
            once(&mut state.sessions, id, session)?;
        }
        Row::Finding(row) => {
            let (key, finding) = rows::get_finding(row)?;
            once(&mut state.findings, key, Arc::new(finding))?;
        }
        Row::Node(row) => {
            let node = rows::get_node(row)?;
            once(&mut state.nodes, node.id, Arc::new(node))?;
        }
        Row::Change(row) => {
            if state.change.replace(Arc::new(rows::get_change(&row)?)).is_some() {
                return Err(contradiction("two changes of voters"));
            }
        }
        Row::Restore(row) => {
            if state.restore.replace(rows::get_restore(&row)?).is_some() {
                return Err(contradiction("two restores"));
            }
        }
        Row::RestorePiece(bytes) => {
            let restore = state.restore.as_mut();
            let restore = restore.ok_or_else(|| contradiction("a piece without its restore"))?;
            restore.received += bytes.len() as u64;
            if bytes.is_empty() || restore.received > restore.state_bytes {
                return Err(contradiction("pieces of a restore that do not fit"));
            }
            restore.pieces.push_back(bytes.into());
        }
        Row::Recovery(row) => {
            let recovery = rows::get_recovery(&row)?;
            if recovery.number != state.recoveries.len() as u64 + 1 {
                return Err(contradiction("forced recoveries do not count from 1"));
            }
            state.recoveries.insert(recovery.number, Arc::new(recovery));
        }
        Row::Home(row) => {
            if state.home != Home::default() {
                return Err(contradiction("two homes of the bundles"));
            }
            state.home = bucket::get_home_row(&row)?;
        }
        Row::Object(row) => {
            let (key, object) = bucket::get_object(&row)?;
            let lease = object.lease.map(|lease| state.upload(&lease).map(|row| row.index));
            if lease.is_some_and(|index| index != Some(key.0)) {
                return Err(contradiction("an object without its upload"));
            }
            once(&mut state.objects, key, object)?;
        }
        Row::Snapshot(row) => {
            // The last one, then the last good one, which may be the same.
            let row = bucket::get_snapshot(WHAT, row)?;
            match (&state.last_snapshot, &state.last_good_snapshot) {
                (None, _) => state.last_snapshot = Some(row),
                (Some(_), None) if row.is_good() => state.last_good_snapshot = Some(row),
                (Some(_), _) => return Err(contradiction("a snapshot too many")),
            }
        }
        Row::Authority(row) => {
            if state.authority.replace(Arc::new(joining::get_authority(row))).is_some() {
                return Err(contradiction("two certificate authorities"));
            }
        }
        Row::JoinToken(row) => {
            let (hash, token) = joining::get_join_token(row)?;
            once(&mut state.join_tokens, hash, Arc::new(token))?;
        }
        Row::AuditLog(row) => {
            if state.audit != AuditLog::default() {
                return Err(contradiction("two audit logs"));
            }
            state.audit = audit::get_log(&row)?;
        }
        Row::AuditEntry(bytes) => audit::add_entry(&mut state.audit, bytes)?,
        Row::AuditPending(row) => {
            let (alike, pending) = audit::get_pending(row)?;
            once(&mut state.audit.pending, alike, pending)?;
        }
        Row::Party(row) => {
            let (party, row) = enrolment::get_party(row)?;
            once(&mut state.parties, party, Arc::new(row))?;
        }
        Row::EnrolToken(row) => {
            let (hash, token) = enrolment::get_token(row)?;
            once(&mut state.enrol_tokens, hash, Arc::new(token))?;
        }
        Row::Waiting(row) => {
            let (cluster, waiting) = enrolment::get_waiting(row)?;
            once(&mut state.waiting, cluster, Arc::new(waiting))?;
        }
        Row::ActDelay(row) => {
            if state.act_delay != ActDelay::default() {
                return Err(contradiction("two delays of acts"));
            }
            state.act_delay = delayed::get_delay(row);
        }
        Row::DelayedAct(row) => {
            let (act, row) = delayed::get_row(row)?;
            once(&mut state.acts, act, Arc::new(row))?;
        }
        Row::FormerKey(row) => {
            if state.keys.former.last().is_some_and(|before| !before.finished) {
                return Err(contradiction("two rotations of the recovery key"));
            }
            state.keys.former.push_back(Arc::new(keys::get_former(row)?));
        }
        Row::Attest(row) => {
            let (key, attest) = keys::get_attest(&row)?;
            once(&mut state.keys.attests, key, attest)?;
        }
        Row::KeyOrders(row) => {
            let (cluster, orders) = keys::get_orders(&row)?;
            once(&mut state.keys.orders, cluster, orders)?;
        }
        Row::Lineage(row) => {
            let (cluster, lineage) = keys::get_lineage(&row)?;
            once(&mut state.keys.lineages, cluster, Arc::new(lineage))?;
        }
        // `read` stops there.
        Row::End(_) => return Err(contradiction("a row after the last")),
    }
    Ok(())
}

fn contradiction(what: &'static str) -> DecodeError {
    DecodeError::Contradiction { what }
}

fn once<K: Ord + Clone, V: Clone>(
    map: &mut OrdMap<K, V>,
    key: K,
    value: V,
) -> Result<(), DecodeError> {
    match map.insert(key, value) {
        None => Ok(()),
        Some(_) => Err(contradiction("a row is there twice")),
    }
}

/// Makes again what the point needs: what its parent needs, less the dropped, with the added.
fn with_needs(state: &State, mut point: PointRow) -> Result<PointRow, DecodeError> {
    let mut needs: OrdSet<BundleId> = if point.parent.get() == 0 {
        OrdSet::new()
    } else {
        let parent = state.point(&point.cluster, point.parent);
        parent.ok_or_else(|| contradiction("a point without its parent"))?.needs.clone()
    };
    for bundle in &point.dropped {
        if needs.remove(bundle).is_none() {
            return Err(contradiction("a point drops what its parent does not need"));
        }
    }
    for bundle in &point.added {
        if needs.insert(*bundle).is_some() || state.bundle(bundle).is_none() {
            return Err(contradiction("a point adds a bundle that is not there"));
        }
    }
    let roles = [Some(point.manifest), point.base, Some(point.key_bundle), Some(point.wraps)];
    if !roles.iter().flatten().all(|bundle| needs.contains(bundle)) {
        return Err(contradiction("a point lacks its manifest, base, key bundle or wraps"));
    }
    point.needs = needs;
    Ok(point)
}

fn check_heads(state: &State) -> Result<(), DecodeError> {
    for cluster in state.clusters.values() {
        let newest = state.newest_point(&cluster.id).map(|point| (point.sequence, point.manifest));
        let head = cluster.head.manifest.map(|manifest| (cluster.head.sequence, manifest));
        if newest != head {
            return Err(contradiction("a cluster's head is not its newest point"));
        }
    }
    Ok(())
}
