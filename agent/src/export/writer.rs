//! Writing an export: `.partial`, fsync, read back and verified, then renamed, so that a file of
//! the final name is always whole.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::env::Env;
use proto_types::{BundleId, LogTime};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{
    Description, ExportError, ExportKind, FORMAT, POINT_NAME, SUMS_NAME, VERSION, bundle_name,
    reader,
};
use crate::point_store::{ChannelReader, PointInfo, SharedStore, pump};
use crate::progress::{Phase, Progress, ProgressEvent};

/// Chunks between the store and the file: some 4 MiB.
const CHUNKS_MAX: usize = 4;

/// What was written.
#[derive(Debug, Clone)]
pub struct ExportReport {
    /// The file.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Number of bundles in it.
    pub bundles: u64,
}

/// Writes a point to one file and verifies it.
///
/// # Errors
/// When the file exists, cannot be written, or a bundle cannot be read or is not what it should
/// be. What was written of it is removed.
pub async fn write_export(
    store: &SharedStore,
    out: &Path,
    env: &Env,
    progress: Arc<dyn Progress>,
) -> Result<ExportReport, ExportError> {
    let info = store.point().clone();
    let ids: Vec<BundleId> = info.bundles.iter().map(|entry| entry.id).collect();
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let out = out.to_owned();
    let total = info.bundles.iter().map(|entry| entry.bytes).sum();
    let writing = env.blocking("write an export", move || {
        let mut writer = ExportWriter::create(&out, ExportKind::RecoveryPoint, &info)?;
        let mut source = Counted { inner: ChannelReader::new(receiver), done: 0, total, progress };
        for entry in &info.bundles {
            writer.add(entry.id, entry.bytes, &mut source)?;
        }
        writer.finish()
    });
    let (pumped, written) = futures::join!(pump(&**store, &ids, sender), writing);
    let written = written?;
    if let Err(error) = pumped {
        // The writer saw a short bundle; this is why. A file that was finished all the same has
        // every byte and was verified.
        return written.or(Err(error.into()));
    }
    written
}

struct Counted<R> {
    inner: R,
    done: u64,
    total: u64,
    progress: Arc<dyn Progress>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.done += len as u64;
        self.progress.on(ProgressEvent {
            bytes_done: self.done,
            bytes_total: self.total,
            ..ProgressEvent::begin(Phase::Exporting)
        });
        Ok(len)
    }
}

/// Where a bundle's bytes come from.
type BundleSource<'a> = &'a mut dyn Read;

/// An export that is being written. Dropped before it is finished, it leaves nothing behind.
pub(crate) struct ExportWriter {
    out: PathBuf,
    partial: PathBuf,
    tar: Option<tar::Builder<BufWriter<File>>>,
    sums: String,
    written: LogTime,
    bundles: u64,
}

impl ExportWriter {
    pub(crate) fn create(
        out: &Path,
        kind: ExportKind,
        info: &PointInfo,
    ) -> Result<Self, ExportError> {
        if std::fs::symlink_metadata(out).is_ok() {
            return Err(ExportError::Exists { path: out.to_owned() });
        }
        let mut partial = out.to_owned().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        // Of an export that was killed: it was never finished.
        if let Err(source) = std::fs::remove_file(&partial)
            && source.kind() != std::io::ErrorKind::NotFound
        {
            return Err(ExportError::Io { what: "remove", path: partial, source });
        }
        let file = crate::home::create_private(&partial).map_err(|error| match error {
            crate::home::HomeError::Io { what, path, source } => {
                ExportError::Io { what, path, source }
            }
            _ => ExportError::Exists { path: partial.clone() },
        })?;
        let mut writer = Self {
            out: out.to_owned(),
            partial,
            tar: Some(tar::Builder::new(BufWriter::with_capacity(1 << 20, file))),
            sums: String::new(),
            written: info.committed_ms,
            bundles: 0,
        };
        let description =
            Description { format: FORMAT.to_owned(), version: VERSION, kind, point: info.clone() };
        let mut text = serde_json::to_vec_pretty(&description)
            .map_err(|error| writer.io("write")(error.into()))?;
        text.push(b'\n');
        let digest = Sha256::digest(&text);
        writer.append(POINT_NAME, text.len() as u64, &mut &text[..])?;
        writer.sums = format!("{}  {POINT_NAME}\n", hex::encode(digest));
        Ok(writer)
    }

    /// Adds a bundle of exactly this length.
    pub(crate) fn add(
        &mut self,
        id: BundleId,
        bytes: u64,
        source: BundleSource<'_>,
    ) -> Result<(), ExportError> {
        let name = bundle_name(id);
        self.append(&name, bytes, source)?;
        self.sums.push_str(&format!("{id}  {name}\n"));
        self.bundles += 1;
        Ok(())
    }

    /// Completes the file: sums, fsync, verification of what was written, rename.
    pub(crate) fn finish(mut self) -> Result<ExportReport, ExportError> {
        let sums = std::mem::take(&mut self.sums);
        self.append(SUMS_NAME, sums.len() as u64, &mut sums.as_bytes())?;
        let tar = self.tar.take().expect("taken here only");
        tar.into_inner()
            .and_then(|mut buffer| buffer.flush().map(|()| buffer))
            .and_then(|buffer| buffer.into_inner().map_err(Into::into))
            .and_then(|file| file.sync_all())
            .map_err(self.io("write"))?;
        let contents = reader::Contents::read(&self.partial)?;
        contents.verify()?;
        std::fs::rename(&self.partial, &self.out).map_err(self.io("rename"))?;
        let parent = match self.out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(self.io("sync"))?;
        let (path, bundles) = (self.out.clone(), self.bundles);
        Ok(ExportReport { path, bytes: contents.file_bytes(), bundles })
    }

    fn append(
        &mut self,
        name: &str,
        bytes: u64,
        source: BundleSource<'_>,
    ) -> Result<(), ExportError> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(bytes);
        header.set_mode(0o600);
        header.set_mtime(self.written.as_millis() / 1000);
        let mut limited = source.take(bytes);
        let tar = self.tar.as_mut().expect("taken by finish only");
        let appended = tar.append_data(&mut header, name, &mut limited);
        let missing = limited.limit();
        appended.map_err(self.io("write"))?;
        if missing > 0 {
            return Err(ExportError::Damaged {
                path: self.partial.clone(),
                entry: name.to_owned(),
                what: "ended too early",
            });
        }
        Ok(())
    }

    fn io(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> ExportError + use<> {
        let path = self.partial.clone();
        move |source| ExportError::Io { what, path, source }
    }
}

impl Drop for ExportWriter {
    fn drop(&mut self) {
        // Renamed away when all went well.
        let _ = std::fs::remove_file(&self.partial);
    }
}
