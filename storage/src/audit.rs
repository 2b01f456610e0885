//! Files of the audit log's closed segments: names, temporary files, fsync. What is in them, and
//! whether it is what it was, is for whoever knows where each one ends.

use std::io;
use std::path::PathBuf;

use crate::disk::{self, EntryKind};
use crate::home::DataDir;

const SUFFIX: &str = ".audit";
const DAMAGED_SUFFIX: &str = ".damaged";

/// The segments of one coordinator. Clones are handles to the same directory.
#[derive(Debug, Clone)]
pub struct AuditFiles {
    home: DataDir,
}

impl AuditFiles {
    /// The segments of a data directory; of one that never had any there is nothing to open.
    #[must_use]
    pub const fn new(home: DataDir) -> Self {
        Self { home }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.home.audit_dir().join(format!("{number:016x}{SUFFIX}"))
    }

    /// Writes a segment; durable when this returns. What had its place is replaced.
    ///
    /// # Errors
    /// When the disk says no; then nothing is certain.
    pub fn put(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        let (disk, directory) = (&**self.home.disk(), self.home.audit_dir());
        if !disk.exists(&directory)? {
            disk.create_dir_all(&directory)?;
            disk.sync_dir(self.home.path())?;
        }
        disk::replace_file(disk, &self.path(number), bytes)
    }

    /// A segment's bytes; `None` when there is no such file.
    ///
    /// # Errors
    /// As the system reports it.
    pub fn read(&self, number: u64) -> io::Result<Option<Vec<u8>>> {
        match disk::read_file(&**self.home.disk(), &self.path(number)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a segment's file another name, under which people can look at what was done to it. One
    /// that lay aside under this number before is replaced.
    ///
    /// # Errors
    /// As the system reports it.
    pub fn put_aside(&self, number: u64) -> io::Result<PathBuf> {
        let path = self.path(number);
        let mut aside = path.clone().into_os_string();
        aside.push(DAMAGED_SUFFIX);
        let aside = PathBuf::from(aside);
        self.home.disk().rename(&path, &aside)?;
        self.home.disk().sync_dir(&self.home.audit_dir())?;
        Ok(aside)
    }

    /// Numbers of the segments that have a file, ascending.
    ///
    /// # Errors
    /// As the system reports it.
    pub fn numbers(&self) -> io::Result<Vec<u64>> {
        let entries = match self.home.disk().list(&self.home.audit_dir()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let files = entries.iter().filter(|entry| entry.kind == EntryKind::File);
        let mut numbers: Vec<u64> = files
            .filter_map(|entry| {
                let stem = entry.name.to_str()?.strip_suffix(SUFFIX)?;
                (stem.len() == 16).then(|| u64::from_str_radix(stem, 16).ok())?
            })
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}
