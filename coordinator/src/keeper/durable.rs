//! What a failed write means (invariant R3): after a failed write or fsync nobody knows what is on
//! the disk, and a second attempt may succeed on data the kernel has dropped. So the node ends. A
//! full disk is no such failure under the bundles, where nothing was promised yet: it is refused.

use std::io;

use proto::ApiError;
use proto_types::Code;
use storage::bundles::BundleError;
use storage::disk::is_no_space;
use storage::ledger::LedgerError;

use super::CarriedError;
use super::{Inner, Keeper, chain, store_error};

/// `ENFILE` and `EMFILE`: no more files can be opened. Nothing was written and nothing is lost.
const NO_FILES: [i32; 2] = [23, 24];
/// `EIO`, `EBADMSG` and `EUCLEAN`: what a read of a bad sector comes back with.
const BAD_MEDIUM: [i32; 3] = [5, 74, 117];

fn is_one_of(error: &io::Error, numbers: &[i32]) -> bool {
    error.raw_os_error().is_some_and(|number| numbers.contains(&number))
}

/// Whether a failed write leaves the disk in a state that nobody knows.
pub(super) fn is_fatal(error: &BundleError) -> bool {
    match error {
        BundleError::Io { source, .. } => !is_no_space(source) && !is_one_of(source, &NO_FILES),
        _ => false,
    }
}

/// Whether a read says that the copy is bad: other bytes, or a medium that does not give them.
pub(super) fn is_damage(error: &BundleError) -> bool {
    match error {
        BundleError::Damaged { .. } => true,
        BundleError::Io { source, .. } => {
            is_one_of(source, &BAD_MEDIUM) || source.kind() == io::ErrorKind::UnexpectedEof
        }
        _ => false,
    }
}

impl Inner {
    /// The result of a write to the bundles, as its caller may hear it.
    pub(super) fn wrote<T>(&self, result: Result<T, BundleError>) -> Result<T, ApiError> {
        result.map_err(
            |error| {
                if is_fatal(&error) { self.fail(chain(&error)) } else { refused(error) }
            },
        )
    }

    /// The result of any use of the ledger. It is rebuilt when the node starts again, so an error
    /// is worth the start.
    pub(super) fn noted<T>(&self, result: Result<T, LedgerError>) -> Result<T, ApiError> {
        result.map_err(|error| self.fail(chain(&error)))
    }

    /// The result of bringing to stable storage what came by the log.
    pub(super) fn carried<T>(&self, result: Result<T, CarriedError>) -> Result<T, ApiError> {
        result.map_err(|error| self.fail(chain(&error)))
    }

    /// Has the node end; whoever asked may ask another.
    fn fail(&self, reason: String) -> ApiError {
        let error = ended(&reason);
        self.fatal.send_if_modified(|fatal| {
            let is_first = fatal.is_none();
            fatal.get_or_insert(reason);
            is_first
        });
        error
    }

    /// Refuses once a durable path has failed: nothing may be acknowledged any more.
    pub(super) fn alive(&self) -> Result<(), ApiError> {
        self.fatal.borrow().as_ref().map_or(Ok(()), |reason| Err(ended(reason)))
    }
}

impl Keeper {
    /// Resolves with the reason when a durable path has failed: the node must end (R3).
    pub(crate) async fn failed(&self) -> String {
        let mut fatal = self.inner.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the keeper has ended".to_owned(),
        }
    }
}

fn ended(reason: &str) -> ApiError {
    ApiError::new(
        Code::Unavailable,
        format!("this coordinator ends, because its disk failed ({reason}); ask another"),
    )
}

/// Two writers met, which a cancelled request's late end can bring about: to be sent again.
fn refused(error: BundleError) -> ApiError {
    match error {
        BundleError::NotBegun { .. } | BundleError::WrongOffset { .. } => {
            ApiError::new(Code::Unavailable, chain(&error))
        }
        error => store_error(error),
    }
}

#[cfg(test)]
mod tests {
    use proto_types::BundleId;

    use super::*;

    fn io_error(number: i32) -> BundleError {
        let source = io::Error::from_raw_os_error(number);
        BundleError::Io { action: "sync", path: "x".into(), source }
    }

    #[test]
    fn only_a_failed_write_ends_the_node() {
        assert!(is_fatal(&io_error(5)), "EIO");
        assert!(is_fatal(&io_error(30)), "EROFS");
        assert!(!is_fatal(&io_error(28)), "ENOSPC is refused");
        assert!(!is_fatal(&io_error(122)), "EDQUOT is refused");
        assert!(!is_fatal(&io_error(24)), "EMFILE passes");
        let id = BundleId::ZERO;
        assert!(!is_fatal(&BundleError::NoSpace { id, free_bytes: 0, reserve_bytes: 1 }));
        assert!(!is_fatal(&BundleError::WrongDigest { id, found: id }));
    }

    #[test]
    fn a_bad_sector_is_damage_and_too_many_open_files_are_not() {
        assert!(is_damage(&io_error(5)));
        assert!(!is_damage(&io_error(24)));
        assert!(is_damage(&BundleError::Damaged { id: BundleId::ZERO, found: BundleId::ZERO }));
    }

    #[test]
    fn writers_that_met_are_told_to_come_again() {
        let error = refused(BundleError::WrongOffset { id: BundleId::ZERO, have: 1, offset: 2 });
        assert!(error.is_retryable());
    }
}
