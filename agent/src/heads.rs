//! What an operator's machine remembers of clusters: the signing key pinned at registration and
//! the newest point seen. With it a coordinator that serves an older state, or another cluster's,
//! is found out (invariant K3). A JSON file; the caller says where.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use proto_types::{BundleId, ClusterId, Code, FleetId, LogTime, Sequence, SigningPublicKey};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::home::io_code;

const VERSION: u32 = 1;

/// Why pins cannot be read, written or changed.
#[derive(Debug, thiserror::Error)]
pub enum HeadsError {
    /// The file system refused.
    #[error("cannot {what} the pin store {}: {source}", crate::shown::path(path))]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not what this program writes.
    #[error(
        "the pin store {} is damaged ({source}): restore it from a copy; without it nobody can \
         tell an old state from a new one",
        crate::shown::path(path)
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// Of a newer program.
    #[error(
        "the pin store {} has version {found}: use a newer strongroom",
        crate::shown::path(path)
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Another key is pinned already.
    #[error(
        "cluster {name} is pinned to signing key {pinned}, not {offered}: if its agent was set \
         up anew, remove its entry from the pin store yourself"
    )]
    OtherKey {
        /// The cluster's name.
        name: String,
        /// Fingerprint of the pinned key.
        pinned: String,
        /// Fingerprint of the key offered.
        offered: String,
    },
    /// The name stands for another cluster than before.
    #[error(
        "the name {name} stood for cluster {known} before and is now said to be {offered}: \
         another cluster's data is being served; ask another coordinator"
    )]
    OtherCluster {
        /// The name.
        name: String,
        /// The cluster it stood for.
        known: ClusterId,
        /// The cluster it is said to be.
        offered: ClusterId,
    },
}

impl HeadsError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Io { source, .. } => io_code(source),
            Self::Damaged { .. } => Code::Damaged,
            Self::Version { .. } => Code::UnsupportedVersion,
            Self::OtherKey { .. } => Code::BadSignature,
            Self::OtherCluster { .. } => Code::WrongCluster,
        }
    }
}

/// The newest point seen of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenHead {
    /// The point.
    pub sequence: Sequence,
    /// Its manifest.
    pub manifest: BundleId,
    /// The point that the manifest was sealed for: older than `sequence` when nothing changed.
    pub manifest_sequence: Sequence,
    /// When it was committed, as the fleet said; not known of what earlier versions noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_ms: Option<LogTime>,
}

/// What is remembered of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownCluster {
    /// Its fleet.
    pub fleet: FleetId,
    /// Its name in the fleet.
    pub name: String,
    /// The key that signs its bundles, pinned at registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<SigningPublicKey>,
    /// Keys pinned before it: lost since, but what they signed is the cluster's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_signing_keys: Vec<SigningPublicKey>,
    /// The newest point seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<SeenHead>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    clusters: BTreeMap<String, KnownCluster>,
}

/// The pin store.
#[derive(Debug, Clone, Default)]
pub struct KnownHeads {
    path: Option<PathBuf>,
    clusters: BTreeMap<ClusterId, KnownCluster>,
    /// Whether there is anything that the file does not have.
    changed: bool,
}

impl KnownHeads {
    /// A store without a file: nothing is known, and nothing is kept.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Reads the file; one that is not there yet knows nothing.
    ///
    /// # Errors
    /// When it is damaged, newer, or cannot be read: never taken for an empty one.
    pub fn load(path: &Path) -> Result<Self, HeadsError> {
        let mut heads = Self { path: Some(path.to_owned()), ..Self::default() };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(heads),
            Err(source) => {
                return Err(HeadsError::Io { what: "read", path: path.to_owned(), source });
            }
        };
        let damaged = |source| HeadsError::Damaged { path: path.to_owned(), source };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(damaged)?;
        if stored.version != VERSION {
            return Err(HeadsError::Version { path: path.to_owned(), found: stored.version });
        }
        for (id, cluster) in stored.clusters {
            let id = id.parse().map_err(|error| damaged(serde::de::Error::custom(error)))?;
            heads.clusters.insert(id, cluster);
        }
        Ok(heads)
    }

    /// What is known of a cluster.
    #[must_use]
    pub fn cluster(&self, id: ClusterId) -> Option<&KnownCluster> {
        self.clusters.get(&id)
    }

    /// Pins the key that signs a cluster's bundles. Call [`KnownHeads::save`] after.
    ///
    /// # Errors
    /// When another key is pinned already.
    pub fn pin(
        &mut self,
        fleet: FleetId,
        id: ClusterId,
        name: &str,
        key: SigningPublicKey,
    ) -> Result<(), HeadsError> {
        let known = self.entry(fleet, id, name);
        match known.signing_key {
            Some(pinned) if pinned != key => Err(HeadsError::OtherKey {
                name: name.to_owned(),
                pinned: pinned.fingerprint().to_string(),
                offered: key.fingerprint().to_string(),
            }),
            _ => {
                let changed = known.signing_key.replace(key).is_none();
                self.changed |= changed;
                Ok(())
            }
        }
    }

    /// Pins a key that an operator compared, in the place of the one before: what that one signed stays
    /// good. Call [`KnownHeads::save`] after.
    pub fn pin_successor(
        &mut self,
        fleet: FleetId,
        id: ClusterId,
        name: &str,
        key: SigningPublicKey,
    ) {
        let known = self.entry(fleet, id, name);
        if known.signing_key == Some(key) {
            return;
        }
        known.former_signing_keys.retain(|former| *former != key);
        known.former_signing_keys.extend(known.signing_key.replace(key));
        self.changed = true;
    }

    /// Checks that a name still stands for the same cluster.
    ///
    /// # Errors
    /// [`HeadsError::OtherCluster`] when it was another one's.
    pub fn check_name(
        &self,
        fleet: FleetId,
        name: &str,
        offered: ClusterId,
    ) -> Result<(), HeadsError> {
        let known = self
            .clusters
            .iter()
            .find(|(_, known)| known.fleet == fleet && known.name == name)
            .map(|(id, _)| *id);
        match known {
            Some(known) if known != offered => {
                Err(HeadsError::OtherCluster { name: name.to_owned(), known, offered })
            }
            _ => Ok(()),
        }
    }

    /// Remembers a point that was opened and verified, if it is newer than the one known.
    /// Returns whether anything changed, so that [`KnownHeads::save`] is worth a call.
    pub fn observe(&mut self, fleet: FleetId, id: ClusterId, name: &str, seen: SeenHead) -> bool {
        let known = self.entry(fleet, id, name);
        if known.head.is_some_and(|head| head.sequence >= seen.sequence) {
            return false;
        }
        known.head = Some(seen);
        self.changed = true;
        true
    }

    /// Writes the file, if there is one and anything changed: under a lock, with what other
    /// programs noted meanwhile, by temporary file, fsync and rename.
    ///
    /// # Errors
    /// When it cannot be written, or another program pinned another key meanwhile.
    pub fn save(&mut self) -> Result<(), HeadsError> {
        let Some(path) = self.path.clone().filter(|_| self.changed) else { return Ok(()) };
        let io = |what| {
            let path = path.clone();
            move |source| HeadsError::Io { what, path, source }
        };
        let beside = |ending: &str| {
            let mut name = path.clone().into_os_string();
            name.push(ending);
            PathBuf::from(name)
        };
        // Of the file itself a lock would not outlive the rename.
        let lock = File::create(beside(".lock")).map_err(io("lock"))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| io("lock")(error.into()))?;
        self.merge(Self::load(&path)?)?;
        let clusters =
            self.clusters.iter().map(|(id, known)| (id.to_string(), known.clone())).collect();
        let mut text = serde_json::to_vec_pretty(&Stored { version: VERSION, clusters })
            .map_err(|error| io("write")(error.into()))?;
        text.push(b'\n');
        let partial = beside(&format!(".{}.partial", std::process::id()));
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::create(&partial)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&partial, &path))
            .and_then(|()| File::open(directory.unwrap_or(Path::new(".")))?.sync_all())
            .map_err(io("write"))?;
        self.changed = false;
        Ok(())
    }

    /// Takes in what the file has: nothing that was seen or pinned is lost.
    fn merge(&mut self, stored: Self) -> Result<(), HeadsError> {
        for (id, theirs) in stored.clusters {
            let ours = self.cluster(id);
            let followed = |known: Option<&KnownCluster>, key: Option<SigningPublicKey>| {
                known.zip(key).is_some_and(|(known, key)| known.former_signing_keys.contains(&key))
            };
            if followed(Some(&theirs), ours.and_then(|ours| ours.signing_key)) {
                // Another program heard of the successor first.
                let known = self.entry(theirs.fleet, id, &theirs.name);
                known.signing_key = theirs.signing_key;
                known.former_signing_keys.clone_from(&theirs.former_signing_keys);
            } else if followed(ours, theirs.signing_key) {
                // This one did.
            } else if let Some(key) = theirs.signing_key {
                self.pin(theirs.fleet, id, &theirs.name, key)?;
            }
            if let Some(head) = theirs.head {
                self.observe(theirs.fleet, id, &theirs.name, head);
            }
            self.entry(theirs.fleet, id, &theirs.name);
        }
        Ok(())
    }

    fn entry(&mut self, fleet: FleetId, id: ClusterId, name: &str) -> &mut KnownCluster {
        self.clusters.entry(id).or_insert_with(|| KnownCluster {
            fleet,
            name: name.to_owned(),
            signing_key: None,
            former_signing_keys: Vec::new(),
            head: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: FleetId = FleetId::from_bytes([1; 16]);
    const CLUSTER: ClusterId = ClusterId::from_bytes([2; 16]);

    fn seen(sequence: u64) -> SeenHead {
        SeenHead {
            sequence: Sequence::new(sequence),
            manifest: BundleId::from_bytes([3; 32]),
            manifest_sequence: Sequence::new(1),
            committed_ms: Some(LogTime::from_millis(7)),
        }
    }

    #[test]
    fn heads_are_kept_and_never_go_back() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("pins.json");
        let mut heads = KnownHeads::load(&path).unwrap();
        heads.pin(FLEET, CLUSTER, "prod", SigningPublicKey::from_bytes([9; 32])).unwrap();
        assert!(heads.observe(FLEET, CLUSTER, "prod", seen(5)));
        assert!(!heads.observe(FLEET, CLUSTER, "prod", seen(4)));
        heads.save().unwrap();

        let mut again = KnownHeads::load(&path).unwrap();
        let known = again.cluster(CLUSTER).unwrap();
        assert_eq!(known.head, Some(seen(5)));
        assert_eq!(known.signing_key, Some(SigningPublicKey::from_bytes([9; 32])));
        let other = again.pin(FLEET, CLUSTER, "prod", SigningPublicKey::from_bytes([8; 32]));
        assert_eq!(other.unwrap_err().code(), Code::BadSignature);
        assert!(again.check_name(FLEET, "prod", CLUSTER).is_ok());
        let swapped = again.check_name(FLEET, "prod", ClusterId::ZERO);
        assert_eq!(swapped.unwrap_err().code(), Code::WrongCluster);
    }

    #[test]
    fn heads_of_two_programs_are_both_kept() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("pins.json");
        let (mut one, mut two) =
            (KnownHeads::load(&path).unwrap(), KnownHeads::load(&path).unwrap());
        two.save().unwrap();
        assert!(!path.exists(), "nothing changed, so nothing is written");
        one.pin(FLEET, CLUSTER, "prod", SigningPublicKey::from_bytes([9; 32])).unwrap();
        one.observe(FLEET, CLUSTER, "prod", seen(5));
        two.observe(FLEET, CLUSTER, "prod", seen(4));
        two.observe(FLEET, ClusterId::from_bytes([7; 16]), "other", seen(1));
        one.save().unwrap();
        two.save().unwrap();
        let again = KnownHeads::load(&path).unwrap();
        let known = again.cluster(CLUSTER).unwrap();
        assert_eq!(known.head, Some(seen(5)));
        assert_eq!(known.signing_key, Some(SigningPublicKey::from_bytes([9; 32])));
        assert!(again.cluster(ClusterId::from_bytes([7; 16])).is_some());
    }

    #[test]
    fn heads_that_are_damaged_are_not_taken_for_none() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("pins.json");
        for (text, code) in [
            ("", Code::Damaged),
            ("{\"version\":1,\"clusters\":{\"zz\":{}}}", Code::Damaged),
            ("{\"version\":2,\"clusters\":{}}", Code::UnsupportedVersion),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(KnownHeads::load(&path).unwrap_err().code(), code, "{text}");
        }
    }
}
