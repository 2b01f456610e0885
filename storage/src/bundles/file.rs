//! Bundles as files: `ab/cd/<sha256>` below the data directory's `bundles/`, partial uploads in
//! `partial/`, bad copies in `quarantine/`. The order is written in `docs/formats-storage.md`:
//! content synced, then renamed, then every directory on the way synced.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto_types::BundleId;
use sha2::{Digest, Sha256};

use super::{BundleError, BundleStore, HeldBundle, Space};
use crate::disk::{self, Disk, DiskFile, EntryKind};
use crate::home::DataDir;

const PARTIAL: &str = "partial";
const PARTIAL_SUFFIX: &str = ".part";
/// Of what is put; removed at the next start like everything there that no upload can go on with.
const PUT_SUFFIX: &str = ".put";
const QUARANTINE: &str = "quarantine";
const READ_BYTES: usize = 1 << 20;

/// How a [`FileBundleStore`] behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleOptions {
    /// Bytes that stay free, for the log and the snapshots: new bundles are refused before.
    pub reserve_bytes: u64,
}

impl Default for BundleOptions {
    fn default() -> Self {
        Self { reserve_bytes: 1 << 30 }
    }
}

/// Bundles as files on the coordinator's disk.
#[derive(Debug)]
pub struct FileBundleStore {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    options: BundleOptions,
    /// Uploads begun in this process. The map's lock is held shortly; the upload's own lock while
    /// its bytes move.
    uploads: Mutex<HashMap<BundleId, Arc<Mutex<Upload>>>>,
    /// By the directory that they are in. The map's lock is held shortly.
    dirs: Mutex<HashMap<PathBuf, Arc<Mutex<Dirs>>>>,
    /// Bundles under their own name, which could be neither synced nor taken back: not held,
    /// whatever the directory shows, until that name is written anew.
    doubted: Mutex<HashSet<BundleId>>,
    /// Keeps the data directory's lock for as long as files may be written.
    _home: DataDir,
}

/// The directories in one directory: all `ab`, or all `cd` of one `ab`. The lock is held while one
/// is made, so that a sync that fails is known before another of the same directory can succeed on
/// what it forgot. Uploads into other directories need not wait for it.
#[derive(Debug, Default)]
struct Dirs {
    /// Those whose names are known to be durable.
    durable: HashSet<PathBuf>,
    /// A sync of names failed: a directory that is not known to be durable by now never will be,
    /// since it is there already and making it again writes nothing.
    is_failed: bool,
}

/// An open partial file.
#[derive(Debug)]
struct Upload {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    bytes: u64,
    /// The hash of all `bytes`, where this upload wrote them all; then `finish` need not read a
    /// large bundle again. What an earlier upload or process wrote is read, and written again.
    hash: Option<Sha256>,
    /// Finished or given up while somebody waited for the lock.
    is_over: bool,
}

enum Begun {
    /// It is here already, so many bytes.
    Held(u64),
    /// It is being uploaded.
    Upload(Arc<Mutex<Upload>>),
}

impl FileBundleStore {
    /// Opens the bundles of a data directory. What is visible is made durable first: a process
    /// that died may have renamed a file and not lived to sync its directory, and from here on a
    /// file under its name counts as held. Partial uploads stay, to be resumed.
    ///
    /// # Errors
    /// As the system reports it.
    pub fn open(home: &DataDir, options: BundleOptions) -> Result<Self, BundleError> {
        let disk = Arc::clone(home.disk());
        let root = home.bundles_dir();
        for dir in [&root, &root.join(PARTIAL), &root.join(QUARANTINE)] {
            disk.create_dir_all(dir).map_err(failed("create", dir))?;
        }
        let partial = root.join(PARTIAL);
        for entry in disk.list(&partial).map_err(failed("list", &partial))? {
            if partial_id(&entry.name).is_none() && entry.kind == EntryKind::File {
                let path = partial.join(&entry.name);
                disk.remove(&path).map_err(failed("remove", &path))?;
            }
        }
        disk.sync_all(&root).map_err(failed("sync", &root))?;
        Ok(Self {
            disk,
            root,
            options,
            uploads: Mutex::default(),
            dirs: Mutex::default(),
            doubted: Mutex::default(),
            _home: home.clone(),
        })
    }

    /// The bundles of a data directory that is only read, as on a [`disk::ReadOnlyDisk`]: what is
    /// visible counts as held, and nothing is made or removed.
    #[must_use]
    pub fn look(home: &DataDir) -> Self {
        Self {
            disk: Arc::clone(home.disk()),
            root: home.bundles_dir(),
            options: BundleOptions::default(),
            uploads: Mutex::default(),
            dirs: Mutex::default(),
            doubted: Mutex::default(),
            _home: home.clone(),
        }
    }

    fn path(&self, id: &BundleId) -> PathBuf {
        let name = id.to_string();
        self.root.join(&name[..2]).join(&name[2..4]).join(&name)
    }

    fn partial_path(&self, id: &BundleId) -> PathBuf {
        self.root.join(PARTIAL).join(format!("{id}{PARTIAL_SUFFIX}"))
    }

    fn quarantine_path(&self, id: &BundleId) -> PathBuf {
        self.root.join(QUARANTINE).join(id.to_string())
    }

    fn is_doubted(&self, id: &BundleId) -> bool {
        lock(&self.doubted).contains(id)
    }

    fn open_held(&self, id: &BundleId) -> Result<(Box<dyn DiskFile>, PathBuf), BundleError> {
        if self.is_doubted(id) {
            return Err(BundleError::NotFound { id: *id });
        }
        let path = self.path(id);
        match self.disk.open(&path) {
            Ok(file) => Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(BundleError::NotFound { id: *id })
            }
            Err(source) => Err(BundleError::Io { action: "open", path, source }),
        }
    }

    fn upload(&self, id: &BundleId) -> Option<Arc<Mutex<Upload>>> {
        lock(&self.uploads).get(id).map(Arc::clone)
    }

    fn find_or_create(&self, id: &BundleId, expected_bytes: u64) -> Result<Begun, BundleError> {
        let mut uploads = lock(&self.uploads);
        if let Some(upload) = uploads.get(id) {
            return Ok(Begun::Upload(Arc::clone(upload)));
        }
        // Under the map's lock: an upload leaves the map only after the bundle has its name.
        if let Some(bytes) = self.size(id)? {
            return Ok(Begun::Held(bytes));
        }
        let path = self.partial_path(id);
        let file = match self.disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check_room(id, expected_bytes)?;
                self.disk.create(&path).map_err(|e| self.refused(id, "create", &path, e))?
            }
            Err(source) => return Err(BundleError::Io { action: "open", path, source }),
        };
        let bytes = file.len().map_err(failed("measure", &path))?;
        let upload = Arc::new(Mutex::new(Upload {
            file,
            path,
            bytes,
            hash: (bytes == 0).then(Sha256::new),
            is_over: false,
        }));
        uploads.insert(*id, Arc::clone(&upload));
        Ok(Begun::Upload(upload))
    }

    fn check_room(&self, id: &BundleId, bytes: u64) -> Result<(), BundleError> {
        let space = self.space()?;
        if space.has_room_for(bytes) { Ok(()) } else { Err(no_space(id, space)) }
    }

    /// Ends an upload for good and removes its file.
    fn drop_upload(&self, id: &BundleId, upload: &mut Upload) -> Result<(), BundleError> {
        upload.is_over = true;
        lock(&self.uploads).remove(id);
        disk::remove_if_exists(&*self.disk, &upload.path).map_err(failed("remove", &upload.path))
    }

    /// Makes `ab/cd` with every name on the way durable.
    fn ensure_dir(&self, dir: &Path) -> Result<(), BundleError> {
        self.ensure_name(disk::parent(dir))?;
        self.ensure_name(dir)
    }

    /// Makes a directory with a durable name in one that is there.
    fn ensure_name(&self, dir: &Path) -> Result<(), BundleError> {
        let parent = disk::parent(dir);
        let dirs = Arc::clone(lock(&self.dirs).entry(parent.to_owned()).or_default());
        let mut dirs = lock(&dirs);
        if dirs.durable.contains(dir) {
            return Ok(());
        }
        if dirs.is_failed {
            let source = io::Error::other(
                "an earlier sync of the bundle directories failed, and what it lost is not written \
                 again by another: mend the disk, then start this coordinator again",
            );
            return Err(BundleError::Io { action: "sync", path: dir.to_owned(), source });
        }
        self.disk.create_dir_all(dir).map_err(failed("create", dir))?;
        if let Err(error) = self.sync_dir(parent) {
            dirs.is_failed = true;
            return Err(error);
        }
        dirs.durable.insert(dir.to_owned());
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), BundleError> {
        self.disk.sync_dir(dir).map_err(failed("sync", dir))
    }

    fn publish(&self, id: &BundleId, upload: &mut Upload) -> Result<(), BundleError> {
        let path = self.path(id);
        let dir = disk::parent(&path);
        upload.file.sync_all().map_err(failed("sync", &upload.path))?;
        self.ensure_dir(dir)?;
        self.disk.rename(&upload.path, &path).map_err(failed("rename", &upload.path))?;
        if let Err(error) = self.sync_dir(dir) {
            // It must not count as held, now or after a restart of the process. Where it cannot be
            // taken back, this process at least knows.
            if self.disk.remove(&path).is_err() {
                lock(&self.doubted).insert(*id);
            }
            return Err(error);
        }
        // The rename has written the name anew, over whatever was there.
        lock(&self.doubted).remove(id);
        upload.is_over = true;
        lock(&self.uploads).remove(id);
        Ok(())
    }
}

impl BundleStore for FileBundleStore {
    fn begin(&self, id: &BundleId, expected_bytes: u64) -> Result<u64, BundleError> {
        loop {
            let upload = match self.find_or_create(id, expected_bytes)? {
                Begun::Held(bytes) => return Ok(bytes),
                Begun::Upload(upload) => upload,
            };
            let mut upload = lock(&upload);
            if upload.is_over {
                // Ended by another thread meanwhile: now it is held, or there is none.
                continue;
            }
            if upload.bytes > expected_bytes {
                // Longer than the bundle: left by somebody who was mistaken about its length.
                upload.file.truncate(0).map_err(failed("truncate", &upload.path))?;
                upload.bytes = 0;
                upload.hash = Some(Sha256::new());
            }
            self.check_room(id, expected_bytes - upload.bytes)?;
            return Ok(upload.bytes);
        }
    }

    fn write(&self, id: &BundleId, offset: u64, bytes: &[u8]) -> Result<(), BundleError> {
        let upload = self.upload(id).ok_or(BundleError::NotBegun { id: *id })?;
        let mut upload = lock(&upload);
        if upload.is_over {
            return Err(BundleError::NotBegun { id: *id });
        }
        if offset != upload.bytes {
            return Err(BundleError::WrongOffset { id: *id, have: upload.bytes, offset });
        }
        let written = self.check_room(id, bytes.len() as u64).and_then(|()| {
            let result = upload.file.write_at(offset, bytes);
            result.map_err(|e| self.refused(id, "write", &upload.path, e))
        });
        match written {
            Ok(()) => {
                upload.bytes += bytes.len() as u64;
                if let Some(hash) = &mut upload.hash {
                    hash.update(bytes);
                }
            }
            Err(error) => {
                // A half-written end must not be taken for bytes that are there; and without
                // room, what is there would only be in the way.
                self.drop_upload(id, &mut upload)?;
                return Err(error);
            }
        }
        Ok(())
    }

    fn finish(&self, id: &BundleId, expected_bytes: u64) -> Result<(), BundleError> {
        let Some(upload) = self.upload(id) else {
            return match self.size(id)? {
                Some(have) if have == expected_bytes => Ok(()),
                Some(have) => {
                    Err(BundleError::WrongLength { id: *id, have, expected: expected_bytes })
                }
                None => Err(BundleError::NotBegun { id: *id }),
            };
        };
        let mut upload = lock(&upload);
        if upload.is_over {
            // Somebody else ended it while this call waited.
            return match self.size(id)? {
                Some(have) if have == expected_bytes => Ok(()),
                _ => Err(BundleError::NotBegun { id: *id }),
            };
        }
        if upload.bytes != expected_bytes {
            let have = upload.bytes;
            if have > expected_bytes {
                self.drop_upload(id, &mut upload)?;
            }
            return Err(BundleError::WrongLength { id: *id, have, expected: expected_bytes });
        }
        let found = match upload.hash.take() {
            Some(hash) => BundleId::from_bytes(hash.finalize().into()),
            None => match written_again(&*upload.file, upload.bytes) {
                Ok(found) => found,
                Err(source) => {
                    self.drop_upload(id, &mut upload)?;
                    return Err(self.refused(id, "rewrite", &upload.path, source));
                }
            },
        };
        if found != *id {
            self.drop_upload(id, &mut upload)?;
            return Err(BundleError::WrongDigest { id: *id, found });
        }
        if let Err(error) = self.publish(id, &mut upload) {
            // Begun anew by whoever repeats it: after a failed sync the kernel may have dropped
            // what it could not write, and a second sync of this file must not be believed. Where
            // it cannot be removed, whoever finds it writes it again.
            if let Err(error) = self.drop_upload(id, &mut upload) {
                tracing::warn!(%error, bundle = %id, "could not remove a failed upload");
            }
            return match error {
                BundleError::Io { source, .. } if disk::is_no_space(&source) => {
                    Err(no_space(id, self.space()?))
                }
                other => Err(other),
            };
        }
        // A bad copy that was put aside has been replaced; what cannot be removed does no harm.
        if let Err(error) = disk::remove_if_exists(&*self.disk, &self.quarantine_path(id)) {
            tracing::warn!(%error, bundle = %id, "could not remove a replaced bad copy");
        }
        Ok(())
    }

    fn put(&self, id: &BundleId, bytes: &[u8]) -> Result<(), BundleError> {
        let found = BundleId::of(bytes);
        if found != *id {
            return Err(BundleError::WrongDigest { id: *id, found });
        }
        let temporary = self.root.join(PARTIAL).join(format!("{id}{PUT_SUFFIX}"));
        let path = self.path(id);
        let written = self.write_new(&temporary, bytes).and_then(|()| {
            match self.disk.rename(&temporary, &path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // The first bundle of its directory, whose name `sync` makes durable as well.
                    self.disk.create_dir_all(disk::parent(&path))?;
                    self.disk.rename(&temporary, &path)
                }
                renamed => renamed,
            }
        });
        written.map_err(|source| self.refused(id, "write", &path, source))?;
        // Written anew, over whatever was there.
        lock(&self.doubted).remove(id);
        Ok(())
    }

    fn sync(&self) -> Result<(), BundleError> {
        self.disk.sync_all(&self.root).map_err(failed("sync", &self.root))
    }

    fn abandon(&self, id: &BundleId) -> Result<(), BundleError> {
        match self.upload(id) {
            Some(upload) => {
                let mut upload = lock(&upload);
                if upload.is_over {
                    return Ok(());
                }
                self.drop_upload(id, &mut upload)
            }
            None => {
                let path = self.partial_path(id);
                disk::remove_if_exists(&*self.disk, &path).map_err(failed("remove", &path))
            }
        }
    }

    fn partials(&self) -> Result<Vec<HeldBundle>, BundleError> {
        list_dir(&*self.disk, &self.root.join(PARTIAL), partial_id)
    }

    fn size(&self, id: &BundleId) -> Result<Option<u64>, BundleError> {
        match self.open_held(id) {
            Ok((file, path)) => Ok(Some(file.len().map_err(failed("measure", &path))?)),
            Err(BundleError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, id: &BundleId) -> Result<Vec<u8>, BundleError> {
        let (file, path) = self.open_held(id)?;
        let bytes = file.len().map_err(failed("measure", &path))?;
        let mut content = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        disk::read_exact_at(&*file, 0, &mut content).map_err(failed("read", &path))?;
        let found = BundleId::of(&content);
        if found == *id { Ok(content) } else { Err(BundleError::Damaged { id: *id, found }) }
    }

    fn read_range(
        &self,
        id: &BundleId,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Vec<u8>, BundleError> {
        let (file, path) = self.open_held(id)?;
        let left = file.len().map_err(failed("measure", &path))?.saturating_sub(offset);
        let mut content = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(bytes_max)];
        disk::read_exact_at(&*file, offset, &mut content).map_err(failed("read", &path))?;
        Ok(content)
    }

    fn verify(&self, id: &BundleId) -> Result<(), BundleError> {
        let (file, path) = self.open_held(id)?;
        let bytes = file.len().map_err(failed("measure", &path))?;
        let found = digest_of(&*file, bytes).map_err(failed("read", &path))?;
        if found == *id { Ok(()) } else { Err(BundleError::Damaged { id: *id, found }) }
    }

    fn delete(&self, id: &BundleId) -> Result<(), BundleError> {
        let path = self.path(id);
        match self.disk.remove(&path) {
            Ok(()) => {
                lock(&self.doubted).remove(id);
                self.sync_dir(disk::parent(&path))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(BundleError::Io { action: "remove", path, source }),
        }
    }

    fn list(&self) -> Result<Vec<HeldBundle>, BundleError> {
        let mut bundles = Vec::new();
        for outer in sub_dirs(&*self.disk, &self.root)? {
            for inner in sub_dirs(&*self.disk, &outer)? {
                bundles.extend(list_dir(&*self.disk, &inner, bundle_id)?);
            }
        }
        bundles.retain(|bundle| !self.is_doubted(&bundle.id));
        bundles.sort();
        Ok(bundles)
    }

    fn quarantine(&self, id: &BundleId) -> Result<(), BundleError> {
        if self.is_doubted(id) {
            return Err(BundleError::NotFound { id: *id });
        }
        let path = self.path(id);
        let aside = self.quarantine_path(id);
        match self.disk.rename(&path, &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BundleError::NotFound { id: *id });
            }
            Err(source) => return Err(BundleError::Io { action: "rename", path, source }),
        }
        self.sync_dir(disk::parent(&path))
    }

    fn quarantined(&self) -> Result<Vec<HeldBundle>, BundleError> {
        list_dir(&*self.disk, &self.root.join(QUARANTINE), bundle_id)
    }

    fn space(&self) -> Result<Space, BundleError> {
        let free_bytes = self.disk.free_bytes(&self.root).map_err(failed("measure", &self.root))?;
        Ok(Space { free_bytes, reserve_bytes: self.options.reserve_bytes })
    }
}

impl FileBundleStore {
    /// A new file with these bytes, whatever had the name.
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = match self.disk.create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.remove(path)?;
                self.disk.create(path)?
            }
            created => created?,
        };
        file.write_at(0, bytes)
    }

    fn refused(
        &self,
        id: &BundleId,
        action: &'static str,
        path: &Path,
        source: io::Error,
    ) -> BundleError {
        if disk::is_no_space(&source)
            && let Ok(space) = self.space()
        {
            return no_space(id, space);
        }
        BundleError::Io { action, path: path.to_owned(), source }
    }
}

const fn no_space(id: &BundleId, space: Space) -> BundleError {
    BundleError::NoSpace {
        id: *id,
        free_bytes: space.free_bytes,
        reserve_bytes: space.reserve_bytes,
    }
}

fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> BundleError + use<'a> {
    move |source| BundleError::Io { action, path: path.to_owned(), source }
}

fn digest_of(file: &dyn DiskFile, bytes: u64) -> io::Result<BundleId> {
    read_through(file, bytes, |_, _| Ok(()))
}

/// The digest of a file whose every byte is on its way to the disk again. Who wrote them before
/// may have heard that they could not be synced: the kernel shows them still and would not write
/// them, so that the next sync succeeds on nothing.
fn written_again(file: &dyn DiskFile, bytes: u64) -> io::Result<BundleId> {
    read_through(file, bytes, |offset, piece| file.write_at(offset, piece))
}

fn read_through(
    file: &dyn DiskFile,
    bytes: u64,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<BundleId> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut done = 0;
    while done < bytes {
        let chunk = usize::try_from(bytes - done).unwrap_or(READ_BYTES).min(READ_BYTES);
        disk::read_exact_at(file, done, &mut buffer[..chunk])?;
        hash.update(&buffer[..chunk]);
        each(done, &buffer[..chunk])?;
        done += chunk as u64;
    }
    Ok(BundleId::from_bytes(hash.finalize().into()))
}

fn list_dir(
    disk: &dyn Disk,
    dir: &Path,
    id_of: impl Fn(&OsStr) -> Option<BundleId>,
) -> Result<Vec<HeldBundle>, BundleError> {
    let entries = disk.list(dir).map_err(failed("list", dir))?;
    let files = entries.into_iter().filter(|entry| entry.kind == EntryKind::File);
    Ok(files.filter_map(|f| id_of(&f.name).map(|id| HeldBundle { id, bytes: f.bytes })).collect())
}

fn sub_dirs(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, BundleError> {
    let entries = disk.list(dir).map_err(failed("list", dir))?;
    let dirs = entries.into_iter().filter(|entry| {
        entry.kind == EntryKind::Directory
            && entry.name.len() == 2
            && entry.name.as_encoded_bytes().iter().all(u8::is_ascii_hexdigit)
    });
    Ok(dirs.map(|entry| dir.join(entry.name)).collect())
}

fn bundle_id(name: &OsStr) -> Option<BundleId> {
    name.to_str()?.parse().ok()
}

fn partial_id(name: &OsStr) -> Option<BundleId> {
    name.to_str()?.strip_suffix(PARTIAL_SUFFIX)?.parse().ok()
}

// A panic while an upload was held leaves at worst bytes that were written and not counted; the
// next write lands on them, and the digest decides at the end.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
