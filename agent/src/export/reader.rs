//! Reading an export: everything is verified before the first byte of it is used.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bundle::Expect;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use proto::env::{BoxFuture, Env};
use proto_types::{BundleId, check_cluster_name};
use sha2::{Digest, Sha256};

use super::{
    BLOCK_BYTES, Description, END_BYTES, ExportError, ExportKind, FORMAT, POINT_NAME, SUMS_NAME,
    VERSION, bundle_name,
};
use crate::point_store::{Offered, PointInfo, PointStore, StoreError};

/// Longest `point.json` and `SHA256SUMS`: tens of thousands of bundles.
const TEXT_BYTES_MAX: u64 = 16 << 20;
const CHUNK_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    bytes: u64,
}

/// Where everything is in an exported file.
pub(super) struct Contents {
    path: PathBuf,
    file: File,
    file_bytes: u64,
    description: Description,
    point: Place,
    sums: Place,
    bundles: BTreeMap<BundleId, Place>,
}

impl Contents {
    /// Finds the entries; does not look into bundles.
    pub(super) fn read(path: &Path) -> Result<Self, ExportError> {
        let io = |what| move |source| ExportError::Io { what, path: path.to_owned(), source };
        let file = File::open(path).map_err(io("open"))?;
        let file_bytes = file.metadata().map_err(io("read"))?.len();
        let places = Places::find(path, &file, file_bytes)?;
        let text = read_text(path, &file, POINT_NAME, places.point)?;
        let stranger = |what| ExportError::NotAnExport { path: path.to_owned(), what };
        let head: Head =
            serde_json::from_slice(&text).map_err(|_| stranger("its point.json is not ours"))?;
        if head.format != FORMAT {
            return Err(stranger("its point.json is not ours"));
        }
        if head.version != VERSION {
            return Err(ExportError::Version { path: path.to_owned(), found: head.version });
        }
        let damaged = |what| ExportError::Damaged {
            path: path.to_owned(),
            entry: POINT_NAME.to_owned(),
            what,
        };
        let description: Description =
            serde_json::from_slice(&text).map_err(|_| damaged("cannot be read"))?;
        // It becomes part of file names, and nobody signed it.
        check_cluster_name(&description.point.cluster_name)
            .map_err(|_| damaged("names a cluster as none can be named"))?;
        let Places { point, sums, bundles } = places;
        Ok(Self { path: path.to_owned(), file, file_bytes, description, point, sums, bundles })
    }

    /// Reads everything and compares it with its sums, names and signatures.
    pub(super) fn verify(&self) -> Result<(), ExportError> {
        self.verify_sums()?;
        let info = &self.description.point;
        for (id, place) in &self.bundles {
            let section = Section { file: &self.file, offset: place.offset, left: place.bytes };
            let failed = |source| ExportError::Bundle {
                path: self.path.clone(),
                id: *id,
                source: Box::new(source),
            };
            // The name is the hash, so this is the comparison with the sum, too. Only of bytes
            // that are whole is it said whose they are.
            let reader = io::BufReader::with_capacity(1 << 20, section);
            let expect = Expect::anything().with_id(*id);
            let verified = bundle::verify_file(reader, &expect).map_err(failed)?;
            Expect::of(info.fleet, info.cluster).check(&verified.header).map_err(failed)?;
        }
        Ok(())
    }

    /// Whether description, names and sums belong together. First, so that a damaged description
    /// is not taken for another cluster's.
    fn verify_sums(&self) -> Result<(), ExportError> {
        let text = read_text(&self.path, &self.file, POINT_NAME, self.point)?;
        let mut expected = format!("{}  {POINT_NAME}\n", hex::encode(Sha256::digest(&text)));
        let listed = &self.description.point.bundles;
        for entry in listed {
            let name = bundle_name(entry.id);
            match self.bundles.get(&entry.id) {
                None => return Err(self.damaged(&name, "is missing")),
                Some(place) if place.bytes != entry.bytes => {
                    return Err(self.damaged(&name, "has another length than point.json says"));
                }
                Some(_) => expected.push_str(&format!("{}  {name}\n", entry.id)),
            }
        }
        if self.bundles.len() != listed.len() {
            return Err(self.damaged("bundles", "holds more than point.json lists"));
        }
        let sums = read_text(&self.path, &self.file, SUMS_NAME, self.sums)?;
        if sums != expected.as_bytes() {
            return Err(self.damaged(SUMS_NAME, "does not fit what is there"));
        }
        Ok(())
    }

    pub(super) const fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    fn damaged(&self, entry: &str, what: &'static str) -> ExportError {
        ExportError::Damaged { path: self.path.clone(), entry: entry.to_owned(), what }
    }
}

/// What every version's `point.json` says.
#[derive(serde::Deserialize)]
struct Head {
    format: String,
    version: u32,
}

struct Places {
    point: Place,
    sums: Place,
    bundles: BTreeMap<BundleId, Place>,
}

impl Places {
    fn find(path: &Path, file: &File, file_bytes: u64) -> Result<Self, ExportError> {
        let cut = || ExportError::CutShort { path: path.to_owned(), bytes: file_bytes };
        let stranger = |what| ExportError::NotAnExport { path: path.to_owned(), what };
        let damaged = |entry: &str, what| ExportError::Damaged {
            path: path.to_owned(),
            entry: entry.to_owned(),
            what,
        };
        if file_bytes < BLOCK_BYTES {
            return Err(cut());
        }
        let mut point = None;
        let mut sums = None;
        let mut bundles = BTreeMap::new();
        let mut end = 0;
        let mut archive = tar::Archive::new(file);
        let entries = archive.entries_with_seek().map_err(|_| stranger("it is no tar"))?;
        for entry in entries {
            // A header that is there and wrong is damage; one that is not there, a cut.
            let entry = entry.map_err(|_| match point {
                None => stranger("it is no tar"),
                Some(_) if file_bytes < end + BLOCK_BYTES => cut(),
                Some(_) => damaged("a header", "cannot be read"),
            })?;
            let name = entry.path_bytes().into_owned();
            let name = String::from_utf8_lossy(&name).into_owned();
            let place = Place { offset: entry.raw_file_position(), bytes: entry.size() };
            end = place.offset.saturating_add(place.bytes.next_multiple_of(BLOCK_BYTES));
            if end > file_bytes {
                return Err(cut());
            }
            if point.is_none() && name != POINT_NAME {
                return Err(stranger("it does not begin with point.json"));
            }
            if sums.is_some() {
                return Err(damaged(&name, "stands behind the sums"));
            }
            if name == POINT_NAME && point.is_none() {
                point = Some(place);
            } else if name == SUMS_NAME {
                sums = Some(place);
            } else if let Some(id) = name.strip_prefix("bundles/").and_then(|id| id.parse().ok()) {
                if bundles.insert(id, place).is_some() {
                    return Err(damaged(&name, "is there twice"));
                }
            } else {
                return Err(damaged(&name, "does not belong here"));
            }
        }
        let point = point.ok_or_else(|| stranger("it is an empty tar"))?;
        let sums = sums.ok_or_else(cut)?;
        if file_bytes < end + END_BYTES {
            return Err(cut());
        }
        let mut zeros = [0; END_BYTES as usize];
        file.read_exact_at(&mut zeros, end).map_err(|_| cut())?;
        if file_bytes > end + END_BYTES || zeros.iter().any(|byte| *byte != 0) {
            return Err(damaged("its end", "is not that of a tar"));
        }
        Ok(Self { point, sums, bundles })
    }
}

fn read_text(path: &Path, file: &File, name: &str, place: Place) -> Result<Vec<u8>, ExportError> {
    if place.bytes > TEXT_BYTES_MAX {
        return Err(ExportError::Damaged {
            path: path.to_owned(),
            entry: name.to_owned(),
            what: "is too long",
        });
    }
    let mut text = vec![0; usize::try_from(place.bytes).unwrap_or_default()];
    file.read_exact_at(&mut text, place.offset).map_err(|source| ExportError::Io {
        what: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok(text)
}

/// A stretch of a file.
struct Section<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let len = self.file.read_at(&mut buffer[..want], self.offset)?;
        self.offset += len as u64;
        self.left -= len as u64;
        Ok(len)
    }
}

/// A recovery point in an exported file.
pub struct ExportPointStore {
    contents: Arc<Contents>,
    env: Env,
}

impl ExportPointStore {
    /// Opens an exported file and verifies all of it: sums, names, hashes and signatures.
    ///
    /// # Errors
    /// When it is cut short, damaged, no export, of a newer program, or holds another cluster's
    /// bundles.
    pub async fn open(path: &Path, env: &Env) -> Result<Self, ExportError> {
        let path = path.to_owned();
        let contents = env
            .blocking("verify an export", move || {
                let contents = Contents::read(&path)?;
                contents.verify()?;
                Ok::<_, ExportError>(contents)
            })
            .await??;
        Ok(Self { contents: Arc::new(contents), env: env.clone() })
    }

    /// Whether it is a recovery point or a restore's safety file.
    #[must_use]
    pub fn kind(&self) -> ExportKind {
        self.contents.description.kind
    }
}

impl PointStore for ExportPointStore {
    fn point(&self) -> &PointInfo {
        &self.contents.description.point
    }

    fn offered_as(&self) -> Offered {
        // A file knows nothing of later points, and claims nothing.
        Offered::Exactly
    }

    fn is_safety_file(&self) -> bool {
        self.kind() == ExportKind::Safety
    }

    fn read(
        &self,
        bundle: BundleId,
        offset: u64,
        length: u64,
    ) -> BoxStream<'_, Result<Bytes, StoreError>> {
        let Some(place) = self.contents.bundles.get(&bundle).copied() else {
            return stream::once(async move { Err(StoreError::NotListed(bundle)) }).boxed();
        };
        let end = match length {
            0 => place.bytes,
            length => offset.saturating_add(length).min(place.bytes),
        };
        stream::try_unfold(offset, move |at| async move {
            if at >= end {
                return Ok(None);
            }
            let want = (end - at).min(CHUNK_BYTES);
            let contents = self.contents.clone();
            let chunk = self
                .env
                .blocking("read an export", move || {
                    let mut chunk = vec![0; usize::try_from(want).unwrap_or_default()];
                    contents.file.read_exact_at(&mut chunk, place.offset + at).map_err(
                        |source| {
                            let path = contents.path.clone();
                            ExportError::Io { what: "read", path, source }
                        },
                    )?;
                    Ok::<_, ExportError>(chunk)
                })
                .await
                .map_err(ExportError::from)??;
            Ok(Some((Bytes::from(chunk), at + want)))
        })
        .boxed()
    }

    fn suspect(&self, _bundle: BundleId) -> BoxFuture<'_, ()> {
        // There is no other copy.
        Box::pin(std::future::ready(()))
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
