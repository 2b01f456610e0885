//! A good file is read back; anything less is none (invariant S1).

use coordinator_core::{
    Command, InitFleet, LogContext, RecoveryPublicKey, Request, State, Voters, apply, codec,
};
use proto_types::{FleetId, LogIndex, LogTime};
use sha2::{Digest, Sha256};

use super::*;

pub(super) const FLEET: FleetId = FleetId::from_bytes([0xf1; 16]);

pub(super) fn state() -> State {
    let mut state = State::new();
    let command = Command::InitFleet(InitFleet {
        fleet: FLEET,
        name: "home".to_owned(),
        recovery: RecoveryPublicKey { hpke: [1; 32], signing: [2; 32] },
    });
    let request = Request { session: None, time: LogTime::from_millis(5), sender: None, command };
    let voters = Voters::default();
    let log = LogContext { index: LogIndex::new(1), voters: &voters };
    assert!(apply(&mut state, &request, &log).outcome.refusal().is_none());
    state
}

fn meta() -> Meta {
    Meta::new(FLEET, "home".to_owned(), (3, 7), (40, 41), 5, false, false, [1, 2, 3].into())
}

pub(super) struct Made {
    entries: Vec<(String, Vec<u8>)>,
    seal: Seal,
}

impl Made {
    fn good() -> Self {
        let mut encoded = Vec::new();
        codec::write_state(&state(), &mut encoded).unwrap();
        let meta = serde_json::to_vec(&meta()).unwrap();
        Self::of(vec![(META.to_owned(), meta), (STATE.to_owned(), encoded)])
    }

    pub(super) fn of(entries: Vec<(String, Vec<u8>)>) -> Self {
        let mut sums = Sums::default();
        for (name, bytes) in &entries {
            sums.add(name, &Sha256::digest(bytes));
        }
        let seal = Seal {
            leader: 3,
            term: 7,
            sealed_index: 50,
            nonce: "07".repeat(16),
            sums_sha256: sums.sha256(),
        };
        Self { entries, seal }
    }

    fn with(mut self, name: &str, bytes: &[u8]) -> Self {
        self.entries.push((name.to_owned(), bytes.to_vec()));
        Self::of(self.entries)
    }

    pub(super) fn file(&self) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for (name, bytes) in &self.entries {
            writer.entry(name, bytes.len() as u64).unwrap();
            for piece in bytes.chunks(7) {
                writer.data(piece).unwrap();
            }
        }
        writer.finish(&self.seal).unwrap()
    }
}

fn refused(made: &Made) -> SnapshotFileError {
    inspect(&made.file()[..]).unwrap_err()
}

#[test]
fn snapshot_file_is_read_back() {
    let found = inspect(&Made::good().file()[..]).unwrap();
    assert_eq!(found.meta, meta());
    assert_eq!(found.state, state());
    assert_eq!((found.seal.sealed_index, found.bundles), (50, 0));
}

#[test]
fn invariant_s1_every_truncation_and_every_flipped_byte_is_noticed() {
    let file = Made::good().file();
    for cut in 0..file.len() {
        assert!(inspect(&file[..cut]).is_err(), "cut to {cut} of {}", file.len());
    }
    let mut bad = file.clone();
    let mut harmless = 0;
    for at in 0..file.len() {
        bad[at] ^= 0x10;
        // Some bits of the compressor's own mean nothing: then nothing may be different.
        if let Ok(found) = inspect(&bad[..]) {
            harmless += 1;
            assert_eq!((found.meta, found.state), (meta(), state()), "byte {at}");
            assert_eq!(found.seal, Made::good().seal, "byte {at}");
        }
        bad[at] ^= 0x10;
    }
    assert!(inspect(&bad[..]).is_ok() && harmless < 16, "{harmless}");
}

/// Behind the seal, which whoever writes a file can make himself: meta and state of nobody's making are
/// refused or read, and never more. The same changes every time.
#[test]
fn fuzz_snapshot_contents_under_a_seal_of_their_own() {
    let good = Made::good();
    let mut number = 0_u64;
    let mut draw = |below: usize| {
        number += 1;
        let digest = Sha256::digest(number.to_le_bytes());
        usize::from_le_bytes(digest[..8].try_into().unwrap()) % below.max(1)
    };
    for _ in 0..3_000 {
        let mut entries = good.entries.clone();
        let which = draw(entries.len());
        let bytes = &mut entries[which].1;
        for _ in 0..=draw(3) {
            let at = draw(bytes.len());
            match draw(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, [0, 0xff, 0x80, b'"'][draw(4)]),
                2 if !bytes.is_empty() => bytes[at] = [0, 0xff, 0x7f, b'9'][draw(4)],
                _ if !bytes.is_empty() => bytes[at] ^= 1 << draw(8),
                _ => {}
            }
        }
        let made = Made { seal: Made::of(entries.clone()).seal, entries };
        if let Ok(found) = inspect(&made.file()[..]) {
            assert_eq!(found.bundles, 0);
        }
    }
}

#[test]
fn invariant_s1_without_the_right_seal_it_is_no_snapshot() {
    // A writer that never got the seal leaves nothing that counts.
    let good = Made::good();
    let mut writer = Writer::new(Vec::new()).unwrap();
    for (name, bytes) in &good.entries {
        writer.entry(name, bytes.len() as u64).unwrap();
        writer.data(bytes).unwrap();
    }
    let other = Seal { sums_sha256: "00".repeat(32), ..good.seal.clone() };
    let error = writer.finish(&other).unwrap_err();
    assert!(error.to_string().contains("what the leader sealed"), "{error}");

    for (seal, what) in [
        (Seal { leader: 2, ..good.seal.clone() }, "another leader"),
        (Seal { term: 8, ..good.seal.clone() }, "another term"),
        (Seal { sealed_index: 41, ..good.seal.clone() }, "not after the state"),
    ] {
        let made = Made { entries: good.entries.clone(), seal };
        assert!(matches!(refused(&made), SnapshotFileError::Damaged { .. }), "{what}");
    }
    let unsealed = {
        let mut archive = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
        let mut sums = Sums::default();
        let entries = good.entries.iter().map(|(name, bytes)| (name.as_str(), bytes.clone()));
        for (name, bytes) in entries {
            append(&mut archive, name, &bytes);
            sums.add(name, &Sha256::digest(&bytes));
        }
        append(&mut archive, SUMS, sums.text().as_bytes());
        archive.into_inner().unwrap().finish().unwrap()
    };
    let error = inspect(&unsealed[..]).unwrap_err();
    assert!(matches!(error, SnapshotFileError::Unsealed), "{error}");
    assert_eq!(error.code(), Code::Damaged);
}

fn append<W: std::io::Write>(archive: &mut tar::Builder<W>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    header.set_cksum();
    archive.append_data(&mut header, name, bytes).unwrap();
}

/// What makes a reader hold or hash without end is refused before it is read.
#[test]
fn snapshot_file_of_strange_entries_is_refused() {
    for kind in [
        tar::EntryType::GNULongName,
        tar::EntryType::GNUSparse,
        tar::EntryType::XHeader,
        tar::EntryType::Symlink,
        tar::EntryType::Directory,
    ] {
        let mut archive = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
        append(&mut archive, META, &Made::good().entries[0].1);
        let mut header = tar::Header::new_gnu();
        header.set_path("x").unwrap();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_cksum();
        archive.append(&header, std::io::empty()).unwrap();
        let file = archive.into_inner().unwrap().finish().unwrap();
        let error = inspect(&file[..]).unwrap_err();
        assert!(error.to_string().contains("is no plain file"), "{kind:?}: {error}");
    }
}

#[test]
fn snapshot_file_holds_what_it_says_and_nothing_else() {
    let bundle = b"sealed";
    let name = format!("{BUNDLES}{}", proto_types::BundleId::of(bundle));
    let found = inspect(&Made::good().with(&name, bundle).file()[..]).unwrap();
    assert_eq!((found.bundles, found.bundle_bytes), (1, 6));
    for (what, made) in [
        ("other bytes", Made::good().with(&name, b"other!")),
        ("twice", Made::good().with(&name, bundle).with(&name, bundle)),
        ("a stranger", Made::good().with("etc/passwd", b"root")),
        ("no bundle's name", Made::good().with("bundles/1234", b"x")),
        ("a second state", Made::good().with(STATE, b"x")),
    ] {
        assert!(matches!(refused(&made), SnapshotFileError::Damaged { .. }), "{what}");
    }
    let mut other = meta();
    other.fleet = FleetId::from_bytes([2; 16]);
    let mut made = Made::good();
    made.entries[0].1 = serde_json::to_vec(&other).unwrap();
    assert!(refused(&Made::of(made.entries)).to_string().contains("another fleet"));
    let mut newer = serde_json::to_value(meta()).unwrap();
    newer["version"] = 4.into();
    let mut made = Made::good();
    made.entries[0].1 = serde_json::to_vec(&newer).unwrap();
    let error = refused(&Made::of(made.entries));
    assert_eq!(error.code(), Code::UnsupportedVersion);
    let text = inspect(&b"# some other file, long enough to look at"[..]).unwrap_err().to_string();
    assert!(!text.is_empty());
}
