//! Entries of the audit log, as they are printed and exported. An export is verified from these very
//! fields: whatever says something of an entry is part of its hash, or follows from what is.

use coordinator::audit::{Actor, AuditEntry, AuditHead, OperatorRole, Sender, Subject};
use jiff::tz::TimeZone;
use proto::v1;
use proto_types::{LogIndex, LogTime, NodeId, Sequence};
use serde::{Deserialize, Serialize};

use super::id;
use crate::output::Rows;
use crate::when;

/// A place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceView {
    /// An entry's number; 0: before the first.
    pub number: u64,
    /// The hash over it and all before, hexadecimal.
    pub hash: String,
}

impl From<AuditHead> for PlaceView {
    fn from(head: AuditHead) -> Self {
        Self { number: head.number, hash: hex::encode(head.hash) }
    }
}

impl From<&v1::AuditPlace> for PlaceView {
    fn from(place: &v1::AuditPlace) -> Self {
        Self { number: place.number, hash: hex::encode(&place.hash) }
    }
}

/// Who acted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActorView {
    /// `operator`, `agent`, `coordinator`, `token` or `console`.
    pub kind: String,
    /// Of an operator its name, else an id.
    pub name: String,
    /// Of an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Of the certificate that proved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_sha256: Option<String>,
    /// The coordinator that authenticated it.
    pub via_node_id: u64,
    /// Name of an agent's cluster, as it is now; not in exports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// What an act is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectView {
    /// A cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Its name, as it is now; not in exports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// One of its points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// A coordinator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<u64>,
    /// What else says which.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryView {
    /// Counts from 1 without a gap.
    pub number: u64,
    /// Log time, RFC 3339.
    pub time: String,
    /// The same in milliseconds since 1970.
    pub time_ms: u64,
    /// The entry of Raft's log that it is of.
    pub log_index: u64,
    /// Who.
    pub actor: ActorView,
    /// What, as a stable word.
    pub act: String,
    /// About what.
    pub subject: SubjectView,
    /// `accepted` or `refused`.
    pub outcome: String,
    /// The code it was refused with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// How many refusals alike it stands for.
    pub count: u64,
    /// Over this entry and all before.
    pub hash: String,
}

const ACCEPTED: &str = "accepted";
const REFUSED: &str = "refused";

fn known(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl EntryView {
    /// Of a message; the fleet's names with it.
    #[must_use]
    pub fn of(entry: &v1::AuditEntry) -> Self {
        let actor = entry.actor.clone().unwrap_or_default();
        Self {
            number: entry.number,
            time: super::time(entry.time_ms),
            time_ms: entry.time_ms,
            log_index: entry.log_index,
            actor: ActorView {
                kind: actor.kind,
                name: actor.name,
                role: known(&actor.role),
                certificate_sha256: id(&actor.certificate_sha256),
                via_node_id: actor.via,
                cluster: known(&actor.cluster_name),
            },
            act: entry.act.clone(),
            subject: SubjectView {
                cluster_id: id(&entry.cluster_id),
                cluster: known(&entry.cluster_name),
                sequence: entry.sequence,
                node_id: entry.node_id,
                text: entry.text.clone(),
            },
            outcome: if entry.refusal.is_empty() { ACCEPTED } else { REFUSED }.to_owned(),
            code: known(&entry.refusal),
            count: entry.count,
            hash: hex::encode(&entry.hash),
        }
    }

    /// Of an entry that was read from a file.
    #[must_use]
    pub fn of_entry(entry: &AuditEntry, hash: [u8; 32]) -> Self {
        let role = match &entry.sender.actor {
            Actor::Operator { role, .. } => Some(role.as_str().to_owned()),
            _ => None,
        };
        Self {
            number: entry.number,
            time: super::time(entry.time.as_millis()),
            time_ms: entry.time.as_millis(),
            log_index: entry.index.get(),
            actor: ActorView {
                kind: entry.sender.actor.kind().to_owned(),
                name: entry.sender.actor.name(),
                role,
                certificate_sha256: entry.sender.certificate.map(hex::encode),
                via_node_id: entry.sender.via.get(),
                cluster: None,
            },
            act: entry.act.clone(),
            subject: SubjectView {
                cluster_id: entry.subject.cluster.map(|cluster| cluster.to_string()),
                cluster: None,
                sequence: entry.subject.sequence.map(Sequence::get),
                node_id: entry.subject.node.map(NodeId::get),
                text: entry.subject.text.clone(),
            },
            outcome: if entry.is_refused() { REFUSED } else { ACCEPTED }.to_owned(),
            code: known(&entry.refusal),
            count: entry.count,
            hash: hex::encode(hash),
        }
    }

    /// The same without names that are not part of the entry.
    #[must_use]
    pub fn without_names(mut self) -> Self {
        self.actor.cluster = None;
        self.subject.cluster = None;
        self
    }

    /// The entry that this says; `None` where it says none.
    #[must_use]
    pub fn entry(&self) -> Option<AuditEntry> {
        let node = || self.actor.name.parse().ok().map(NodeId::new);
        let actor = match &*self.actor.kind {
            "operator" => Actor::Operator {
                name: self.actor.name.clone(),
                role: [OperatorRole::Viewer, OperatorRole::Operator, OperatorRole::Admin]
                    .into_iter()
                    .find(|role| Some(role.as_str()) == self.actor.role.as_deref())?,
            },
            "agent" => Actor::Agent(self.actor.name.parse().ok()?),
            "coordinator" => Actor::Coordinator(node()?),
            "token" => Actor::Token(hex::decode(&self.actor.name).ok()?.try_into().ok()?),
            "console" => Actor::Console(node()?),
            _ => return None,
        };
        let certificate = match &self.actor.certificate_sha256 {
            Some(text) => Some(hex::decode(text).ok()?.try_into().ok()?),
            None => None,
        };
        let cluster = match &self.subject.cluster_id {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        let entry = AuditEntry {
            number: self.number,
            time: LogTime::from_millis(self.time_ms),
            index: LogIndex::new(self.log_index),
            sender: Sender { actor, certificate, via: NodeId::new(self.actor.via_node_id) },
            act: self.act.clone(),
            subject: Subject {
                cluster,
                sequence: self.subject.sequence.map(Sequence::new),
                node: self.subject.node_id.map(NodeId::new),
                text: self.subject.text.clone(),
            },
            refusal: self.code.clone().unwrap_or_default(),
            count: self.count,
        };
        // Every field says what the entry says, in the one way there is.
        let hash = hex::decode(&self.hash).ok()?.try_into().ok()?;
        (Self::of_entry(&entry, hash) == *self).then_some(entry)
    }

    fn who(&self) -> String {
        let actor = &self.actor;
        match (&actor.role, &actor.cluster) {
            (Some(role), _) => format!("{role} {}", actor.name),
            (None, Some(cluster)) => format!("{} {cluster}", actor.kind),
            (None, None) => format!("{} {}", actor.kind, actor.name),
        }
    }

    fn about(&self) -> String {
        let subject = &self.subject;
        let cluster = subject.cluster.as_ref().or(subject.cluster_id.as_ref());
        let mut parts = Vec::new();
        match (cluster, subject.sequence) {
            (Some(cluster), Some(sequence)) => parts.push(format!("{cluster}@{sequence}")),
            (Some(cluster), None) => parts.push(cluster.clone()),
            (None, Some(sequence)) => parts.push(format!("@{sequence}")),
            (None, None) => {}
        }
        parts.extend(subject.node_id.map(|node| format!("node {node}")));
        parts.extend(known(&subject.text));
        if parts.is_empty() { "-".to_owned() } else { parts.join(" ") }
    }

    fn result(&self) -> String {
        match (&self.code, self.count) {
            (None, _) => self.outcome.clone(),
            (Some(code), 1) => format!("refused {code}"),
            (Some(code), count) => format!("refused {code} {count} times"),
        }
    }
}

/// A table of entries.
#[must_use]
pub fn entry_rows(entries: &[EntryView], zone: &TimeZone) -> String {
    let mut rows = Rows::new(&["NUMBER", "TIME", "WHO", "VIA", "ACT", "ABOUT", "OUTCOME"]);
    for entry in entries {
        rows.push([
            entry.number.to_string(),
            when::local(LogTime::from_millis(entry.time_ms), zone),
            entry.who(),
            format!("node {}", entry.actor.via_node_id),
            entry.act.clone(),
            entry.about(),
            entry.result(),
        ]);
    }
    rows.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> EntryView {
        let entry = AuditEntry {
            number: 7,
            time: LogTime::from_millis(1_700_000_000_123),
            index: LogIndex::new(40),
            sender: Sender {
                actor: Actor::Operator { name: "ann".to_owned(), role: OperatorRole::Viewer },
                certificate: Some([0xce; 32]),
                via: NodeId::new(2),
            },
            act: "get-status".to_owned(),
            subject: Subject { sequence: Some(Sequence::new(4)), ..Subject::text("text") },
            refusal: "PERMISSION_DENIED".to_owned(),
            count: 3,
        };
        EntryView::of_entry(&entry, [9; 32])
    }

    #[test]
    fn audit_entry_is_made_again_from_its_fields_or_not_at_all() {
        let view = sample();
        let entry = view.entry().expect("it says one");
        assert_eq!(EntryView::of_entry(&entry, [9; 32]), view);
        let text = serde_json::to_string(&view).unwrap();
        assert_eq!(serde_json::from_str::<EntryView>(&text).unwrap(), view);
        // A field that says something else than those that are hashed.
        let spoilt: [fn(&mut EntryView); 7] = [
            |view| view.time = "2026-11-21T14:05:30.000Z".to_owned(),
            |view| view.outcome = "accepted".to_owned(),
            |view| view.actor.cluster = Some("harbour".to_owned()),
            |view| view.subject.cluster = Some("harbour".to_owned()),
            |view| view.actor.kind = "king".to_owned(),
            |view| view.actor.role = None,
            |view| view.code = Some(String::new()),
        ];
        for (at, spoil) in spoilt.into_iter().enumerate() {
            let mut bad = sample();
            spoil(&mut bad);
            assert_eq!(bad.entry(), None, "{at}");
        }
    }

    #[test]
    fn audit_rows_say_who_and_what() {
        let text = entry_rows(&[sample()], &TimeZone::UTC);
        let line = text.lines().nth(1).unwrap();
        for part in ["7 ", "2023-11-14 22:13:20", "viewer ann", "node 2", "get-status", "@4 text"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(line.ends_with("refused PERMISSION_DENIED 3 times"), "{line}");
    }
}
