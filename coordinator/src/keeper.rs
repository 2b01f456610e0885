//! Keeps this node's bundles: takes them from agents and peers, claims them for uploads, reads,
//! repairs, scrubs and removes them. Cannot open one.
//!
//! Claims and deletions are serialised by one gate (invariant B2): a bundle is acknowledged only
//! while its upload lease is live in a state applied at least to the lease's index, and what an
//! ended upload left behind is deleted only under the same gate.

mod books;
mod bucket;
mod bucket_scrub;
mod carried;
mod claim;
mod durable;
mod fan_out;
mod home;
mod own_snapshots;
mod read;
mod receive;
mod repair;
mod scrub;
mod sweep;
mod upload;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::Stream;
use proto::ApiError;
use proto::env::Env;
use proto_types::{BundleId, Code, LeaseId, LogIndex, NodeId, SignedHeader};
use storage::bundles::{BucketBundleStore, BundleError, BundleStore, Space};
use storage::ledger::{BundleRow, Ledger};
use storage::snapshots::SnapshotStore;
use tokio::sync::{Notify, watch};

use crate::peers::Peers;
use crate::raft::RaftNode;

pub(crate) use carried::{Carried, CarriedError};
pub(crate) use home::keep_home;
pub(crate) use sweep::keep_house;

/// Sealed bytes as they arrive, at most 1 MiB a piece.
pub(crate) type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, ApiError>> + Send>>;

/// A bundle on its way in, under an upload lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upload {
    /// The upload.
    pub(crate) lease: LeaseId,
    /// Where in the log the lease was opened.
    pub(crate) lease_index: LogIndex,
    /// The bundle's name.
    pub(crate) bundle: BundleId,
    /// Its length.
    pub(crate) bytes: u64,
    /// Where the stream begins: bytes before are on this node already.
    pub(crate) offset: u64,
}

/// Where this node keeps what it keeps.
pub(crate) struct Stores {
    pub(crate) store: Arc<dyn BundleStore>,
    /// Of whatever generation.
    pub(crate) bucket: Option<BucketBundleStore>,
    pub(crate) ledger: Arc<dyn Ledger>,
    /// What comes by the log, into `store`.
    pub(crate) carried: Carried,
    pub(crate) snapshots: SnapshotStore,
}

/// Everything this node does with bundles. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keeper {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    this: NodeId,
    store: Arc<dyn BundleStore>,
    /// Where bundles are kept once an admin says so; a generation has to be chosen.
    bucket: Option<BucketBundleStore>,
    ledger: Arc<dyn Ledger>,
    carried: Carried,
    /// When this node last said which of the bundles that came by the log it has, in elapsed
    /// milliseconds.
    named: AtomicU64,
    snapshots: SnapshotStore,
    raft: RaftNode,
    peers: Peers,
    /// Serialises acknowledgement and deletion. Work on a blocking thread takes the guard with
    /// it: a request that is cancelled, or the end of the housekeeping, must not open the gate
    /// while files are still being deleted.
    gate: Arc<tokio::sync::Mutex<()>>,
    /// Bundles being written now: nobody else writes or repairs them meanwhile.
    receiving: Mutex<BTreeSet<BundleId>>,
    /// When a bundle was last found whole, in elapsed milliseconds.
    verified: Mutex<HashMap<BundleId, u64>>,
    /// The same of objects, by generation.
    verified_objects: Mutex<HashMap<(BundleId, LogIndex), u64>>,
    /// Wakes the housekeeping.
    wake: Notify,
    /// Why this node must end, once a durable path has failed (invariant R3).
    fatal: watch::Sender<Option<String>>,
}

/// Marks a bundle as being written until its last clone is dropped. The thread that writes holds
/// one, so that a cancelled request's successor does not write beside it.
struct Receiving {
    inner: Arc<Inner>,
    bundle: BundleId,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        lock(&self.inner.receiving).remove(&self.bundle);
    }
}

/// A poisoned lock only says that some thread panicked between two consistent states.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn receiving(self: &Arc<Self>, bundle: BundleId) -> Result<Arc<Receiving>, ApiError> {
        if lock(&self.receiving).insert(bundle) {
            Ok(Arc::new(Receiving { inner: self.clone(), bundle }))
        } else {
            Err(ApiError::new(
                Code::Busy,
                format!(
                    "bundle {} is being written to node {} already; ask again",
                    bundle.short(),
                    self.this
                ),
            ))
        }
    }

    /// Notes a whole bundle in the ledger.
    fn note_held(&self, bundle: BundleId, bytes: u64) -> Result<(), ApiError> {
        let row = BundleRow { bytes, last_scrubbed: Some(self.env.clock.now()) };
        self.noted(self.ledger.put_bundle(&bundle, row))
    }
}

impl Keeper {
    pub(crate) fn new(
        env: Env,
        this: NodeId,
        stores: Stores,
        raft: RaftNode,
        peers: Peers,
    ) -> Self {
        let Stores { store, bucket, ledger, carried, snapshots } = stores;
        Self {
            inner: Arc::new(Inner {
                env,
                this,
                store,
                bucket,
                ledger,
                carried,
                named: AtomicU64::new(0),
                snapshots,
                raft,
                peers,
                gate: Arc::default(),
                receiving: Mutex::default(),
                verified: Mutex::default(),
                verified_objects: Mutex::default(),
                wake: Notify::new(),
                fatal: watch::Sender::new(None),
            }),
        }
    }

    fn receiving(&self, bundle: BundleId) -> Result<Arc<Receiving>, ApiError> {
        self.inner.receiving(bundle)
    }

    /// Runs storage work on a blocking thread.
    async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce(&Arc<Inner>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let inner = self.inner.clone();
        self.inner
            .env
            .blocking(name, move || work(&inner))
            .await
            .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?
    }

    /// Whether this node has the whole bundle on stable storage.
    async fn holds(&self, bundle: BundleId) -> Result<bool, ApiError> {
        self.blocking("look-up", move |inner| inner.store.contains(&bundle).map_err(store_error))
            .await
    }

    /// The signed header of a bundle this node holds.
    pub(crate) async fn header(&self, bundle: BundleId) -> Result<SignedHeader, ApiError> {
        self.blocking("read-header", move |inner| inner.store.header(&bundle).map_err(store_error))
            .await
    }

    /// How much of a bundle this node has: its length and true when it is complete.
    pub(crate) async fn upload_offset(&self, bundle: BundleId) -> Result<(u64, bool), ApiError> {
        self.blocking("read-offset", move |inner| {
            if let Some(bytes) = inner.store.size(&bundle).map_err(store_error)? {
                return Ok((bytes, true));
            }
            let partials = inner.store.partials().map_err(store_error)?;
            let partial = partials.iter().find(|partial| partial.id == bundle);
            Ok((partial.map_or(0, |partial| partial.bytes), false))
        })
        .await
    }

    /// Refuses bytes that come by the log where they would touch the reserve, as uploads are refused.
    pub(crate) async fn require_room(&self, id: BundleId, bytes: u64) -> Result<(), ApiError> {
        self.blocking("read-space", move |inner| {
            let space = inner.store.space().map_err(store_error)?;
            if space.has_room_for(bytes) {
                return Ok(());
            }
            let Space { free_bytes, reserve_bytes } = space;
            Err(store_error(BundleError::NoSpace { id, free_bytes, reserve_bytes }))
        })
        .await
    }

    /// Number and bytes of bundles here, and free bytes of the disk.
    pub(crate) async fn usage(&self) -> Result<(u64, u64, u64), ApiError> {
        self.blocking("read-usage", |inner| {
            let bundles = inner.noted(inner.ledger.bundles())?;
            let bytes = bundles.iter().map(|(_, row)| row.bytes).sum();
            let space = inner.store.space().map_err(store_error)?;
            Ok((bundles.len() as u64, bytes, space.free_bytes))
        })
        .await
    }

    /// Has the housekeeping look again soon.
    pub(crate) fn wake(&self) {
        self.inner.wake.notify_one();
    }
}

/// What a storage error means to whoever asked over the network.
fn store_error(error: storage::bundles::BundleError) -> ApiError {
    ApiError::new(error.code(), chain(&error))
}

/// An error with all its causes in one sentence.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Per bundle the nodes that have it.
pub(crate) type Holders = BTreeMap<BundleId, Vec<NodeId>>;
