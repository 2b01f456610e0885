//! Writing a snapshot, entry by entry, as its bytes arrive.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use super::{SEAL, SUMS, Seal, SnapshotFileError, Sums};

const BLOCK: u64 = 512;

/// Writes into anything; whoever calls syncs and renames.
pub struct Writer<W: Write> {
    out: zstd::Encoder<'static, W>,
    sums: Sums,
    /// Name, bytes still to come, and the hash so far, of the entry that is written.
    open: Option<(String, u64, u64, Sha256)>,
}

fn io(what: &'static str) -> impl FnOnce(io::Error) -> SnapshotFileError {
    move |source| SnapshotFileError::Io { what, source }
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(out: W) -> Result<Self, SnapshotFileError> {
        // Bundles are sealed and do not compress; the state does, at any level.
        let mut out = zstd::Encoder::new(out, 1).map_err(io("begin"))?;
        out.include_checksum(true).map_err(io("begin"))?;
        Ok(Self { out, sums: Sums::default(), open: None })
    }

    /// Begins an entry of so many bytes.
    ///
    /// # Errors
    /// When the one before is not complete, or the file cannot be written.
    pub fn entry(&mut self, name: &str, bytes: u64) -> Result<(), SnapshotFileError> {
        self.close()?;
        self.header(name, bytes)?;
        self.open = Some((name.to_owned(), bytes, bytes, Sha256::new()));
        self.close_if_complete()
    }

    /// The next bytes of the entry.
    ///
    /// # Errors
    /// When there are more than were announced, or the file cannot be written.
    pub fn data(&mut self, data: &[u8]) -> Result<(), SnapshotFileError> {
        let Some((name, left, _, hash)) = &mut self.open else {
            return Err(surplus("an entry that was not begun"));
        };
        let Some(rest) = left.checked_sub(data.len() as u64) else {
            let name = name.clone();
            return Err(surplus(&name));
        };
        *left = rest;
        hash.update(data);
        self.out.write_all(data).map_err(io("write"))?;
        self.close_if_complete()
    }

    /// Ends the file with its sums and the leader's seal over them. Gives back what was written
    /// into, to be synced.
    ///
    /// # Errors
    /// When an entry is not complete, the leader sealed other sums, or the file cannot be written.
    pub fn finish(mut self, seal: &Seal) -> Result<W, SnapshotFileError> {
        self.close()?;
        if seal.sums_sha256 != self.sums.sha256() {
            return Err(SnapshotFileError::Damaged {
                entry: SUMS.to_owned(),
                what: "is not what the leader sealed: the bytes changed on their way".to_owned(),
            });
        }
        let sums = self.sums.text().to_owned();
        self.whole(SUMS, sums.as_bytes())?;
        let seal = serde_json::to_vec_pretty(seal).map_err(|e| io("write")(e.into()))?;
        self.whole(SEAL, &seal)?;
        self.out.write_all(&[0; 2 * BLOCK as usize]).map_err(io("write"))?;
        self.out.finish().map_err(io("write"))
    }

    fn whole(&mut self, name: &str, bytes: &[u8]) -> Result<(), SnapshotFileError> {
        self.header(name, bytes.len() as u64)?;
        self.out.write_all(bytes).map_err(io("write"))?;
        self.pad(bytes.len() as u64)
    }

    fn header(&mut self, name: &str, bytes: u64) -> Result<(), SnapshotFileError> {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).map_err(io("name an entry of"))?;
        header.set_size(bytes);
        header.set_mode(0o600);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        self.out.write_all(header.as_bytes()).map_err(io("write"))
    }

    fn pad(&mut self, bytes: u64) -> Result<(), SnapshotFileError> {
        let rest = usize::try_from((BLOCK - bytes % BLOCK) % BLOCK).unwrap_or(0);
        self.out.write_all(&[0; BLOCK as usize][..rest]).map_err(io("write"))
    }

    fn close_if_complete(&mut self) -> Result<(), SnapshotFileError> {
        match &self.open {
            Some((_, 0, _, _)) => self.close(),
            Some(_) | None => Ok(()),
        }
    }

    fn close(&mut self) -> Result<(), SnapshotFileError> {
        match self.open.take() {
            None => Ok(()),
            Some((name, 0, bytes, hash)) => {
                self.sums.add(&name, &hash.finalize());
                self.pad(bytes)
            }
            Some((name, left, _, _)) => Err(SnapshotFileError::Damaged {
                entry: name,
                what: format!("arrived without its last {left} bytes"),
            }),
        }
    }
}

fn surplus(name: &str) -> SnapshotFileError {
    SnapshotFileError::Damaged {
        entry: name.to_owned(),
        what: "arrived with more bytes than were announced".to_owned(),
    }
}
