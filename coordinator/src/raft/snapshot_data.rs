//! A snapshot between the state and the files of `storage`: written, read, sent, received.

use std::io::{self, BufReader, BufWriter, Write};

use bytes::Bytes;
use coordinator_core::{State, codec};
use futures::StreamExt;
use proto::env::Env;
use proto::{ApiError, v1};
use proto_types::Code;
use storage::raft_types::SnapshotMeta;
use storage::snapshots::{SnapshotError, SnapshotStore, StoredSnapshot};
use tokio::sync::mpsc;

use super::wire;
use crate::keeper::{Pieces, chain};

/// Bytes of one message on the wire.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces between network and disk.
const PIECES_IN_FLIGHT: usize = 4;

/// A snapshot file, whole and verified.
pub(crate) struct SnapshotData(pub(super) StoredSnapshot);

fn storage_error(error: SnapshotError) -> io::Error {
    io::Error::other(error)
}

fn api_error(error: &SnapshotError) -> ApiError {
    ApiError::new(error.code(), chain(error))
}

impl SnapshotData {
    /// Writes a state to a new snapshot file and makes it the node's newest.
    pub(super) fn write(
        store: &SnapshotStore,
        meta: &SnapshotMeta,
        state: &State,
    ) -> io::Result<Self> {
        let writer = store.writer(meta).map_err(storage_error)?;
        let mut buffered = BufWriter::with_capacity(1 << 20, writer);
        codec::write_state(state, &mut buffered)?;
        buffered.flush()?;
        let writer = buffered.into_inner().map_err(|error| error.into_error())?;
        let stored = writer.finish(None).map_err(storage_error)?;
        store.publish(&stored).map_err(storage_error)?;
        Ok(Self(stored))
    }

    /// The node's newest snapshot.
    pub(super) fn newest(store: &SnapshotStore) -> Option<(SnapshotMeta, Self)> {
        store.newest().map(|stored| (stored.meta().clone(), Self(stored)))
    }

    /// Reads the state out, has it accepted, and makes the file the node's newest before the state
    /// counts.
    pub(super) fn install(
        self,
        store: &SnapshotStore,
        accept: impl FnOnce(&State) -> io::Result<()>,
    ) -> io::Result<(State, SnapshotMeta)> {
        let mut reader = BufReader::with_capacity(1 << 20, self.0.reader());
        let state = codec::read_state(&mut reader)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        accept(&state)?;
        store.publish(&self.0).map_err(storage_error)?;
        Ok((state, self.0.meta().clone()))
    }

    /// Sends head and content piece by piece until `send` says that nobody listens. Blocking.
    pub(super) fn send_pieces(self, head: Vec<u8>, send: impl Fn(v1::SnapshotChunk) -> bool) {
        if !send(v1::SnapshotChunk { header: head.into(), data: Bytes::new() }) {
            return;
        }
        let mut at = 0;
        loop {
            match self.0.read(at, PIECE_BYTES) {
                Ok(piece) if piece.is_empty() => return,
                Ok(piece) => {
                    at += piece.len() as u64;
                    if !send(v1::SnapshotChunk { header: Bytes::new(), data: piece.into() }) {
                        return;
                    }
                }
                // The receiver sees a stream that is too short, and refuses it.
                Err(error) => {
                    tracing::error!(%error, "a snapshot being sent cannot be read");
                    return;
                }
            }
        }
    }

    /// Writes a snapshot that a peer sends to a file of its own, and checks it.
    ///
    /// # Errors
    /// When the stream breaks or the content is not the one announced.
    pub(crate) async fn receive(
        env: &Env,
        store: SnapshotStore,
        head: &[u8],
        mut pieces: Pieces,
    ) -> Result<Self, ApiError> {
        let (_, meta, digest) = wire::read_snapshot_head(head)?;
        let (sender, mut receiver) = mpsc::channel::<Bytes>(PIECES_IN_FLIGHT);
        let write = move || {
            let mut writer = store.writer(&meta).map_err(|e| api_error(&e))?;
            while let Some(piece) = receiver.blocking_recv() {
                writer.write(&piece).map_err(|e| api_error(&e))?;
            }
            writer.finish(Some(digest)).map(Self).map_err(|e| api_error(&e))
        };
        let feed = async move {
            while let Some(piece) = pieces.next().await {
                if sender.send(piece?).await.is_err() {
                    break;
                }
            }
            Ok::<_, ApiError>(())
        };
        let (written, fed) = tokio::join!(env.blocking("receive-snapshot", write), feed);
        fed?;
        written.map_err(|error| ApiError::new(Code::Internal, error.to_string()))?
    }
}
