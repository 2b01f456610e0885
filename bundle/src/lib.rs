//! The sealed format of strongroom, version 1: sealing, signing, verifying and opening bundle
//! files. The only package that can open one. No I/O: it works on readers, writers and slices
//! that are handed in, with the clock's time and the randomness that are handed in. The layout
//! is written to the byte in `docs/formats.md`.
//!
//! A recovery point is four files: a config bundle with the items' blobs ([`ConfigSealer`],
//! [`BlobOpener`]), a manifest that lists them ([`seal_manifest`], [`open_manifest`]), a key
//! bundle with the keys and the sources' secrets ([`seal_key_bundle`], [`open_key_bundle`]), and
//! its wraps ([`seal_wraps`], [`open_wraps_with_kek`], [`open_wraps_with_recovery`]).
//!
//! The recovery key is kept as shares ([`RecoverySecret::split`], [`RecoverySecret::from_shares`],
//! [`RecoveryShare`]); what may be known of them is in `recovery.pub` ([`RecoveryPublicFile`]).

mod authority;
mod blob;
mod config;
mod encoding;
mod error;
mod file;
#[cfg(test)]
mod fuzz_tests;
mod identity;
mod key_bundle;
mod key_file;
mod keyring;
mod keyring_wire;
mod keys;
mod manifest;
mod manifest_file;
mod manifest_merge;
mod manifest_wire;
mod record;
mod recovery_public;
mod secret;
mod share;
mod share_set;
mod succession;
mod verify;
mod wraps;

pub use authority::{
    AuthorityError, AuthorityNames, MAX_AUTHORITY_KEY_BYTES, open_authority, read_authority_names,
    seal_authority,
};
pub use blob::{BlobId, BlobOpener, BlobRef, BlobSealer, PlainBlob, SealedBlob};
pub use config::ConfigSealer;
pub use encoding::Encoding;
pub use error::{OpenError, SealError};
pub use file::SealedBundle;
pub use identity::{Expect, Freshness, Identity, Origin, check_freshness};
pub use key_bundle::{
    KeyBundle, KeyNeeds, Secrets, check_key_bundle, open_key_bundle, seal_key_bundle,
};
pub use key_file::{KeyFileError, MAX_KEY_FILE_BYTES};
pub use keyring::{DEK_LIFETIME_MILLIS, Keyring};
pub use keys::{ContentKey, Kek, RecoverySecret, SigningKey};
pub use manifest::{
    FileTime, Form, Item, ItemKey, ItemKind, Location, MAX_SOURCE_BYTES, Manifest, ManifestError,
    Piece, Proof, ProofState, Totals, Xattr,
};
pub use manifest_file::{OpenedManifest, open_manifest, seal_manifest};
pub use manifest_merge::{Change, Diff, delta, diff, merge};
pub use record::MAX_BLOB_BYTES;
pub use recovery_public::{RecoveryPublic, RecoveryPublicFile};
pub use share::{MAX_SHARES, MIN_THRESHOLD, RecoveryShare, ShareError, ShareSet};
pub use share_set::{AttestError, CombineError, ShareDigests, SplitError, check_next};
pub use succession::FormerRecovery;
pub use verify::{Verified, read_header, verify_bytes, verify_file};
pub use wraps::{
    OpenedWraps, WrapNames, open_wraps_with_kek, open_wraps_with_recovery, read_wrap_names,
    seal_wraps,
};

/// A bundle is sealed under the keyring of its own lineage.
fn check_lineage(keyring: &Keyring, identity: &Identity) -> Result<(), SealError> {
    if keyring.lineage() == identity.lineage {
        return Ok(());
    }
    Err(SealError::Lineage { keyring: keyring.lineage(), identity: identity.lineage })
}
