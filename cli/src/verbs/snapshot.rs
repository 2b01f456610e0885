//! `strongroom snapshot`: the coordinators' whole state in one file, from a leader that was
//! confirmed before and after (invariant S1).

mod restore;
mod status;

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use coordinator::snapshot_file::{self, Counts, Inspection, Seal, SnapshotFileError, Writer};
use proto::ApiError;
use proto::fleet_client::FleetClient as Client;
use proto::v1;
use proto::v1::fleet_client::FleetClient;
use proto::v1::snapshot_part::Part;
use proto_types::{ByteCount, Code, LogTime};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::operator;
use crate::output::count;
use crate::views::PlaceView;

/// A leader that sends nothing for so long is given up: it may be paused, or cut off.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Leaders tried before an error is final.
const TRIES_MAX: u32 = 8;
/// Between two tries: an election takes as long.
const TRY_PAUSE: Duration = Duration::from_millis(500);
/// Pieces between the network and the disk, 1 MiB each.
const PIECES_MAX: usize = 4;

/// Verbs about snapshots of the coordinators.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Save the coordinators' state to a file (role operator)
    Save(SaveArgs),
    /// Check a saved snapshot and say what is in it; needs no coordinator
    Inspect(InspectArgs),
    /// Bring a saved snapshot into an empty fleet, as a new generation (role admin)
    Restore(restore::RestoreArgs),
    /// Say when the schedule last saved a good snapshot, and what stands in the way
    Status,
}

/// Arguments of `snapshot save`.
#[derive(Debug, Args)]
pub struct SaveArgs {
    /// The file to write; it must not exist
    pub file: PathBuf,
    /// Put every bundle into it, as sealed as they are
    #[arg(long)]
    pub include_bundles: bool,
    /// Take at most so many bytes per second; 0: as fast as it goes
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub limit: u64,
}

/// Arguments of `snapshot inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The file
    pub file: PathBuf,
}

/// What a good snapshot holds.
#[derive(Debug, Serialize)]
struct SnapshotView {
    file: PathBuf,
    bytes: u64,
    /// `good`: everything is there, unchanged, and sealed by its leader. Anything else is an error.
    verdict: &'static str,
    fleet: String,
    fleet_id: String,
    index: u64,
    confirmed_index: u64,
    sealed_index: u64,
    term: u64,
    leader_id: u64,
    log_time: String,
    log_time_ms: u64,
    state_bytes: u64,
    state: Counts,
    includes_bundles: bool,
    bundles: u64,
    bundle_bytes: u64,
    /// The last entry of the audit log, recomputed.
    audit_head: PlaceView,
    /// Entries of the audit log that the coordinator lacked that saved it.
    audit_missing: u64,
    sums_sha256: String,
    /// How often saving began anew because the leader changed; of an inspected file 0.
    retries: u32,
}

impl SnapshotView {
    fn of(file: &Path, bytes: u64, found: Inspection, retries: u32) -> Self {
        Self {
            file: file.to_owned(),
            bytes,
            verdict: "good",
            fleet: found.meta.fleet_name,
            fleet_id: found.meta.fleet.to_string(),
            index: found.meta.index,
            confirmed_index: found.meta.confirmed_index,
            sealed_index: found.seal.sealed_index,
            term: found.meta.term,
            leader_id: found.meta.leader,
            log_time: crate::when::rfc3339(LogTime::from_millis(found.meta.log_time_ms)),
            log_time_ms: found.meta.log_time_ms,
            state_bytes: found.state_bytes,
            state: found.counts,
            includes_bundles: found.meta.includes_bundles,
            bundles: found.bundles,
            bundle_bytes: found.bundle_bytes,
            audit_missing: found.audit.missing,
            audit_head: found.audit.head.into(),
            sums_sha256: found.seal.sums_sha256,
            retries,
        }
    }

    fn describe(&self) -> String {
        let bundles = if self.includes_bundles {
            format!(
                "{} in it, {}",
                count(self.bundles, "bundle"),
                ByteCount::new(self.bundle_bytes)
            )
        } else {
            "not in it: they stay with the coordinators".to_owned()
        };
        let audit = match (self.audit_head.number, self.audit_missing) {
            (0, _) => "no entries".to_owned(),
            (last, 0) => format!("{last} entries, all of them here and unchanged"),
            (last, missing) => format!("{last} entries, {missing} of them not here"),
        };
        format!(
            "{}: good\nfleet    {} ({})\nlog      index {}, of {}\nleader   node {} in term {}, \
             confirmed at {} and sealed at {}\nstate    {}, {}, {}, {}\naudit    {audit}\nbundles  {bundles}\n",
            agent::shown::path(&self.file),
            agent::shown::plain(&self.fleet),
            self.fleet_id,
            self.index,
            self.log_time,
            self.leader_id,
            self.term,
            self.confirmed_index,
            self.sealed_index,
            ByteCount::new(self.state_bytes),
            count(self.state.clusters, "cluster"),
            count(self.state.points, "point"),
            count(self.state.bundles, "bundle"),
        )
    }
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::Save(arguments) => save(&arguments, context).await,
        Verb::Restore(arguments) => restore::run(&arguments, context).await,
        Verb::Status => status::run(context).await,
        Verb::Inspect(arguments) => {
            let (found, bytes) = inspect(&arguments.file, context).await?;
            let view = SnapshotView::of(&arguments.file, bytes, found, 0);
            context.screen.show(&view, SnapshotView::describe)
        }
    }
}

fn file_error(error: &SnapshotFileError, path: &Path) -> CliError {
    CliError::new(error.code(), format!("{}: {error}", path.display()))
}

pub(super) async fn inspect(path: &Path, context: &Context) -> Result<(Inspection, u64)> {
    let path = path.to_owned();
    let inspected = context.env.blocking("inspect a snapshot", move || {
        let file = File::open(&path).map_err(|error| CliError::io("open", &path, &error))?;
        let bytes = file.metadata().map_err(|error| CliError::io("read", &path, &error))?.len();
        let reader = BufReader::with_capacity(1 << 20, file);
        let found = snapshot_file::inspect(reader).map_err(|error| file_error(&error, &path))?;
        Ok((found, bytes))
    });
    inspected.await.map_err(|error| CliError::new(Code::Internal, error.to_string()))?
}

async fn save(arguments: &SaveArgs, context: &Context) -> Result<()> {
    let out = &arguments.file;
    if std::fs::symlink_metadata(out).is_ok() {
        return Err(CliError::new(
            Code::AlreadyExists,
            format!("{} already exists", out.display()),
        )
        .with_remedy("choose another name, or move it away yourself"));
    }
    let (_, client) = operator::connect(context)?;
    // A name nobody can have put there before us.
    let mut drawn = [0; 8];
    context.env.random.fill(&mut drawn);
    let mut partial = out.clone().into_os_string();
    partial.push(format!(".{}.partial", hex::encode(drawn)));
    let partial = PathBuf::from(partial);
    let mut retries = 0;
    let saved = loop {
        // That waits for a leader by itself: what it cannot begin, nobody can.
        let stream = match begin(arguments, &client).await {
            Ok(stream) => stream,
            Err(error) => break Err(error),
        };
        let error = match receive(arguments, &partial, stream, context).await {
            Ok(()) => break Ok(()),
            Err(error) => error,
        };
        if !error.code().is_retryable() || retries == TRIES_MAX {
            break Err(error);
        }
        let _ = std::fs::remove_file(&partial);
        retries += 1;
        context.screen.note(&format!(
            "the snapshot did not come to its end ({}: {}); saving it again through the new leader",
            error.code(),
            error.message()
        ));
        client.turn();
        tokio::time::sleep(TRY_PAUSE).await;
    };
    let found = match saved {
        Ok(()) => inspect(&partial, context).await,
        Err(error) => Err(error),
    };
    let (found, bytes) = match found {
        Ok(found) => found,
        Err(error) => {
            // Nothing half-done stays under any name; the first error is the one to tell.
            let _ = std::fs::remove_file(&partial);
            return Err(error);
        }
    };
    if let Err(error) = publish(&partial, out) {
        let _ = std::fs::remove_file(&partial);
        return Err(CliError::io("name", out, &error));
    }
    let view = SnapshotView::of(out, bytes, found, retries);
    context.screen.show(&view, |view| format!("saved and read back\n{}", view.describe()))
}

fn publish(partial: &Path, out: &Path) -> std::io::Result<()> {
    // Never over a file that came meanwhile.
    let here = rustix::fs::CWD;
    let moved =
        rustix::fs::renameat_with(here, partial, here, out, rustix::fs::RenameFlags::NOREPLACE);
    if moved.is_err() {
        // Not every file system can do that at once.
        std::fs::hard_link(partial, out)?;
        std::fs::remove_file(partial)?;
    }
    let directory = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

async fn begin(
    arguments: &SaveArgs,
    client: &Client,
) -> Result<tonic::Streaming<v1::SnapshotPart>> {
    let request = v1::SaveSnapshotRequest { include_bundles: arguments.include_bundles };
    let stream = client
        .call("saving a snapshot", |channel| async move {
            FleetClient::new(channel).save_snapshot(request).await
        })
        .await?;
    Ok(stream)
}

/// One snapshot from one leader, written and synced, not yet read back.
async fn receive(
    arguments: &SaveArgs,
    partial: &Path,
    mut stream: tonic::Streaming<v1::SnapshotPart>,
    context: &Context,
) -> Result<()> {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let path = partial.to_owned();
    let writing = context.env.blocking("write a snapshot", move || write(&path, receiver));
    let bar = context.screen.byte_bar();
    let (shown, limit) = (bar.clone(), arguments.limit);
    // Owns the sender: the writer's stream ends with it.
    let reading = async move {
        loop {
            let message = tokio::time::timeout(SILENCE_MAX, stream.message()).await;
            let silent = |_| ApiError::new(Code::Unavailable, "the leader went silent");
            let Some(message) = message.map_err(silent)?.map_err(ApiError::from)? else {
                return Err(ApiError::new(Code::Unavailable, "the leader stopped before the seal"));
            };
            let Some(part) = message.part else { continue };
            let is_seal = matches!(part, Part::Seal(_));
            if let Part::Data(data) = &part {
                shown.inc(data.len() as u64);
                if let Some(pause) = (data.len() as u64 * 1000).checked_div(limit) {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            }
            // An error here is the writer's to explain.
            if sender.send(part).await.is_err() || is_seal {
                return Ok(());
            }
        }
    };
    let (read, written): (std::result::Result<(), ApiError>, _) = futures::join!(reading, writing);
    bar.finish_and_clear();
    let written = written.map_err(|error| CliError::new(Code::Internal, error.to_string()))?;
    // That the stream broke is why the file has no end.
    read?;
    written
}

fn write(path: &Path, mut parts: mpsc::Receiver<Part>) -> Result<()> {
    let io = |doing: &'static str| move |error| CliError::io(doing, path, &error);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(io("write"))?;
    let bad = |error: SnapshotFileError| file_error(&error, path);
    let mut writer = Writer::new(BufWriter::with_capacity(1 << 20, file)).map_err(bad)?;
    while let Some(part) = parts.blocking_recv() {
        match part {
            Part::Entry(entry) => writer.entry(&entry.name, entry.bytes).map_err(bad)?,
            Part::Data(data) => writer.data(&data).map_err(bad)?,
            Part::Seal(seal) => {
                let seal = Seal {
                    leader: seal.leader_id,
                    term: seal.term,
                    sealed_index: seal.sealed_index,
                    nonce: seal.nonce,
                    sums_sha256: seal.sums_sha256,
                };
                let mut out = writer.finish(&seal).map_err(bad)?;
                out.flush().map_err(io("write"))?;
                let file = out.into_inner().map_err(|e| CliError::io("write", path, e.error()))?;
                return file.sync_all().map_err(io("sync"));
            }
        }
    }
    Err(CliError::new(Code::Unavailable, "the snapshot came without its end"))
}
