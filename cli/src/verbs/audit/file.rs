//! The audit log in a file: an export, one JSON object per line, or a snapshot of the coordinators.
//! Whatever is read is recomputed; the first line that does not fit ends it.
//!
//! ```text
//! {"format":"strongroom audit export","version":1,"fleet_id":…,"fleet":…,"head":{"number":…,"hash":…}}
//! {"number":1,…,"hash":…}      one line per entry, oldest first
//! {"end":{"number":…,"hash":…}}
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use coordinator::audit::{AuditHead, encode_audit_entry};
use coordinator::snapshot_file::{self, SnapshotFileError};
use proto::v1;
use proto_types::{Code, FleetId, LogTime};
use serde::{Deserialize, Serialize};

use super::ListArgs;
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::views::{EntryView, PlaceView};

const FORMAT: &str = "strongroom audit export";
const VERSION: u32 = 1;
/// First bytes of a zstd frame, with which a snapshot begins.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Longest line: an entry has a kilobyte, its JSON a few.
const LINE_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Opening {
    format: String,
    version: u32,
    fleet_id: FleetId,
    fleet: String,
    head: PlaceView,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    end: PlaceView,
}

/// What a file holds, recomputed.
#[derive(Debug)]
pub(super) struct Loaded {
    /// The last entry.
    pub(super) head: PlaceView,
    /// Entries that a snapshot lacks.
    pub(super) missing: u64,
    /// Names of clusters by id, where the file has them.
    names: BTreeMap<String, String>,
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> CliError {
    CliError::new(Code::Damaged, format!("{}: {what}", path.display()))
        .with_remedy("use another copy, or export the log again")
}

fn read_error<'p>(path: &'p Path) -> impl Fn(std::io::Error) -> CliError + use<'p> {
    move |error| CliError::io("read", path, &error)
}

/// Reads a file to its end, handing its entries to `each`, oldest first.
pub(super) async fn read(
    path: &Path,
    context: &Context,
    each: impl FnMut(&EntryView) + Send + 'static,
) -> Result<Loaded> {
    let path = path.to_owned();
    let reading = context.env.blocking("read an audit log", move || read_blocking(&path, each));
    reading.await.map_err(|error| CliError::new(Code::Internal, error.to_string()))?
}

fn read_blocking(path: &Path, mut each: impl FnMut(&EntryView)) -> Result<Loaded> {
    let mut file = File::open(path).map_err(|error| CliError::io("open", path, &error))?;
    let mut first = Vec::new();
    Read::by_ref(&mut file).take(4).read_to_end(&mut first).map_err(read_error(path))?;
    file.rewind().map_err(read_error(path))?;
    let reader = BufReader::with_capacity(1 << 20, file);
    if first == ZSTD { snapshot(path, reader, &mut each) } else { export(path, reader, &mut each) }
}

fn snapshot(
    path: &Path,
    reader: BufReader<File>,
    each: &mut dyn FnMut(&EntryView),
) -> Result<Loaded> {
    let bad = |error: SnapshotFileError| {
        CliError::new(error.code(), format!("{}: {error}", path.display()))
    };
    let found = snapshot_file::inspect(reader).map_err(bad)?;
    let file = File::open(path).map_err(|error| CliError::io("open", path, &error))?;
    let names = found.state.clusters().map(|c| (c.id.to_string(), c.name.clone())).collect();
    snapshot_file::audit_entries(BufReader::new(file), &found.state, |entry, hash| {
        each(&EntryView::of_entry(entry, hash));
    })
    .map_err(bad)?;
    let (head, missing) = (found.audit.head.into(), found.audit.missing);
    Ok(Loaded { head, missing, names })
}

fn export(
    path: &Path,
    mut reader: BufReader<File>,
    each: &mut dyn FnMut(&EntryView),
) -> Result<Loaded> {
    let mut line = String::new();
    let mut number = 0_u64;
    let mut next = |line: &mut String| {
        line.clear();
        number += 1;
        reader.by_ref().take(LINE_BYTES_MAX).read_line(line).map_err(read_error(path))?;
        if line.ends_with('\n') {
            return Ok(number);
        }
        Err(damaged(path, format!("line {number} is cut short: this is no whole export")))
    };
    next(&mut line)?;
    let opening: Opening = serde_json::from_str(&line)
        .ok()
        .filter(|opening: &Opening| opening.format == FORMAT)
        .ok_or_else(|| damaged(path, "this is no export of an audit log, and no snapshot"))?;
    if opening.version != VERSION {
        return Err(CliError::new(
            Code::UnsupportedVersion,
            format!("{}: version {}: use a newer strongroom", path.display(), opening.version),
        ));
    }
    let mut at = AuditHead::first(opening.fleet_id);
    loop {
        let at_line = next(&mut line)?;
        if let Ok(End { end }) = serde_json::from_str(&line) {
            if end != PlaceView::from(at) || end != opening.head {
                return Err(damaged(path, "it does not end with the entry that it says"));
            }
            break;
        }
        let view: EntryView = serde_json::from_str(&line)
            .map_err(|error| damaged(path, format!("line {at_line}: {error}")))?;
        let entry = view.entry().filter(|entry| entry.number == at.number + 1);
        let linked = entry.map(|entry| at.link(&encode_audit_entry(&entry)));
        at = linked.filter(|linked| hex::encode(linked.hash) == view.hash).ok_or_else(|| {
            damaged(path, format!("line {at_line}: entry {} was changed", view.number))
        })?;
        each(&view);
    }
    line.clear();
    if reader.read_line(&mut line).map_err(read_error(path))? > 0 {
        return Err(damaged(path, "it goes on behind its end"));
    }
    Ok(Loaded { head: opening.head, missing: 0, names: BTreeMap::new() })
}

/// Nothing that exists is replaced.
pub(super) fn refuse_existing(out: &Path) -> Result<()> {
    if std::fs::symlink_metadata(out).is_err() {
        return Ok(());
    }
    let exists = format!("{} already exists", out.display());
    Err(CliError::new(Code::AlreadyExists, exists)
        .with_remedy("choose another name, or move it away yourself"))
}

/// Writes an export, which is recomputed as it comes. Under its name it is whole, or not there.
pub(super) struct Writer {
    out: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    opening: Opening,
    at: AuditHead,
    is_finished: bool,
}

impl Writer {
    pub(super) fn new(out: &Path, opening: &v1::ExportAuditOpening) -> Result<Self> {
        let bad = || CliError::new(Code::Damaged, "the export's opening cannot be read");
        let fleet_id = FleetId::from_slice(&opening.fleet_id).map_err(|_| bad())?;
        let head = opening.head.as_ref().map(PlaceView::from).ok_or_else(bad)?;
        let mut partial = out.to_owned().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        // Left by a run that was interrupted, and nobody's.
        let _ = std::fs::remove_file(&partial);
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)
            .map_err(|error| CliError::io("write", &partial, &error))?;
        let opening = Opening {
            format: FORMAT.to_owned(),
            version: VERSION,
            fleet_id,
            fleet: opening.fleet_name.clone(),
            head,
        };
        let mut writer = Self {
            out: out.to_owned(),
            partial,
            file: BufWriter::new(file),
            at: AuditHead::first(fleet_id),
            opening,
            is_finished: false,
        };
        let line = serde_json::to_string(&writer.opening);
        writer.line(line)?;
        Ok(writer)
    }

    fn line(&mut self, line: serde_json::Result<String>) -> Result<()> {
        let line = line.map_err(|error| CliError::new(Code::Internal, error.to_string()))?;
        writeln!(self.file, "{line}").map_err(|error| CliError::io("write", &self.partial, &error))
    }

    pub(super) fn entry(&mut self, view: EntryView) -> Result<()> {
        let entry = view.entry().filter(|entry| entry.number == self.at.number + 1);
        let linked = entry.map(|entry| self.at.link(&encode_audit_entry(&entry)));
        let linked = linked.filter(|linked| hex::encode(linked.hash) == view.hash);
        self.at = linked.ok_or_else(|| {
            let what = format!("the coordinator sent an entry {} that does not fit", view.number);
            CliError::new(Code::Damaged, what)
                .with_remedy("ask another coordinator, and run `strongroom audit verify`")
        })?;
        self.line(serde_json::to_string(&view))
    }

    pub(super) fn finish(mut self) -> Result<PlaceView> {
        let end = PlaceView::from(self.at);
        if end.number != 0 && end != self.opening.head {
            let what = format!("the log ended with entry {}, before its head", end.number);
            return Err(CliError::new(Code::Unavailable, what).with_remedy("export it again"));
        }
        let line = serde_json::to_string(&End { end: self.opening.head.clone() });
        self.line(line)?;
        let failed = |error: &std::io::Error| CliError::io("write", &self.partial, error);
        self.file.flush().map_err(|error| failed(&error))?;
        self.file.get_ref().sync_all().map_err(|error| failed(&error))?;
        // Never over a file that came meanwhile.
        std::fs::hard_link(&self.partial, &self.out)
            .map_err(|error| CliError::io("name", &self.out, &error))?;
        self.is_finished = true;
        Ok(self.opening.head.clone())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Linked under its own name, or given up.
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// What of a file is listed.
pub(super) struct Filter {
    since_ms: u64,
    until_ms: u64,
    actor: Option<String>,
    act: Option<String>,
    cluster: Option<String>,
    refused: bool,
}

impl Filter {
    pub(super) fn of(arguments: &ListArgs, since: Option<LogTime>, until: Option<LogTime>) -> Self {
        Self {
            since_ms: since.map_or(0, LogTime::as_millis),
            until_ms: until.map_or(u64::MAX, LogTime::as_millis),
            actor: arguments.actor.clone(),
            act: arguments.act.clone(),
            cluster: arguments.cluster.clone(),
            refused: arguments.refused,
        }
    }

    fn matches(&self, entry: &EntryView) -> bool {
        let (actor, subject) = (&entry.actor, &entry.subject);
        let is_one = |wanted: &Option<String>, of: &[Option<&String>]| {
            wanted.as_ref().is_none_or(|wanted| of.contains(&Some(wanted)))
        };
        let names = [Some(&actor.name), actor.cluster.as_ref()];
        let long = names.map(|name| name.map(|name| format!("{} {name}", actor.kind)));
        let [long_id, long_name] = &long;
        let agent = (actor.kind == "agent").then_some(&actor.name);
        (self.since_ms..=self.until_ms).contains(&entry.time_ms)
            && is_one(&self.act, &[Some(&entry.act)])
            && (!self.refused || entry.code.is_some())
            && is_one(
                &self.actor,
                &[names[0], names[1], Some(&actor.kind), long_id.as_ref(), long_name.as_ref()],
            )
            && is_one(
                &self.cluster,
                &[subject.cluster_id.as_ref(), subject.cluster.as_ref(), agent, names[1]],
            )
    }
}

/// Entries of a file that match, newest first.
pub(super) async fn list(
    path: &Path,
    filter: Filter,
    limit: u64,
    context: &Context,
) -> Result<Vec<EntryView>> {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let loaded = read(path, context, move |entry| {
        // The receiver waits until all is read.
        let _ = sender.send(entry.clone());
    })
    .await?;
    let mut entries = Vec::new();
    while let Some(mut entry) = receiver.recv().await {
        let name = |id: &String| loaded.names.get(id).cloned();
        entry.subject.cluster = entry.subject.cluster_id.as_ref().and_then(name);
        entry.actor.cluster =
            (entry.actor.kind == "agent").then(|| name(&entry.actor.name)).flatten();
        if filter.matches(&entry) {
            entries.push(entry);
        }
    }
    entries.reverse();
    entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(entries)
}
