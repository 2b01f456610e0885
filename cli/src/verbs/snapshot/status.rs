//! `strongroom snapshot status`: when the schedule last saved a good snapshot, and what stands in the
//! way of the next.

use agent::shown::plain;
use proto::v1;
use proto::v1::fleet_client::FleetClient;
use proto_types::{ByteCount, LogTime};
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::{operator, when};

/// Findings that are about snapshots.
const ABOUT: [&str; 4] = ["snapshot-failed", "snapshot-stale", "snapshot-damaged", "restored"];

/// A snapshot that the schedule made, or tried to.
#[derive(Debug, Serialize)]
struct ScheduledView {
    due: String,
    due_ms: u64,
    ended: String,
    ended_ms: u64,
    good: bool,
    target: String,
    name: String,
    log_index: u64,
    term: u64,
    bytes: u64,
    took_ms: u64,
    sha256: Option<String>,
    problem: String,
}

impl From<&v1::ScheduledSnapshot> for ScheduledView {
    fn from(row: &v1::ScheduledSnapshot) -> Self {
        let time = |ms| when::rfc3339(LogTime::from_millis(ms));
        Self {
            due: time(row.due_ms),
            due_ms: row.due_ms,
            ended: time(row.ended_ms),
            ended_ms: row.ended_ms,
            good: row.good,
            target: row.target.clone(),
            name: row.name.clone(),
            log_index: row.log_index,
            term: row.term,
            bytes: row.bytes,
            took_ms: row.took_ms,
            sha256: Some(hex::encode(&row.sha256)).filter(|text| !text.is_empty()),
            problem: row.problem.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
struct SnapshotsView {
    /// How often the fleet was restored from one.
    generation: u32,
    /// Whether one is being restored.
    restoring: bool,
    /// Log entries since the last good one.
    entries_since: Option<u64>,
    last_good: Option<ScheduledView>,
    /// The last one, where it is not that.
    last: Option<ScheduledView>,
    findings: Vec<FindingLine>,
}

#[derive(Debug, Serialize)]
struct FindingLine {
    kind: String,
    message: String,
    remedy: String,
}

impl SnapshotsView {
    fn of(status: &v1::GetStatusResponse) -> Self {
        let index = status.read.unwrap_or_default().log_index;
        let good = status.last_good_snapshot.as_ref();
        let last = status.last_snapshot.as_ref().filter(|last| good != Some(*last));
        let findings = status.findings.iter().filter(|finding| ABOUT.contains(&&*finding.kind));
        Self {
            generation: status.generation,
            restoring: status.restoring,
            entries_since: good.map(|good| index.saturating_sub(good.log_index)),
            last_good: good.map(ScheduledView::from),
            last: last.map(ScheduledView::from),
            findings: findings
                .map(|finding| FindingLine {
                    kind: finding.kind.clone(),
                    message: finding.message.clone(),
                    remedy: finding.remedy.clone(),
                })
                .collect(),
        }
    }

    fn describe(&self, now: LogTime) -> String {
        let mut text = match &self.last_good {
            None => "last good   none: no schedule has saved one yet (see [snapshots] in the \
                     coordinators' config), and what `snapshot save` made is not counted here\n"
                .to_owned(),
            Some(good) => {
                let age = when::age(LogTime::from_millis(good.ended_ms), now);
                format!(
                    "last good   {} ago, {}\nwhere       {} in {}\nof          log index {} in term \
                     {}, {} entries ago\ntook        {} ms\n",
                    age,
                    ByteCount::new(good.bytes),
                    plain(&good.name),
                    plain(&good.target),
                    good.log_index,
                    good.term,
                    self.entries_since.unwrap_or(0),
                    good.took_ms,
                )
            }
        };
        if let Some(last) = &self.last {
            text.push_str(&format!("last        {}: {}\n", last.ended, plain(&last.problem)));
        }
        if self.generation > 0 {
            text.push_str(&format!("generation  {}\n", self.generation));
        }
        if self.restoring {
            text.push_str("restoring   a snapshot is being restored into this fleet\n");
        }
        for finding in &self.findings {
            text.push_str(&format!("{}: {}\n", plain(&finding.kind), plain(&finding.message)));
            text.push_str(&format!("  {}\n", plain(&finding.remedy)));
        }
        text
    }
}

pub(super) async fn run(context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let status = client
        .call("asking for the fleet's status", |channel| async move {
            let request = v1::GetStatusRequest { stale: false };
            FleetClient::new(channel).get_status(request).await
        })
        .await?;
    let now = context.log_now().max(LogTime::from_millis(status.log_time_ms));
    let view = SnapshotsView::of(&status);
    context.screen.show(&view, |view| view.describe(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(index: u64, good: bool) -> v1::ScheduledSnapshot {
        v1::ScheduledSnapshot {
            ended_ms: 60_000,
            target: "file:///backups".into(),
            name: "fleet-7.snapshot".into(),
            log_index: index,
            good,
            problem: if good { String::new() } else { "the disk is full".into() },
            ..v1::ScheduledSnapshot::default()
        }
    }

    #[test]
    fn snapshot_status_tells_the_last_good_one_and_what_failed_since() {
        let read = v1::ReadInfo { log_index: 50, ..v1::ReadInfo::default() };
        let status = v1::GetStatusResponse {
            read: Some(read),
            last_snapshot: Some(row(40, false)),
            last_good_snapshot: Some(row(30, true)),
            ..v1::GetStatusResponse::default()
        };
        let view = SnapshotsView::of(&status);
        assert_eq!((view.entries_since, view.last.is_some()), (Some(20), true));
        let text = view.describe(LogTime::from_millis(3_660_000));
        for part in ["fleet-7.snapshot in file:///backups", "20 entries ago", "the disk is full"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let same = v1::GetStatusResponse {
            last_snapshot: Some(row(30, true)),
            last_good_snapshot: Some(row(30, true)),
            ..v1::GetStatusResponse::default()
        };
        assert!(SnapshotsView::of(&same).last.is_none(), "it is told once");
        let none = SnapshotsView::of(&v1::GetStatusResponse::default());
        assert!(none.describe(LogTime::ZERO).contains("none"));
    }
}
