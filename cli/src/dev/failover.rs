//! The loud step of the story: the leader is killed between the first byte and the commit of an
//! upload, which ends acknowledged all the same. That the kill fell in between is shown by the
//! coordinators' own events.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use proto_types::{ByteCount, Code};

use super::configs::COORDINATORS;
use super::events::{Event, Logs, POINT_COMMITTED, UPLOAD_PROGRESS, UPLOAD_STARTED};
use super::runner::Running;
use super::steps::Point;
use super::story::Story;
use super::wait;
use crate::error::{CliError, Result};

/// Incompressible bytes added before the third backup.
const BYTES: u64 = 72 << 20;
/// The smallest upload that counts.
const UPLOAD_BYTES_MIN: u64 = 64 << 20;
/// Slow enough that the kill falls into the upload, on the fastest machine.
const RATE: &str = "12MiB";
/// The first byte: reading and sealing come before it.
const FIRST_BYTE_DEADLINE: Duration = Duration::from_secs(300);
/// An acknowledged point is applied by every coordinator that runs.
const COMMIT_DEADLINE: Duration = Duration::from_secs(60);
/// A backup that failed clearly is tried this often in all.
const TRIES: u32 = 5;

impl Story<'_> {
    /// Adds a large file to the source, and kills the leader during its upload.
    pub(super) async fn survive_a_lost_leader(&mut self) -> Result<(Point, usize)> {
        self.narrator.begin("losing the leader during an upload");
        self.add_incompressible()?;
        let logs = self.coordinator_logs();
        let begun = now();
        let arguments = self.backup_arguments(&["--limit-rate", RATE]);
        let mut running = self.runner.start(&arguments)?;
        let upload = match self.wait_for_first_byte(&logs, begun, &mut running).await {
            Ok(upload) => upload,
            Err(error) => {
                // What the backup itself said tells more.
                if running.has_ended()? {
                    running.finish().await?;
                }
                return Err(error);
            }
        };
        let (leader, term) = self.fleet()?.leader().await?;
        let pid = self.fleet()?.pid(leader).unwrap_or_default();
        self.fleet()?.kill(leader).await?;
        let killed = now();
        let leader_name = COORDINATORS[leader];
        let bytes = ByteCount::new(upload.number("bytes").unwrap_or(0));
        let who = match upload.server.as_str() {
            taker if taker == leader_name => format!("while it took an upload of {bytes} itself"),
            taker => format!("while {taker} took an upload of {bytes}"),
        };
        self.narrator.say(&format!(
            "{who}, the leader {leader_name} (process {pid}, term {term}) was killed by SIGKILL"
        ))?;
        let (point, tries) = self.acknowledged(running, &arguments).await?;
        let committed = self.wait_for_commit(&logs, begun, &point).await?;
        require_order(&upload, killed, &committed)?;
        let (successor, new_term) = self.fleet()?.leader().await?;
        let how = match tries {
            1 => "the upload went on and was acknowledged".to_owned(),
            _ => format!("the backup failed clearly and was acknowledged at try {tries}"),
        };
        self.narrator.say(&format!(
            "{how}: {} ({}, {} added), under {} in term {new_term}; first byte {:.1} s before the \
             kill, commit {:.1} s after it, by the coordinators' own logs",
            point.name,
            point.form,
            ByteCount::new(point.added_bytes),
            COORDINATORS[successor],
            seconds(upload.at, killed),
            seconds(killed, committed.at),
        ))?;
        Ok((point, leader))
    }

    /// Starts the killed coordinator again and waits until it lacks nothing.
    pub(super) async fn bring_back(&mut self, killed: usize) -> Result<()> {
        self.narrator.begin("bringing the killed coordinator back");
        self.fleet()?.start(killed)?;
        let applied = self.fleet()?.wait_caught_up(killed).await?;
        self.narrator.say(&format!(
            "{} runs again and has caught up: log index {applied}, no bundle missing",
            COORDINATORS[killed]
        ))
    }

    fn add_incompressible(&self) -> Result<()> {
        let source = self.state.path("source");
        let path = free_name(&source, "incompressible");
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| CliError::io("make", &path, &error))?;
        let mut piece = vec![0; 1 << 20];
        for _ in 0..BYTES / (1 << 20) {
            self.context.env.random.fill(&mut piece);
            file.write_all(&piece).map_err(|error| CliError::io("write", &path, &error))?;
        }
        Ok(())
    }

    fn coordinator_logs(&self) -> Logs {
        let files = COORDINATORS.iter().map(|name| ((*name).to_owned(), self.state.log(name)));
        Logs::new(files.collect())
    }

    /// Waits until a coordinator wrote that data of the large bundle has reached it.
    async fn wait_for_first_byte(
        &mut self,
        logs: &Logs,
        begun: Timestamp,
        running: &mut Running,
    ) -> Result<Event> {
        wait::until("the first byte of the upload", FIRST_BYTE_DEADLINE, async || {
            let events = logs.since(begun);
            let found = first_byte(&events);
            if found.is_none() && running.has_ended()? {
                return Err(CliError::new(
                    Code::Internal,
                    "the backup ended before an upload of the large file was seen in the logs",
                ));
            }
            Ok(found)
        })
        .await
    }

    /// Ends the backup that was interrupted, again if it failed in a way that may be tried again.
    async fn acknowledged(
        &self,
        first: Running,
        arguments: &[std::ffi::OsString],
    ) -> Result<(Point, u32)> {
        let mut running = first;
        let mut tries = 1;
        loop {
            match running.finish().await {
                Ok(answer) => return Ok((Point::read(&answer)?, tries)),
                Err(error) if error.code().is_retryable() && tries < TRIES => {
                    tries += 1;
                    running = self.runner.start(arguments)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn wait_for_commit(&self, logs: &Logs, begun: Timestamp, point: &Point) -> Result<Event> {
        wait::until("the commit in the coordinators' logs", COMMIT_DEADLINE, async || {
            let events = logs.since(begun);
            Ok(events.into_iter().find(|event| {
                event.name == POINT_COMMITTED
                    && event.number("sequence") == Some(point.sequence)
                    && event.text("cluster").is_some_and(|cluster| {
                        cluster == self.cluster.id || cluster == self.cluster.name
                    })
            }))
        })
        .await
    }
}

/// The event of first data for an upload that is large enough.
fn first_byte(events: &[Event]) -> Option<Event> {
    let started = events.iter().find(|event| {
        event.name == UPLOAD_STARTED
            && event.number("bytes").is_some_and(|bytes| bytes >= UPLOAD_BYTES_MIN)
    })?;
    let progress = events.iter().find(|event| {
        event.name == UPLOAD_PROGRESS
            && event.server == started.server
            && event.at >= started.at
            && event.text("lease") == started.text("lease")
            && event.text("bundle") == started.text("bundle")
    })?;
    // The size is that of the bundle; the progress event knows only what has come so far.
    Some(started.at_time(progress.at))
}

/// First byte, kill, commit: in this order, or the step has shown nothing.
fn require_order(upload: &Event, killed: Timestamp, committed: &Event) -> Result<()> {
    if upload.at <= killed && killed < committed.at {
        return Ok(());
    }
    Err(CliError::new(
        Code::Internal,
        format!(
            "the kill at {killed} did not fall between the first byte at {} and the commit at {}",
            upload.at, committed.at
        ),
    )
    .with_remedy("start it again: the machine was too fast or too slow for the kill"))
}

/// A name in the directory that nothing has yet.
fn free_name(directory: &std::path::Path, base: &str) -> PathBuf {
    let mut path = directory.join(format!("{base}.bin"));
    let mut count = 1;
    while path.symlink_metadata().is_ok() {
        count += 1;
        path = directory.join(format!("{base}-{count}.bin"));
    }
    path
}

// The logs carry the machine's clock, so the driver must too.
fn now() -> Timestamp {
    Timestamp::now()
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::events::Logs;

    /// The events of one log with these lines.
    fn events(lines: &[&str]) -> Vec<Event> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, lines.join("\n")).unwrap();
        Logs::new(vec![("coordinator-1".to_owned(), path)]).since(Timestamp::UNIX_EPOCH)
    }

    const SMALL: &str = r#"{"timestamp":"2026-11-21T14:00:00Z","event":"upload_started","lease":"l","bundle":"s","bytes":900}"#;
    const SMALL_DATA: &str = r#"{"timestamp":"2026-11-21T14:00:01Z","event":"upload_progress","lease":"l","bundle":"s","bytes":900}"#;
    const LARGE: &str = r#"{"timestamp":"2026-11-21T14:00:02Z","event":"upload_started","lease":"l","bundle":"b","bytes":75497472}"#;
    const LARGE_DATA: &str = r#"{"timestamp":"2026-11-21T14:00:03Z","event":"upload_progress","lease":"l","bundle":"b","bytes":1048576}"#;

    #[test]
    fn only_data_of_the_large_bundle_is_the_first_byte() {
        assert!(first_byte(&events(&[SMALL, SMALL_DATA])).is_none());
        assert!(first_byte(&events(&[SMALL, SMALL_DATA, LARGE])).is_none());
        let found = first_byte(&events(&[SMALL, SMALL_DATA, LARGE, LARGE_DATA])).unwrap();
        assert_eq!(found.at, "2026-11-21T14:00:03Z".parse::<Timestamp>().unwrap());
        assert_eq!(found.number("bytes"), Some(75_497_472));
    }

    #[test]
    fn a_kill_outside_the_upload_shows_nothing() {
        let upload = first_byte(&events(&[LARGE, LARGE_DATA])).unwrap();
        let commit = events(&[
            r#"{"timestamp":"2026-11-21T14:00:09Z","event":"point_committed","sequence":3}"#,
        ]);
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(require_order(&upload, at("2026-11-21T14:00:04Z"), &commit[0]).is_ok());
        assert!(require_order(&upload, at("2026-11-21T14:00:02Z"), &commit[0]).is_err());
        assert!(require_order(&upload, at("2026-11-21T14:00:10Z"), &commit[0]).is_err());
    }
}
