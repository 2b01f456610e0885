use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use coordinator_core::{
    Command, InitFleet, LogContext, RecoveryPublicKey, Request, State, Voters, apply, codec,
};
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use proto::v1;
use proto_types::{FleetId, LogIndex};

use super::*;
use crate::snapshot_file::{STATE, Sums};

const FLEET: FleetId = FleetId::from_bytes([0xf1; 16]);
const NAME: &str = "fleet-41-7-20261121T023000Z.snapshot";

fn due() -> LogTime {
    let at: jiff::Timestamp = "2026-11-21T02:30:00Z".parse().unwrap();
    LogTime::from_millis(u64::try_from(at.as_millisecond()).unwrap())
}

/// What a leader sends; without the seal when it was deposed.
fn parts(is_sealed: bool) -> mpsc::Receiver<Part> {
    let mut state = State::new();
    let command = Command::InitFleet(InitFleet {
        fleet: FLEET,
        name: "home".to_owned(),
        recovery: RecoveryPublicKey { hpke: [1; 32], signing: [2; 32] },
    });
    let request = Request { session: None, time: LogTime::from_millis(5), sender: None, command };
    let voters = Voters::default();
    let log = LogContext { index: LogIndex::new(1), voters: &voters };
    assert!(apply(&mut state, &request, &log).outcome.refusal().is_none());
    let mut encoded = Vec::new();
    codec::write_state(&state, &mut encoded).unwrap();
    let meta =
        Meta::new(FLEET, "home".to_owned(), (3, 7), (40, 41), 5, false, false, [1, 2, 3].into());
    let mut sums = Sums::default();
    let (sender, receiver) = mpsc::channel(64);
    for (name, bytes) in [(META, serde_json::to_vec(&meta).unwrap()), (STATE, encoded)] {
        let entry = v1::SnapshotEntry { name: name.to_owned(), bytes: bytes.len() as u64 };
        sender.try_send(Part::Entry(entry)).unwrap();
        sums.add(name, &Sha256::digest(&bytes));
        sender.try_send(Part::Data(bytes.into())).unwrap();
    }
    if is_sealed {
        let seal = v1::SnapshotSeal {
            leader_id: 3,
            term: 7,
            sealed_index: 50,
            nonce: "07".repeat(16),
            sums_sha256: sums.sha256(),
        };
        sender.try_send(Part::Seal(seal)).unwrap();
    }
    receiver
}

/// Takes everything, says that all is well, and keeps one bit wrong.
#[derive(Debug, Default)]
struct Garbling(InMemory);

impl fmt::Display for Garbling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("garbling")
    }
}

#[async_trait]
impl ObjectStore for Garbling {
    async fn put_opts(
        &self,
        to: &ObjectPath,
        bytes: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.0.put_opts(to, bytes, options).await
    }
    async fn put_multipart_opts(
        &self,
        to: &ObjectPath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(GarblingUpload(self.0.put_multipart_opts(to, options).await?)))
    }
    async fn get_opts(&self, from: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(from, options).await
    }
    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        self.0.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn copy_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: CopyOptions,
    ) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct GarblingUpload(Box<dyn MultipartUpload>);

#[async_trait]
impl MultipartUpload for GarblingUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut bytes: Vec<u8> = data.iter().flat_map(|piece| piece.to_vec()).collect();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        self.0.put_part(bytes.into())
    }
    async fn complete(&mut self) -> Result<PutResult> {
        self.0.complete().await
    }
    async fn abort(&mut self) -> Result<()> {
        self.0.abort().await
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn a_snapshot_is_named_and_read_back_from_a_directory_and_a_bucket() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let bucket = Bucket::over(Arc::new(InMemory::new()), "s", runtime.handle().clone());
    for target in [Target::Directory(directory.path().to_owned()), Target::Bucket(bucket)] {
        let saved = target.save(due(), parts(true)).unwrap();
        assert_eq!((&*saved.name, saved.index, saved.term), (NAME, 41, 7));
        assert_eq!(target.names().unwrap(), [NAME]);
        // What is there already is never written over.
        let error = target.save(due(), parts(true)).unwrap_err();
        assert!(error.message().contains(NAME), "{error}");
        assert_eq!(target.names().unwrap(), [NAME]);
        target.remove(NAME).unwrap();
        // A leader that was deposed before its seal leaves nothing.
        let error = target.save(due(), parts(false)).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert_eq!(target.names().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_snapshot_that_the_bucket_garbled_is_noticed_and_removed() {
    let runtime = runtime();
    let bucket = Bucket::over(Arc::new(Garbling::default()), "s", runtime.handle().clone());
    let target = Target::Bucket(bucket);
    let error = target.save(due(), parts(true)).unwrap_err();
    assert_eq!(error.code(), Code::Damaged, "{error}");
    assert_eq!(target.names().unwrap(), Vec::<String>::new());
}
