//! The signed statement by which an agent commits a point equal to its predecessor, without a
//! file (design section 5, "Unchanged").

use ed25519_dalek::{Signature, VerifyingKey};

use crate::{BundleId, ClusterId, Epoch, FleetId, LogTime, Sequence, SigningPublicKey};

const SIGNING_DOMAIN: &[u8] = b"strongroom point statement v1\0";

/// "At this time the cluster still equals that manifest."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointStatement {
    /// The fleet.
    pub fleet: FleetId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The lineage of keys.
    pub lineage: u32,
    /// The new point.
    pub sequence: Sequence,
    /// The agent's epoch.
    pub epoch: Epoch,
    /// When the agent looked, by its clock.
    pub taken: LogTime,
    /// The manifest that still holds.
    pub manifest: BundleId,
    /// The key bundle that still opens it.
    pub key_bundle: BundleId,
}

impl PointStatement {
    /// What the signature covers: domain, then all fields in order, integers little-endian.
    #[must_use]
    pub fn signing_input(&self) -> Vec<u8> {
        [
            SIGNING_DOMAIN,
            self.fleet.as_bytes(),
            self.cluster.as_bytes(),
            &self.lineage.to_le_bytes(),
            &self.sequence.get().to_le_bytes(),
            &self.epoch.get().to_le_bytes(),
            &self.taken.as_millis().to_le_bytes(),
            self.manifest.as_bytes(),
            self.key_bundle.as_bytes(),
        ]
        .concat()
    }

    /// Whether `signer` signed exactly this. Pure, so `apply` may ask.
    #[must_use]
    pub fn is_signed_by(&self, signer: &SigningPublicKey, signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(signer.as_bytes()).is_ok_and(|key| {
            key.verify_strict(&self.signing_input(), &Signature::from_bytes(signature)).is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    #[test]
    fn invariant_k3_a_statement_binds_every_field() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let signer = SigningPublicKey::from_bytes(key.verifying_key().to_bytes());
        let good = PointStatement {
            fleet: FleetId::from_bytes([1; 16]),
            cluster: ClusterId::from_bytes([2; 16]),
            lineage: 0,
            sequence: Sequence::new(2),
            epoch: Epoch::new(1),
            taken: LogTime::from_millis(5),
            manifest: BundleId::from_bytes([4; 32]),
            key_bundle: BundleId::from_bytes([5; 32]),
        };
        let signature = key.sign(&good.signing_input()).to_bytes();
        assert!(good.is_signed_by(&signer, &signature));
        for other in [
            PointStatement { fleet: FleetId::ZERO, ..good },
            PointStatement { cluster: ClusterId::ZERO, ..good },
            PointStatement { lineage: 1, ..good },
            PointStatement { sequence: Sequence::new(3), ..good },
            PointStatement { epoch: Epoch::new(2), ..good },
            PointStatement { taken: LogTime::from_millis(6), ..good },
            PointStatement { manifest: BundleId::ZERO, ..good },
            PointStatement { key_bundle: BundleId::ZERO, ..good },
        ] {
            assert!(!other.is_signed_by(&signer, &signature), "{other:?}");
        }
    }
}
