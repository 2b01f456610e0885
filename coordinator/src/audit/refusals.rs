//! Refusals before anything reached the log: counted here, recorded at once where they are new, and
//! then once a minute with how many there were. Who was refused has its answer already: recording
//! holds up nobody, and a node that dies within the second takes what it had counted with it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coordinator_core::limits::AUDIT_REFUSAL_MS;
use coordinator_core::{Actor, Command, RecordAct, Request, Sender, Subject};
use proto::env::Env;
use proto_types::{Code, Level, LogTime};
use tokio::sync::Notify;

use crate::raft::RaftNode;
use crate::telemetry;

/// Kinds of refusals counted at one time: a few per party with a certificate.
const KINDS_MAX: usize = 1024;
/// Between two looks at what is due.
const ROUND: Duration = Duration::from_secs(1);

type Kind = (Actor, String, Code);

#[derive(Debug)]
struct Counted {
    sender: Sender,
    count: u64,
    /// Recorded not before.
    due_ms: u64,
}

/// Refusals that this node said and has yet to record.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    kinds: Mutex<BTreeMap<Kind, Counted>>,
    new: Notify,
}

impl Refusals {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, Counted>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one.
    pub(crate) fn note(&self, sender: Sender, act: String, code: Code) {
        let mut kinds = self.lock();
        let kind = (sender.actor.clone(), act, code);
        if let Some(known) = kinds.get_mut(&kind) {
            known.count = known.count.saturating_add(1);
            known.sender = sender;
            return;
        }
        if kinds.len() >= KINDS_MAX {
            telemetry::audit_refusal_not_counted(&sender, &kind.1, code);
            return;
        }
        kinds.insert(kind, Counted { sender, count: 1, due_ms: 0 });
        drop(kinds);
        self.new.notify_one();
    }

    /// Takes what is to be recorded now, and forgets what has been quiet.
    fn due(&self, now_ms: u64) -> Vec<(Kind, Sender, u64)> {
        let mut kinds = self.lock();
        kinds.retain(|_, row| row.count > 0 || now_ms < row.due_ms);
        let due = kinds.iter_mut().filter(|(_, row)| row.count > 0 && now_ms >= row.due_ms);
        due.map(|(kind, row)| {
            row.due_ms = now_ms.saturating_add(AUDIT_REFUSAL_MS);
            (kind.clone(), row.sender.clone(), std::mem::take(&mut row.count))
        })
        .collect()
    }

    /// It could not be recorded: soon again.
    fn put_back(&self, kind: Kind, sender: Sender, count: u64, now_ms: u64) {
        let mut kinds = self.lock();
        let row = kinds.entry(kind).or_insert(Counted { sender, count: 0, due_ms: 0 });
        row.count = row.count.saturating_add(count);
        row.due_ms = now_ms;
    }
}

/// Records refusals until dropped.
pub(crate) async fn report(env: &Env, raft: &RaftNode, refusals: &Refusals) {
    loop {
        // Either is a reason to look.
        let _ = tokio::time::timeout(ROUND, refusals.new.notified()).await;
        if raft.local().state.level() < Level::new(2) {
            continue;
        }
        for ((actor, act, code), sender, count) in refusals.due(env.clock.elapsed_millis()) {
            let command = RecordAct {
                act: act.clone(),
                subject: Subject::default(),
                refusal: code.as_str().to_owned(),
                count,
            };
            let request = Request {
                session: None,
                time: LogTime::ZERO,
                sender: Some(sender.clone()),
                command: Command::RecordAct(Box::new(command)),
            };
            if let Err(error) = raft.propose(request).await {
                tracing::debug!(%error, "a refusal is not recorded yet; it will be");
                let now_ms = env.clock.elapsed_millis();
                refusals.put_back((actor, act, code), sender, count, now_ms);
                tokio::time::sleep(ROUND).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto_types::{ClusterId, NodeId};

    use super::*;

    fn agent(n: u8, via: u64) -> Sender {
        let actor = Actor::Agent(ClusterId::from_bytes([n; 16]));
        Sender { actor, certificate: None, via: NodeId::new(via) }
    }

    fn counts(refusals: &Refusals, now_ms: u64) -> Vec<u64> {
        refusals.due(now_ms).into_iter().map(|(_, _, count)| count).collect()
    }

    #[test]
    fn audit_refusals_are_recorded_at_once_and_then_once_a_minute() {
        let refusals = Refusals::default();
        let note = |n| refusals.note(agent(n, 1), "get-status".to_owned(), Code::PermissionDenied);
        note(1);
        assert_eq!(counts(&refusals, 0), [1]);
        for _ in 0..100_000 {
            note(1);
        }
        assert_eq!(counts(&refusals, AUDIT_REFUSAL_MS - 1), [0; 0]);
        note(2);
        assert_eq!(counts(&refusals, AUDIT_REFUSAL_MS - 1), [1], "another party does not wait");
        assert_eq!(counts(&refusals, AUDIT_REFUSAL_MS), [100_000]);
        // What could not be recorded is not lost, and goes with what came meanwhile.
        let (kind, sender, count) = {
            note(1);
            refusals.due(2 * AUDIT_REFUSAL_MS).remove(0)
        };
        note(1);
        refusals.put_back(kind, sender, count, 2 * AUDIT_REFUSAL_MS + 1);
        assert_eq!(counts(&refusals, 2 * AUDIT_REFUSAL_MS + 1), [2]);
        // Who is quiet is forgotten.
        assert_eq!(counts(&refusals, 9 * AUDIT_REFUSAL_MS), [0; 0]);
        assert!(refusals.lock().is_empty());
        for n in 0..3000_u32 {
            refusals.note(agent(1, 1), format!("act-{n}"), Code::PermissionDenied);
        }
        assert_eq!(refusals.lock().len(), KINDS_MAX);
    }
}
