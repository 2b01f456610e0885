//! Two signed statements about keys that follow others: the fleet's recovery key names its successor,
//! and a cluster's signing key says that a new lineage is its own (design section 5).

use ed25519_dalek::{Signature, VerifyingKey};

use crate::{ClusterId, FleetId, KeyFingerprint, SigningPublicKey};

const RECOVERY_DOMAIN: &[u8] = b"strongroom recovery succession v1\0";
const LINEAGE_DOMAIN: &[u8] = b"strongroom key lineage v1\0";

/// "From now on this is the fleet's recovery key." Signed by the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoverySuccession {
    /// The fleet.
    pub fleet: FleetId,
    /// The key that is followed.
    pub former: KeyFingerprint,
    /// X25519 half of the one that follows.
    pub hpke: [u8; 32],
    /// Ed25519 half of the one that follows.
    pub signing: [u8; 32],
}

impl RecoverySuccession {
    /// What the signature covers: domain, then all fields in order.
    #[must_use]
    pub fn signing_input(&self) -> Vec<u8> {
        [RECOVERY_DOMAIN, self.fleet.as_bytes(), self.former.as_bytes(), &self.hpke, &self.signing]
            .concat()
    }

    /// Whether `signer` signed exactly this. Pure, so `apply` may ask.
    #[must_use]
    pub fn is_signed_by(&self, signer: &SigningPublicKey, signature: &[u8; 64]) -> bool {
        verify(signer, &self.signing_input(), signature)
    }
}

/// "The cluster's chain of keys begins anew, and I sign it." Signed by the key that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineageStatement {
    /// The fleet.
    pub fleet: FleetId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The lineage that begins.
    pub lineage: u32,
    /// The key that signs from here on.
    pub signing_key: SigningPublicKey,
}

impl LineageStatement {
    /// What the signature covers: domain, then all fields in order, integers little-endian.
    #[must_use]
    pub fn signing_input(&self) -> Vec<u8> {
        [
            LINEAGE_DOMAIN,
            self.fleet.as_bytes(),
            self.cluster.as_bytes(),
            &self.lineage.to_le_bytes(),
            self.signing_key.as_bytes(),
        ]
        .concat()
    }

    /// Whether `signer` signed exactly this. Pure, so `apply` may ask.
    #[must_use]
    pub fn is_signed_by(&self, signer: &SigningPublicKey, signature: &[u8; 64]) -> bool {
        verify(signer, &self.signing_input(), signature)
    }
}

fn verify(signer: &SigningPublicKey, input: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(signer.as_bytes())
        .is_ok_and(|key| key.verify_strict(input, &Signature::from_bytes(signature)).is_ok())
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    #[test]
    fn invariant_k3_successions_and_lineages_bind_every_field() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let signer = SigningPublicKey::from_bytes(key.verifying_key().to_bytes());
        let good = RecoverySuccession {
            fleet: FleetId::from_bytes([1; 16]),
            former: KeyFingerprint::from_bytes([2; 32]),
            hpke: [4; 32],
            signing: [5; 32],
        };
        let signature = key.sign(&good.signing_input()).to_bytes();
        assert!(good.is_signed_by(&signer, &signature));
        for other in [
            RecoverySuccession { fleet: FleetId::ZERO, ..good },
            RecoverySuccession { former: KeyFingerprint::ZERO, ..good },
            RecoverySuccession { hpke: [6; 32], ..good },
            RecoverySuccession { signing: [6; 32], ..good },
        ] {
            assert!(!other.is_signed_by(&signer, &signature), "{other:?}");
        }
        let good = LineageStatement {
            fleet: FleetId::from_bytes([1; 16]),
            cluster: ClusterId::from_bytes([2; 16]),
            lineage: 1,
            signing_key: signer,
        };
        let signature = key.sign(&good.signing_input()).to_bytes();
        assert!(good.is_signed_by(&signer, &signature));
        for other in [
            LineageStatement { fleet: FleetId::ZERO, ..good },
            LineageStatement { cluster: ClusterId::ZERO, ..good },
            LineageStatement { lineage: 2, ..good },
            LineageStatement { signing_key: SigningPublicKey::ZERO, ..good },
        ] {
            assert!(!other.is_signed_by(&signer, &signature), "{other:?}");
        }
    }
}
