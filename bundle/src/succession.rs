//! Keys that follow others: how a recovery key names its successor, and how whoever pinned one finds
//! the newest without believing a coordinator (invariant K3).

use proto_types::{FleetId, LineageStatement, RecoverySuccession, SigningPublicKey};

use crate::keys::{RecoverySecret, SigningKey};
use crate::recovery_public::RecoveryPublic;

/// A recovery key that another one followed, as coordinators tell of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormerRecovery {
    /// Its public halves.
    pub key: RecoveryPublic,
    /// Its signature over the succession.
    pub signature: [u8; 64],
}

fn succession(
    fleet: FleetId,
    former: &RecoveryPublic,
    next: &RecoveryPublic,
) -> RecoverySuccession {
    RecoverySuccession {
        fleet,
        former: former.fingerprint(),
        hpke: next.hpke,
        signing: next.signing,
    }
}

impl RecoverySecret {
    /// Signs that `next` follows this key in this fleet.
    #[must_use]
    pub fn sign_successor(&self, fleet: FleetId, next: &RecoveryPublic) -> [u8; 64] {
        let statement = succession(fleet, &self.public(), next);
        self.signing_key().sign_raw(&statement.signing_input())
    }
}

impl SigningKey {
    /// Signs that a lineage is this key's.
    #[must_use]
    pub fn sign_lineage(&self, statement: &LineageStatement) -> [u8; 64] {
        self.sign_raw(&statement.signing_input())
    }
}

impl RecoveryPublic {
    /// Whether the way from this pinned key to `newest`, over the keys that came before it, oldest
    /// first, is signed at every step. A key leads to itself without any.
    #[must_use]
    pub fn leads_to(&self, fleet: FleetId, former: &[FormerRecovery], newest: &Self) -> bool {
        if self == newest {
            return true;
        }
        let Some(start) = former.iter().position(|step| step.key == *self) else { return false };
        let steps = &former[start..];
        let nexts = steps.iter().skip(1).map(|step| &step.key).chain([newest]);
        steps.iter().zip(nexts).all(|(step, next)| {
            let signer = SigningPublicKey::from_bytes(step.key.signing);
            succession(fleet, &step.key, next).is_signed_by(&signer, &step.signature)
        })
    }
}
