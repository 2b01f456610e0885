//! Bundles in an object store: the suite that holds for every store of bundles, and what goes wrong
//! on the way to a bucket. The same suite over a real S3 server is in the tests package.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};
use proto_types::{BundleId, Code, LogIndex};
use storage::bucket::{Bucket, PART_BYTES};
use storage::bundles::{
    BucketBundleStore, BundleError, BundleStore, FaultyBundleStore, conformance,
};
use tokio::runtime::Runtime;

const GENERATION: LogIndex = LogIndex::new(7);

/// What goes wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// A 503 to a put, after which nothing is there.
    Put,
    /// The put is done, and its answer lost.
    PutAnswer,
    /// The put stores half of the bytes and says that all is well.
    PutTruncates,
    /// A part of a long upload is not taken.
    Part,
    /// The last request of a long upload fails.
    Complete,
    /// A 503 to a get.
    Get,
    /// The object is not to be seen yet.
    NotFoundYet,
    /// Deleting fails.
    Delete,
}

/// A store that does what it is told wrong.
#[derive(Debug, Clone)]
struct Faulty {
    inner: Arc<InMemory>,
    wrong: Arc<Mutex<Vec<Wrong>>>,
    requests: Arc<AtomicUsize>,
}

impl Faulty {
    fn new() -> Self {
        Self { inner: Arc::default(), wrong: Arc::default(), requests: Arc::default() }
    }

    fn inject(&self, wrong: Wrong) {
        self.wrong.lock().unwrap().push(wrong);
    }

    fn is(&self, wrong: Wrong) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut all = self.wrong.lock().unwrap();
        all.iter().position(|w| *w == wrong).map(|at| all.remove(at)).is_some()
    }
}

fn unavailable() -> Error {
    Error::Generic { store: "faulty", source: "503 Slow Down".into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        to: &Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if self.is(Wrong::Put) {
            return Err(unavailable());
        }
        if self.is(Wrong::PutTruncates) {
            let all: Vec<u8> = bytes.iter().flat_map(|b| b.to_vec()).collect();
            let half = PutPayload::from(all[..all.len() / 2].to_vec());
            return self.inner.put_opts(to, half, options).await;
        }
        let done = self.inner.put_opts(to, bytes, options).await;
        if self.is(Wrong::PutAnswer) { Err(unavailable()) } else { done }
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(to, options).await?;
        Ok(Box::new(FaultyUpload { inner, store: self.clone() }))
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        if self.is(Wrong::NotFoundYet) {
            return Err(Error::NotFound { path: from.to_string(), source: "not yet".into() });
        }
        if !options.head && self.is(Wrong::Get) {
            return Err(unavailable());
        }
        self.inner.get_opts(from, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        if self.is(Wrong::Delete) {
            return Box::pin(futures::stream::once(async { Err(unavailable()) }));
        }
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    store: Faulty,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        if self.store.is(Wrong::Part) {
            return Box::pin(async { Err(unavailable()) });
        }
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        if self.store.is(Wrong::Complete) {
            return Err(unavailable());
        }
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn over(store: impl ObjectStore, runtime: &Runtime) -> BucketBundleStore {
    let bucket = Bucket::over(Arc::new(store), "fleet", runtime.handle().clone());
    BucketBundleStore::new(bucket, GENERATION)
}

fn put(store: &BucketBundleStore, content: &[u8]) -> std::result::Result<BundleId, BundleError> {
    let id = BundleId::of(content);
    let from = store.begin(&id, content.len() as u64)?;
    if from < content.len() as u64 {
        store.write(&id, from, &content[usize::try_from(from).unwrap()..])?;
    }
    store.finish(&id, content.len() as u64).map(|()| id)
}

fn long() -> Vec<u8> {
    (0..PART_BYTES * 2 + 12_345).map(|i| (i % 249) as u8).collect()
}

#[test]
fn bucket_conforms_in_memory_in_a_directory_and_under_the_faulty_wrapper() {
    let runtime = runtime();
    conformance::run(|| over(InMemory::new(), &runtime));
    conformance::run(|| over(Faulty::new(), &runtime));
    conformance::run(|| FaultyBundleStore::new(Arc::new(over(InMemory::new(), &runtime))));
    let directory = tempfile::tempdir().unwrap();
    let next = AtomicUsize::new(0);
    conformance::run(|| {
        let own = directory.path().join(next.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir(&own).unwrap();
        over(LocalFileSystem::new_with_prefix(own).unwrap().with_fsync(true), &runtime)
    });
}

#[test]
fn bucket_names_are_of_bundle_and_generation_and_generations_do_not_meet() {
    let runtime = runtime();
    let memory = Arc::new(InMemory::new());
    let bucket = Bucket::over(memory.clone(), "fleet", runtime.handle().clone());
    let store = BucketBundleStore::new(bucket, GENERATION);
    let id = put(&store, b"sealed").unwrap();
    let hex = id.to_string();
    let path = Path::from(format!("fleet/{}/{}/{hex}-7", &hex[..2], &hex[2..4]));
    let found = runtime.block_on(async { memory.get(&path).await?.bytes().await }).unwrap();
    assert_eq!(&found[..], b"sealed");
    let later = store.of(LogIndex::new(9));
    assert!(!later.contains(&id).unwrap());
    put(&later, b"sealed").unwrap();
    // Late, by somebody who thinks that the first one is over: it is, and nothing else.
    store.delete(&id).unwrap();
    assert_eq!(later.read(&id).unwrap(), b"sealed");
    let objects = later.objects().unwrap();
    assert_eq!(objects.len(), 1);
    assert_eq!((objects[0].0.id, objects[0].1), (id, LogIndex::new(9)));
}

#[test]
fn bucket_faults_are_errors_and_what_is_sent_again_arrives() {
    let runtime = runtime();
    for (wrong, content) in [
        (Wrong::Put, b"short".to_vec()),
        (Wrong::PutAnswer, b"short".to_vec()),
        (Wrong::Get, b"short".to_vec()),
        (Wrong::Part, long()),
        (Wrong::Complete, long()),
        (Wrong::Get, long()),
    ] {
        let faulty = Faulty::new();
        let store = over(faulty.clone(), &runtime);
        faulty.inject(wrong);
        let error = put(&store, &content).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{wrong:?}: {error}");
        assert!(error.to_string().contains("503 Slow Down"), "{wrong:?}: {error}");
        let id = put(&store, &content).unwrap_or_else(|e| panic!("{wrong:?}, again: {e}"));
        store.verify(&id).unwrap();
        assert_eq!(store.partials().unwrap(), []);
    }
    let faulty = Faulty::new();
    let store = over(faulty.clone(), &runtime);
    let id = put(&store, b"short").unwrap();
    faulty.inject(Wrong::Delete);
    assert_eq!(store.delete(&id).unwrap_err().code(), Code::Unavailable);
    assert!(store.contains(&id).unwrap());
}

#[test]
fn bucket_upload_that_the_store_garbled_is_noticed_when_it_is_read_back() {
    let runtime = runtime();
    let faulty = Faulty::new();
    let store = over(faulty.clone(), &runtime);
    faulty.inject(Wrong::PutTruncates);
    let id = BundleId::of(b"sealed bytes");
    let error = put(&store, b"sealed bytes").unwrap_err();
    assert!(matches!(error, BundleError::Damaged { .. }), "{error}");
    assert!(!store.contains(&id).unwrap());
    assert_eq!(store.quarantined().unwrap()[0].bytes, 6);
    assert_eq!(put(&store, b"sealed bytes").unwrap(), id);
    assert_eq!(store.quarantined().unwrap(), []);
}

#[test]
fn bucket_that_does_not_show_a_new_object_yet_acknowledges_nothing() {
    let runtime = runtime();
    let faulty = Faulty::new();
    let store = over(faulty.clone(), &runtime);
    let id = BundleId::of(b"sealed");
    store.begin(&id, 6).unwrap();
    store.write(&id, 0, b"sealed").unwrap();
    // Seen neither by the read nor by the look at its length that follows.
    faulty.inject(Wrong::NotFoundYet);
    let error = store.finish(&id, 6).unwrap_err();
    assert!(matches!(error, BundleError::NotFound { .. }), "{error}");
    assert_eq!(put(&store, b"sealed").unwrap(), id, "it is there by now");
}
