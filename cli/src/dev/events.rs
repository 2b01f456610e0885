//! Reads the servers' own events out of their JSON logs: what the story claims about a kill is
//! shown by what the coordinators wrote, not by the driver's belief.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::Value;

/// First data of an upload reached a coordinator's disk.
pub(super) const UPLOAD_PROGRESS: &str = "upload_progress";
/// A coordinator began to take a bundle.
pub(super) const UPLOAD_STARTED: &str = "upload_started";
/// A point was applied.
pub(super) const POINT_COMMITTED: &str = "point_committed";

/// One line of a server's log.
#[derive(Debug, Clone)]
pub(super) struct Event {
    /// The server's name.
    pub(super) server: String,
    /// When it was written, by the machine's clock.
    pub(super) at: Timestamp,
    /// Its name: the message of the line.
    pub(super) name: String,
    fields: Value,
}

impl Event {
    /// The same event at another time.
    pub(super) fn at_time(&self, at: Timestamp) -> Self {
        Self { at, ..self.clone() }
    }

    /// A field as text, whatever its JSON type is.
    pub(super) fn text(&self, field: &str) -> Option<String> {
        match self.fields.get(field)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// A field as a number, whether it was logged as one or as text.
    pub(super) fn number(&self, field: &str) -> Option<u64> {
        self.text(field)?.parse().ok()
    }
}

/// The logs of several servers.
pub(super) struct Logs {
    files: Vec<(String, PathBuf)>,
}

impl Logs {
    /// Logs by the names of their servers.
    pub(super) const fn new(files: Vec<(String, PathBuf)>) -> Self {
        Self { files }
    }

    /// All events since a moment, in the order of their times.
    pub(super) fn since(&self, moment: Timestamp) -> Vec<Event> {
        let mut events: Vec<Event> = self
            .files
            .iter()
            .flat_map(|(server, path)| read(server, path))
            .filter(|event| event.at >= moment)
            .collect();
        events.sort_by_key(|event| event.at);
        events
    }
}

fn read(server: &str, path: &Path) -> Vec<Event> {
    // A log that is not there yet has no events.
    let bytes = std::fs::read(path).unwrap_or_default();
    // A server that is being killed may leave half a line.
    bytes.split(|byte| *byte == b'\n').filter_map(|line| parse(server, line)).collect()
}

fn parse(server: &str, line: &[u8]) -> Option<Event> {
    let fields: Value = serde_json::from_slice(line).ok()?;
    let at = fields.get("timestamp")?.as_str()?.parse().ok()?;
    let name = fields.get("event").or_else(|| fields.get("message"))?.as_str()?.to_owned();
    Some(Event { server: server.to_owned(), at, name, fields })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_several_logs_are_put_in_order_and_half_lines_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("1"), directory.path().join("2"));
        std::fs::write(
            &one,
            "{\"timestamp\":\"2026-11-21T14:00:02.5Z\",\"message\":\"upload_progress\",\
             \"lease\":\"ab\",\"bytes\":12}\n{\"timestamp\":\"2026-11-21T14:0",
        )
        .unwrap();
        std::fs::write(
            &two,
            "{\"timestamp\":\"2026-11-21T13:00:00Z\",\"message\":\"old\"}\n\
             {\"timestamp\":\"2026-11-21T14:00:01Z\",\"event\":\"upload_started\",\"bytes\":\"7\"}\n",
        )
        .unwrap();
        let logs = Logs::new(vec![
            ("a".into(), one),
            ("b".into(), two),
            ("c".into(), directory.path().join("absent")),
        ]);
        let events = logs.since("2026-11-21T14:00:00Z".parse().unwrap());
        let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, [UPLOAD_STARTED, UPLOAD_PROGRESS]);
        assert_eq!(events[0].number("bytes"), Some(7));
        assert_eq!(events[1].number("bytes"), Some(12));
        assert_eq!(events[1].text("lease").as_deref(), Some("ab"));
        assert_eq!(events[1].server, "a");
    }
}
