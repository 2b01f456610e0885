//! The safety file (invariant P1): what a restore is about to overwrite, sealed under the opened
//! point's own keys into an export beside the target. It opens with the same KEK or recovery key.
//! It is no recovery point: its manifest says so, and names the restored point as predecessor.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bundle::{Form, Identity, Location, Manifest, Piece, Proof, ProofState, Totals};
use proto_types::{BundleKind, LogTime};
use zeroize::Zeroizing;

use super::plan::{Action, PlannedItem, RestorePlan};
use super::target::Kept;
use super::{RestoreError, RestoreOptions};
use crate::backup::BackupError;
use crate::backup::seal::{self, KnownBlobs, SealInput, SealOutput};
use crate::config::DirectoryConfig;
use crate::export::{ExportKind, ExportWriter};
use crate::kubernetes::HeldSource;
use crate::opened::{OpenedPoint, PointError};
use crate::patterns::Patterns;
use crate::point_store::{BundleEntry, PointInfo, ProofInfo, read_small};
use crate::progress::Progress;
use crate::sources::{DirectorySource, Entry, EntryKind, Place, Source, Trouble};

const SOURCE: &str = "safety";
const REASON: &str = "what a restore overwrote; not a recovery point";

/// Whether a signed manifest is a safety file's: what [`make`] makes, and no agent.
pub(crate) fn is_safety_manifest(manifest: &Manifest) -> bool {
    matches!(
        &manifest.proofs[..],
        [Proof { source, state: ProofState::Unproved(reason) }]
            if source == SOURCE && reason == REASON
    )
}

/// A safety file that was made.
pub(super) struct Safety {
    /// Where it is.
    pub(super) path: PathBuf,
    /// What is in it, as it was when it was read; nothing else may be overwritten. Directories
    /// are not in it: theirs are only the attributes, and filling them changes them.
    pub(super) kept: HashMap<Vec<u8>, Kept>,
}

pub(super) async fn make(
    point: &OpenedPoint,
    plan: &Arc<RestorePlan>,
    options: &RestoreOptions,
    progress: &Arc<dyn Progress>,
) -> Result<Safety, RestoreError> {
    let out = safety_path(options, point.info(), point.env().clock.now());
    let job = Job::new(point, out.clone(), progress).await?;
    let (to, overwritten) = (options.to.clone(), overwritten(point, plan));
    let kept = point
        .env()
        .blocking("make a safety file", move || {
            let made = job.run(&to, &overwritten);
            // Sealed bytes only; there when anything was sealed.
            let _ = std::fs::remove_file(&job.input.spool);
            made
        })
        .await??;
    Ok(Safety { path: out, kept })
}

/// The same of objects of a cluster, which are at hand already.
pub(crate) async fn make_of_objects(
    point: &OpenedPoint,
    contents: BTreeMap<Vec<u8>, (Place, Zeroizing<Vec<u8>>)>,
    out: PathBuf,
    progress: &Arc<dyn Progress>,
) -> Result<(), RestoreError> {
    let job = Job::new(point, out, progress).await?;
    let made = point.env().blocking("make a safety file", move || {
        let made = job.seal_objects(contents);
        // Sealed bytes only; there when anything was sealed.
        let _ = std::fs::remove_file(&job.input.spool);
        made
    });
    made.await?
}

fn safety_path(options: &RestoreOptions, info: &PointInfo, now: LogTime) -> PathBuf {
    // `.` is beneath what it stands for; the target exists, where anything is overwritten.
    let to = std::fs::canonicalize(&options.to).unwrap_or_else(|_| options.to.clone());
    let directory = match (&options.safety_directory, to.parent()) {
        (Some(directory), _) => directory.clone(),
        (None, Some(parent)) if !parent.as_os_str().is_empty() => parent.to_owned(),
        (None, _) => Path::new(".").to_owned(),
    };
    let mut name = to.file_name().unwrap_or_default().to_owned();
    // Two restores may follow each other within a second.
    let millis = now.as_millis();
    name.push(format!(".before-{}@{}-{millis}.strongroom", info.cluster_name, info.sequence));
    directory.join(name)
}

/// What will be overwritten, and whether the point holds it as a secret.
fn overwritten(point: &OpenedPoint, plan: &RestorePlan) -> Vec<(PlannedItem, Place)> {
    let items = &point.manifest().items;
    let place = |planned: &PlannedItem| {
        let is_secret =
            |piece: &Piece| matches!(piece, Piece::Blob { location: Location::Key, .. });
        match items[planned.index].content.iter().any(is_secret) {
            true => Place::KeyBundle,
            false => Place::Config,
        }
    };
    plan.items
        .iter()
        .filter(|planned| planned.action == Action::Overwrite)
        .map(|planned| (planned.clone(), place(planned)))
        .collect()
}

struct Job {
    input: SealInput,
    info: PointInfo,
    keys: Vec<u8>,
    wraps: Vec<u8>,
    out: PathBuf,
}

impl Job {
    async fn new(
        point: &OpenedPoint,
        out: PathBuf,
        progress: &Arc<dyn Progress>,
    ) -> Result<Self, RestoreError> {
        let store = point.store();
        let info = point.info().clone();
        let small = |id, kind| async move {
            read_small(&**store, id, kind).await.map_err(PointError::from)
        };
        let keys = small(info.key_bundle, BundleKind::Key).await?;
        let wraps = small(info.wraps, BundleKind::Wraps).await?;
        let identity = Identity {
            fleet: info.fleet,
            cluster: info.cluster,
            lineage: point.keyring().lineage(),
            sequence: info.sequence,
            epoch: info.epoch,
            created: point.env().clock.now(),
        };
        let mut spool = OsString::from(&out);
        spool.push(".spool");
        let input = SealInput {
            env: point.env().clone(),
            keyring: point.keyring().clone(),
            identity,
            known: Arc::new(KnownBlobs::new()),
            spool: spool.into(),
            progress: progress.clone(),
            bytes_total: 0,
            secrets_apart: false,
        };
        Ok(Self { input, info, keys, wraps, out })
    }

    fn seal_objects(
        &self,
        contents: BTreeMap<Vec<u8>, (Place, Zeroizing<Vec<u8>>)>,
    ) -> Result<(), RestoreError> {
        let held = HeldSource::new(SOURCE, contents);
        let entries = held.entries();
        let source: Arc<dyn Source> = Arc::new(held);
        let output =
            seal::seal(&self.input, &[(source, entries)]).map_err(RestoreError::SafetySeal)?;
        self.finish(&output)
    }

    fn run(
        &self,
        to: &Path,
        overwritten: &[(PlannedItem, Place)],
    ) -> Result<HashMap<Vec<u8>, Kept>, RestoreError> {
        let config = DirectoryConfig {
            path: to.to_owned(),
            keys: Patterns::default(),
            include: Patterns::default(),
            exclude: Patterns::default(),
        };
        let seal_failed = |error: BackupError| RestoreError::SafetySeal(error);
        let source = DirectorySource::open(SOURCE, &config).map_err(|e| seal_failed(e.into()))?;
        let entries = overwritten
            .iter()
            .map(|(planned, place)| {
                source.entry(&planned.path).map(|entry| Entry { place: *place, ..entry }).map_err(
                    |source| RestoreError::Observe {
                        path: super::target::place(to, &planned.path),
                        source,
                    },
                )
            })
            .collect::<Result<Vec<_>, _>>()?;
        let source: Arc<dyn Source> = Arc::new(source);
        let output = seal::seal(&self.input, &[(source, entries)]).map_err(seal_failed)?;
        // What cannot be kept may not be overwritten.
        let lost = output.troubles.iter().flatten().find(|(t, _)| *t != Trouble::ChangedWhileRead);
        if let Some((_, path)) = lost {
            return Err(RestoreError::Observe {
                path: super::target::place(to, path),
                source: std::io::Error::other("it cannot be read, so no safety copy can be made"),
            });
        }
        let collected = || output.collected.iter().flatten();
        // What vanished while it was read may be back by the time it is overwritten.
        let has = |path: &[u8]| collected().any(|read| read.entry.path == path);
        if collected().count() != overwritten.len() {
            let gone = overwritten.iter().find(|(planned, _)| !has(&planned.path));
            let path = gone.map_or(&b""[..], |(planned, _)| &planned.path);
            return Err(RestoreError::TargetChanged { path: super::target::place(to, path) });
        }
        let kept = collected()
            .filter(|read| read.entry.kind != EntryKind::Directory)
            .map(|read| (read.entry.path.clone(), Kept::of(&read.entry.stat)))
            .collect();
        self.finish(&output)?;
        Ok(kept)
    }

    /// The manifest of what was sealed, and the file.
    fn finish(&self, output: &SealOutput) -> Result<(), RestoreError> {
        let seal_failed = |error: BackupError| RestoreError::SafetySeal(error);
        let items = output
            .collected
            .iter()
            .flatten()
            .map(|collected| output.item(SOURCE, collected))
            .collect::<Result<Vec<_>, _>>()
            .map_err(seal_failed)?;
        let identity = self.input.identity;
        let manifest = Manifest {
            sequence: identity.sequence,
            key_bundle: self.info.key_bundle,
            form: Form::Full,
            totals: Totals::of(&items),
            items,
            proofs: vec![Proof {
                source: SOURCE.to_owned(),
                state: ProofState::Unproved(REASON.to_owned()),
            }],
        };
        let (sealed, bytes) = bundle::seal_manifest(
            Vec::new(),
            &self.input.keyring,
            &identity,
            self.info.manifest,
            &manifest,
            &*self.input.env.random,
        )
        .map_err(|error| seal_failed(error.into()))?;

        let mut info = self.describe(&manifest);
        info.manifest = sealed.id;
        let config = output.bundle.as_ref();
        let entry = |id, kind: &str, bytes| BundleEntry { id, kind: kind.to_owned(), bytes };
        info.bundles = config.map(|(c, _)| entry(c.id, "config", c.bytes)).into_iter().collect();
        info.bundles.push(entry(info.manifest, "manifest", sealed.bytes));
        info.bundles.push(entry(info.key_bundle, "key", self.keys.len() as u64));
        info.bundles.push(entry(info.wraps, "wraps", self.wraps.len() as u64));
        self.write(&info, config.map(|(_, path)| path.as_path()), &bytes)
            .map_err(RestoreError::SafetyWrite)
    }

    fn describe(&self, manifest: &Manifest) -> PointInfo {
        PointInfo {
            base: None,
            taken_ms: self.input.identity.created,
            lineage: self.input.identity.lineage,
            items: manifest.totals.items,
            logical_bytes: manifest.totals.bytes,
            added_bytes: 0,
            statement: None,
            proofs: vec![ProofInfo {
                source: SOURCE.to_owned(),
                state: "unproved".to_owned(),
                reason: REASON.to_owned(),
            }],
            ..self.info.clone()
        }
    }

    fn write(
        &self,
        info: &PointInfo,
        config: Option<&Path>,
        manifest: &[u8],
    ) -> Result<(), crate::export::ExportError> {
        let mut writer = ExportWriter::create(&self.out, ExportKind::Safety, info)?;
        for entry in &info.bundles {
            match (entry.kind.as_str(), config) {
                ("config", Some(path)) => {
                    let mut file = std::fs::File::open(path).map_err(|source| {
                        let path = path.to_owned();
                        crate::export::ExportError::Io { what: "read", path, source }
                    })?;
                    writer.add(entry.id, entry.bytes, &mut file)?;
                }
                ("manifest", _) => writer.add(entry.id, entry.bytes, &mut &manifest[..])?,
                ("key", _) => writer.add(entry.id, entry.bytes, &mut &self.keys[..])?,
                _ => writer.add(entry.id, entry.bytes, &mut &self.wraps[..])?,
            }
        }
        writer.finish().map(|_| ())
    }
}
