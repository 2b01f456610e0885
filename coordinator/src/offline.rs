//! What one coordinator's data directory holds, read without any coordinator running and without
//! changing a byte of it (invariant A1): the state as of its snapshot and log, and the bundles.

mod choose;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use coordinator_core::{Cluster, PointRow, State};
use proto::{ApiError, v1};
use proto_types::{BundleId, Code, FleetId, LogIndex, LogTime, NodeId};
use storage::bundles::{BundleError, BundleStore, FileBundleStore};
use storage::disk::ReadOnlyDisk;
use storage::home::DataDir;
use storage::raft_log::LogContents;
use storage::snapshots::{SnapshotStore, StoredSnapshot};

use crate::keeper::chain;
use crate::raft::{Replayed, replay};
use crate::service::convert;

pub use choose::{Lack, Which};

/// An opened data directory of a coordinator that does not run. Holds its lock, so that none can
/// be started on it meanwhile.
pub struct Offline {
    about: About,
    state: State,
    bundles: FileBundleStore,
    /// What the log still has besides, or instead: a power cut may have taken the files.
    in_log: BTreeMap<BundleId, Vec<u8>>,
    /// What each bundle that was looked at lacks; read once, however many points need it.
    looked_at: Mutex<BTreeMap<BundleId, Option<&'static str>>>,
}

/// What is known of the directory as a whole.
#[derive(Debug, Clone)]
pub struct About {
    /// The fleet.
    pub fleet: FleetId,
    /// Its name.
    pub fleet_name: String,
    /// The coordinator.
    pub node: NodeId,
    /// The last log entry that is there.
    pub last_index: LogIndex,
    /// Up to here the log is known to be committed. What comes after was written down here, and
    /// may or may not have been acknowledged to anybody.
    pub committed_index: LogIndex,
    /// Log time of the last entry: nothing here is newer.
    pub log_time: LogTime,
    /// What is damaged and was passed over, in words.
    pub problems: Vec<String>,
}

/// A recovery point that is in the state.
#[derive(Debug, Clone)]
pub struct OfflinePoint {
    /// All that is known of it, with its bundles.
    pub point: v1::Point,
    /// Whether it is known to have been committed, and not only written down here.
    pub committed_known: bool,
    /// Whether every source of it was proved.
    pub proved: bool,
    /// The bundles that are missing or damaged here. It restores only if there are none.
    pub lacks: Vec<Lack>,
}

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// Complete points, newest first.
    pub complete: Vec<OfflinePoint>,
    /// Points that were asked for, or are better than the one given instead, and lack something.
    pub incomplete: Vec<OfflinePoint>,
}

fn error_of(code: Code, error: &dyn std::error::Error) -> ApiError {
    ApiError::new(code, chain(error))
}

/// The parts that could be read, and what could not be.
fn read_parts(
    home: &DataDir,
) -> Result<(Option<StoredSnapshot>, LogContents, Vec<String>), ApiError> {
    let (snapshot, damaged) =
        SnapshotStore::look(home).map_err(|error| error_of(error.code(), &error))?;
    let mut problems: Vec<String> = damaged.iter().map(|error| chain(error)).collect();
    let log = match LogContents::read(home) {
        Ok(log) => log,
        // Better old than nothing: the snapshot has checksums of its own.
        Err(error) if error.code() == Code::Damaged && snapshot.is_some() => {
            problems
                .push(format!("{}; what is newer than the snapshot is not shown", chain(&error)));
            LogContents::default()
        }
        Err(error) => return Err(error_of(error.code(), &error)),
    };
    Ok((snapshot, log, problems))
}

impl Offline {
    /// Opens a data directory for looking. Blocking.
    ///
    /// # Errors
    /// `BUSY` while a coordinator runs on it; when it is no data directory, is damaged beyond what
    /// can be passed over, or was written by a newer program.
    pub fn open(path: &Path) -> Result<Self, ApiError> {
        let home = DataDir::open_any(Arc::new(ReadOnlyDisk), path)
            .map_err(|error| error_of(error.code(), &error))?;
        let (snapshot, log, mut problems) = read_parts(&home)?;
        let Replayed { state, last, committed, has_gap, carried, .. } =
            replay(snapshot.as_ref(), &log)?;
        if has_gap {
            if snapshot.is_none() {
                return Err(ApiError::new(
                    Code::Damaged,
                    format!(
                        "{} has no good snapshot, and its log begins later than the fleet: the \
                         state cannot be rebuilt from it. Take another coordinator's directory; \
                         the bundles in this one can still repair another's",
                        path.display()
                    ),
                ));
            }
            problems.push(
                "the newest good snapshot is older than the beginning of the log: what is newer \
                 than that snapshot is not shown"
                    .to_owned(),
            );
        }
        let Some(fleet) = state.fleet() else {
            return Err(ApiError::new(
                Code::PointNotFound,
                format!(
                    "{} holds no fleet yet: this coordinator never took part in a backup",
                    path.display()
                ),
            ));
        };
        let about = About {
            fleet: fleet.id,
            fleet_name: fleet.name.clone(),
            node: home.identity().node,
            last_index: LogIndex::new(last.map_or(0, |id| id.index)),
            committed_index: committed,
            log_time: state.log_time(),
            problems,
        };
        let bundles = FileBundleStore::look(&home);
        Ok(Self { about, state, bundles, in_log: carried, looked_at: Mutex::default() })
    }

    /// What is known of the directory as a whole.
    #[must_use]
    pub const fn about(&self) -> &About {
        &self.about
    }

    /// The certificate of the fleet's root and its sealed private key, if the state has them.
    #[must_use]
    pub fn authority(&self) -> Option<(&[u8], &[u8])> {
        let authority = self.state.authority()?;
        Some((&authority.root_certificate, &authority.sealed_root_key))
    }

    /// Names of all workload clusters, sorted.
    #[must_use]
    pub fn clusters(&self) -> Vec<String> {
        let mut names: Vec<String> = self.state.clusters().map(|c| c.name.clone()).collect();
        names.sort();
        names
    }

    /// Finds the points that are asked for, and reads every bundle that they need. Blocking, and
    /// as long as that takes.
    ///
    /// # Errors
    /// `CLUSTER_NOT_FOUND`, `POINT_NOT_FOUND`, or when the disk says no.
    pub fn choose(&self, cluster: &str, which: Which) -> Result<Chosen, ApiError> {
        let Some(row) = self.state.cluster_named(cluster) else {
            return Err(ApiError::new(
                Code::ClusterNotFound,
                format!(
                    "there is no cluster {cluster:?} here; there are: {}",
                    self.clusters().join(", ")
                ),
            ));
        };
        let (complete, incomplete) = choose::choose(&self.state, row, which, |bundle, bytes| {
            self.problem_of(bundle, bytes)
        })?;
        let point = |(point, lacks)| self.point(row, point, lacks);
        Ok(Chosen {
            complete: complete.into_iter().map(|row| point((row, Vec::new()))).collect(),
            incomplete: incomplete.into_iter().map(point).collect(),
        })
    }

    fn point(&self, cluster: &Cluster, row: &PointRow, lacks: Vec<Lack>) -> OfflinePoint {
        OfflinePoint {
            point: convert::point_with_bundles(&self.state, row, cluster),
            committed_known: row.index <= self.about.committed_index,
            proved: row.is_proved(),
            lacks,
        }
    }

    /// What is wrong with a bundle's file, in words, if anything is.
    fn problem_of(&self, bundle: &BundleId, bytes: u64) -> Result<Option<&'static str>, ApiError> {
        if self.in_log.contains_key(bundle) {
            return Ok(None);
        }
        let known = || self.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = known().get(bundle) {
            return Ok(*problem);
        }
        let problem = match self.bundles.size(bundle) {
            Ok(None) => Some("is not here"),
            Ok(Some(have)) if have != bytes => Some("has another length here"),
            Ok(Some(_)) => match self.bundles.verify(bundle) {
                Ok(()) => None,
                Err(BundleError::Damaged { .. }) => Some("is damaged here"),
                Err(BundleError::NotFound { .. }) => Some("is not here"),
                // A bad sector is damage too: the other points may still be whole.
                Err(BundleError::Io { .. }) => Some("cannot be read here"),
                Err(error) => return Err(error_of(error.code(), &error)),
            },
            Err(error) => return Err(error_of(error.code(), &error)),
        };
        known().insert(*bundle, problem);
        Ok(problem)
    }

    /// Part of a bundle's file. Blocking.
    ///
    /// # Errors
    /// When it is not here, or the disk says no.
    pub fn read(&self, bundle: BundleId, offset: u64, max: usize) -> Result<Vec<u8>, ApiError> {
        if let Some(bytes) = self.in_log.get(&bundle) {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            return Ok(bytes[from..bytes.len().min(from.saturating_add(max))].to_vec());
        }
        self.bundles.read_range(&bundle, offset, max).map_err(|e| error_of(e.code(), &e))
    }
}
