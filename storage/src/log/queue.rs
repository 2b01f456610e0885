//! Between the callers and the one writer: a queue in the order of submission, group commit, the
//! idle marker, back-pressure, and what happens after a failure: the log is poisoned for ever.
//! The writer runs on a thread from the injected spawner, or inline in simulations.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::frame::{Record, RecordKind};
use super::recover::{self, Recovered};
use super::segment::{self, Location};
use super::writer::{SegmentFiles, Writer};
use super::{LogError, LogOptions, RECORD_BYTES_MAX, SyncTimes};
use crate::disk::DiskFile;
use crate::home::DataDir;
use crate::spawn::Driver;

/// What a caller hears when its records are durable, or never will be.
pub(crate) type Done = Box<dyn FnOnce(Result<Vec<Location>, Arc<LogError>>) + Send>;

/// Records that become durable together.
pub(crate) struct Submission {
    /// In this order.
    pub(crate) records: Vec<Record>,
    /// Called once, from the writer's thread, after the fdatasync or the failure.
    pub(crate) done: Done,
}

/// A handle to an open log. The last clone's drop stops the writer; [`LogHandle::close`] waits.
#[derive(Clone)]
pub(crate) struct LogHandle {
    guard: Arc<Guard>,
}

struct Guard {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    room: Notify,
    files: SegmentFiles,
    sync_times: SyncTimes,
    dir: PathBuf,
    options: LogOptions,
    driver: Driver,
    /// Only with [`Driver::Inline`].
    inline: Mutex<Option<Writer>>,
    /// Keeps the lock of the data directory for as long as anything may still be written.
    _home: DataDir,
}

#[derive(Default)]
struct Queue {
    pending: VecDeque<Submission>,
    /// Bytes of records submitted and not yet durable.
    unflushed_bytes: usize,
    /// The last committed log id, which nobody waits for: it goes with the next batch.
    committed: Option<Record>,
    settle: Vec<oneshot::Sender<()>>,
    closers: Vec<oneshot::Sender<()>>,
    is_closing: bool,
    is_stopped: bool,
    poisoned: Option<String>,
}

enum Work {
    Batch(Vec<Submission>, Option<Record>),
    Settle(Option<Record>),
    Stop,
}

impl LogHandle {
    /// Opens the log of a data directory and starts its writer.
    pub(crate) fn open(
        home: &DataDir,
        options: LogOptions,
        driver: Driver,
    ) -> Result<(Self, Recovered), LogError> {
        let dir = home.log_dir();
        let (writer, recovered) = recover::open(home.disk(), &dir, home.identity(), options)?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            room: Notify::new(),
            files: writer.files(),
            sync_times: writer.sync_times(),
            dir: dir.clone(),
            options,
            driver: driver.clone(),
            inline: Mutex::default(),
            _home: home.clone(),
        });
        match driver {
            Driver::Inline => *lock(&shared.inline) = Some(writer),
            Driver::Thread(spawn) => {
                let for_thread = Arc::clone(&shared);
                spawn
                    .spawn("log-writer", Box::new(move || run(for_thread, writer)))
                    .map_err(LogError::io("start the writer of", &dir))?;
            }
        }
        Ok((Self { guard: Arc::new(Guard { shared }) }, recovered))
    }

    /// How long its fdatasyncs take.
    pub(crate) fn sync_times(&self) -> SyncTimes {
        self.guard.shared.sync_times.clone()
    }

    /// Puts records into the queue without waiting. Call [`LogHandle::kick`] afterwards; the two
    /// are apart so that a caller can enqueue under its own lock and have them written outside.
    ///
    /// # Errors
    /// When a record is too long. Every other failure is told to `done`.
    pub(crate) fn enqueue(&self, submission: Submission) -> Result<(), LogError> {
        for record in &submission.records {
            if record.payload.len() > RECORD_BYTES_MAX {
                return Err(LogError::TooLarge { bytes: record.payload.len() });
            }
        }
        let mut queue = lock(&self.guard.shared.queue);
        queue.unflushed_bytes += bytes_of(&submission.records);
        queue.pending.push_back(submission);
        Ok(())
    }

    /// Has the queue worked off: by the writer's thread, or here and now.
    pub(crate) fn kick(&self) {
        let shared = &*self.guard.shared;
        shared.wake.notify_one();
        let mut inline = lock(&shared.inline);
        if let Some(writer) = inline.as_mut() {
            while let Some(Work::Batch(batch, committed)) = shared.take_batch() {
                shared.commit(writer, batch, committed);
            }
        } else if lock(&shared.queue).is_stopped {
            drop(inline);
            shared.refuse_pending();
        }
    }

    /// Notes the last committed log id, to be written with the next batch or when idle.
    pub(crate) fn note_committed(&self, payload: Vec<u8>) {
        let record = Record { kind: RecordKind::Committed, index: 0, payload };
        lock(&self.guard.shared.queue).committed = Some(record);
        self.guard.shared.wake.notify_one();
    }

    /// Waits until there is room for more appends.
    pub(crate) async fn room(&self) {
        let shared = &*self.guard.shared;
        loop {
            let notified = shared.room.notified();
            tokio::pin!(notified);
            // Registered before the check, so that no release in between is missed.
            notified.as_mut().enable();
            if lock(&shared.queue).unflushed_bytes <= shared.options.unflushed_bytes_max {
                return;
            }
            notified.await;
        }
    }

    /// Waits until all that was submitted is durable and the marker says so.
    ///
    /// # Errors
    /// When the log is poisoned or closed.
    pub(crate) async fn settle(&self) -> Result<(), LogError> {
        let shared = &*self.guard.shared;
        let (sender, receiver) = oneshot::channel();
        let is_inline = {
            let mut inline = lock(&shared.inline);
            if let Some(writer) = inline.as_mut() {
                let committed = lock(&shared.queue).committed.take();
                shared.settle(writer, committed);
                true
            } else {
                false
            }
        };
        if !is_inline {
            shared.ask(|queue| queue.settle.push(sender));
            // An error means that the writer has stopped; the state below says why.
            let _ = receiver.await;
        }
        shared.state()
    }

    /// Stops the writer after all that was submitted is durable and the marker says so.
    ///
    /// # Errors
    /// When the log is poisoned.
    pub(crate) async fn close(&self) -> Result<(), LogError> {
        let shared = &*self.guard.shared;
        let (sender, receiver) = oneshot::channel();
        let writer = lock(&shared.inline).take();
        if let Some(mut writer) = writer {
            let committed = lock(&shared.queue).committed.take();
            shared.settle(&mut writer, committed);
            lock(&shared.queue).is_stopped = true;
        } else {
            shared.ask(|queue| {
                queue.is_closing = true;
                queue.closers.push(sender);
            });
            // Dropped by a writer that has stopped already: then there is nothing to wait for.
            let _ = receiver.await;
        }
        match shared.state() {
            Err(LogError::Closed) => Ok(()),
            other => other,
        }
    }

    /// Why the log takes no more writes, if so.
    pub(crate) fn poisoned(&self) -> Option<String> {
        lock(&self.guard.shared.queue).poisoned.clone()
    }

    /// The file of a segment that holds live entries.
    pub(crate) fn file(&self, segment: u64) -> Option<Arc<dyn DiskFile>> {
        let shared = &self.guard.shared;
        lock(&shared.files).get(&segment).map(Arc::clone)
    }

    /// Reads one payload back and checks it.
    pub(crate) fn read(
        &self,
        file: &dyn DiskFile,
        location: Location,
    ) -> Result<Vec<u8>, LogError> {
        segment::read_payload(file, &self.guard.shared.dir, location)
    }

    /// The options it was opened with.
    pub(crate) fn options(&self) -> LogOptions {
        self.guard.shared.options
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        lock(&self.shared.queue).is_closing = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    /// The next batch, if any: as many submissions as fit, at least one, never torn apart.
    fn take_batch(&self) -> Option<Work> {
        take_batch(&mut lock(&self.queue), self.options.batch_bytes_max)
    }

    /// What the writer's thread is to do next; waits for it.
    fn next_work(&self, is_marker_behind: bool) -> Work {
        let idle = Duration::from_millis(self.options.idle_millis);
        let mut queue = lock(&self.queue);
        loop {
            if let Some(batch) = take_batch(&mut queue, self.options.batch_bytes_max) {
                return batch;
            }
            if !queue.settle.is_empty() {
                return Work::Settle(queue.committed.take());
            }
            if queue.is_closing {
                return Work::Stop;
            }
            if is_marker_behind || queue.committed.is_some() {
                let (guard, timeout) =
                    self.wake.wait_timeout(queue, idle).unwrap_or_else(PoisonError::into_inner);
                queue = guard;
                if timeout.timed_out() && queue.pending.is_empty() {
                    return Work::Settle(queue.committed.take());
                }
            } else {
                queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Asks the writer's thread for something. If it has stopped, what was asked for is dropped,
    /// and with it the sender that somebody waits on.
    fn ask(&self, request: impl FnOnce(&mut Queue)) {
        let mut queue = lock(&self.queue);
        if !queue.is_stopped {
            request(&mut queue);
        }
        drop(queue);
        self.wake.notify_one();
    }

    fn commit(&self, writer: &mut Writer, batch: Vec<Submission>, committed: Option<Record>) {
        let mut records = Vec::new();
        let mut waiting = Vec::with_capacity(batch.len());
        for Submission { records: mut more, done } in batch {
            waiting.push((more.len(), done));
            records.append(&mut more);
        }
        let bytes = bytes_of(&records);
        records.extend(committed);
        let result = match self.state() {
            Ok(()) => writer.commit(&records, &self.driver),
            Err(error) => Err(error),
        };
        match result {
            Ok(locations) => {
                let mut rest = &locations[..];
                for (count, done) in waiting {
                    let (mine, others) = rest.split_at(count);
                    rest = others;
                    done(Ok(mine.to_vec()));
                }
            }
            Err(error) => {
                let error = self.poison(error);
                for (_, done) in waiting {
                    done(Err(Arc::clone(&error)));
                }
            }
        }
        lock(&self.queue).unflushed_bytes -= bytes;
        self.room.notify_waiters();
    }

    fn settle(&self, writer: &mut Writer, committed: Option<Record>) {
        if self.state().is_err() {
            return;
        }
        let written = match committed {
            Some(record) => writer.commit(&[record], &self.driver).map(drop),
            None => Ok(()),
        };
        if let Err(error) = written.and_then(|()| writer.settle()) {
            self.poison(error);
        }
    }

    /// After a failed write or sync nobody knows what is on the disk, and the kernel may have
    /// dropped what it could not write: so no second attempt, by anybody, ever.
    fn poison(&self, error: LogError) -> Arc<LogError> {
        let mut queue = lock(&self.queue);
        if queue.poisoned.is_none() && !queue.is_stopped {
            let mut reason = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                reason = format!("{reason}: {cause}");
                source = cause.source();
            }
            queue.poisoned = Some(reason);
        }
        Arc::new(error)
    }

    fn state(&self) -> Result<(), LogError> {
        let queue = lock(&self.queue);
        match &queue.poisoned {
            Some(reason) => Err(LogError::Poisoned { reason: reason.clone() }),
            None if queue.is_stopped => Err(LogError::Closed),
            None => Ok(()),
        }
    }

    fn refuse_pending(&self) {
        loop {
            let taken = lock(&self.queue).pending.pop_front();
            let Some(submission) = taken else { break };
            let error = self.state().err().unwrap_or(LogError::Closed);
            lock(&self.queue).unflushed_bytes -= bytes_of(&submission.records);
            (submission.done)(Err(Arc::new(error)));
        }
        self.room.notify_waiters();
    }
}

/// The writer's thread, from open to close.
fn run(shared: Arc<Shared>, mut writer: Writer) {
    let stopping = Stopping { shared: Some(Arc::clone(&shared)) };
    loop {
        match shared.next_work(writer.is_marker_behind()) {
            Work::Batch(batch, committed) => shared.commit(&mut writer, batch, committed),
            Work::Settle(committed) => {
                shared.settle(&mut writer, committed);
                let waiting = std::mem::take(&mut lock(&shared.queue).settle);
                for sender in waiting {
                    // A receiver that has gone is nobody's loss, here and below.
                    let _ = sender.send(());
                }
            }
            Work::Stop => break,
        }
        if shared.state().is_err() {
            break;
        }
    }
    let committed = lock(&shared.queue).committed.take();
    shared.settle(&mut writer, committed);
    drop(writer);
    drop(shared);
    drop(stopping);
}

/// Ends the thread's part in the log, also when it panics: nobody may wait for it any more.
struct Stopping {
    /// Taken on drop.
    shared: Option<Arc<Shared>>,
}

impl Drop for Stopping {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        let mut queue = lock(&shared.queue);
        if std::thread::panicking() && queue.poisoned.is_none() {
            queue.poisoned = Some("the writer's thread panicked".to_owned());
        }
        queue.is_stopped = true;
        queue.settle.clear();
        let closers = std::mem::take(&mut queue.closers);
        drop(queue);
        shared.refuse_pending();
        // Whoever waits for the close may want the lock of the directory next.
        drop(shared);
        for sender in closers {
            let _ = sender.send(());
        }
    }
}

fn take_batch(queue: &mut Queue, batch_bytes_max: usize) -> Option<Work> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while let Some(next) = queue.pending.front() {
        let more = bytes_of(&next.records);
        if !batch.is_empty() && bytes + more > batch_bytes_max {
            break;
        }
        bytes += more;
        batch.extend(queue.pending.pop_front());
    }
    (!batch.is_empty()).then(|| Work::Batch(batch, queue.committed.take()))
}

fn bytes_of(records: &[Record]) -> usize {
    records.iter().map(Record::encoded_bytes).sum()
}

// A panic while one of these was held cannot leave it half changed: callbacks run outside.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error as openraft wants it, with the kind of its cause.
pub(crate) fn to_io_error(error: impl AsRef<LogError>) -> io::Error {
    let error = error.as_ref();
    match error {
        LogError::Io { source, .. } => io::Error::new(source.kind(), describe(error)),
        _ => io::Error::other(describe(error)),
    }
}

fn describe(error: &LogError) -> String {
    let cause = std::error::Error::source(error).map(|c| format!(": {c}"));
    format!("{error}{}", cause.unwrap_or_default())
}
