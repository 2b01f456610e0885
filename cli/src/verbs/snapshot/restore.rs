//! `strongroom snapshot restore`: a good snapshot's bundles and state into an empty fleet. The file is
//! checked whole before the fleet is asked for anything; what breaks on the way is gone on with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use coordinator::snapshot_file::{self, Entry, Inspection, SnapshotFileError};
use futures::{Stream, StreamExt, stream};
use indicatif::ProgressBar;
use proto::ApiError;
use proto::fleet_client::FleetClient as Client;
use proto::v1;
use proto::v1::fleet_client::FleetClient;
use proto::v1::restore_client::RestoreClient;
use proto_types::{BundleId, Code, KeyFingerprint};
use serde::Serialize;
use tokio::sync::mpsc;

use super::super::opening::RecoveryArgs;
use super::{TRIES_MAX, TRY_PAUSE, inspect};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::operator;
use crate::output::count;
use crate::recovery::Recovery;

/// Bytes of one message.
const PIECE_BYTES: usize = 1 << 20;
/// Messages between the file and the network.
const PIECES_MAX: usize = 4;
/// One bundle, or the state, in at most this time; a larger one gets more.
const SEND_DEADLINE: Duration = Duration::from_secs(120);
/// The slowest way that is waited for, in bytes per second.
const SEND_RATE_MIN: u64 = 256 << 10;
/// Coordinators say by themselves what they hold, moments after the state has taken effect.
const SETTLE_DEADLINE: Duration = Duration::from_secs(60);
const SETTLE_PAUSE: Duration = Duration::from_millis(250);

/// Arguments of `snapshot restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The snapshot
    #[arg(required_unless_present = "abandon")]
    pub file: Option<PathBuf>,
    /// The fleet's recovery key, which proves that what is restored can be opened
    #[command(flatten)]
    recovery: RecoveryArgs,
    /// Take bundles that the snapshot lacks from this directory too, such as the `bundles` of an old
    /// data directory; can be said several times
    #[arg(long, value_name = "DIR")]
    pub bundles_from: Vec<PathBuf>,
    /// Restore although the fleet has another name than the snapshot's
    #[arg(long)]
    pub force: bool,
    /// Give up the restore that is under way, and leave the fleet empty
    #[arg(long, conflicts_with_all = [
        "file", "recovery_key", "share", "shares", "bundles_from", "force"
    ])]
    pub abandon: bool,
}

#[derive(Serialize)]
struct RestoredView {
    file: PathBuf,
    fleet: String,
    fleet_id: String,
    generation: u32,
    clusters: u64,
    points: u64,
    bundles: u64,
    bundles_sent: u64,
    /// Bundles that no coordinator has: points that need one cannot be restored.
    bundles_absent: u64,
    /// How often something broke on the way and was gone on with.
    retries: u32,
}

impl RestoredView {
    fn describe(&self) -> String {
        let absent = match self.bundles_absent {
            0 => "all there".to_owned(),
            absent => format!(
                "{} on no coordinator: points that need them are marked absent",
                count(absent, "bundle")
            ),
        };
        format!(
            "restored {}\nfleet    {} ({}), now generation {}\nstate    {}, {}\nbundles  {} sent, \
             {absent}\n\nAgents go on by themselves. Make sure that no coordinator of the old fleet \
             runs any more.\n",
            agent::shown::path(&self.file),
            agent::shown::plain(&self.fleet),
            self.fleet_id,
            self.generation,
            count(self.clusters, "cluster"),
            count(self.points, "point"),
            self.bundles_sent,
        )
    }
}

pub(super) async fn run(arguments: &RestoreArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    if arguments.abandon {
        let request = v1::AbandonRestoreRequest { write_id: Some(client.next_write_id()) };
        client
            .call("giving the restore up", |channel| {
                let request = request.clone();
                async move { RestoreClient::new(channel).abandon(request).await }
            })
            .await?;
        #[derive(Serialize)]
        struct Abandoned {
            abandoned: bool,
        }
        return context.screen.show(&Abandoned { abandoned: true }, |_| {
            "the restore is given up; the fleet is empty\n".to_owned()
        });
    }
    let Some(file) = &arguments.file else {
        return Err(CliError::usage("give a snapshot"));
    };
    let recovery = arguments.recovery.require()?;
    let (found, _) = inspect(file, context).await?;
    check_key(&found, &recovery)?;
    let stock = stock(&arguments.bundles_from, &found, context).await?;
    let restoring = Restoring::begin(arguments, file, found, stock, client, context).await?;
    let view = restoring.run().await?;
    context.screen.show(&view, RestoredView::describe)
}

/// Whoever restores must be able to open what comes back.
fn check_key(found: &Inspection, recovery: &Recovery) -> Result<()> {
    let known = found.state.fleet().map(|fleet| fleet.recovery).ok_or_else(|| {
        CliError::new(Code::Damaged, "the snapshot names no recovery key: it holds no fleet")
    })?;
    let known = KeyFingerprint::of_recovery_key(&known.hpke, &known.signing);
    recovery.check(known, "the snapshot's fleet")
}

/// Files of bundles beside the snapshot, by id; their content is checked by whoever takes it.
async fn stock(
    directories: &[PathBuf],
    found: &Inspection,
    context: &Context,
) -> Result<BTreeMap<BundleId, (PathBuf, u64)>> {
    let needed: BTreeMap<BundleId, u64> =
        found.state.bundles().map(|(id, row)| (*id, row.facts.bytes)).collect();
    let directories = directories.to_vec();
    let walked = context.env.blocking("look for bundles", move || {
        let mut stock = BTreeMap::new();
        for directory in &directories {
            for entry in walkdir::WalkDir::new(directory) {
                let entry = entry.map_err(|error| {
                    CliError::new(
                        Code::LocalIo,
                        format!("cannot read {}: {error}", agent::shown::path(directory)),
                    )
                })?;
                let id = entry.file_name().to_str().and_then(|name| name.parse::<BundleId>().ok());
                let Some((id, bytes)) = id.and_then(|id| Some((id, *needed.get(&id)?))) else {
                    continue;
                };
                if entry.file_type().is_file() {
                    stock.insert(id, (entry.into_path(), bytes));
                }
            }
        }
        Ok(stock)
    });
    walked.await.map_err(|error| CliError::new(Code::Internal, error.to_string()))?
}

/// One thing on its way from a file to the fleet.
struct Item {
    entry: Entry,
    bytes: u64,
    pieces: mpsc::Receiver<Bytes>,
}

/// What is there already.
#[derive(Default)]
struct Done {
    state: bool,
    bundles: BTreeSet<BundleId>,
}

struct Restoring<'a> {
    context: &'a Context,
    client: Arc<Client>,
    file: PathBuf,
    found: Inspection,
    stock: BTreeMap<BundleId, (PathBuf, u64)>,
    begin: v1::BeginRestoreRequest,
    begun: v1::BeginRestoreResponse,
    done: Arc<Mutex<Done>>,
    /// Files of the stock that turned out not to be what their names say.
    bad: Mutex<BTreeSet<BundleId>>,
    bar: ProgressBar,
}

impl<'a> Restoring<'a> {
    async fn begin(
        arguments: &RestoreArgs,
        file: &Path,
        found: Inspection,
        stock: BTreeMap<BundleId, (PathBuf, u64)>,
        client: Arc<Client>,
        context: &'a Context,
    ) -> Result<Self> {
        let nodes = found.meta.nodes.clone().unwrap_or_default();
        let begin = v1::BeginRestoreRequest {
            write_id: None,
            fleet_id: Bytes::copy_from_slice(found.meta.fleet.as_bytes()),
            fleet_name: found.meta.fleet_name.clone(),
            force: arguments.force,
            state_sha256: Bytes::copy_from_slice(&found.state_sha256),
            state_bytes: found.state_bytes,
            // The leader took part in any case.
            node_ids: nodes
                .into_iter()
                .chain([found.meta.leader])
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        };
        let begun = ask_begin(&client, &begin).await?;
        Ok(Self {
            context,
            client,
            file: file.to_owned(),
            found,
            stock,
            begin,
            begun,
            done: Arc::default(),
            bad: Mutex::default(),
            bar: context.screen.byte_bar(),
        })
    }

    fn done(&self) -> std::sync::MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(mut self) -> Result<RestoredView> {
        let (mut retries, mut fruitless) = (0, 0);
        loop {
            let before = self.done().bundles.len();
            let error = match self.send_all().await {
                Ok(()) => break,
                Err(error) => error,
            };
            fruitless = if self.done().bundles.len() > before { 0 } else { fruitless + 1 };
            if !error.code().is_retryable() || fruitless > TRIES_MAX {
                self.bar.finish_and_clear();
                return Err(error);
            }
            retries += 1;
            self.context.screen.note(&format!(
                "the restore was interrupted ({}: {}); it goes on through another coordinator",
                error.code(),
                error.message()
            ));
            self.client.turn();
            tokio::time::sleep(TRY_PAUSE).await;
            // How much of the state is there is the fleet's to say.
            self.begun = ask_begin(&self.client, &self.begin).await?;
        }
        self.bar.finish_and_clear();
        let request = v1::FinishRestoreRequest {
            write_id: Some(self.client.next_write_id()),
            restore_id: self.begun.restore_id.clone(),
        };
        let finished = self
            .client
            .call("finishing the restore", |channel| {
                let request = request.clone();
                async move { RestoreClient::new(channel).finish(request).await }
            })
            .await?;
        let absent = self.settle().await?;
        let sent = self.done().bundles.len() as u64;
        Ok(RestoredView {
            file: self.file,
            fleet: self.found.meta.fleet_name,
            fleet_id: self.found.meta.fleet.to_string(),
            generation: finished.generation,
            clusters: self.found.counts.clusters,
            points: self.found.counts.points,
            bundles: self.found.counts.bundles,
            bundles_sent: sent,
            bundles_absent: absent,
            retries,
        })
    }

    /// Waits until the coordinators have said what they hold; answers how many bundles nobody has.
    async fn settle(&self) -> Result<u64> {
        let expected = self.found.counts.bundles - self.done().bundles.len() as u64;
        let started = self.context.env.clock.elapsed_millis();
        loop {
            let status = self
                .client
                .call("asking for the fleet's status", |channel| async move {
                    let request = v1::GetStatusRequest { stale: false };
                    FleetClient::new(channel).get_status(request).await
                })
                .await?;
            let waited = self.context.env.clock.elapsed_millis().saturating_sub(started);
            let is_late = u128::from(waited) > SETTLE_DEADLINE.as_millis();
            if status.absent_bundles <= expected || is_late {
                return Ok(status.absent_bundles);
            }
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }

    /// Bundles first, as they come, then the state: before it has taken effect nobody can see a point
    /// whose bytes are still on their way.
    async fn send_all(&self) -> Result<()> {
        let (items, receiver) = mpsc::channel(1);
        let (path, done) = (self.file.clone(), self.done.clone());
        let received = self.begun.received;
        let reading = self
            .context
            .env
            .blocking("read the snapshot", move || read_snapshot(&path, &done, received, &items));
        let (sent, read) = futures::join!(self.send_items(receiver), reading);
        let read = read.map_err(|error| CliError::new(Code::Internal, error.to_string()))?;
        // What broke the stream is told before what came of it.
        read?;
        sent?;
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (id, (path, bytes)) in &self.stock {
            if self.done().bundles.contains(id) || bad.contains(id) {
                continue;
            }
            self.send_file(*id, path, *bytes).await?;
        }
        Ok(())
    }

    async fn send_file(&self, id: BundleId, path: &Path, bytes: u64) -> Result<()> {
        let (pieces, receiver) = mpsc::channel(PIECES_MAX);
        let path = path.to_owned();
        let shown = agent::shown::path(&path).to_string();
        let reading = self.context.env.blocking("read a bundle", move || {
            let mut file = File::open(&path)?;
            pump(&mut file, &pieces).map(drop)
        });
        let item = Item { entry: Entry::Bundle(id), bytes, pieces: receiver };
        let (sent, read) = futures::join!(self.send(item), reading);
        let read = read.map_err(|error| CliError::new(Code::Internal, error.to_string()))?;
        read.map_err(|error| {
            CliError::new(Code::LocalIo, format!("cannot read {shown}: {error}"))
        })?;
        match sent {
            // One copy among others: the next directory may have a better one.
            Err(error) if [Code::DigestMismatch, Code::Damaged].contains(&error.code()) => {
                self.context.screen.note(&format!("{shown} is damaged and is left out: {error}"));
                self.bad.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
                Ok(())
            }
            sent => sent,
        }
    }

    async fn send_items(&self, mut items: mpsc::Receiver<Item>) -> Result<()> {
        while let Some(item) = items.recv().await {
            self.send(item).await?;
        }
        Ok(())
    }

    async fn send(&self, item: Item) -> Result<()> {
        let limit = SEND_DEADLINE + Duration::from_secs(item.bytes / SEND_RATE_MIN);
        let entry = item.entry;
        let sending = async {
            match entry {
                Entry::State => self.send_state(item).await,
                Entry::Bundle(id) => self.send_bundle(id, item).await,
            }
        };
        let silent = |_| ApiError::new(Code::DeadlineExceeded, "a coordinator went silent");
        tokio::time::timeout(limit, sending).await.map_err(silent)??;
        match entry {
            Entry::State => self.done().state = true,
            Entry::Bundle(id) => {
                self.done().bundles.insert(id);
            }
        }
        Ok(())
    }

    async fn send_state(&self, item: Item) -> std::result::Result<(), ApiError> {
        use v1::send_state_request::Part;
        let begin = v1::SendStateBegin {
            restore_id: self.begun.restore_id.clone(),
            offset: self.begun.received,
        };
        let bar = self.bar.clone();
        let data = received(item.pieces).map(move |data| {
            bar.inc(data.len() as u64);
            v1::SendStateRequest { part: Some(Part::Data(data)) }
        });
        let first = v1::SendStateRequest { part: Some(Part::Begin(begin)) };
        let (channel, _) = self.client.channel();
        let answer =
            RestoreClient::new(channel).send_state(stream::iter([first]).chain(data)).await?;
        let received = answer.into_inner().received;
        if received >= self.found.state_bytes || self.begun.received >= self.found.state_bytes {
            return Ok(());
        }
        Err(ApiError::new(Code::Unavailable, "the state did not arrive to its end"))
    }

    async fn send_bundle(&self, id: BundleId, item: Item) -> std::result::Result<(), ApiError> {
        use v1::upload_bundle_request::Part;
        let begin = v1::UploadBundleBegin {
            lease_id: self.begun.restore_id.clone(),
            lease_log_index: self.begun.log_index,
            bundle_id: Bytes::copy_from_slice(id.as_bytes()),
            bytes: item.bytes,
            offset: 0,
            kind: String::new(),
        };
        let bar = self.bar.clone();
        let data = received(item.pieces).map(move |data| {
            bar.inc(data.len() as u64);
            v1::UploadBundleRequest { part: Some(Part::Data(data)) }
        });
        let first = v1::UploadBundleRequest { part: Some(Part::Begin(begin)) };
        let (channel, _) = self.client.channel();
        RestoreClient::new(channel).send_bundle(stream::iter([first]).chain(data)).await?;
        Ok(())
    }
}

async fn ask_begin(
    client: &Client,
    request: &v1::BeginRestoreRequest,
) -> Result<v1::BeginRestoreResponse> {
    let request =
        v1::BeginRestoreRequest { write_id: Some(client.next_write_id()), ..request.clone() };
    let begun = client
        .call("beginning the restore", |channel| {
            let request = request.clone();
            async move { RestoreClient::new(channel).begin(request).await }
        })
        .await?;
    Ok(begun)
}

/// Nobody takes what is read any more: the reason is at the other end.
#[derive(Debug)]
struct Stopped;

enum ReadError {
    Stopped,
    File(SnapshotFileError),
}

impl From<SnapshotFileError> for ReadError {
    fn from(error: SnapshotFileError) -> Self {
        Self::File(error)
    }
}

/// Twice through the file: the state stands before the bundles, and is sent after them.
fn read_snapshot(
    path: &Path,
    done: &Mutex<Done>,
    received: u64,
    items: &mpsc::Sender<Item>,
) -> Result<()> {
    for state in [false, true] {
        let file = File::open(path).map_err(|error| CliError::io("open", path, &error))?;
        let reader = BufReader::with_capacity(1 << 20, file);
        let read = snapshot_file::entries(reader, |entry, bytes, content| {
            let is_due = {
                let done = done.lock().unwrap_or_else(PoisonError::into_inner);
                match entry {
                    Entry::State => state && !done.state,
                    Entry::Bundle(id) => !state && !done.bundles.contains(&id),
                }
            };
            if !is_due {
                return Ok(());
            }
            let (pieces, receiver) = mpsc::channel(PIECES_MAX);
            let item = Item { entry, bytes, pieces: receiver };
            items.blocking_send(item).map_err(|_| ReadError::Stopped)?;
            let io = |source| ReadError::File(SnapshotFileError::Io { what: "read", source });
            if entry == Entry::State {
                std::io::copy(&mut content.take(received), &mut std::io::sink()).map_err(io)?;
            }
            match pump(content, &pieces).map_err(io)? {
                Ok(()) => Ok(()),
                Err(Stopped) => Err(ReadError::Stopped),
            }
        });
        match read {
            Ok(()) => {}
            Err(ReadError::Stopped) => return Ok(()),
            Err(ReadError::File(error)) => return Err(super::file_error(&error, path)),
        }
    }
    Ok(())
}

/// From a file into a stream, as long as somebody takes it.
fn pump(
    content: &mut dyn Read,
    pieces: &mpsc::Sender<Bytes>,
) -> std::io::Result<std::result::Result<(), Stopped>> {
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        content.take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return Ok(Ok(()));
        }
        if pieces.blocking_send(piece.into()).is_err() {
            return Ok(Err(Stopped));
        }
    }
}

fn received<T: Send + 'static>(
    receiver: mpsc::Receiver<T>,
) -> impl Stream<Item = T> + Send + 'static {
    stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|message| (message, receiver))
    })
}
