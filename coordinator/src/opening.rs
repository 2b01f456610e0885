//! Opens what a coordinator keeps on disk, in the order in which one part proves the next: the
//! directory, the log, the snapshots, the bundles, the ledger. Refuses in words what is damaged
//! or of somebody else, and never starts empty where there was something.

use std::sync::Arc;

use proto::ApiError;
use proto::env::Env;
use proto_types::Code;
use storage::bundles::{BundleOptions, BundleStore, FileBundleStore};
use storage::disk::{Disk, RealDisk};
use storage::home::{DataDir, HomeIdentity};
use storage::ledger::{Ledger, LedgerError, SledLedger};
use storage::log::LogOptions;
use storage::raft_log::RaftLogStore;
use storage::snapshots::SnapshotStore;
use storage::spawn::Driver;

use crate::config::Config;
use crate::keeper::chain;

/// The opened parts. Together they hold the directory's lock.
pub(crate) struct Opened {
    pub(crate) home: DataDir,
    pub(crate) log: RaftLogStore,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) bundles: Arc<dyn BundleStore>,
    pub(crate) ledger: Arc<dyn Ledger>,
}

fn refusal(code: Code, error: &dyn std::error::Error) -> ApiError {
    ApiError::new(code, chain(error))
}

type OpenLedger = fn(&DataDir) -> Result<Arc<dyn Ledger>, LedgerError>;

/// The disk that is handed in: file layer, the log's thread, and where the ledger is. A
/// simulation hands in its own three.
#[derive(Clone)]
pub struct Machine {
    /// All durable files but the ledger's.
    pub disk: Arc<dyn Disk>,
    /// Where the log's writer runs.
    pub driver: Driver,
    /// Opens the ledger, which is never the only copy of anything.
    pub open_ledger: OpenLedger,
}

impl Machine {
    /// The operating system's disk and threads, and the ledger on sled.
    #[must_use]
    pub fn system() -> Self {
        Self {
            disk: Arc::new(RealDisk),
            driver: Driver::threads(),
            open_ledger: |home| {
                let (ledger, opened) = SledLedger::open(home)?;
                tracing::info!(event = "ledger_opened", ?opened, "ledger opened");
                Ok(Arc::new(ledger))
            },
        }
    }
}

/// Opens all parts on a blocking thread.
pub(crate) async fn open(config: &Config, env: &Env, machine: Machine) -> Result<Opened, ApiError> {
    let config = config.clone();
    env.blocking("open-data", move || open_blocking(&config, machine))
        .await
        .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?
}

fn open_blocking(config: &Config, machine: Machine) -> Result<Opened, ApiError> {
    let Machine { disk, driver, open_ledger } = machine;
    let identity = HomeIdentity { fleet: config.fleet.id, node: config.node_id };
    let max = config.upgrade.levels().max;
    let home = DataDir::open_or_create_at(disk, &config.data_dir, identity, max)
        .map_err(|error| refusal(error.code(), &error))?;
    let log = RaftLogStore::open(&home, LogOptions::default(), driver)
        .map_err(|error| refusal(error.code(), &error))?;
    let (snapshots, damaged) =
        SnapshotStore::open(&home, log.bounds()).map_err(|error| refusal(error.code(), &error))?;
    for snapshot in damaged {
        tracing::error!(
            event = "snapshot_damaged",
            path = %snapshot.path.display(),
            error = chain(&snapshot.error),
            "a snapshot file is damaged and was put aside; the log reaches back far enough. It \
             becomes a finding once the node is up"
        );
    }
    let options = BundleOptions { reserve_bytes: config.limits.disk_reserve_bytes };
    let bundles =
        FileBundleStore::open(&home, options).map_err(|error| refusal(error.code(), &error))?;
    let held = bundles.list().map_err(|error| refusal(error.code(), &error))?;
    let ledger = open_ledger(&home).map_err(|error| refusal(error.code(), &error))?;
    let report = ledger.rebuild_from(&held).map_err(|error| refusal(error.code(), &error))?;
    tracing::info!(
        event = "opened",
        data_dir = %config.data_dir.display(),
        bundles = held.len(),
        ledger_added = report.added,
        ledger_removed = report.removed,
        "data directory opened"
    );
    Ok(Opened { home, log, snapshots, bundles: Arc::new(bundles), ledger })
}
