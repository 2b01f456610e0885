//! A coordinator's config file: read, checked whole, and refused with the place and the remedy.
//! Relative paths are relative to the file.

mod certificates;
pub mod environment;
mod targets;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::tls::TlsFiles;
use proto_types::{ByteCount, Code, FleetId, Level, NodeId};
use serde::Deserialize;

use crate::roll_call::levels::Levels;
pub use certificates::CertificatesConfig;
use targets::SnapshotsFile;
pub use targets::{BucketConfig, SnapshotsConfig};

/// What a coordinator is told when it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its identity. Never reused, not even after the node is gone.
    pub node_id: NodeId,
    /// What people call it.
    pub name: String,
    /// Where everything it keeps is.
    pub data_dir: PathBuf,
    /// `host:port` for gRPC.
    pub listen: String,
    /// `host:port` for `/metrics`, plain HTTP; none if absent.
    pub metrics_listen: Option<String>,
    /// Its certificate.
    pub tls: TlsFiles,
    /// What it certifies joining coordinators with; none where certificates come from elsewhere.
    pub authority: Option<AuthorityFiles>,
    /// The fleet it belongs to.
    pub fleet: FleetConfig,
    /// The first voters, the same list in every first config; of a node that joins, coordinators
    /// that can be asked. Later the fleet itself knows its members.
    pub members: BTreeMap<NodeId, Member>,
    /// Whether this node was added to a fleet that runs, and waits to be taken in.
    pub join: bool,
    /// Raft's timing.
    pub raft: RaftConfig,
    /// What it refuses.
    pub limits: Limits,
    /// How it checks its bundles.
    pub scrub: ScrubConfig,
    /// The bucket that bundles may be kept in.
    pub bucket: Option<BucketConfig>,
    /// Snapshots by schedule.
    pub snapshots: Option<SnapshotsConfig>,
    /// How long the certificates are valid that it gives out.
    pub certificates: CertificatesConfig,
    /// What holds it back to an older program.
    pub upgrade: UpgradeConfig,
}

/// Where the fleet's certificate authority is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityFiles {
    /// The coordinators' own certificate and the root's after it, PEM.
    pub certificate: PathBuf,
    /// The private key of the first of them, PEM.
    pub key: PathBuf,
    /// The root's private key, sealed to the recovery key; needed only until the fleet's state
    /// holds it, which is from the first coordinator's first start.
    pub sealed: Option<PathBuf>,
}

/// The fleet, as written down at its creation.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// Its identity.
    pub id: FleetId,
    /// Its name.
    pub name: String,
    /// Public half of the recovery key for HPKE.
    pub recovery_hpke: [u8; 32],
    /// Public half of the recovery key for signatures.
    pub recovery_signing: [u8; 32],
}

/// Another coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What people call it.
    pub name: String,
    /// `host:port` of its gRPC.
    pub address: String,
}

/// Raft's timing, in milliseconds. Failover takes `election_timeout_max` plus the smallest of the
/// survivors' random timeouts; the slowest fsync must fit into `heartbeat`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftConfig {
    /// Between two signs of life of the leader.
    pub heartbeat_ms: u64,
    /// Shortest wait before an election.
    pub election_timeout_min_ms: u64,
    /// Longest wait before an election, and the leader's lease.
    pub election_timeout_max_ms: u64,
    /// Log entries between two snapshots.
    pub snapshot_every_entries: u64,
    /// Log entries kept behind a snapshot for followers that lag.
    pub snapshot_keep_entries: u64,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            heartbeat_ms: 200,
            election_timeout_min_ms: 600,
            election_timeout_max_ms: 1200,
            snapshot_every_entries: 5000,
            snapshot_keep_entries: 1000,
        }
    }
}

/// What a coordinator refuses.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest gRPC message, in bytes.
    pub request_bytes_max: usize,
    /// Largest bundle, in bytes.
    pub bundle_bytes_max: u64,
    /// Bundles are refused when less than this would stay free on the disk, in bytes.
    pub disk_reserve_bytes: u64,
    /// Bundle streams taken at one time, of all clusters.
    pub uploads_max: usize,
    /// Bundle streams taken at one time, of one cluster.
    pub uploads_per_cluster_max: usize,
    /// Bytes of bundles that one cluster may store, one copy; no limit if absent. Each
    /// coordinator refuses by its own config, so it is the same on all of them.
    pub cluster_bytes_max: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes_max: 4 << 20,
            bundle_bytes_max: 64 << 30,
            disk_reserve_bytes: 256 << 20,
            uploads_max: 64,
            // One agent is active and sends the four files of a point; the other half is for a
            // successor, while streams of its predecessor that died have not ended yet.
            uploads_per_cluster_max: 8,
            cluster_bytes_max: None,
        }
    }
}

/// How a coordinator checks its bundles.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubConfig {
    /// Each bundle is read again at least this often, in hours.
    pub interval_hours: u64,
    /// Read rate, in bytes per second.
    pub bytes_per_second: u64,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self { interval_hours: 7 * 24, bytes_per_second: 32 << 20 }
    }
}

/// What holds a coordinator back.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpgradeConfig {
    /// The highest level it supports; that of its program if absent. Held back, it does what a
    /// program of that level does and no more, so that the fleet's level does not rise and the
    /// older program can be started again on its data directory.
    pub level_max: Option<u16>,
}

impl UpgradeConfig {
    /// The levels this coordinator works with.
    #[must_use]
    pub(crate) fn levels(self) -> Levels {
        Levels::held_back_to(self.level_max.map(Level::new))
    }
}

/// Why a config file is refused: all problems, each with its remedy.
#[derive(Debug, thiserror::Error)]
#[error("{} is not valid:\n{}", place, problems.join("\n"))]
pub struct ConfigError {
    place: String,
    problems: Vec<String>,
}

impl ConfigError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        Code::InvalidConfig
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    node_id: u64,
    name: String,
    data_dir: PathBuf,
    listen: String,
    metrics_listen: Option<String>,
    tls: TlsFiles,
    authority: Option<AuthorityFiles>,
    fleet: FleetFile,
    members: Vec<MemberFile>,
    #[serde(default)]
    join: bool,
    #[serde(default)]
    raft: RaftConfig,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    scrub: ScrubConfig,
    bucket: Option<BucketConfig>,
    snapshots: Option<SnapshotsFile>,
    #[serde(default)]
    certificates: CertificatesConfig,
    #[serde(default)]
    upgrade: UpgradeConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FleetFile {
    id: String,
    name: String,
    recovery_hpke: String,
    recovery_signing: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberFile {
    id: u64,
    name: String,
    address: String,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read, is no TOML, has unknown keys or values that make no sense.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(Some(path), [])
    }

    /// Reads and checks a file, if there is one, and what [`environment`] says over it.
    ///
    /// # Errors
    /// As [`Config::load`]; names the variables where they may be the cause.
    pub fn load_with(
        path: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let place = match path {
            Some(path) => format!("the config file {}", path.display()),
            None => "the config by environment".to_owned(),
        };
        let failed = |problems| ConfigError { place: place.clone(), problems };
        let text = match path {
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                failed(vec![format!("cannot read it: {error}; give the path of a file")])
            })?,
            None => String::new(),
        };
        let directory = path.and_then(Path::parent).unwrap_or(Path::new("."));
        let overrides = environment::overrides(variables);
        if overrides.is_empty() {
            return Self::parse(&text, directory).map_err(failed);
        }
        let names = environment::names(&overrides);
        let mut table: toml::Table =
            toml::from_str(&text).map_err(|error| failed(vec![place_of(&text, &error)]))?;
        environment::apply(&mut table, overrides).map_err(failed)?;
        File::deserialize(toml::Value::Table(table))
            .map_err(|error| vec![place_of("", &error)])
            .and_then(|file| Self::check(file, directory))
            .map_err(|mut problems| {
                problems.push(format!("(together with {names} of the environment)"));
                failed(problems)
            })
    }

    /// Parses a file's text; relative paths are taken from `directory`.
    ///
    /// # Errors
    /// All problems found, in words.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, Vec<String>> {
        let file: File = toml::from_str(text).map_err(|error| vec![place_of(text, &error)])?;
        Self::check(file, directory)
    }

    fn check(file: File, directory: &Path) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut hex32 = |key: &str, text: &str| {
            let mut bytes = [0; 32];
            if hex::decode_to_slice(text, &mut bytes).is_err() {
                problems.push(format!(
                    "fleet.{key}: expected 64 hexadecimal digits, as recovery.pub holds them"
                ));
            }
            bytes
        };
        let recovery_hpke = hex32("recovery_hpke", &file.fleet.recovery_hpke);
        let recovery_signing = hex32("recovery_signing", &file.fleet.recovery_signing);
        let fleet_id = file.fleet.id.parse().unwrap_or_else(|error| {
            problems.push(format!("fleet.id: {error}"));
            FleetId::ZERO
        });
        check_members(&file, &mut problems);
        check_raft(&file.raft, &mut problems);
        check_limits(&file, &mut problems);
        check_upgrade(file.upgrade, &mut problems);
        file.certificates.check(&mut problems);
        if file.limits.request_bytes_max < (2 << 20) {
            problems.push(
                "limits.request_bytes_max: less than 2 MiB leaves no room for a 1 MiB piece of a \
                 bundle; raise it"
                    .to_owned(),
            );
        }
        if file.scrub.bytes_per_second == 0 || file.scrub.interval_hours == 0 {
            problems.push(
                "scrub: interval_hours and bytes_per_second must be larger than 0".to_owned(),
            );
        }
        let bucket = file.bucket.map(|bucket| bucket.relative_to(directory));
        if let Some(bucket) = &bucket {
            bucket.check("bucket", &mut problems);
        }
        let snapshots = file.snapshots.and_then(|file| file.check(directory, &mut problems));
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            node_id: NodeId::new(file.node_id),
            name: file.name,
            data_dir: directory.join(file.data_dir),
            listen: file.listen,
            metrics_listen: file.metrics_listen,
            tls: file.tls.relative_to(directory),
            authority: file.authority.map(|files| AuthorityFiles {
                certificate: directory.join(files.certificate),
                key: directory.join(files.key),
                sealed: files.sealed.map(|sealed| directory.join(sealed)),
            }),
            fleet: FleetConfig {
                id: fleet_id,
                name: file.fleet.name,
                recovery_hpke,
                recovery_signing,
            },
            members: file
                .members
                .into_iter()
                .map(|m| (NodeId::new(m.id), Member { name: m.name, address: m.address }))
                .collect(),
            join: file.join,
            raft: file.raft,
            limits: file.limits,
            scrub: file.scrub,
            bucket,
            snapshots,
            certificates: file.certificates,
            upgrade: file.upgrade,
        })
    }
}

fn check_members(file: &File, problems: &mut Vec<String>) {
    if file.node_id == 0 {
        problems.push("node_id: must be larger than 0".to_owned());
    }
    let ids: std::collections::BTreeSet<u64> = file.members.iter().map(|m| m.id).collect();
    if ids.len() != file.members.len() {
        problems.push("members: an id stands twice; every coordinator has its own".to_owned());
    }
    if file.join {
        return;
    }
    if !ids.contains(&file.node_id) {
        problems.push(format!(
            "members: node_id {} is not among them; list every coordinator, this \
             one too; of a node that was added later, say `join = true`",
            file.node_id
        ));
    }
    if file.members.len().is_multiple_of(2) {
        problems.push(format!(
            "members: {} coordinators survive no more losses than {}; use an odd number",
            file.members.len(),
            file.members.len().saturating_sub(1)
        ));
    }
}

fn check_upgrade(upgrade: UpgradeConfig, problems: &mut Vec<String>) {
    let (oldest, newest) = (Level::OLDEST, Level::NEWEST);
    if upgrade.level_max.is_some_and(|max| !(oldest.get()..=newest.get()).contains(&max)) {
        problems.push(format!(
            "upgrade.level_max: this program supports the levels {oldest} to {newest}; give one of \
             them, or remove the key"
        ));
    }
}

fn check_limits(file: &File, problems: &mut Vec<String>) {
    if !(1..=UPLOADS_MAX).contains(&file.limits.uploads_max) {
        problems.push(format!(
            "limits.uploads_max: {} is not between 1 and {UPLOADS_MAX}",
            file.limits.uploads_max
        ));
    }
    if file.limits.uploads_per_cluster_max == 0 {
        problems.push(
            "limits.uploads_per_cluster_max: 0 would refuse every backup; raise it".to_owned(),
        );
    }
    if file.limits.cluster_bytes_max == Some(0) {
        problems.push(
            "limits.cluster_bytes_max: 0 would refuse every backup; remove the key for no limit"
                .to_owned(),
        );
    }
    if file.scrub.interval_hours > SCRUB_HOURS_MAX {
        problems.push(format!(
            "scrub.interval_hours: {} is more than {SCRUB_HOURS_MAX}, a year; lower it",
            file.scrub.interval_hours
        ));
    }
    // Otherwise the leader could never create the fleet, and every request would wait for it.
    if let Err(error) = proto_types::check_cluster_name(&file.fleet.name) {
        problems.push(format!("fleet.name: {error}"));
    }
}

/// Each holds a thread that may block, of which there are 512.
const UPLOADS_MAX: usize = 128;
/// A year.
const SCRUB_HOURS_MAX: u64 = 366 * 24;
/// A minute: whoever waits longer for a leader has another problem.
const ELECTION_MS_MAX: u64 = 60_000;
/// Log entries between two snapshots at most: some hundred megabytes of log.
const SNAPSHOT_ENTRIES_MAX: u64 = 10_000_000;

fn check_raft(raft: &RaftConfig, problems: &mut Vec<String>) {
    if raft.heartbeat_ms == 0
        || raft.heartbeat_ms * 2 > raft.election_timeout_min_ms
        || raft.election_timeout_min_ms >= raft.election_timeout_max_ms
    {
        problems.push(format!(
            "raft: heartbeat_ms {} must be at most half of election_timeout_min_ms {}, and that \
             less than election_timeout_max_ms {}",
            raft.heartbeat_ms, raft.election_timeout_min_ms, raft.election_timeout_max_ms
        ));
    }
    if raft.election_timeout_max_ms > ELECTION_MS_MAX {
        problems.push(format!(
            "raft.election_timeout_max_ms: {} is more than {ELECTION_MS_MAX}; lower it",
            raft.election_timeout_max_ms
        ));
    }
    if !(1..=SNAPSHOT_ENTRIES_MAX).contains(&raft.snapshot_every_entries) {
        problems.push(format!(
            "raft.snapshot_every_entries: {} is not between 1 and {SNAPSHOT_ENTRIES_MAX}",
            raft.snapshot_every_entries
        ));
    }
}

/// Line, key and remedy of a TOML error.
fn place_of(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| {
        let end = span.start.min(text.len());
        text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count() + 1
    });
    let message = error.message();
    let remedy = if message.contains("unknown field") {
        "; remove the key or correct its name"
    } else if message.contains("missing field") {
        "; add it"
    } else {
        ""
    };
    match line {
        Some(line) => format!("line {line}: {message}{remedy}"),
        None => format!("{message}{remedy}"),
    }
}

impl RaftConfig {
    /// Longest time to wait for a leader before a request is answered with `UNAVAILABLE`.
    #[must_use]
    pub const fn leader_patience(&self) -> Duration {
        Duration::from_millis(self.election_timeout_max_ms * 4)
    }
}

impl Limits {
    /// The disk reserve.
    #[must_use]
    pub const fn disk_reserve(&self) -> ByteCount {
        ByteCount::new(self.disk_reserve_bytes)
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
