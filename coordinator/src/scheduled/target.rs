//! Where scheduled snapshots go: a directory, or a bucket. What is written is read back from there
//! before it counts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use proto::ApiError;
use proto::v1::snapshot_part::Part;
use proto_types::{Code, LogTime};
use sha2::{Digest, Sha256};
use storage::bucket::{Bucket, BucketError};
use tokio::sync::mpsc;

use super::plan;
use crate::config::SnapshotsConfig;
use crate::keeper::chain;
use crate::snapshot_file::{META, Meta, Seal, SnapshotFileError, Writer, inspect};

const PARTIAL: &str = ".partial";
/// Longest `meta.json`.
const META_BYTES_MAX: u64 = 64 << 10;

/// A place for snapshots.
#[derive(Debug)]
pub(super) enum Target {
    Directory(PathBuf),
    Bucket(Bucket),
}

/// A snapshot that was read back and found good.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) name: String,
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) bytes: u64,
    pub(super) sha256: [u8; 32],
}

fn io_error<'a>(doing: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> ApiError + 'a {
    move |error| {
        let code = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::NoSpace,
            _ => Code::LocalIo,
        };
        ApiError::new(code, format!("cannot {doing} {}: {error}", path.display()))
    }
}

fn bucket_error(error: BucketError) -> ApiError {
    ApiError::new(error.code(), chain(&error))
}

fn file_error(error: SnapshotFileError) -> ApiError {
    ApiError::new(error.code(), chain(&error))
}

impl Target {
    pub(super) fn open(config: &SnapshotsConfig) -> Result<Self, ApiError> {
        match config.to.url.strip_prefix("file://") {
            Some(path) => Ok(Self::Directory(PathBuf::from(path))),
            None => config.to.open("snapshots").map(Self::Bucket),
        }
    }

    /// Writes the parts of one snapshot, gives it its name, and reads it back. What is no good is
    /// removed. Blocking.
    pub(super) fn save(
        &self,
        due: LogTime,
        mut parts: mpsc::Receiver<Part>,
    ) -> Result<Saved, ApiError> {
        let (meta, meta_bytes) = read_meta(&mut parts)?;
        let name = plan::name(meta.index, meta.term, due);
        let begun = Begun { meta_bytes, parts };
        let (bytes, sha256) = match self {
            Self::Directory(directory) => save_to_directory(directory, &name, begun),
            Self::Bucket(bucket) => save_to_bucket(bucket, &name, begun),
        }?;
        Ok(Saved { name, index: meta.index, term: meta.term, bytes, sha256 })
    }

    /// Names of everything there.
    pub(super) fn names(&self) -> Result<Vec<String>, ApiError> {
        match self {
            Self::Directory(directory) => {
                let entries = fs::read_dir(directory).map_err(io_error("list", directory))?;
                let mut names = Vec::new();
                for entry in entries {
                    let entry = entry.map_err(io_error("list", directory))?;
                    names.extend(entry.file_name().into_string());
                }
                Ok(names)
            }
            Self::Bucket(bucket) => {
                let listed = bucket.list("").map_err(bucket_error)?;
                Ok(listed.into_iter().map(|object| object.name).collect())
            }
        }
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), ApiError> {
        match self {
            Self::Directory(directory) => {
                let path = directory.join(name);
                fs::remove_file(&path).map_err(io_error("remove", &path))
            }
            Self::Bucket(bucket) => bucket.delete(name).map_err(bucket_error),
        }
    }
}

/// The parts behind `meta.json`, whose bytes were taken already.
struct Begun {
    meta_bytes: Vec<u8>,
    parts: mpsc::Receiver<Part>,
}

fn cut_short() -> ApiError {
    ApiError::new(Code::Unavailable, "the snapshot came without its end: the leader led no longer")
}

/// The first entry, which gives the snapshot its name.
fn read_meta(parts: &mut mpsc::Receiver<Part>) -> Result<(Meta, Vec<u8>), ApiError> {
    let strange = |what: &str| ApiError::new(Code::Internal, format!("the snapshot {what}"));
    let bytes = match parts.blocking_recv() {
        Some(Part::Entry(entry)) if entry.name == META && entry.bytes <= META_BYTES_MAX => {
            entry.bytes
        }
        Some(_) => return Err(strange("does not begin with its meta.json")),
        None => return Err(cut_short()),
    };
    let mut text = Vec::new();
    while (text.len() as u64) < bytes {
        match parts.blocking_recv() {
            Some(Part::Data(data)) => text.extend_from_slice(&data),
            Some(_) => return Err(strange("goes on before its meta.json ends")),
            None => return Err(cut_short()),
        }
    }
    let meta = serde_json::from_slice(&text).map_err(|error| strange(&error.to_string()))?;
    Ok((meta, text))
}

/// Writes all parts; the file's end is written, and nothing is synced.
fn write<W: Write>(out: W, mut begun: Begun) -> Result<(W, Seal), ApiError> {
    let mut writer = Writer::new(out).map_err(file_error)?;
    writer.entry(META, begun.meta_bytes.len() as u64).map_err(file_error)?;
    writer.data(&begun.meta_bytes).map_err(file_error)?;
    while let Some(part) = begun.parts.blocking_recv() {
        match part {
            Part::Entry(entry) => writer.entry(&entry.name, entry.bytes).map_err(file_error)?,
            Part::Data(data) => writer.data(&data).map_err(file_error)?,
            Part::Seal(seal) => {
                let seal = Seal {
                    leader: seal.leader_id,
                    term: seal.term,
                    sealed_index: seal.sealed_index,
                    nonce: seal.nonce,
                    sums_sha256: seal.sums_sha256,
                };
                return Ok((writer.finish(&seal).map_err(file_error)?, seal));
            }
        }
    }
    Err(cut_short())
}

/// Reads a whole file, by the very check of `snapshot inspect`; it must be the one just written.
fn read_back(file: impl Read, seal: &Seal) -> Result<(u64, [u8; 32]), ApiError> {
    let mut hashing = Hashing { inner: file, hash: Sha256::new(), bytes: 0 };
    let found = inspect(BufReader::with_capacity(1 << 20, &mut hashing)).map_err(file_error)?;
    if found.seal != *seal {
        return Err(ApiError::new(Code::Damaged, "what was read back is another snapshot"));
    }
    Ok((hashing.bytes, hashing.hash.finalize().into()))
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.bytes += length as u64;
        Ok(length)
    }
}

fn save_to_directory(
    directory: &Path,
    name: &str,
    begun: Begun,
) -> Result<(u64, [u8; 32]), ApiError> {
    remove_leftovers(directory)?;
    let partial = directory.join(format!("{name}{PARTIAL}"));
    let saved = write_file(&partial, begun).and_then(|found| {
        let path = directory.join(name);
        // Never over something that is there: a link refuses, a rename would not.
        fs::hard_link(&partial, &path).map_err(io_error("name", &path))?;
        fs::remove_file(&partial).map_err(io_error("remove", &partial))?;
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(io_error("sync", directory))?;
        Ok(found)
    });
    if saved.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&partial);
    }
    saved
}

fn write_file(path: &Path, begun: Begun) -> Result<(u64, [u8; 32]), ApiError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(io_error("write", path))?;
    let (out, seal) = write(BufWriter::with_capacity(1 << 20, file), begun)?;
    let file = out.into_inner().map_err(|e| io_error("write", path)(e.into_error()))?;
    file.sync_all().map_err(io_error("sync", path))?;
    drop(file);
    read_back(File::open(path).map_err(io_error("read back", path))?, &seal)
}

/// What a leader that died left behind. One that is no leader any more and still writes finds its
/// file gone, and fails: there is a new leader, which saves.
fn remove_leftovers(directory: &Path) -> Result<(), ApiError> {
    for entry in fs::read_dir(directory).map_err(io_error("list", directory))? {
        let entry = entry.map_err(io_error("list", directory))?;
        let name = entry.file_name();
        let Some(whole) = name.to_str().and_then(|name| name.strip_suffix(PARTIAL)) else {
            continue;
        };
        if plan::is_ours(whole) {
            let path = entry.path();
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

fn save_to_bucket(bucket: &Bucket, name: &str, begun: Begun) -> Result<(u64, [u8; 32]), ApiError> {
    if bucket.size(name).map_err(bucket_error)?.is_some() {
        return Err(ApiError::new(
            Code::AlreadyExists,
            format!("{name} is in {bucket} already, and this leader did not put it there"),
        ));
    }
    // Nothing has the name before the last byte is there.
    let (out, seal) = write(bucket.writer(name).map_err(bucket_error)?, begun)?;
    out.finish().map_err(bucket_error)?;
    let found = read_back(bucket.reader(name), &seal);
    if found.is_err()
        && let Err(error) = bucket.delete(name)
    {
        tracing::warn!(%error, "a snapshot that is no good could not be removed");
    }
    found
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
