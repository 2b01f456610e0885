//! A coordinator's data directory: who it belongs to, the lock that keeps a second process out,
//! and where its parts are. It knows names only; the log, the snapshots and so on open their own.
//! What is written in `HOME`, and in which order, is in `docs/formats-storage.md`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use proto_types::{Code, FleetId, Level, NodeId};

use crate::disk::{self, Disk, DiskLock};
use crate::log::{self, LogError};

const IDENTITY_FILE: &str = "HOME";
const LOCK_FILE: &str = "LOCK";
const TITLE: &str = "strongroom coordinator data directory";

/// Whose data directory it is. Checked against every log segment and snapshot in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HomeIdentity {
    /// The fleet.
    pub fleet: FleetId,
    /// The coordinator; its id is never reused.
    pub node: NodeId,
}

impl fmt::Display for HomeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of fleet {}", self.node, self.fleet)
    }
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The file system said no.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Another process uses it.
    #[error(
        "the data directory {} is in use by another process: stop that coordinator first, or \
         give this one a directory of its own", path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Nothing was made here yet.
    #[error(
        "{} is no coordinator's data directory: it has no HOME file; initialise it first, or \
         correct the path", path.display()
    )]
    NotInitialised {
        /// The directory.
        path: PathBuf,
    },
    /// There is one already.
    #[error("{} already is the data directory of {found}", path.display())]
    AlreadyInitialised {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: HomeIdentity,
    },
    /// Parts of a data directory without its identity: somebody lost the file.
    #[error(
        "{} holds {part} but no HOME file: refusing to start over a data directory that lost its \
         identity; {REJOIN}", path.display()
    )]
    Orphaned {
        /// The directory.
        path: PathBuf,
        /// What is there.
        part: &'static str,
    },
    /// The identity file does not read as one.
    #[error("{} is damaged ({what}); {REJOIN}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Written by a newer program.
    #[error(
        "the data directory {} has version {found}, this program knows up to {newest}: \
         start the newer strongroom that wrote it", path.display()
    )]
    UnsupportedVersion {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The newest that may be used.
        newest: Level,
    },
    /// An upgrade of the directory was begun that is not from its version to a higher one.
    #[error(
        "{} names an upgrade that this program does not know ({found:?}): start the newer \
         strongroom that began it", path.display()
    )]
    UnknownUpgrade {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// It belongs to somebody else.
    #[error(
        "the data directory {} belongs to {found}, but this coordinator is {expected}: correct \
         the path or the configuration", path.display()
    )]
    WrongIdentity {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: HomeIdentity,
        /// Who asked.
        expected: HomeIdentity,
    },
    /// The log could not be made, or is gone.
    #[error("the log of the data directory cannot be used")]
    Log(#[from] LogError),
}

/// The way out of damaged durable state, in every message about it. A node that forgot a vote or
/// an entry it had acknowledged must never come back under its old id.
pub(crate) const REJOIN: &str = "remove this node from the fleet and let it rejoin as a new node, \
     with a new id and an empty data directory; its bundles can be kept for `export`";

impl HomeError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Io { source, .. } if disk::is_no_space(source) => Code::NoSpace,
            Self::Io { .. } => Code::LocalIo,
            Self::InUse { .. } => Code::Busy,
            Self::NotInitialised { .. } => Code::InvalidConfig,
            Self::AlreadyInitialised { .. } => Code::AlreadyExists,
            Self::Orphaned { .. } | Self::Damaged { .. } => Code::Damaged,
            Self::UnsupportedVersion { .. } | Self::UnknownUpgrade { .. } => {
                Code::UnsupportedVersion
            }
            Self::WrongIdentity { found, expected, .. } if found.fleet != expected.fleet => {
                Code::WrongFleet
            }
            Self::WrongIdentity { .. } => Code::InvalidConfig,
            Self::Log(error) => error.code(),
        }
    }
}

/// An open, locked data directory. Clones share the lock; it is given back with the last one,
/// and the log's writer holds one, so that no second process starts while it still writes.
#[derive(Debug, Clone)]
pub struct DataDir {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    identity: HomeIdentity,
    level: Mutex<Level>,
    _lock: Box<dyn DiskLock>,
}

impl DataDir {
    /// Whether there is a data directory that was initialised to its end.
    ///
    /// # Errors
    /// When it cannot be read, is damaged or newer than this program.
    pub fn is_initialised(disk: &dyn Disk, path: &Path) -> Result<bool, HomeError> {
        let file = read_identity(disk, path, Level::NEWEST)?;
        Ok(file.is_some_and(|file| file.state == State::Ready))
    }

    /// Makes a new data directory with an empty log in it. An attempt that was cut off before
    /// its end is begun anew; nothing can have been acknowledged from it.
    ///
    /// # Errors
    /// When there is one already, parts of one, or the disk says no.
    pub fn create(
        disk: Arc<dyn Disk>,
        path: &Path,
        identity: HomeIdentity,
    ) -> Result<Self, HomeError> {
        disk.create_dir_all(path).map_err(failed("create", path))?;
        let lock = take_lock(&*disk, path)?;
        match read_identity(&*disk, path, Level::NEWEST)? {
            Some(file) if file.state == State::Ready => {
                return Err(HomeError::AlreadyInitialised {
                    path: path.to_owned(),
                    found: file.identity,
                });
            }
            Some(_) => {}
            None => refuse_orphans(&*disk, path)?,
        }
        // The order matters: the name of the directory itself, then HOME saying `initialising`,
        // then the parts, then HOME saying `ready`. A log without HOME, or HOME `ready` without
        // a log, can therefore only be the work of damage.
        disk.sync_dir(disk::parent(path)).map_err(failed("sync", disk::parent(path)))?;
        write_identity(&*disk, path, identity, State::Initialising, Mark::at(Level::OLDEST))?;
        let inner = Inner {
            disk,
            path: path.to_owned(),
            identity,
            level: Mutex::new(Level::OLDEST),
            _lock: lock,
        };
        let dir = Self { inner: Arc::new(inner) };
        for part in [dir.log_dir(), dir.snapshots_dir(), dir.bundles_dir()] {
            dir.disk().create_dir_all(&part).map_err(failed("create", &part))?;
        }
        dir.disk().sync_dir(path).map_err(failed("sync", path))?;
        log::create(&**dir.disk(), &dir.log_dir(), identity)?;
        write_identity(&**dir.disk(), path, identity, State::Ready, Mark::at(Level::OLDEST))?;
        Ok(dir)
    }

    /// Opens an initialised data directory.
    ///
    /// # Errors
    /// When there is none, another process has it, it is damaged, newer than this program, of
    /// another fleet or node, or its log is gone.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        expected: HomeIdentity,
    ) -> Result<Self, HomeError> {
        Self::open_at(disk, path, expected, Level::NEWEST)
    }

    /// [`DataDir::open`] by a program that is held back to a level.
    ///
    /// # Errors
    /// As [`DataDir::open`].
    pub fn open_at(
        disk: Arc<dyn Disk>,
        path: &Path,
        expected: HomeIdentity,
        newest: Level,
    ) -> Result<Self, HomeError> {
        let dir = Self::open_any_at(disk, path, newest)?;
        if dir.identity() != expected {
            return Err(HomeError::WrongIdentity {
                path: path.to_owned(),
                found: dir.identity(),
                expected,
            });
        }
        Ok(dir)
    }

    /// Opens an initialised data directory, whosever it is: for the offline export (A1) and for a
    /// coordinator that learns who it is from its directory.
    ///
    /// # Errors
    /// As [`DataDir::open`], but for the owner.
    pub fn open_any(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, HomeError> {
        Self::open_any_at(disk, path, Level::NEWEST)
    }

    fn open_any_at(disk: Arc<dyn Disk>, path: &Path, newest: Level) -> Result<Self, HomeError> {
        let not_initialised = || HomeError::NotInitialised { path: path.to_owned() };
        if !disk.exists(path).map_err(failed("look for", path))? {
            return Err(not_initialised());
        }
        let Some(before) = read_identity(&*disk, path, newest)? else {
            refuse_orphans(&*disk, path)?;
            return Err(not_initialised());
        };
        if before.state != State::Ready {
            return Err(not_initialised());
        }
        let lock = take_lock(&*disk, path)?;
        let dir = Self {
            inner: Arc::new(Inner {
                disk,
                path: path.to_owned(),
                identity: before.identity,
                level: Mutex::new(before.mark.from),
                _lock: lock,
            }),
        };
        log::require(&**dir.disk(), &dir.log_dir())?;
        // The process that made it may have died between the rename to `ready` and the sync: were
        // that rename lost later, the directory would be initialised, and so emptied, again.
        dir.disk().sync_dir(path).map_err(failed("sync", path))?;
        // A crash fell into an upgrade: nothing is lost by doing it again.
        dir.raise_level(before.mark.to)?;
        Ok(dir)
    }

    /// Opens the data directory, or makes it when there is none yet.
    ///
    /// # Errors
    /// As [`DataDir::create`] and [`DataDir::open`].
    pub fn open_or_create(
        disk: Arc<dyn Disk>,
        path: &Path,
        identity: HomeIdentity,
    ) -> Result<Self, HomeError> {
        Self::open_or_create_at(disk, path, identity, Level::NEWEST)
    }

    /// [`DataDir::open_or_create`] by a program that is held back to a level.
    ///
    /// # Errors
    /// As [`DataDir::open_or_create`].
    pub fn open_or_create_at(
        disk: Arc<dyn Disk>,
        path: &Path,
        identity: HomeIdentity,
        newest: Level,
    ) -> Result<Self, HomeError> {
        if Self::is_initialised(&*disk, path)? {
            Self::open_at(disk, path, identity, newest)
        } else {
            Self::create(disk, path, identity)
        }
    }

    /// The level a program needs to use the directory.
    #[must_use]
    pub fn level(&self) -> Level {
        *self.inner.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a program needs this level from now on; does nothing where it does already.
    /// Durable when it returns. The mark of an upgrade under way stands before anything is changed
    /// and until all is: whoever opens the directory after a crash goes on from there.
    ///
    /// # Errors
    /// When the disk says no.
    pub fn raise_level(&self, to: Level) -> Result<(), HomeError> {
        let mut level = self.inner.level.lock().unwrap_or_else(PoisonError::into_inner);
        if to <= *level {
            return Ok(());
        }
        let (disk, path, identity) = (&**self.disk(), self.path(), self.identity());
        write_identity(disk, path, identity, State::Ready, Mark { from: *level, to })?;
        // Between the marks stands what changes files of the directory into the form of the new
        // level, to be repeated at will. From 1 to 2 none does: what is new stands in new records.
        write_identity(disk, path, identity, State::Ready, Mark::at(to))?;
        *level = to;
        Ok(())
    }

    /// The disk it is on.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.disk
    }
    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }
    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> HomeIdentity {
        self.inner.identity
    }
    /// Where the Raft log and vote are.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.inner.path.join("log")
    }
    /// Where the Raft snapshots are.
    #[must_use]
    pub fn snapshots_dir(&self) -> PathBuf {
        self.inner.path.join("snapshots")
    }
    /// Where the bundles are.
    #[must_use]
    pub fn bundles_dir(&self) -> PathBuf {
        self.inner.path.join("bundles")
    }
    /// Where the audit log's closed segments are.
    #[must_use]
    pub fn audit_dir(&self) -> PathBuf {
        self.inner.path.join("audit")
    }
    /// Where the ledger is. May be deleted at any time; it is rebuilt.
    #[must_use]
    pub fn ledger_dir(&self) -> PathBuf {
        self.inner.path.join("ledger")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Initialising,
    Ready,
}

/// An upgrade under way, or none: then both are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    from: Level,
    to: Level,
}

impl Mark {
    const fn at(level: Level) -> Self {
        Self { from: level, to: level }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to {
            f.write_str("none")
        } else {
            write!(f, "from {} to {}", self.from, self.to)
        }
    }
}

struct IdentityFile {
    state: State,
    identity: HomeIdentity,
    mark: Mark,
}

fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> HomeError + use<'a> {
    move |source| HomeError::Io { action, path: path.to_owned(), source }
}

fn take_lock(disk: &dyn Disk, path: &Path) -> Result<Box<dyn DiskLock>, HomeError> {
    let file = path.join(LOCK_FILE);
    disk.lock(&file).map_err(|source| {
        if source.kind() == io::ErrorKind::WouldBlock {
            HomeError::InUse { path: path.to_owned() }
        } else {
            HomeError::Io { action: "lock", path: file, source }
        }
    })
}

fn refuse_orphans(disk: &dyn Disk, path: &Path) -> Result<(), HomeError> {
    for part in ["log", "snapshots", "bundles", "audit", "ledger"] {
        if disk.exists(&path.join(part)).map_err(failed("look into", path))? {
            return Err(HomeError::Orphaned { path: path.to_owned(), part });
        }
    }
    Ok(())
}

// Text, so that a person at night can read whose directory it is; the last line is the CRC-32C
// of all before it.
fn write_identity(
    disk: &dyn Disk,
    path: &Path,
    identity: HomeIdentity,
    state: State,
    mark: Mark,
) -> Result<(), HomeError> {
    let file = path.join(IDENTITY_FILE);
    let state = match state {
        State::Initialising => "initialising",
        State::Ready => "ready",
    };
    let mut text = format!(
        "{TITLE}\nversion {}\nupgrade {mark}\nstate {state}\nfleet {}\nnode {}\n",
        mark.to, identity.fleet, identity.node
    );
    let checksum = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("crc32c {checksum:08x}\n"));
    disk::replace_file(disk, &file, text.as_bytes()).map_err(failed("write", &file))
}

fn read_identity(
    disk: &dyn Disk,
    path: &Path,
    newest: Level,
) -> Result<Option<IdentityFile>, HomeError> {
    let file = path.join(IDENTITY_FILE);
    let content = match disk::read_file(disk, &file) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(HomeError::Io { action: "read", path: file, source }),
    };
    let damaged = |what| HomeError::Damaged { path: file.clone(), what };
    let text = String::from_utf8(content).map_err(|_| damaged("it is no text"))?;
    let lines: Vec<&str> = text.lines().collect();
    let field = |line: usize, name: &'static str| {
        lines
            .get(line)
            .and_then(|l| l.strip_prefix(name))
            .and_then(|l| l.strip_prefix(' '))
            .ok_or(damaged("a line is missing"))
    };
    if lines.first() != Some(&TITLE) {
        return Err(damaged("the title line is wrong"));
    }
    // The version first: a newer file may have more lines and another checksum.
    let version: u16 =
        field(1, "version")?.parse().map_err(|_| damaged("the version is no number"))?;
    if version > newest.get() {
        return Err(HomeError::UnsupportedVersion {
            path: path.to_owned(),
            found: version,
            newest,
        });
    }
    let body = text.len() - lines.last().map_or(0, |l| l.len() + 1);
    let checksum = u32::from_str_radix(field(6, "crc32c")?, 16)
        .map_err(|_| damaged("the checksum is no number"))?;
    if lines.len() != 7
        || !text.ends_with('\n')
        || checksum != crc32c::crc32c(&text.as_bytes()[..body])
    {
        return Err(damaged("the checksum does not fit"));
    }
    let to = Level::new(version);
    let upgrade = field(2, "upgrade")?;
    let mark = (1..version)
        .map(|from| Mark { from: Level::new(from), to })
        .chain([Mark::at(to)])
        .find(|mark| mark.to_string() == upgrade)
        .ok_or_else(|| HomeError::UnknownUpgrade {
            path: file.clone(),
            found: upgrade.to_owned(),
        })?;
    let state = match field(3, "state")? {
        "initialising" => State::Initialising,
        "ready" => State::Ready,
        _ => return Err(damaged("the state is unknown")),
    };
    let fleet = field(4, "fleet")?.parse().map_err(|_| damaged("the fleet id is wrong"))?;
    let node = field(5, "node")?.parse().map_err(|_| damaged("the node id is wrong"))?;
    Ok(Some(IdentityFile { state, identity: HomeIdentity { fleet, node }, mark }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;

    #[test]
    fn home_text_of_version_1_is_frozen() {
        let disk = SimDisk::new();
        let identity = HomeIdentity { fleet: FleetId::from_bytes([7; 16]), node: NodeId::new(3) };
        let dir = DataDir::create(Arc::new(disk.clone()), Path::new("/h"), identity).unwrap();
        assert_eq!(
            String::from_utf8(disk.content(Path::new("/h/HOME")).unwrap()).unwrap(),
            "strongroom coordinator data directory\n\
             version 1\n\
             upgrade none\n\
             state ready\n\
             fleet 07070707070707070707070707070707\n\
             node 3\n\
             crc32c 848246fb\n"
        );
        drop(dir);
        assert_eq!(
            DataDir::open_any(Arc::new(disk), Path::new("/h")).unwrap().identity(),
            identity
        );
    }

    #[test]
    fn home_text_of_version_2_and_of_its_upgrade_is_frozen() {
        let disk = SimDisk::new();
        let identity = HomeIdentity { fleet: FleetId::from_bytes([7; 16]), node: NodeId::new(3) };
        let path = Path::new("/h");
        let dir = DataDir::create(Arc::new(disk.clone()), path, identity).unwrap();
        let text = || String::from_utf8(disk.content(Path::new("/h/HOME")).unwrap()).unwrap();
        let (one, two) = (Level::new(1), Level::new(2));
        write_identity(&disk, path, identity, State::Ready, Mark { from: one, to: two }).unwrap();
        let expected = "strongroom coordinator data directory\n\
             version 2\n\
             upgrade from 1 to 2\n\
             state ready\n\
             fleet 07070707070707070707070707070707\n\
             node 3\n";
        assert!(text().starts_with(expected), "{}", text());
        drop(dir);
        // An older program does not touch it, a newer one goes on where it stopped.
        let older = DataDir::open_at(Arc::new(disk.clone()), path, identity, one).unwrap_err();
        assert_eq!(
            older.to_string(),
            "the data directory /h has version 2, this program knows up to 1: start the newer \
             strongroom that wrote it"
        );
        assert_eq!(older.code(), Code::UnsupportedVersion);
        let dir = DataDir::open(Arc::new(disk.clone()), path, identity).unwrap();
        assert_eq!(dir.level(), two);
        assert!(text().starts_with(&expected.replace("from 1 to 2", "none")), "{}", text());
    }
}
