//! The audit log on this node: its closed segments as files (`book`), bringing what is missing or
//! damaged from a peer (`keep`), and refusals before they are in the log (`refusals`). What is
//! recorded is decided in `coordinator_core`.
//!
//! Who acts is found out once, where a request is authenticated, and goes with it to the log by
//! itself (`Asked`): no handler can forget it.

mod book;
mod keep;
mod recent;
mod refusals;

use std::cell::RefCell;

use proto_types::Code;

/// Entries as programs that check an export need them.
pub use coordinator_core::codec::encode_audit_entry;
pub use coordinator_core::{Actor, AuditEntry, AuditHead, OperatorRole, Sender, Subject};

pub(crate) use book::{Book, Hashed, PER_SEGMENT, Problem, hashed, last};
pub(crate) use keep::keep;
pub(crate) use recent::Recent;
pub(crate) use refusals::{Refusals, report};

tokio::task_local! {
    static ASKED: RefCell<Asked>;
}

/// What is known of the request that a task works on.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    sender: Option<Sender>,
    is_recorded: bool,
}

impl Asked {
    /// Does a request's work; gives its result and what became known of the request.
    pub(crate) async fn scope<T>(work: impl Future<Output = T>) -> (T, Self) {
        ASKED
            .scope(RefCell::default(), async {
                let done = work.await;
                let asked = ASKED.with(RefCell::take);
                (done, asked)
            })
            .await
    }

    /// Notes who asks. Outside a request nobody does.
    pub(crate) fn by(sender: Sender) {
        let _ = ASKED.try_with(|asked| asked.borrow_mut().sender = Some(sender));
    }

    /// Who asks; `None` where the coordinator acts by itself.
    pub(crate) fn sender() -> Option<Sender> {
        ASKED.try_with(|asked| asked.borrow().sender.clone()).ok().flatten()
    }

    /// Notes that the refusal is in the log already, or is none of the log's business.
    pub(crate) fn recorded() {
        let _ = ASKED.try_with(|asked| asked.borrow_mut().is_recorded = true);
    }

    /// Whether somebody is known to have asked.
    pub(crate) const fn is_known(&self) -> bool {
        self.sender.is_some()
    }

    /// Who was refused, if that has yet to be recorded.
    pub(crate) fn unrecorded(self) -> Option<Sender> {
        self.sender.filter(|_| !self.is_recorded)
    }
}

/// Whether an error is a refusal, and not that something failed, is away for a moment, or is not
/// there.
pub(crate) const fn is_refusal(code: Code) -> bool {
    match code {
        Code::Internal
        | Code::LocalIo
        | Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Busy
        | Code::AddressInUse
        | Code::BundleNotDurable
        | Code::ClusterNotFound
        | Code::PointNotFound
        | Code::BundleNotFound
        | Code::NothingMatches
        | Code::NoSpace
        | Code::UploadFirst => false,
        Code::InvalidArgument
        | Code::InvalidConfig
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::WrongFleet
        | Code::StaleEpoch
        | Code::StaleHead
        | Code::LeaseGone
        | Code::SessionExpired
        | Code::KeyBundleIncomplete
        | Code::LevelTooLow
        | Code::TimeFrozen
        | Code::DigestMismatch
        | Code::TooLarge
        | Code::AlreadyExists
        | Code::Damaged
        | Code::UnsupportedVersion
        | Code::BadSignature
        | Code::WrongCluster
        | Code::Rollback
        | Code::NotEqual
        | Code::WrongKey
        | Code::KeyMissing
        | Code::KeyTooShort
        | Code::Conflict
        | Code::ResourceExhausted
        | Code::LimitReached => true,
    }
}

/// The word of a method: `OpenUpload` is `open-upload`.
pub(crate) fn word_of(method: &str) -> String {
    let mut word = String::with_capacity(method.len() + 4);
    for c in method.chars() {
        if c.is_ascii_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.push(c.to_ascii_lowercase());
    }
    word
}

#[cfg(test)]
mod tests {
    use coordinator_core::{Actor, OperatorRole};
    use proto_types::NodeId;

    use super::*;

    fn ann() -> Sender {
        let actor = Actor::Operator { name: "ann".to_owned(), role: OperatorRole::Admin };
        Sender { actor, certificate: None, via: NodeId::new(1) }
    }

    #[test]
    fn words_of_methods_are_words_of_acts() {
        for (method, word) in [
            ("GetStatus", "get-status"),
            ("Begin", "begin"),
            ("OpenAgentSession", "open-agent-session"),
        ] {
            assert_eq!(word_of(method), word);
        }
    }

    #[tokio::test]
    async fn who_asks_is_known_within_the_request_and_nowhere_else() {
        Asked::by(ann());
        assert_eq!(Asked::sender(), None);
        let (seen, asked) = Asked::scope(async {
            assert_eq!(Asked::sender(), None);
            Asked::by(ann());
            tokio::task::yield_now().await;
            // What the coordinator begins by itself is its own.
            let other = tokio::spawn(async { Asked::sender() }).await.unwrap();
            assert_eq!(other, None);
            Asked::sender()
        })
        .await;
        assert_eq!((seen, asked.is_known()), (Some(ann()), true));
        assert_eq!(asked.unrecorded(), Some(ann()));
        let (_, asked) = Asked::scope(async {
            Asked::by(ann());
            Asked::recorded();
        })
        .await;
        assert_eq!(asked.unrecorded(), None);
    }
}
