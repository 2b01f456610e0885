//! A file's content in pieces: small files whole, big ones cut at fixed 1 MiB, stretches of zeros
//! as holes. Tells at the end whether the file stood still while it was read.

use std::fs::File;
use std::io::{ErrorKind, Read};

use rustix::fs::SeekFrom;
use zeroize::Zeroizing;

use super::{Attribute, ReadError, Stat, directory};

/// Big files are cut at multiples of this.
pub const PIECE_BYTES: u64 = 1 << 20;

/// One piece of a file.
pub enum PieceData {
    /// Bytes, at most [`PIECE_BYTES`] of them. Wiped on drop: they may be a secret's.
    Bytes(Zeroizing<Vec<u8>>),
    /// So many zeros.
    Hole(u64),
}

/// What is being read: a file, or bytes that a source holds already.
pub struct Content {
    from: From,
}

enum From {
    File(FileContent),
    Held { stat: Stat, bytes: Zeroizing<Vec<u8>>, offset: usize },
}

impl Content {
    pub(super) fn new(file: File) -> Result<Self, ReadError> {
        Ok(Self { from: From::File(FileContent::new(file)?) })
    }

    /// Bytes that a source holds already.
    pub(crate) const fn held(stat: Stat, bytes: Zeroizing<Vec<u8>>) -> Self {
        Self { from: From::Held { stat, bytes, offset: 0 } }
    }

    /// The attributes when it was opened.
    #[must_use]
    pub const fn stat(&self) -> &Stat {
        match &self.from {
            From::File(file) => &file.before,
            From::Held { stat, .. } => stat,
        }
    }

    /// Its extended attributes.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn attributes(&self) -> Result<Vec<Attribute>, ReadError> {
        match &self.from {
            From::File(file) => directory::attributes_of(&file.file),
            From::Held { .. } => Ok(Vec::new()),
        }
    }

    /// The next piece, `None` at the end.
    ///
    /// # Errors
    /// When reading fails.
    pub fn next_piece(&mut self) -> Result<Option<PieceData>, ReadError> {
        let (bytes, offset) = match &mut self.from {
            From::File(file) => return file.next_piece(),
            From::Held { bytes, offset, .. } => (bytes, offset),
        };
        let want = usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX);
        let piece: Vec<u8> = bytes.iter().skip(*offset).take(want).copied().collect();
        *offset += piece.len();
        Ok((!piece.is_empty()).then(|| PieceData::Bytes(Zeroizing::new(piece))))
    }

    /// Whether it is still what it was at the beginning.
    ///
    /// # Errors
    /// When a file cannot be asked.
    pub fn stood_still(&self) -> Result<bool, ReadError> {
        match &self.from {
            From::File(file) => file.stood_still(),
            From::Held { .. } => Ok(true),
        }
    }
}

struct FileContent {
    file: File,
    before: Stat,
    offset: u64,
    /// Where data was last found to begin, when the file has holes at all.
    next_data: Option<u64>,
    sparse: bool,
    grown: bool,
}

impl FileContent {
    fn new(file: File) -> Result<Self, ReadError> {
        let raw = rustix::fs::fstat(&file)?;
        let before = directory::stat(&raw);
        // Fewer blocks on disk than bytes in the file: there must be holes.
        let sparse = u64::try_from(raw.st_blocks).unwrap_or(0).saturating_mul(512) < before.size;
        Ok(Self { file, before, offset: 0, next_data: None, sparse, grown: false })
    }

    fn next_piece(&mut self) -> Result<Option<PieceData>, ReadError> {
        let left = self.before.size.saturating_sub(self.offset);
        if left == 0 {
            return Ok(None);
        }
        let want = left.min(PIECE_BYTES);
        if self.sparse && self.is_hole(want)? {
            self.offset += want;
            return Ok(Some(PieceData::Hole(want)));
        }
        let want = usize::try_from(want).map_err(|_| ReadError::Unreadable(ErrorKind::Other))?;
        let mut bytes = Zeroizing::new(vec![0; want]);
        let have = self.fill(&mut bytes)?;
        if have == 0 {
            // Shorter than it said: `stood_still` will tell.
            self.offset = self.before.size;
            return Ok(None);
        }
        bytes.truncate(have);
        self.offset += have as u64;
        if have as u64 == PIECE_BYTES && is_zero(&bytes) {
            return Ok(Some(PieceData::Hole(PIECE_BYTES)));
        }
        Ok(Some(PieceData::Bytes(bytes)))
    }

    /// Whether size, modification and change time are still those of the beginning.
    fn stood_still(&self) -> Result<bool, ReadError> {
        let after = directory::stat(&rustix::fs::fstat(&self.file)?);
        let before = &self.before;
        Ok(!self.grown
            && after.size == before.size
            && after.modified == before.modified
            && after.changed == before.changed)
    }

    /// Whether the next `want` bytes are all in a hole of the file.
    fn is_hole(&mut self, want: u64) -> Result<bool, ReadError> {
        let end = self.offset + want;
        if self.next_data.is_none_or(|data| data < self.offset) {
            let found = rustix::fs::seek(&self.file, SeekFrom::Data(self.offset));
            self.next_data = match found {
                Ok(data) => Some(data),
                // No data up to the end.
                Err(rustix::io::Errno::NXIO) => Some(u64::MAX),
                // A file system that cannot tell: everything is data.
                Err(_) => {
                    self.sparse = false;
                    Some(self.offset)
                }
            };
        }
        Ok(self.next_data.is_some_and(|data| data >= end))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, ReadError> {
        if self.sparse {
            // Asking for data moved the position.
            rustix::fs::seek(&self.file, SeekFrom::Start(self.offset))?;
        }
        let mut have = 0;
        while have < bytes.len() {
            match self.file.read(&mut bytes[have..]) {
                Ok(0) => {
                    self.grown = true;
                    break;
                }
                Ok(len) => have += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Unreadable(error.kind())),
            }
        }
        Ok(have)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Looks at the first byte alone in nearly all cases, then compares in large steps.
    bytes.first() == Some(&0) && bytes.chunks(4096).all(|chunk| chunk.iter().all(|b| *b == 0))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    fn read(file: File) -> (Vec<(bool, u64)>, bool) {
        let mut content = Content::new(file).unwrap();
        let mut pieces = Vec::new();
        while let Some(piece) = content.next_piece().unwrap() {
            pieces.push(match piece {
                PieceData::Bytes(bytes) => (true, bytes.len() as u64),
                PieceData::Hole(len) => (false, len),
            });
        }
        let still = content.stood_still().unwrap();
        (pieces, still)
    }

    #[test]
    fn content_cuts_at_one_mebibyte_and_finds_holes() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("f");
        const M: u64 = PIECE_BYTES;
        let open = || File::open(&path).unwrap();

        std::fs::write(&path, "").unwrap();
        assert_eq!(read(open()), (vec![], true));
        std::fs::write(&path, vec![1; M as usize]).unwrap();
        assert_eq!(read(open()), (vec![(true, M)], true));
        std::fs::write(&path, vec![1; M as usize + 1]).unwrap();
        assert_eq!(read(open()), (vec![(true, M), (true, 1)], true));
        // Zeros that are written out count as a hole too, but only whole pieces.
        std::fs::write(&path, vec![0; M as usize + 1]).unwrap();
        assert_eq!(read(open()), (vec![(false, M), (true, 1)], true));

        let mut sparse = File::create(&path).unwrap();
        sparse.seek(SeekFrom::Start(5 * M)).unwrap();
        sparse.write_all(b"data").unwrap();
        sparse.set_len(100 * M + 7).unwrap();
        drop(sparse);
        let (pieces, still) = read(open());
        assert!(still);
        assert_eq!(
            pieces[..6],
            [(false, M), (false, M), (false, M), (false, M), (false, M), (true, M)]
        );
        assert_eq!(pieces.len(), 101);
        assert_eq!(pieces[100], (false, 7));
        assert_eq!(pieces.iter().filter(|(data, _)| *data).count(), 1);
    }

    #[test]
    fn content_notices_a_file_that_changes() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("f");
        std::fs::write(&path, vec![1; 3 << 20]).unwrap();
        for change in ["grow", "cut", "touch"] {
            let mut content = Content::new(File::open(&path).unwrap()).unwrap();
            content.next_piece().unwrap();
            let writer = File::options().write(true).open(&path).unwrap();
            match change {
                "grow" => writer.set_len(4 << 20).unwrap(),
                "cut" => writer.set_len(1 << 20).unwrap(),
                _ => writer.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap(),
            }
            while content.next_piece().unwrap().is_some() {}
            assert!(!content.stood_still().unwrap(), "{change}");
        }
    }
}
