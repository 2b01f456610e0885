//! The agent's directory: its two keys, its instance id, the cache and the spool, with an
//! exclusive lock. Keys are made by [`init`] and only there: a missing one is never replaced in
//! silence, because a new KEK would look like a backup that nobody can open.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bundle::{Kek, KeyFileError, MAX_KEY_FILE_BYTES, RecoveryPublic, RecoverySecret, SigningKey};
use proto_types::env::Random;
use proto_types::{BundleId, Code, KeyFingerprint, SessionId, SigningPublicKey};
use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

const KEK_FILE: &str = "kek.key";
const SIGNING_FILE: &str = "signing.key";
const INSTANCE_FILE: &str = "instance";
const LOCK_FILE: &str = "lock";
const HINTS_DIRECTORY: &str = "cache/hints";
const BUNDLES_DIRECTORY: &str = "cache/bundles";
const SPOOL_DIRECTORY: &str = "spool";

/// Why the agent's directory or a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// There are keys already; they are never overwritten.
    #[error(
        "{} already exists: it may be the only key to this cluster's backups; use another \
         directory, or move it away yourself",
        crate::shown::path(path)
    )]
    KeyExists {
        /// The file that is in the way.
        path: PathBuf,
    },
    /// A key file is not there.
    #[error(
        "the key file {} is missing: restore it from your copy; `strongroom agent init` makes \
         keys only for a new cluster",
        crate::shown::path(path)
    )]
    KeyMissing {
        /// The file that should be there.
        path: PathBuf,
    },
    /// A key file does not hold a key.
    #[error("{}: {source}", crate::shown::path(path))]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyFileError,
    },
    /// Another agent works in this directory.
    #[error(
        "another agent already works in {}: stop it, or give this one its own state_dir",
        crate::shown::path(path)
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// Others could put their keys in the place of ours.
    #[error(
        "others may write into {}, where keys are kept: take that right away with chmod go-w, or \
         use another directory",
        crate::shown::path(path)
    )]
    Shared {
        /// The directory.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {what} {}: {source}", crate::shown::path(path))]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl HomeError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::KeyExists { .. } => Code::AlreadyExists,
            Self::KeyMissing { .. } => Code::KeyMissing,
            Self::Key { source, .. } => source.code(),
            Self::Locked { .. } => Code::Busy,
            Self::Shared { .. } => Code::PermissionDenied,
            Self::Io { source, .. } => io_code(source),
        }
    }
}

/// The code of a local file's error.
pub(crate) fn io_code(error: &std::io::Error) -> Code {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Code::NoSpace,
        std::io::ErrorKind::AddrInUse => Code::AddressInUse,
        _ => Code::LocalIo,
    }
}

/// What [`init`] made.
#[derive(Debug, Clone)]
pub struct InitReport {
    /// Where the KEK is.
    pub kek: PathBuf,
    /// Where the signing key is.
    pub signing_key: PathBuf,
    /// Its public half, by which a cluster is registered.
    pub signing_public: SigningPublicKey,
    /// What people compare.
    pub signing_fingerprint: KeyFingerprint,
}

/// Makes an agent's directory with a fresh KEK and signing key.
///
/// # Errors
/// When either key already exists, or the directory cannot be written.
pub fn init(directory: &Path, random: &dyn Random) -> Result<InitReport, HomeError> {
    make_directory(directory)?;
    let (kek, signing_key) = (directory.join(KEK_FILE), directory.join(SIGNING_FILE));
    for path in [&kek, &signing_key] {
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(HomeError::KeyExists { path: path.clone() });
        }
    }
    let signing = SigningKey::generate(random);
    write_new(&kek, Kek::generate(random).to_text().as_bytes())?;
    write_new(&signing_key, signing.to_text().as_bytes())?;
    sync_directory(directory)?;
    let signing_public = signing.public();
    let signing_fingerprint = signing_public.fingerprint();
    Ok(InitReport { kek, signing_key, signing_public, signing_fingerprint })
}

/// An agent's directory, locked for this process.
pub struct Home {
    directory: PathBuf,
    kek: Kek,
    signing: SigningKey,
    instance: SessionId,
    /// Held open: closing it gives up the lock.
    _lock: File,
}

impl Home {
    /// Opens and locks a directory that [`init`] made. What a crash left in the spool is removed.
    ///
    /// # Errors
    /// When a key is missing, short or damaged, another agent holds the lock, or the directory
    /// cannot be written.
    pub fn open(directory: &Path, random: &dyn Random) -> Result<Self, HomeError> {
        let kek = load_kek(&directory.join(KEK_FILE))?;
        let signing = load_key(&directory.join(SIGNING_FILE), SigningKey::from_text)?;
        let lock = take_lock(directory)?;
        let spool = directory.join(SPOOL_DIRECTORY);
        if spool.exists() {
            std::fs::remove_dir_all(&spool).map_err(io("clear", &spool))?;
        }
        for name in [HINTS_DIRECTORY, BUNDLES_DIRECTORY, SPOOL_DIRECTORY] {
            make_directory(&directory.join(name))?;
        }
        let instance = instance_id(directory, random)?;
        Ok(Self { directory: directory.to_owned(), kek, signing, instance, _lock: lock })
    }

    /// The cluster's KEK.
    #[must_use]
    pub const fn kek(&self) -> &Kek {
        &self.kek
    }
    /// The cluster's signing key.
    #[must_use]
    pub const fn signing_key(&self) -> &SigningKey {
        &self.signing
    }
    /// This installation, which keeps its epoch through restarts.
    #[must_use]
    pub const fn instance(&self) -> SessionId {
        self.instance
    }
    /// Where the stat hints are (sled).
    #[must_use]
    pub fn hints(&self) -> PathBuf {
        self.directory.join(HINTS_DIRECTORY)
    }
    /// Where the newest acknowledged point is noted.
    #[must_use]
    pub fn heads(&self) -> PathBuf {
        self.directory.join("head.json")
    }
    /// Where sealed manifests and key bundles of the head are kept, so as not to fetch them.
    #[must_use]
    pub fn bundles(&self) -> PathBuf {
        self.directory.join(BUNDLES_DIRECTORY)
    }
    /// The kept copy of a sealed bundle.
    #[must_use]
    pub fn bundle(&self, id: BundleId) -> PathBuf {
        self.bundles().join(id.to_string())
    }
    /// Which items the last backup could not take as they should be, a line each; for this
    /// machine's owner only, since paths are plaintext (invariant K1).
    #[must_use]
    pub fn skipped(&self) -> PathBuf {
        self.directory.join("skipped.txt")
    }
    /// Forgets the list of the backup before.
    pub(crate) fn clear_skipped(&self) -> Result<(), HomeError> {
        let path = self.skipped();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io("remove", &path)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
    /// Adds to the list.
    pub(crate) fn add_skipped(&self, lines: &str) -> Result<(), HomeError> {
        let path = self.skipped();
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(lines.as_bytes()))
            .map_err(io("write", &path))
    }
    /// A file of the spool.
    #[must_use]
    pub fn spool(&self, name: &str) -> PathBuf {
        self.directory.join(SPOOL_DIRECTORY).join(name)
    }
}

/// Reads a KEK file.
///
/// # Errors
/// When it is missing, short, damaged or another key.
pub fn load_kek(path: &Path) -> Result<Kek, HomeError> {
    load_key(path, Kek::from_text)
}

/// Reads `recovery.key`.
///
/// # Errors
/// When it is missing, short, damaged or another key.
pub fn load_recovery_secret(path: &Path) -> Result<RecoverySecret, HomeError> {
    load_key(path, RecoverySecret::from_text)
}

/// Reads `recovery.pub`.
///
/// # Errors
/// When it is missing, short, damaged or another key.
pub fn load_recovery_public(path: &Path) -> Result<RecoveryPublic, HomeError> {
    load_key(path, RecoveryPublic::from_text)
}

fn load_key<K>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<K, KeyFileError>,
) -> Result<K, HomeError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(HomeError::KeyMissing { path: path.to_owned() });
        }
        Err(error) => return Err(io("read the key file", path)(error)),
    };
    // Reserved at once, so that growing leaves no copy of the key behind.
    let limit = MAX_KEY_FILE_BYTES + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit));
    file.take(limit as u64).read_to_end(&mut bytes).map_err(io("read the key file", path))?;
    // What is not text is no key file; the parser says which part is wrong.
    let text = std::str::from_utf8(&bytes).unwrap_or("?");
    parse(text).map_err(|source| HomeError::Key { path: path.to_owned(), source })
}

fn take_lock(directory: &Path) -> Result<File, HomeError> {
    let path = directory.join(LOCK_FILE);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io("open the lock file", &path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(HomeError::Locked { path: directory.to_owned() }),
        Err(error) => Err(io("lock", &path)(error.into())),
    }
}

fn instance_id(directory: &Path, random: &dyn Random) -> Result<SessionId, HomeError> {
    let path = directory.join(INSTANCE_FILE);
    // A damaged one costs only an epoch: a new one is drawn.
    if let Some(id) = std::fs::read_to_string(&path).ok().and_then(|t| t.trim().parse().ok()) {
        return Ok(id);
    }
    let id = SessionId::random(random);
    let partial = directory.join("instance.partial");
    // Left by a crash between these lines.
    let _ = std::fs::remove_file(&partial);
    write_new(&partial, format!("{id}\n").as_bytes())?;
    std::fs::rename(&partial, &path).map_err(io("write", &path))?;
    sync_directory(directory)?;
    Ok(id)
}

/// Makes a directory that its owner alone may use. One that is there stays as it is: it may be a
/// person's, and is refused if others may write into it.
pub(crate) fn make_directory(path: &Path) -> Result<(), HomeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io("make the directory", path))?;
    let mode = std::fs::metadata(path).map_err(io("look at", path))?.permissions().mode();
    if mode & 0o022 == 0 { Ok(()) } else { Err(HomeError::Shared { path: path.to_owned() }) }
}

/// Writes a file that must not exist yet, readable to its owner only, and syncs it.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    let mut file = create_private(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io("write", path))
}

/// Creates a file that must not exist yet, readable to its owner only.
pub(crate) fn create_private(path: &Path) -> Result<File, HomeError> {
    OpenOptions::new()
        .write(true)
        .read(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(io("create", path))
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), HomeError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(io("sync", path))
}

fn io<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> HomeError + use<'a> {
    move |source| HomeError::Io { what, path: path.to_owned(), source }
}

#[cfg(test)]
#[path = "home_tests.rs"]
mod tests;
