//! From sources to an acknowledged recovery point (design section 3, "The way of a backup"):
//! list, compare with what was last sent, read and seal what changed, prove that the keys are
//! complete (invariant B4), upload, commit. Whatever ends it early leaves nothing that counts.

mod assemble;
mod commit;
mod decide;
mod engine;
mod files;
mod findings;
mod hints;
mod keys;
mod lost_keys;
mod notebook;
mod previous;
mod renew;
mod run;
pub(crate) mod seal;

use proto::ApiError;
use proto::env::BlockingPanicked;
use proto_types::{Code, KeyFingerprint};

use bundle::{ManifestError, OpenError, SealError};

use crate::heads::HeadsError;
use crate::home::HomeError;
use crate::point_store::StoreError;
use crate::sources::SourceError;

pub(crate) use engine::Mirrors;
pub use engine::{BackupRequest, Engine, EngineStatus};

/// Why a backup did not end in an acknowledged point.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The agent's directory or keys.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A source is out of reach.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Sealing failed.
    #[error("cannot seal: {0}")]
    Seal(#[from] SealError),
    /// What was noted of the newest point.
    #[error(transparent)]
    Heads(#[from] HeadsError),
    /// What the fleet holds of the point before cannot be opened or believed.
    #[error("{what}: {source}")]
    Open {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        #[source]
        source: Box<OpenError>,
    },
    /// Manifests do not fit together.
    #[error("the last point's manifest and its base do not fit together: {0}")]
    Manifest(#[from] ManifestError),
    /// The fleet did not answer, or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Bytes of the point before could not be read.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// Key files of unreasonable size.
    #[error(
        "the files that match `keys` hold more than {limit} bytes: narrow the patterns to what \
         is secret"
    )]
    SecretsTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The certificate is another cluster's.
    #[error(
        "this agent's certificate is of cluster {found}, its config says {expected}: use the \
         certificate that belongs to it, or correct `cluster`"
    )]
    OtherCluster {
        /// Name in the config.
        expected: String,
        /// Name in the fleet.
        found: String,
    },
    /// Registered with another key.
    #[error(
        "the cluster is registered with signing key {registered}, this agent's is {ours}: \
         restore signing.key from your copy, or register the new one"
    )]
    OtherSigningKey {
        /// Fingerprint in the fleet.
        registered: KeyFingerprint,
        /// Fingerprint of `signing.key`.
        ours: KeyFingerprint,
    },
    /// The fleet's recovery key is not the pinned one.
    #[error(
        "the fleet's recovery key is {found}, this agent pins {pinned}: nothing is sealed to a \
         key that was not approved; compare both with `recovery.pub`"
    )]
    OtherRecoveryKey {
        /// Fingerprint of `recovery.pub`.
        pinned: KeyFingerprint,
        /// Fingerprint of what the fleet says.
        found: KeyFingerprint,
    },
    /// Somebody changed the store secret while a backup was made.
    #[error("strongroom-store-secret was changed during the backup: nothing was committed")]
    KekChanged,
    /// The fleet's answer makes no sense.
    #[error("the fleet's answer lacks {0}")]
    Answer(&'static str),
    /// The agent is being stopped.
    #[error("the backup was interrupted because the agent stops; nothing was committed")]
    Interrupted,
    /// A bug.
    #[error(transparent)]
    Panicked(#[from] BlockingPanicked),
    /// A bug: a blob was sealed and its place is not known.
    #[error("a piece of an item was lost between reading and sealing: this is a bug")]
    Lost,
}

impl BackupError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Home(error) => error.code(),
            Self::Source(error) => error.code(),
            Self::Seal(error) => error.code(),
            Self::Heads(error) => error.code(),
            Self::Open { source, .. } => source.code(),
            Self::Manifest(_) => Code::Damaged,
            Self::Api(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::SecretsTooLarge { .. } => Code::TooLarge,
            Self::OtherCluster { .. } => Code::InvalidConfig,
            Self::OtherSigningKey { .. } | Self::OtherRecoveryKey { .. } => Code::WrongKey,
            Self::Interrupted => Code::Unavailable,
            Self::KekChanged => Code::Busy,
            Self::Answer(_) | Self::Panicked(_) | Self::Lost => Code::Internal,
        }
    }
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

fn opening(what: &'static str) -> impl FnOnce(OpenError) -> BackupError {
    move |source| BackupError::Open { what, source: Box::new(source) }
}
