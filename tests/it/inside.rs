//! A fleet whose coordinators run inside the test, so that it hands in what a process takes from
//! the machine: clocks and disks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coordinator::config::Config;
use coordinator::{Machine, run_on};
use proto::env::Env;
use proto::identity::Role;
use proto::v1;
use proto_types::LogTime;
use proto_types::env::Clock;
use storage::disk::{Disk, DiskFile, DiskLock, Entry, RealDisk};
use tests::fleet::NODES;
use tests::wait::until_in;
use tests::{Answer, Fleet, Settings};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How many times faster than real time passes for the coordinators: what they wait for ten
/// seconds, a test need not. Their deadlines grow tighter by it, so not by much.
const SPEED: u64 = 3;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A clock that can be off. All clocks of a test begin together.
pub(crate) struct TestClock {
    started: Instant,
    wall: u64,
    offset: AtomicI64,
}

impl TestClock {
    fn new(started: Instant) -> Self {
        let wall = proto_types::env::SystemClock.now().as_millis();
        Self { started, wall, offset: AtomicI64::new(0) }
    }

    /// Has it show another time, by so many milliseconds from the right one.
    pub(crate) fn set_off(&self, millis: i64) {
        self.offset.store(millis, Ordering::SeqCst);
    }

    /// The right time, whatever it shows.
    pub(crate) fn right(&self) -> u64 {
        self.wall + self.elapsed_millis()
    }
}

impl Clock for TestClock {
    fn now(&self) -> LogTime {
        let shown = self.right().saturating_add_signed(self.offset.load(Ordering::SeqCst));
        LogTime::from_millis(shown)
    }
    fn elapsed_millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).expect("not that long") * SPEED
    }
}

/// A disk whose syncs of the log take longer.
#[derive(Debug, Default)]
pub(crate) struct SlowDisk {
    delay_ms: Arc<AtomicU64>,
}

impl SlowDisk {
    pub(crate) fn set_delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).expect("short");
        self.delay_ms.store(millis, Ordering::SeqCst);
    }

    fn slow(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        let is_log = path.extension().is_some_and(|e| e == "wal");
        let delay_ms = if is_log { self.delay_ms.clone() } else { Arc::default() };
        Box::new(SlowFile { file, delay_ms })
    }
}

impl Disk for SlowDisk {
    fn create(&self, path: &Path) -> std::io::Result<Box<dyn DiskFile>> {
        Ok(self.slow(path, RealDisk.create(path)?))
    }
    fn open(&self, path: &Path) -> std::io::Result<Box<dyn DiskFile>> {
        Ok(self.slow(path, RealDisk.open(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        RealDisk.remove(path)
    }
    fn create_dir_all(&self, path: &Path) -> std::io::Result<()> {
        RealDisk.create_dir_all(path)
    }
    fn list(&self, dir: &Path) -> std::io::Result<Vec<Entry>> {
        RealDisk.list(dir)
    }
    fn exists(&self, path: &Path) -> std::io::Result<bool> {
        RealDisk.exists(path)
    }
    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn sync_all(&self, dir: &Path) -> std::io::Result<()> {
        Disk::sync_all(&RealDisk, dir)
    }
    fn free_bytes(&self, dir: &Path) -> std::io::Result<u64> {
        RealDisk.free_bytes(dir)
    }
    fn lock(&self, path: &Path) -> std::io::Result<Box<dyn DiskLock>> {
        RealDisk.lock(path)
    }
}

#[derive(Debug)]
struct SlowFile {
    file: Box<dyn DiskFile>,
    delay_ms: Arc<AtomicU64>,
}

impl SlowFile {
    fn wait(&self) {
        // Not a wait for a fact: the slowness is what the test is about.
        std::thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst)));
    }
}

impl DiskFile for SlowFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.file.read_at(offset, buffer)
    }
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }
    fn truncate(&self, bytes: u64) -> std::io::Result<()> {
        self.file.truncate(bytes)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.wait();
        self.file.sync_data()
    }
    fn sync_all(&self) -> std::io::Result<()> {
        self.wait();
        self.file.sync_all()
    }
}

struct Running {
    stop: CancellationToken,
    ended: JoinHandle<Result<(), proto::ApiError>>,
}

/// Three coordinators in this process.
pub(crate) struct Inside {
    pub(crate) fleet: Fleet,
    clocks: Vec<Arc<TestClock>>,
    disks: Vec<Arc<SlowDisk>>,
    running: Vec<Option<Running>>,
}

fn at(node: u64) -> usize {
    usize::try_from(node - 1).expect("a small number")
}

impl Inside {
    /// Prepared; nothing runs.
    pub(crate) async fn prepare() -> Self {
        let fleet = Fleet::prepare(Settings::default()).await;
        let started = Instant::now();
        let clocks = NODES.map(|_| Arc::new(TestClock::new(started))).into();
        let disks = NODES.map(|_| Arc::new(SlowDisk::default())).into();
        Self { fleet, clocks, disks, running: NODES.map(|_| None).into() }
    }

    /// Running and at the newest level.
    pub(crate) async fn start() -> Self {
        let mut inside = Self::prepare().await;
        inside.start_all().await;
        inside
    }

    pub(crate) fn clock(&self, node: u64) -> &TestClock {
        &self.clocks[at(node)]
    }

    pub(crate) fn disk(&self, node: u64) -> &SlowDisk {
        &self.disks[at(node)]
    }

    pub(crate) async fn start_all(&mut self) {
        for node in NODES {
            self.start_node(node);
        }
        self.status_when("every node runs at the newest level", |status| {
            // The fleet is founded at that level.
            let is_founded = status.level == 2 && !status.fleet_name.is_empty();
            is_founded && status.nodes.iter().all(|node| node.reachable)
        })
        .await;
    }

    fn start_node(&mut self, node: u64) {
        let mut config = Config::load(&self.fleet.node(node).config()).expect("a config");
        // One recorder per process, and three coordinators.
        config.metrics_listen = None;
        let env = Env { clock: self.clocks[at(node)].clone(), ..Env::system() };
        let machine = Machine { disk: self.disks[at(node)].clone(), ..Machine::system() };
        let stop = CancellationToken::new();
        let ended = tokio::spawn(run_on(config, env, machine, stop.clone()));
        self.running[at(node)] = Some(Running { stop, ended });
    }

    /// Stops one as an operator does.
    pub(crate) async fn stop(&mut self, node: u64) {
        let running = self.running[at(node)].take().expect("it runs");
        running.stop.cancel();
        running.ended.await.expect("no panic").expect("it ends well");
    }

    pub(crate) async fn stop_all(&mut self) {
        for node in NODES {
            if self.running[at(node)].is_some() {
                self.stop(node).await;
            }
        }
    }

    /// The fleet's status, once it is so.
    pub(crate) async fn status_when(
        &self,
        what: &str,
        is_so: impl Fn(&v1::GetStatusResponse) -> bool,
    ) -> v1::GetStatusResponse {
        let viewer = self.fleet.operator(Role::Viewer);
        until_in(PATIENCE, what, async || {
            for node in NODES {
                if self.running[at(node)].is_none() {
                    continue;
                }
                let mut client = viewer.fleet(&self.fleet.address(node));
                let request = v1::GetStatusRequest { stale: false };
                if let Ok(status) = client.get_status(request).await.answer()
                    && is_so(&status)
                {
                    return Some(status);
                }
            }
            None
        })
        .await
    }

    /// Has this node lead, and waits until it does.
    pub(crate) async fn lead(&self, node: u64) {
        let admin = self.fleet.operator(Role::Admin);
        until_in(PATIENCE, "the node leads", async || {
            let request = v1::TransferLeaderRequest { node_id: node };
            let mut client = admin.fleet(&self.fleet.address(node));
            client.transfer_leader(request).await.answer().ok()
        })
        .await;
        self.status_when("the node leads", |status| status.leader_id == node).await;
    }

    /// Has a log entry made, and gives log time after it.
    pub(crate) async fn log_time(&self, node: u64) -> u64 {
        let admin = self.fleet.operator(Role::Admin);
        let address = self.fleet.address(node);
        until_in(PATIENCE, "an entry is made", async || {
            let request = v1::ClearFindingRequest {
                write_id: Some(admin.write_id()),
                kind: "none".to_owned(),
                ..Default::default()
            };
            let mut client = admin.fleet(&address);
            client.clear_finding(request).await.answer().ok()?;
            let request = v1::GetStatusRequest { stale: false };
            client.get_status(request).await.answer().ok().map(|status| status.log_time_ms)
        })
        .await
    }
}

/// Whether a finding of this kind stands; of this node, if it is not 0.
pub(crate) fn stands(status: &v1::GetStatusResponse, kind: &str, node: u64) -> bool {
    status.findings.iter().any(|finding| finding.kind == kind && finding.node_id == node)
}
