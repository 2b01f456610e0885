//! `[bucket]` and `[snapshots]` of a coordinator's config: object stores, and what goes there when.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::ApiError;
use proto_types::Code;
use serde::Deserialize;
use storage::bucket::{Bucket, BucketSettings};

use crate::scheduled::Schedule;

/// `[bucket]`: where bundles are kept once an admin says `fleet bundles --to bucket`. The same
/// bucket and prefix on every coordinator; no other fleet may use them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketConfig {
    /// `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX` or `file:///DIRECTORY`
    /// (one that all coordinators share).
    pub url: String,
    /// Of a store that is not the provider's own, `https://HOST:PORT`.
    pub endpoint: Option<String>,
    /// S3 only.
    pub region: Option<String>,
    /// Whether the endpoint may be `http://`.
    #[serde(default)]
    pub allow_http: bool,
    /// PEM file of certificates that the endpoint's may be signed by, besides the system's.
    pub ca: Option<PathBuf>,
    /// File of lines `NAME=VALUE`, as `AWS_ACCESS_KEY_ID=…`; read anew at each start. Without it,
    /// the variables `AWS_*`, `GOOGLE_*` and `AZURE_*` of the environment.
    pub credentials: Option<PathBuf>,
}

impl BucketConfig {
    fn settings(&self) -> Result<BucketSettings, ApiError> {
        let refused = |text: String| ApiError::new(Code::InvalidConfig, text);
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|error| refused(format!("cannot read {}: {error}", path.display())))
        };
        let options: BTreeMap<String, String> = match &self.credentials {
            Some(path) => {
                let text = read(path)?;
                let text = String::from_utf8(text)
                    .map_err(|_| refused(format!("{} is no text", path.display())))?;
                BucketSettings::read_options(&text)
                    .map_err(|error| refused(format!("{}: {error}", path.display())))?
            }
            None => std::env::vars().filter(|(name, _)| BucketSettings::is_option(name)).collect(),
        };
        Ok(BucketSettings {
            url: self.url.clone(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            allow_http: self.allow_http,
            ca_pem: self.ca.as_deref().map(read).transpose()?,
            options,
        })
    }

    /// Opens it; asks nobody yet.
    pub(crate) fn open(&self, key: &str) -> Result<Bucket, ApiError> {
        Bucket::open(&self.settings()?, tokio::runtime::Handle::current())
            .map_err(|error| ApiError::new(Code::InvalidConfig, format!("{key}.{error}")))
    }

    pub(super) fn check(&self, key: &str, problems: &mut Vec<String>) {
        let settings = BucketSettings {
            url: self.url.clone(),
            endpoint: self.endpoint.clone(),
            allow_http: self.allow_http,
            ..BucketSettings::default()
        };
        if let Err(error) = settings.check() {
            problems.push(format!("{key}.{error}"));
        }
    }

    pub(super) fn relative_to(mut self, directory: &Path) -> Self {
        for path in [&mut self.ca, &mut self.credentials].into_iter().flatten() {
            *path = directory.join(&*path);
        }
        self
    }
}

/// `[snapshots]`: snapshots of the coordinators by schedule, saved by whoever leads. The same on
/// every coordinator.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SnapshotsFile {
    schedule: String,
    #[serde(default = "utc")]
    time_zone: String,
    to: String,
    endpoint: Option<String>,
    region: Option<String>,
    #[serde(default)]
    allow_http: bool,
    ca: Option<PathBuf>,
    credentials: Option<PathBuf>,
    #[serde(default)]
    include_bundles: bool,
    #[serde(default = "keep_last")]
    keep_last: u32,
    #[serde(default)]
    keep_days: u32,
    #[serde(default = "stale_after_hours")]
    stale_after_hours: u64,
}

fn utc() -> String {
    "UTC".to_owned()
}

const fn keep_last() -> u32 {
    7
}

const fn stale_after_hours() -> u64 {
    48
}

/// Scheduled snapshots.
#[derive(Debug, Clone)]
pub struct SnapshotsConfig {
    /// When: a cron pattern of five fields in a time zone.
    pub schedule: Arc<Schedule>,
    /// Where to.
    pub to: BucketConfig,
    /// Whether every bundle is put into it.
    pub include_bundles: bool,
    /// So many good ones are kept, however old; at least 1.
    pub keep_last: u32,
    /// Those of so many days are kept besides; 0: none for that reason.
    pub keep_days: u32,
    /// Without a good one for so long there is a finding, in hours.
    pub stale_after_hours: u64,
}

/// A year and a day: nobody waits longer for a snapshot, and no sum overflows.
const STALE_HOURS_MAX: u64 = 366 * 24;

impl SnapshotsFile {
    pub(super) fn check(
        self,
        directory: &Path,
        problems: &mut Vec<String>,
    ) -> Option<SnapshotsConfig> {
        let to = BucketConfig {
            url: self.to,
            endpoint: self.endpoint,
            region: self.region,
            allow_http: self.allow_http,
            ca: self.ca,
            credentials: self.credentials,
        };
        let before = problems.len();
        to.check("snapshots", problems);
        // The key is `to` here.
        for problem in &mut problems[before..] {
            *problem = problem.replacen("snapshots.url", "snapshots.to", 1);
        }
        if self.keep_last == 0 {
            problems.push("snapshots.keep_last: 0 would keep none; say at least 1".to_owned());
        }
        if !(1..=STALE_HOURS_MAX).contains(&self.stale_after_hours) {
            problems.push(format!(
                "snapshots.stale_after_hours: {} is not between 1 and {STALE_HOURS_MAX}",
                self.stale_after_hours
            ));
        }
        match Schedule::parse(&self.schedule, &self.time_zone) {
            Ok(schedule) => Some(SnapshotsConfig {
                schedule: Arc::new(schedule),
                to: to.relative_to(directory),
                include_bundles: self.include_bundles,
                keep_last: self.keep_last,
                keep_days: self.keep_days,
                stale_after_hours: self.stale_after_hours,
            }),
            Err(problem) => {
                problems.push(format!("snapshots.{problem}"));
                None
            }
        }
    }
}
