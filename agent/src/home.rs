//! The agent's directory: its two keys, its instance id, the cache and the spool, with an
//! exclusive lock. Keys are made by [`init`]; one that is lost later is made anew by the agent, which
//! says so in a finding (`store_secret`, `backup::lost_keys`).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bundle::{Kek, KeyFileError, MAX_KEY_FILE_BYTES, RecoveryPublic, RecoverySecret, SigningKey};
use proto_types::env::Random;
use proto_types::{BundleId, Code, KeyFingerprint, SessionId, SigningPublicKey};
use rustix::fs::{FlockOperation, flock};
use std::sync::{Arc, PoisonError, RwLock};
use zeroize::Zeroizing;

use crate::key_notices::Notice;
use crate::store_secret::{Change, FilePlace, KEK_FILE, StoreSecret};

const SIGNING_FILE: &str = "signing.key";
/// Made when the one before was lost; takes its place when the fleet knows it.
const SIGNING_NEXT_FILE: &str = "signing.next";
/// What a person has to be told of keys, a word a line.
const NOTICES_FILE: &str = "notices";
/// The recovery key that followed the one in the config.
const RECOVERY_FILE: &str = "recovery-successor";
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
    store_secret: StoreSecret,
    signing: RwLock<Signing>,
    instance: SessionId,
    /// Held open: closing it gives up the lock.
    _lock: File,
}

/// The signing key in use.
struct Signing {
    key: Arc<SigningKey>,
    /// Whether it was made because the one before is gone, and the fleet may not know it yet.
    is_new: bool,
}

impl Home {
    /// Opens and locks a directory that [`init`] made. What a crash left in the spool is removed; a key
    /// that is gone is made anew, and a person told of it with the next backup.
    ///
    /// # Errors
    /// When no keys were ever made here, the signing key is damaged, another agent holds the lock, or
    /// the directory cannot be written.
    pub fn open(directory: &Path, random: &dyn Random) -> Result<Self, HomeError> {
        let signing_path = directory.join(SIGNING_FILE);
        let is_there = |name: &str| std::fs::symlink_metadata(directory.join(name)).is_ok();
        let used_before = is_there(SIGNING_FILE) || is_there(INSTANCE_FILE);
        if !used_before && !is_there(KEK_FILE) {
            return Err(HomeError::KeyMissing { path: directory.join(KEK_FILE) });
        }
        let lock = take_lock(directory)?;
        let signing = match load_key(&signing_path, SigningKey::from_text) {
            Ok(key) => Signing { key: Arc::new(key), is_new: false },
            // A damaged one is a person's to look at: it is not lost yet.
            Err(HomeError::KeyMissing { .. }) => {
                let key = new_signing_key(directory, random)?;
                Signing { key: Arc::new(key), is_new: true }
            }
            Err(error) => return Err(error),
        };
        let note = |change| add_notice(directory, Notice::of(change));
        let place = Box::new(FilePlace::new(directory.to_owned()));
        let missing = || HomeError::KeyMissing { path: directory.join(KEK_FILE) };
        let store_secret = StoreSecret::open(place, used_before, random, note, missing)?;
        let spool = directory.join(SPOOL_DIRECTORY);
        if spool.exists() {
            std::fs::remove_dir_all(&spool).map_err(io("clear", &spool))?;
        }
        for name in [HINTS_DIRECTORY, BUNDLES_DIRECTORY, SPOOL_DIRECTORY] {
            make_directory(&directory.join(name))?;
        }
        let instance = instance_id(directory, random)?;
        Ok(Self {
            directory: directory.to_owned(),
            store_secret,
            signing: RwLock::new(signing),
            instance,
            _lock: lock,
        })
    }

    /// The cluster's KEK, as it stands in its place.
    #[must_use]
    pub fn kek(&self) -> Arc<Kek> {
        self.store_secret.current()
    }
    pub(crate) const fn store_secret(&self) -> &StoreSecret {
        &self.store_secret
    }
    /// Looks whether somebody lost or changed the KEK, and does what is to be done.
    pub(crate) fn look_at_kek(&self, random: &dyn Random) -> Result<Option<Change>, HomeError> {
        let note = |change| add_notice(&self.directory, Notice::of(change));
        self.store_secret.look(random, note)
    }
    /// The cluster's signing key.
    #[must_use]
    pub fn signing_key(&self) -> Arc<SigningKey> {
        self.signing.read().unwrap_or_else(PoisonError::into_inner).key.clone()
    }
    /// Whether the signing key was made because the one before is gone, and the fleet may not know it.
    pub(crate) fn signing_key_is_new(&self) -> bool {
        self.signing.read().unwrap_or_else(PoisonError::into_inner).is_new
    }
    /// Keeps the signing key that the cluster had before, found in a key bundle.
    pub(crate) fn keep_found_signing_key(&self, found: &SigningKey) -> Result<(), HomeError> {
        let path = self.directory.join(SIGNING_NEXT_FILE);
        if std::fs::symlink_metadata(&path).is_ok() {
            std::fs::remove_file(&path).map_err(io("remove", &path))?;
        }
        write_new(&path, found.to_text().as_bytes())?;
        sync_directory(&self.directory)?;
        self.keep_signing_key()
    }
    /// The fleet knows the new signing key: it takes its place.
    pub(crate) fn keep_signing_key(&self) -> Result<(), HomeError> {
        let (next, path) =
            (self.directory.join(SIGNING_NEXT_FILE), self.directory.join(SIGNING_FILE));
        move_durably(&next, &path)?;
        let key = Arc::new(load_key(&path, SigningKey::from_text)?);
        let signing = Signing { key, is_new: false };
        *self.signing.write().unwrap_or_else(PoisonError::into_inner) = signing;
        Ok(())
    }
    /// What a person has to be told of keys, and was not yet.
    pub(crate) fn notices(&self) -> Vec<Notice> {
        let text = std::fs::read_to_string(self.directory.join(NOTICES_FILE)).unwrap_or_default();
        let mut notices: Vec<Notice> = text.lines().filter_map(Notice::from_word).collect();
        notices.sort_unstable();
        notices.dedup();
        notices
    }
    /// Notes it before it is done, so that a crash keeps nobody from hearing of it.
    pub(crate) fn add_notice(&self, notice: Notice) -> Result<(), HomeError> {
        add_notice(&self.directory, notice)
    }
    /// The fleet was told.
    pub(crate) fn clear_notices(&self) {
        // Told once more, if it stays.
        let _ = std::fs::remove_file(self.directory.join(NOTICES_FILE));
    }
    /// The recovery key to seal to: the configured one, or the one that was found to follow it.
    ///
    /// # Errors
    /// When what was kept of it cannot be read.
    pub fn pinned_recovery(&self, configured: RecoveryPublic) -> Result<RecoveryPublic, HomeError> {
        let path = self.directory.join(RECOVERY_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(configured),
            Err(error) => return Err(io("read", &path)(error)),
        };
        let followed = text.lines().next().unwrap_or_default().strip_prefix("# follows ");
        // Of another configured key it says nothing.
        if followed != Some(configured.fingerprint().to_string().as_str()) {
            return Ok(configured);
        }
        RecoveryPublic::from_text(&text).map_err(|source| HomeError::Key { path, source })
    }
    /// Keeps the recovery key that follows the configured one.
    pub(crate) fn keep_recovery(
        &self,
        configured: &RecoveryPublic,
        successor: &RecoveryPublic,
    ) -> Result<(), HomeError> {
        let path = self.directory.join(RECOVERY_FILE);
        let partial = self.directory.join("recovery-successor.partial");
        let _ = std::fs::remove_file(&partial);
        let text = format!("# follows {}\n{}", configured.fingerprint(), successor.to_text());
        write_new(&partial, text.as_bytes())?;
        move_durably(&partial, &path)
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

/// The public half of the signing key in a directory; of one that was made because the one before was
/// lost, while the fleet may not know it. Takes no lock.
///
/// # Errors
/// When there is none, or it is damaged.
pub fn signing_public(directory: &Path) -> Result<SigningPublicKey, HomeError> {
    let path = directory.join(SIGNING_FILE);
    match load_key(&path, SigningKey::from_text) {
        Err(HomeError::KeyMissing { .. }) => {
            load_key(&directory.join(SIGNING_NEXT_FILE), SigningKey::from_text)
                .map_err(|_| HomeError::KeyMissing { path })
        }
        result => result,
    }
    .map(|key| key.public())
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

/// Renames a synced file, and syncs the directory.
pub(crate) fn move_durably(from: &Path, to: &Path) -> Result<(), HomeError> {
    std::fs::rename(from, to).map_err(io("write", to))?;
    match to.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// The key that was made when the one before was lost: that of an earlier start, or a fresh one.
fn new_signing_key(directory: &Path, random: &dyn Random) -> Result<SigningKey, HomeError> {
    let path = directory.join(SIGNING_NEXT_FILE);
    match load_key(&path, SigningKey::from_text) {
        Err(HomeError::KeyMissing { .. }) => {}
        // Cut by a crash, before the fleet could know it.
        Err(HomeError::Key { .. }) => std::fs::remove_file(&path).map_err(io("remove", &path))?,
        result => return result,
    }
    let key = SigningKey::generate(random);
    write_new(&path, key.to_text().as_bytes())?;
    sync_directory(directory)?;
    Ok(key)
}

fn add_notice(directory: &Path, notice: Notice) -> Result<(), HomeError> {
    let path = directory.join(NOTICES_FILE);
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| {
            file.write_all(format!("{}\n", notice.word()).as_bytes())?;
            file.sync_all()
        })
        .map_err(io("write", &path))?;
    sync_directory(directory)
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
