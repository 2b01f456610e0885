//! What everybody may know of the fleet's recovery key: its public halves and, since version 2 of
//! `recovery.pub`, which shares of it were made, with a digest of each, so that a holder's share
//! can be checked alone. Opens nothing.

use proto_types::KeyFingerprint;

use crate::key_file::{
    KeyFileError, KeyFileKind, KeyFileReader, KeyFileWriter, RECOVERY_PUBLIC_KIND,
    RECOVERY_PUBLIC_SHARES_KIND,
};
use crate::share::ShareSet;
use crate::share_set::ShareDigests;

const RECOVERY_PUBLIC_FILE: KeyFileKind = KeyFileKind {
    what: "public recovery key (recovery.pub)",
    kind: RECOVERY_PUBLIC_KIND,
    comment: &[
        "strongroom recovery key, public half: backups are sealed to it. It opens nothing.",
        "Agents must be given the right one: compare its fingerprint.",
    ],
    parts: &["hpke", "signing"],
};

/// Its parts are these, one `share` line per share, and the checksum.
const RECOVERY_PUBLIC_SHARES_FILE: KeyFileKind = KeyFileKind {
    kind: RECOVERY_PUBLIC_SHARES_KIND,
    parts: &["hpke", "signing", "set", "threshold", "total"],
    ..RECOVERY_PUBLIC_FILE
};

/// The public halves of the fleet's recovery key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryPublic {
    /// X25519 public key that key bundles' content keys are sealed to.
    pub hpke: [u8; 32],
    /// Ed25519 public key that signs the recovery key's successor.
    pub signing: [u8; 32],
}

impl RecoveryPublic {
    /// Reads the text form, `recovery.pub`, of any version.
    ///
    /// # Errors
    /// When the text is empty, cut short, damaged or another key.
    pub fn from_text(text: &str) -> Result<Self, KeyFileError> {
        RecoveryPublicFile::from_text(text).map(|file| file.public)
    }
    /// The text form without shares, version 1, its fingerprint among the comments.
    #[must_use]
    pub fn to_text(&self) -> String {
        let body = RECOVERY_PUBLIC_FILE.print(&[&self.hpke, &self.signing]);
        format!("# fingerprint {}\n{}", self.fingerprint(), body.as_str())
    }
    /// What people compare, and what headers and wraps name.
    #[must_use]
    pub fn fingerprint(&self) -> KeyFingerprint {
        KeyFingerprint::of_recovery_key(&self.hpke, &self.signing)
    }
}

/// A whole `recovery.pub`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryPublicFile {
    /// The public halves.
    pub public: RecoveryPublic,
    /// The shares that were made; none are known of a key made before there were shares.
    pub shares: Option<ShareDigests>,
}

impl RecoveryPublicFile {
    /// Reads the text form of any version.
    ///
    /// # Errors
    /// When the text is empty, cut short, damaged or another key.
    pub fn from_text(text: &str) -> Result<Self, KeyFileError> {
        if !RECOVERY_PUBLIC_SHARES_FILE.is_kind_of(text) {
            let values = RECOVERY_PUBLIC_FILE.parse(text)?;
            let public = RecoveryPublic { hpke: *values[0], signing: *values[1] };
            return Ok(Self { public, shares: None });
        }
        let mut file = KeyFileReader::new(&RECOVERY_PUBLIC_SHARES_FILE, text)?;
        let mut public = RecoveryPublic { hpke: [0; 32], signing: [0; 32] };
        file.part("hpke", &mut public.hpke)?;
        file.part("signing", &mut public.signing)?;
        let (mut id, mut threshold, mut total) = ([0; 5], [0], [0]);
        file.part("set", &mut id)?;
        file.part("threshold", &mut threshold)?;
        file.part("total", &mut total)?;
        let set = ShareSet::new(id, public.fingerprint(), threshold[0], total[0])
            .ok_or_else(|| file.damaged("threshold or total"))?;
        let mut digests = vec![[0; 32]; usize::from(set.total())];
        for digest in &mut digests {
            file.part("share", digest)?;
        }
        file.finish()?;
        Ok(Self { public, shares: Some(ShareDigests::from_parts(set, digests)) })
    }

    /// The text form: version 1 without shares, else version 2.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Some(shares) = &self.shares else { return self.public.to_text() };
        let set = shares.set();
        let mut file = KeyFileWriter::new(&RECOVERY_PUBLIC_SHARES_FILE);
        file.part("hpke", &self.public.hpke);
        file.part("signing", &self.public.signing);
        file.part("set", set.id_bytes());
        file.part("threshold", &[set.threshold()]);
        file.part("total", &[set.total()]);
        for digest in shares.digests() {
            file.part("share", digest);
        }
        format!(
            "# fingerprint {}\n# {} shares, set {}, any {} of them rebuild the key\n{}",
            self.public.fingerprint(),
            set.total(),
            set.id(),
            set.threshold(),
            file.finish().as_str()
        )
    }
}
