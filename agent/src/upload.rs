//! Sending sealed bundles to any coordinator. A stream that breaks is continued where the
//! coordinator that is asked next has it; an upload ends only when a majority has the bundle on
//! stable storage, or with an error that says why it cannot.

mod limiter;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bundle::SealedBundle;
use bytes::Bytes;
use futures::Stream;
use futures::stream;
use proto::ApiError;
use proto::fleet_client::FleetClient;
use proto::v1::backup_client::BackupClient;
use proto::v1::upload_bundle_request::Part;
use proto::v1::{self, UploadBundleBegin, UploadBundleRequest};
use proto_types::{BundleId, Code};
use tonic::transport::Channel;

pub(crate) use limiter::Limiter;

/// Most of one message, by the protocol.
const CHUNK_BYTES: usize = 1 << 20;
/// A coordinator that takes nothing and answers nothing for so long is given up. A dead
/// connection is found out sooner; this leaves time to sync a large bundle on slow disks.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const SILENCE_CHECK: Duration = Duration::from_millis(500);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte more on any coordinator for so long, the upload has failed.
const FRUITLESS_MILLIS_MAX: u64 = 90_000;
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// A sealed file and what the fleet is told about it.
#[derive(Debug, Clone)]
pub(crate) struct UploadFile {
    pub(crate) path: PathBuf,
    pub(crate) sealed: SealedBundle,
}

impl UploadFile {
    pub(crate) const fn id(&self) -> BundleId {
        self.sealed.id
    }
}

/// A lease to upload under.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) id: Bytes,
    pub(crate) log_index: u64,
}

/// Uploads of one backup.
pub(crate) struct Uploader {
    pub(crate) client: Arc<FleetClient>,
    pub(crate) lease: Lease,
    pub(crate) limiter: Limiter,
}

impl Uploader {
    /// Sends one file; returns the coordinators that have it on stable storage. `sent` is called
    /// with how many bytes of it are on their way.
    pub(crate) async fn upload(
        &self,
        file: &UploadFile,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Vec<u64>, ApiError> {
        let clock = &self.client.env().clock;
        let handle = Arc::new(open(file)?);
        let mut tries = 0;
        let mut furthest = 0;
        let mut fruitful = clock.elapsed_millis();
        loop {
            let (channel, address) = self.client.channel();
            let reached = Arc::new(AtomicU64::new(0));
            let known = (tries == 0 && file.sealed.bytes <= CHUNK_BYTES as u64).then_some(0);
            let error = match self.attempt(channel, file, &handle, known, &reached, sent).await {
                Ok(holders) => return Ok(holders),
                Err(error) => error,
            };
            tries += 1;
            let at = reached.load(Ordering::Relaxed);
            if at > furthest {
                furthest = at;
                fruitful = clock.elapsed_millis();
            }
            let fruitless = clock.elapsed_millis().saturating_sub(fruitful);
            if !error.is_retryable() || fruitless > FRUITLESS_MILLIS_MAX {
                return Err(error.during("uploading a bundle"));
            }
            tracing::info!(
                bundle = %file.id(), address, code = %error.code(), %error,
                "the upload broke and goes on at the next coordinator"
            );
            // Another stream of this backup may have turned away from it already.
            if self.client.channel().1 == address {
                self.client.turn();
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    /// Sends from where the coordinator has it, which it is asked for unless it is known: a file
    /// of one message is sent whole, and what is there already is not written again.
    async fn attempt(
        &self,
        channel: Channel,
        file: &UploadFile,
        handle: &Arc<File>,
        known: Option<u64>,
        reached: &Arc<AtomicU64>,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Vec<u64>, ApiError> {
        let id = Bytes::copy_from_slice(file.id().as_bytes());
        let mut client = BackupClient::new(channel);
        let silent = || ApiError::new(Code::DeadlineExceeded, "a coordinator went silent");
        let bytes = file.sealed.bytes;
        let offset = match known {
            Some(offset) => offset,
            None => {
                let request = v1::GetUploadOffsetRequest {
                    lease_id: self.lease.id.clone(),
                    bundle_id: id.clone(),
                };
                let asked = tokio::time::timeout(CALL_TIMEOUT, client.get_upload_offset(request));
                let known = asked.await.map_err(|_| silent())??.into_inner();
                if known.complete { bytes } else { known.offset.min(bytes) }
            }
        };
        reached.store(offset, Ordering::Relaxed);
        sent(offset);
        let begin = UploadBundleBegin {
            lease_id: self.lease.id.clone(),
            lease_log_index: self.lease.log_index,
            bundle_id: id,
            bytes,
            offset,
            kind: file.sealed.header.header().kind.as_str().to_owned(),
        };
        let env = self.client.env();
        let sending = Arc::new(Sending {
            at: reached.clone(),
            moved_millis: AtomicU64::new(env.clock.elapsed_millis()),
            failed: Mutex::new(None),
        });
        // The stream must own what it uses: it lives in the connection's task.
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let feeding = self.feed(begin, handle, bytes, &sending, sender, sent);
        let upload = client.upload_bundle(from_channel(receiver));
        let watch = async {
            loop {
                tokio::time::sleep(SILENCE_CHECK).await;
                let moved = sending.moved_millis.load(Ordering::Relaxed);
                let silence = env.clock.elapsed_millis().saturating_sub(moved);
                if u128::from(silence) > SILENCE_MAX.as_millis() {
                    break;
                }
            }
        };
        let answered = tokio::select! {
            // Feeding never ends the race: its end is the stream's.
            (answer, ()) = async { futures::join!(upload, feeding) } => answer,
            () = watch => return Err(silent()),
        };
        let failed = sending.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        match failed {
            Some(error) => Err(error),
            None => Ok(answered?.into_inner().holders),
        }
    }

    async fn feed(
        &self,
        begin: UploadBundleBegin,
        handle: &Arc<File>,
        bytes: u64,
        sending: &Sending,
        sender: tokio::sync::mpsc::Sender<UploadBundleRequest>,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) {
        let env = self.client.env();
        let mut offset = begin.offset;
        let first = UploadBundleRequest { part: Some(Part::Begin(begin)) };
        if sender.send(first).await.is_err() {
            return;
        }
        let chunk = self.limiter.chunk_bytes(CHUNK_BYTES) as u64;
        while offset < bytes {
            let want = usize::try_from(chunk.min(bytes - offset)).unwrap_or(CHUNK_BYTES);
            self.limiter.pass(want).await;
            let handle = handle.clone();
            let read = env
                .blocking("read the spool", move || {
                    let mut data = vec![0; want];
                    handle.read_exact_at(&mut data, offset).map(|()| Bytes::from(data))
                })
                .await;
            let data = match read {
                Ok(Ok(data)) => data,
                Ok(Err(error)) => return sending.fail(format!("cannot read the spool: {error}")),
                Err(error) => return sending.fail(error.to_string()),
            };
            // An error here is the answer's to explain.
            if sender.send(UploadBundleRequest { part: Some(Part::Data(data)) }).await.is_err() {
                return;
            }
            offset += want as u64;
            sending.at.store(offset, Ordering::Relaxed);
            sending.moved_millis.store(env.clock.elapsed_millis(), Ordering::Relaxed);
            sent(offset);
        }
    }
}

/// What a stream and its watcher share.
struct Sending {
    at: Arc<AtomicU64>,
    moved_millis: AtomicU64,
    failed: Mutex<Option<ApiError>>,
}

impl Sending {
    /// The end of the stream will look like a short upload; this is why.
    fn fail(&self, message: String) {
        let error = ApiError::new(Code::LocalIo, message);
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

fn from_channel<T: Send + 'static>(
    receiver: tokio::sync::mpsc::Receiver<T>,
) -> impl Stream<Item = T> + Send + 'static {
    stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|message| (message, receiver))
    })
}

fn open(file: &UploadFile) -> Result<File, ApiError> {
    File::open(&file.path).map_err(|error| {
        let path = crate::shown::path(&file.path);
        ApiError::new(Code::LocalIo, format!("cannot open the spool file {path}: {error}"))
    })
}
