//! What a coordinator and whoever makes a join token must compute alike.

use sha2::{Digest, Sha256};

use crate::FleetId;

const DOMAIN: &[u8] = b"strongroom join token v1\0";
const ENROL_DOMAIN: &[u8] = b"strongroom enrolment token v1\0";

/// What the fleet keeps of a join token: SHA-256 over a domain, the fleet's id and the secret.
#[must_use]
pub fn join_token_hash(fleet: FleetId, secret: &[u8; 32]) -> [u8; 32] {
    Sha256::digest([DOMAIN, fleet.as_bytes(), secret].concat()).into()
}

/// What the fleet keeps of an enrolment token: as of a join token, under a domain of its own.
#[must_use]
pub fn enrol_token_hash(fleet: FleetId, secret: &[u8; 32]) -> [u8; 32] {
    Sha256::digest([ENROL_DOMAIN, fleet.as_bytes(), secret].concat()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_token_hashes_are_of_one_fleet_and_never_change() {
        let hash = join_token_hash(FleetId::from_bytes([7; 16]), &[9; 32]);
        assert_eq!(
            hex::encode(hash),
            "0c140efb664c8d514375eba9618527b63b1f6490456e6ffbdd1224db9cff8d85"
        );
        assert_ne!(hash, join_token_hash(FleetId::from_bytes([8; 16]), &[9; 32]));
        let hash = enrol_token_hash(FleetId::from_bytes([7; 16]), &[9; 32]);
        assert_eq!(
            hex::encode(hash),
            "75d9065d82b5ed7ae5a26312b33fe9504b2e024a407c938db40f5752cc957fc1"
        );
        assert_ne!(hash, enrol_token_hash(FleetId::from_bytes([8; 16]), &[9; 32]));
    }
}
