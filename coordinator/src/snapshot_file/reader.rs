//! Reading a snapshot without any coordinator: every byte is hashed, the state decoded, the seal
//! demanded.

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read};

use coordinator_core::{State, codec};
use proto_types::BundleId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::audit::{AuditFound, Follow, SEGMENT_BYTES_MAX};
use super::{
    AUDIT, BUNDLES, FORMAT, META, Meta, SEAL, STATE, SUMS, Seal, SnapshotFileError, Sums, VERSION,
    VERSION_MIN,
};

/// Longest `meta.json` and `seal.json`.
const TEXT_BYTES_MAX: u64 = 64 << 10;
/// Longest `state.bin` that is held in memory: some millions of points.
const STATE_BYTES_MAX: u64 = 4 << 30;

/// What a good snapshot holds.
#[derive(Debug)]
pub struct Inspection {
    /// What it is of.
    pub meta: Meta,
    /// That its leader led to the end.
    pub seal: Seal,
    /// The replicated state.
    pub state: State,
    /// How much of what is in the state.
    pub counts: Counts,
    /// Length of the encoded state in bytes.
    pub state_bytes: u64,
    /// SHA-256 of the encoded state.
    pub state_sha256: [u8; 32],
    /// Bundles in the file.
    pub bundles: u64,
    /// Their bytes.
    pub bundle_bytes: u64,
    /// The audit log, recomputed.
    pub audit: AuditFound,
}

/// Rows of the state by kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Workload clusters.
    pub clusters: u64,
    /// Recovery points.
    pub points: u64,
    /// Bundles that points need.
    pub bundles: u64,
    /// Uploads under way.
    pub uploads: u64,
    /// Reads under way.
    pub reads: u64,
    /// Findings that stand.
    pub findings: u64,
    /// Coordinators admitted or removed since the fleet began.
    pub nodes: u64,
}

impl Counts {
    fn of(state: &State) -> Self {
        Self {
            clusters: state.clusters().count() as u64,
            points: state.clusters().map(|c| state.points(&c.id).count() as u64).sum(),
            bundles: state.bundles().count() as u64,
            uploads: state.uploads().count() as u64,
            reads: state.reads().count() as u64,
            findings: state.findings().count() as u64,
            nodes: state.nodes().count() as u64,
        }
    }
}

pub(super) fn unreadable(error: io::Error) -> SnapshotFileError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotFileError::CutShort,
        _ => SnapshotFileError::Io { what: "read", source: error },
    }
}

pub(super) fn damaged(entry: &str, what: impl Into<String>) -> SnapshotFileError {
    SnapshotFileError::Damaged { entry: entry.to_owned(), what: what.into() }
}

/// Reads and checks a whole file.
///
/// # Errors
/// The first thing that keeps it from being a good snapshot.
pub fn inspect(file: impl Read) -> Result<Inspection, SnapshotFileError> {
    let stranger = |what: &str| SnapshotFileError::NotASnapshot { what: what.to_owned() };
    let unpacked = zstd::Decoder::new(file).map_err(unreadable)?;
    let mut archive = tar::Archive::new(unpacked);
    let mut check = Check::default();
    // Raw: what would lengthen names or stretch files is no entry of ours.
    for entry in archive.entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(|error| match (error.kind(), check.meta.is_some()) {
            (io::ErrorKind::UnexpectedEof, _) => SnapshotFileError::CutShort,
            (_, false) => stranger("it does not unpack"),
            (_, true) => damaged("the archive", error.to_string()),
        })?;
        let name = entry.path().ok().and_then(|path| path.to_str().map(str::to_owned));
        let name = name.ok_or_else(|| stranger("an entry has no readable name"))?;
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(damaged(&name.escape_debug().to_string(), "is no plain file"));
        }
        let bytes = entry.size();
        check.entry(&name, bytes, &mut entry)?;
    }
    // The decoder checks the last frame only when it is read to its end.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(unreadable)?;
    check.finish()
}

/// One entry of a snapshot that [`inspect`] has found good: the state or a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The encoded state.
    State,
    /// A bundle as it is stored.
    Bundle(BundleId),
}

/// Hands the state and the bundles of a good snapshot to `each`, in the file's order, with their
/// lengths. What was read is checked by whoever takes it: all of it is named by its SHA-256.
///
/// # Errors
/// The first of `each`, or when the file cannot be read.
pub fn entries<E: From<SnapshotFileError>>(
    file: impl Read,
    mut each: impl FnMut(Entry, u64, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let unpacked = zstd::Decoder::new(file).map_err(unreadable)?;
    let mut archive = tar::Archive::new(unpacked);
    for entry in archive.entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        let name = entry.path().ok().and_then(|path| path.to_str().map(str::to_owned));
        let bundle = |name: &str| name.strip_prefix(BUNDLES).and_then(|id| id.parse().ok());
        let (kind, bytes) = match name.as_deref() {
            Some(STATE) => (Entry::State, entry.size()),
            Some(name) => match bundle(name) {
                Some(id) => (Entry::Bundle(id), entry.size()),
                None => continue,
            },
            None => continue,
        };
        each(kind, bytes, &mut entry)?;
    }
    Ok(())
}

#[derive(Default)]
struct Check {
    meta: Option<Meta>,
    state: Option<(State, u64, [u8; 32])>,
    follow: Option<Follow>,
    bundles: BTreeSet<BundleId>,
    bundle_bytes: u64,
    sums: Sums,
    sums_seen: bool,
    seal: Option<Seal>,
}

impl Check {
    fn entry(
        &mut self,
        name: &str,
        bytes: u64,
        entry: &mut dyn Read,
    ) -> Result<(), SnapshotFileError> {
        if self.seal.is_some() {
            return Err(damaged(name, "stands behind the seal"));
        }
        match name {
            META if self.meta.is_none() => {
                let text = self.hashed_text(name, entry, TEXT_BYTES_MAX)?;
                self.meta = Some(read_meta(&text)?);
                Ok(())
            }
            _ if self.meta.is_none() => Err(SnapshotFileError::NotASnapshot {
                what: format!("it begins with {name:?} instead of {META}"),
            }),
            STATE if self.state.is_none() => self.state(bytes, entry),
            SUMS if !self.sums_seen => self.check_sums(entry),
            SEAL if self.sums_seen => {
                let text = text(name, entry, TEXT_BYTES_MAX)?;
                let seal = serde_json::from_slice(&text)
                    .map_err(|error| damaged(SEAL, format!("cannot be read: {error}")))?;
                self.seal = Some(seal);
                Ok(())
            }
            _ if self.sums_seen => Err(damaged(name, "is not covered by the sums")),
            _ if name.starts_with(AUDIT) => self.audit(name, entry),
            _ => self.bundle(name, bytes, entry),
        }
    }

    fn hashed_text(
        &mut self,
        name: &str,
        entry: &mut dyn Read,
        limit: u64,
    ) -> Result<Vec<u8>, SnapshotFileError> {
        let text = text(name, entry, limit)?;
        self.sums.add(name, &Sha256::digest(&text));
        Ok(text)
    }

    fn state(&mut self, bytes: u64, entry: &mut dyn Read) -> Result<(), SnapshotFileError> {
        if bytes > STATE_BYTES_MAX {
            return Err(damaged(STATE, format!("is longer than {STATE_BYTES_MAX} bytes")));
        }
        let mut hashing = Hashing { inner: entry, hash: Sha256::new() };
        let mut reader = BufReader::with_capacity(1 << 20, &mut hashing);
        let state = codec::read_state(&mut reader);
        // To the end, whatever the decoder made of it: the sum says more than its error.
        let rest = io::copy(&mut reader, &mut io::sink()).map_err(unreadable)?;
        drop(reader);
        let sha256: [u8; 32] = hashing.hash.finalize().into();
        self.sums.add(STATE, &sha256);
        let state = state.map_err(|error| damaged(STATE, format!("cannot be read: {error}")))?;
        if rest > 0 {
            return Err(damaged(STATE, "goes on behind its end"));
        }
        self.follow = Follow::new(&state);
        self.state = Some((state, bytes, sha256));
        Ok(())
    }

    fn audit(&mut self, name: &str, entry: &mut dyn Read) -> Result<(), SnapshotFileError> {
        let bytes = self.hashed_text(name, entry, SEGMENT_BYTES_MAX)?;
        let follow = self.follow.as_mut().filter(|_| self.bundles.is_empty());
        let follow = follow.ok_or_else(|| damaged(name, "does not belong there"))?;
        follow.segment(name, &bytes).map(drop)
    }

    fn bundle(
        &mut self,
        name: &str,
        bytes: u64,
        entry: &mut dyn Read,
    ) -> Result<(), SnapshotFileError> {
        let id: BundleId = name
            .strip_prefix(BUNDLES)
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| damaged(name, "does not belong there"))?;
        let mut hashing = Hashing { inner: entry, hash: Sha256::new() };
        io::copy(&mut hashing, &mut io::sink()).map_err(unreadable)?;
        let found = hashing.hash.finalize();
        self.sums.add(name, &found);
        if found[..] != id.as_bytes()[..] {
            return Err(damaged(name, "holds other bytes than its name says"));
        }
        if !self.bundles.insert(id) {
            return Err(damaged(name, "is there twice"));
        }
        self.bundle_bytes += bytes;
        Ok(())
    }

    fn check_sums(&mut self, entry: &mut dyn Read) -> Result<(), SnapshotFileError> {
        let limit = self.sums.text().len() as u64;
        if text(SUMS, entry, limit)? != self.sums.text().as_bytes() {
            return Err(damaged(SUMS, "does not fit the entries before it"));
        }
        self.sums_seen = true;
        Ok(())
    }

    fn finish(self) -> Result<Inspection, SnapshotFileError> {
        let meta = self.meta.ok_or(SnapshotFileError::CutShort)?;
        let Some(seal) = self.seal else {
            return Err(if self.sums_seen {
                SnapshotFileError::Unsealed
            } else {
                SnapshotFileError::CutShort
            });
        };
        let (state, state_bytes, state_sha256) =
            self.state.ok_or_else(|| damaged(STATE, "is not there"))?;
        if seal.sums_sha256 != self.sums.sha256() {
            return Err(damaged(SEAL, "is over other sums"));
        }
        let same_leader = seal.leader == meta.leader && seal.term == meta.term;
        if !same_leader || seal.sealed_index <= meta.index || meta.index < meta.confirmed_index {
            return Err(damaged(SEAL, "is not of the leader and the log that meta.json names"));
        }
        if state.fleet().map(|fleet| fleet.id) != Some(meta.fleet) {
            return Err(damaged(STATE, "is of another fleet than meta.json says"));
        }
        if meta.includes_bundles {
            let missing = state.bundles().filter(|(id, _)| !self.bundles.contains(id)).count();
            if missing > 0 {
                return Err(damaged("bundles", format!("lack {missing} that points need")));
            }
        }
        let follow = self.follow.ok_or_else(|| damaged(STATE, "is of no fleet"))?;
        let audit = follow.finish(&state)?;
        Ok(Inspection {
            audit,
            counts: Counts::of(&state),
            bundles: self.bundles.len() as u64,
            bundle_bytes: self.bundle_bytes,
            meta,
            seal,
            state,
            state_bytes,
            state_sha256,
        })
    }
}

/// What every version's `meta.json` begins with.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

fn read_meta(text: &[u8]) -> Result<Meta, SnapshotFileError> {
    let stranger =
        |what: &str| SnapshotFileError::NotASnapshot { what: format!("its {META} {what}") };
    let head: Head = serde_json::from_slice(text).map_err(|_| stranger("cannot be read"))?;
    if head.format != FORMAT {
        return Err(stranger("is of something else"));
    }
    if !(VERSION_MIN..=VERSION).contains(&head.version) {
        return Err(SnapshotFileError::Version { found: head.version });
    }
    let meta: Meta = serde_json::from_slice(text)
        .map_err(|error| damaged(META, format!("cannot be read: {error}")))?;
    if meta.nodes.is_some() != (head.version > 1) {
        return Err(damaged(META, "names coordinators, or not, against its version"));
    }
    Ok(meta)
}

fn text(name: &str, entry: &mut dyn Read, limit: u64) -> Result<Vec<u8>, SnapshotFileError> {
    let mut text = Vec::new();
    entry.take(limit + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > limit { Err(damaged(name, "is too long")) } else { Ok(text) }
}

struct Hashing<'a> {
    inner: &'a mut dyn Read,
    hash: Sha256,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.hash.update(&buffer[..len]);
        Ok(len)
    }
}
