//! The audit log in a snapshot: its closed segments as entries of the file, the rest in the state. Read
//! forward: from the fleet's beginning every segment says where the one before it ended, and the last
//! one must end where the state says.

use std::io::Read;

use coordinator_core::limits::AUDIT_SEGMENT_ENTRIES;
use coordinator_core::{AuditEntry, AuditHead, Segment, State};
use proto_types::FleetId;

use super::reader::{damaged, unreadable};
use super::{AUDIT, SnapshotFileError};

/// Longest segment: what its form allows.
pub(super) const SEGMENT_BYTES_MAX: u64 = 2 << 20;

/// Name of a segment's entry.
pub(crate) fn entry_name(segment: u64) -> String {
    format!("{AUDIT}{segment:016x}")
}

/// What a snapshot holds of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFound {
    /// The last entry.
    pub head: AuditHead,
    /// Entries that are not in the file, because the coordinator that saved it lacked them.
    pub missing: u64,
}

/// Follows the log through a file.
#[derive(Debug)]
pub(super) struct Follow {
    fleet: FleetId,
    at: AuditHead,
    base: AuditHead,
    missing: u64,
}

impl Follow {
    pub(super) fn new(state: &State) -> Option<Self> {
        let fleet = state.fleet()?.id;
        let log = state.audit();
        // Of a fleet that has no entry yet the state knows no hash.
        let base = if log.head().number == 0 { AuditHead::first(fleet) } else { log.base() };
        Some(Self { fleet, at: AuditHead::first(fleet), base, missing: 0 })
    }

    /// The next segment of the file.
    pub(super) fn segment(
        &mut self,
        name: &str,
        bytes: &[u8],
    ) -> Result<Vec<(AuditEntry, [u8; 32])>, SnapshotFileError> {
        let bad = |what: String| damaged(name, what);
        let segment = Segment::parse(bytes).map_err(|error| bad(error.to_string()))?;
        if segment.fleet != self.fleet || name != entry_name(segment.number()) {
            return Err(bad("is another one than its name says".to_owned()));
        }
        match segment.previous.number.checked_sub(self.at.number) {
            Some(0) if segment.previous == self.at => {}
            Some(0) | None => return Err(bad("does not follow the one before it".to_owned())),
            // Whether it is the true one is for what follows to say.
            Some(gap) => self.missing += gap,
        }
        let mut at = segment.previous;
        let mut entries = Vec::with_capacity(AUDIT_SEGMENT_ENTRIES);
        for encoded in &segment.entries {
            let entry = at.follow(encoded).map_err(|error| bad(error.to_string()))?;
            entries.push((entry, at.hash));
        }
        self.at = at;
        Ok(entries)
    }

    /// No more segments follow.
    pub(super) fn finish(mut self, state: &State) -> Result<AuditFound, SnapshotFileError> {
        match self.base.number.checked_sub(self.at.number) {
            Some(0) if self.at == self.base => {}
            Some(0) | None => {
                return Err(damaged("audit", "does not lead to where the state says"));
            }
            Some(gap) => self.missing += gap,
        }
        let head = state.audit().head();
        Ok(AuditFound { head, missing: self.missing })
    }
}

/// Hands the audit log of a snapshot that [`super::inspect`] has found good to `each`, oldest first,
/// with their hashes.
///
/// # Errors
/// When the file cannot be read, or is not the one that was found good.
pub fn audit_entries(
    file: impl Read,
    state: &State,
    mut each: impl FnMut(&AuditEntry, [u8; 32]),
) -> Result<(), SnapshotFileError> {
    let Some(mut follow) = Follow::new(state) else { return Ok(()) };
    let unpacked = zstd::Decoder::new(file).map_err(unreadable)?;
    let mut archive = tar::Archive::new(unpacked);
    for entry in archive.entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        let name = entry.path().ok().and_then(|path| path.to_str().map(str::to_owned));
        let Some(name) = name.filter(|name| name.starts_with(AUDIT)) else { continue };
        let mut bytes = Vec::new();
        entry.by_ref().take(SEGMENT_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
        for (entry, hash) in follow.segment(&name, &bytes)? {
            each(&entry, hash);
        }
    }
    let mut at = state.audit().base();
    for encoded in state.audit().tail() {
        let entry = at.follow(encoded).map_err(|error| damaged("state.bin", error.to_string()))?;
        each(&entry, at.hash);
    }
    Ok(())
}
