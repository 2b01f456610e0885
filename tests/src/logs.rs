//! Reads the JSON logs that servers write: what a test claims about the inside of a server is
//! shown by the server's own events.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// One line of a server's log.
#[derive(Debug, Clone)]
pub struct Event(Value);

impl Event {
    /// The event's stable name; empty for a line that has none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0["event"].as_str().unwrap_or("")
    }
    /// Whether this is the event, told by its name or by its message.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name() == name || self.field("message") == name
    }
    /// `ERROR`, `WARN`, `INFO` or `DEBUG`.
    #[must_use]
    pub fn level(&self) -> &str {
        self.0["level"].as_str().unwrap_or("")
    }
    /// A field, numbers as text.
    #[must_use]
    pub fn field(&self, name: &str) -> String {
        match &self.0[name] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }
    /// The whole line.
    #[must_use]
    pub fn line(&self) -> String {
        self.0.to_string()
    }
}

/// A server's log file.
#[derive(Debug, Clone)]
pub struct Log(PathBuf);

impl Log {
    /// The log at this path; it need not be there yet.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Everything in it, as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.0).unwrap_or_default()).into_owned()
    }

    /// All events. A line that is only half written is left out.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.text().lines().filter_map(|line| serde_json::from_str(line).ok().map(Event)).collect()
    }

    /// The events of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<Event> {
        self.events().into_iter().filter(|event| event.name() == name).collect()
    }

    /// Waits for an event of this name of which `is` holds.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn wait_for(&self, name: &str, is: impl Fn(&Event) -> bool) -> Event {
        let what = format!("event {name} in {}", self.0.display());
        crate::wait::until(&what, async || self.named(name).into_iter().find(|event| is(event)))
            .await
    }

    /// The last lines, for a message.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}
