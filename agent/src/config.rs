//! `agent.toml`: what an agent backs up, where to, and with which files. Parsed and checked once;
//! every problem names file, line, key and remedy. Reads no environment variable.

use std::path::{Path, PathBuf};

use proto::tls::TlsFiles;
use proto_types::{CARRIED_BYTES_MAX, Code, check_cluster_name};
use serde::Deserialize;

use crate::patterns::Patterns;

/// An agent's configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the cluster in the fleet.
    pub cluster: String,
    /// Coordinators, `host:port`; any of them will do.
    pub coordinators: Vec<String>,
    /// Directory of the KEK, the signing key, the cache and the spool.
    pub state_dir: PathBuf,
    /// The local socket, `agent.sock` in the state directory by default.
    pub socket: PathBuf,
    /// `recovery.pub`: the recovery key that this cluster's key bundles must be sealed to.
    pub recovery_key: PathBuf,
    /// Certificate, key and CA.
    pub tls: TlsFiles,
    /// How fast to upload.
    pub upload: UploadConfig,
    /// What is backed up.
    pub sources: Vec<SourceConfig>,
}

/// How fast to upload.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UploadConfig {
    /// Bytes per second of all uploads together; 0: as fast as the network.
    pub limit_bytes_per_second: u64,
    /// A point whose sealed bundles have at most so many bytes together is sent in one call, and its
    /// bytes pass through the coordinators' log; 0: every point is uploaded before its commit. At most
    /// 11264. Not used together with a limit on the rate.
    pub carry_bytes_max: u64,
}

impl Default for UploadConfig {
    fn default() -> Self {
        Self { limit_bytes_per_second: 0, carry_bytes_max: CARRIED_BYTES_MAX }
    }
}

/// One source.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// Label in manifests, findings and restores; the kind by default.
    pub name: String,
    /// What it is and where.
    pub kind: SourceKind,
}

/// The kinds of sources.
#[derive(Debug, Clone)]
pub enum SourceKind {
    /// A directory tree.
    Directory(DirectoryConfig),
}

/// A directory tree as a source. Patterns match paths relative to `path`.
#[derive(Debug, Clone)]
pub struct DirectoryConfig {
    /// The root of the tree.
    pub path: PathBuf,
    /// Files whose content goes into the key bundle.
    pub keys: Patterns,
    /// What to back up; empty: all.
    pub include: Patterns,
    /// What to leave out.
    pub exclude: Patterns,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config file {}: {source}", crate::shown::path(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what a config file looks like.
    #[error("{}:{line}: {problem}", crate::shown::path(path))]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there and what to do.
        problem: String,
    },
    /// The values do not make sense; all problems together.
    #[error("{}: {}", crate::shown::path(path), problems.join("; "))]
    Values {
        /// The file.
        path: PathBuf,
        /// Each names its key and a remedy.
        problems: Vec<String>,
    },
}

impl ConfigError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> Code {
        Code::InvalidConfig
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    cluster: String,
    coordinators: Vec<String>,
    state_dir: PathBuf,
    socket: Option<PathBuf>,
    recovery_key: PathBuf,
    tls: TlsFiles,
    #[serde(default)]
    upload: UploadConfig,
    sources: Vec<RawSource>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSource {
    kind: String,
    name: Option<String>,
    path: PathBuf,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    include: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
}

impl Config {
    /// Reads and checks a config file. Relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// When it cannot be read, has an unknown or missing key, or a value that makes no sense.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Checks the text of a config file that stands at `path`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let raw: RawConfig = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: line_of(text, error.span()),
            problem: explain(error.message()),
        })?;
        let base = path.parent().unwrap_or(Path::new(""));
        let mut problems = Vec::new();
        if let Err(error) = check_cluster_name(&raw.cluster) {
            problems.push(format!("cluster: {error}"));
        }
        if raw.coordinators.is_empty() {
            problems.push("coordinators: name at least one, as \"host:port\"".to_owned());
        }
        for address in raw.coordinators.iter().filter(|address| !is_address(address)) {
            problems.push(format!("coordinators: {address:?} is not an address: use host:port"));
        }
        if raw.upload.carry_bytes_max > CARRIED_BYTES_MAX {
            problems.push(format!(
                "upload.carry_bytes_max: {}: use 0 to {CARRIED_BYTES_MAX}",
                raw.upload.carry_bytes_max
            ));
        }
        let state_dir = base.join(raw.state_dir);
        let sources = check_sources(base, raw.sources, &mut problems);
        for SourceConfig { kind: SourceKind::Directory(directory), .. } in &sources {
            if state_dir.starts_with(&directory.path) {
                problems.push(format!(
                    "state_dir: it lies in the source {}, which would back up its own keys and \
                     spool: move it out",
                    crate::shown::path(&directory.path)
                ));
            }
        }
        if !problems.is_empty() {
            return Err(ConfigError::Values { path: path.to_owned(), problems });
        }
        Ok(Self {
            socket: match raw.socket {
                Some(socket) => base.join(socket),
                None => state_dir.join("agent.sock"),
            },
            cluster: raw.cluster,
            coordinators: raw.coordinators,
            state_dir,
            recovery_key: base.join(raw.recovery_key),
            tls: raw.tls.relative_to(base),
            upload: raw.upload,
            sources,
        })
    }
}

fn check_sources(
    base: &Path,
    raw: Vec<RawSource>,
    problems: &mut Vec<String>,
) -> Vec<SourceConfig> {
    if raw.is_empty() {
        problems.push("sources: there is nothing to back up: add a [[sources]] table".to_owned());
    }
    let mut sources: Vec<SourceConfig> = Vec::new();
    for source in raw {
        let name = source.name.unwrap_or_else(|| source.kind.clone());
        if check_cluster_name(&name).is_err() {
            problems.push(format!(
                "sources.name: {name:?}: use 1 to 63 lower-case letters, digits and hyphens"
            ));
        }
        if sources.iter().any(|other| other.name == name) {
            problems.push(format!(
                "sources.name: two sources are called {name:?}: give each its own name"
            ));
        }
        if source.kind != "directory" {
            problems.push(format!(
                "sources.kind: {:?} is unknown: this version knows \"directory\"",
                source.kind
            ));
        }
        let mut patterns = |key: &str, globs: &[String]| {
            Patterns::new(globs).unwrap_or_else(|error| {
                problems.push(format!("sources.{key}: {error}"));
                Patterns::default()
            })
        };
        let directory = DirectoryConfig {
            keys: patterns("keys", &source.keys),
            include: patterns("include", &source.include),
            exclude: patterns("exclude", &source.exclude),
            path: base.join(source.path),
        };
        sources.push(SourceConfig { name, kind: SourceKind::Directory(directory) });
    }
    sources
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0))
}

fn line_of(text: &str, span: Option<std::ops::Range<usize>>) -> usize {
    let start = span.map_or(0, |span| span.start.min(text.len()));
    text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Serde's sentence about an unknown key, with the key that was probably meant.
fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let Some(key) = quoted.next() else { return message.to_owned() };
        let known: Vec<&str> = quoted.collect();
        let meant = known.iter().copied().max_by_key(|known| likeness(key, known));
        return match meant.filter(|meant| likeness(key, meant) >= 60) {
            Some(meant) => format!("unknown key `{key}`: did you mean `{meant}`?"),
            None => format!("unknown key `{key}`: known here are {}", known.join(", ")),
        };
    }
    if message.starts_with("missing field") {
        let Some(key) = quoted.next() else { return message.to_owned() };
        return format!("the key `{key}` is missing: add it");
    }
    message.trim_end().replace('\n', ", ")
}

/// How alike two words are, in per cent.
fn likeness(a: &str, b: &str) -> u32 {
    let ratio = similar::TextDiff::from_chars(a, b).ratio();
    // A ratio is between 0 and 1.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    {
        (ratio * 100.0) as u32
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
