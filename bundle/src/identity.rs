//! Whose bundle it is: what a sealer states, what a reader expects, and what may be believed of
//! a file's origin and of its being the newest. Pure; pins and known heads are the caller's.

use proto_types::{
    BundleId, BundleKind, ClearHeader, ClusterId, Epoch, FleetId, HeaderError, KeyFingerprint,
    LogTime, Sequence, SignedHeader, SigningPublicKey,
};

use crate::OpenError;

/// For whom and when a bundle is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The fleet.
    pub fleet: FleetId,
    /// The cluster.
    pub cluster: ClusterId,
    /// How often the chain of keys was begun anew; must be the keyring's.
    pub lineage: u32,
    /// The recovery point, from 1.
    pub sequence: Sequence,
    /// The agent's epoch.
    pub epoch: Epoch,
    /// The agent's clock.
    pub created: LogTime,
}

/// What a reader knows of the file it was given. What is `None` is not compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expect {
    /// The kind it must be of.
    pub kind: Option<BundleKind>,
    /// The fleet it must be sealed for.
    pub fleet: Option<FleetId>,
    /// The cluster it must be sealed for.
    pub cluster: Option<ClusterId>,
    /// The recovery point it must be sealed for.
    pub sequence: Option<Sequence>,
    /// The id its bytes must have.
    pub id: Option<BundleId>,
    /// The cluster's pinned signing key; without it the origin is unproven.
    pub signer: Option<SigningPublicKey>,
}

impl Expect {
    /// Nothing is known: integrity is checked, the origin is unproven.
    #[must_use]
    pub fn anything() -> Self {
        Self::default()
    }
    /// A file of this cluster.
    #[must_use]
    pub fn of(fleet: FleetId, cluster: ClusterId) -> Self {
        Self { fleet: Some(fleet), cluster: Some(cluster), ..Self::default() }
    }
    /// And signed by this key.
    #[must_use]
    pub fn signed_by(self, signer: SigningPublicKey) -> Self {
        Self { signer: Some(signer), ..self }
    }
    /// And sealed for this recovery point.
    #[must_use]
    pub fn at(self, sequence: Sequence) -> Self {
        Self { sequence: Some(sequence), ..self }
    }
    /// And with exactly these bytes.
    #[must_use]
    pub fn with_id(self, id: BundleId) -> Self {
        Self { id: Some(id), ..self }
    }
    /// And of this kind. The functions that open one kind set it themselves.
    #[must_use]
    pub fn of_kind(self, kind: BundleKind) -> Self {
        Self { kind: Some(kind), ..self }
    }

    /// Compares a header and verifies its signature; the id is compared where the bytes are.
    ///
    /// # Errors
    /// Which expectation the header does not meet: kind, fleet, cluster, signer, sequence.
    pub fn check(&self, signed: &SignedHeader) -> Result<Origin, OpenError> {
        let header = signed.header();
        // First whether the header is as its signer made it: what a damaged one names must not
        // be called another cluster's, or a rollback.
        signed.verify(&header.signer)?;
        self.check_names(header)?;
        let origin = match self.signer {
            Some(signer) => {
                signed.verify(&signer)?;
                Origin::Proven
            }
            None => Origin::Unproven(header.signer.fingerprint()),
        };
        match self.sequence {
            Some(expected) if expected != header.sequence => {
                Err(OpenError::WrongSequence { expected, found: header.sequence })
            }
            _ => Ok(origin),
        }
    }

    fn check_names(&self, header: &ClearHeader) -> Result<(), OpenError> {
        if let Some(expected) = self.kind.filter(|kind| *kind != header.kind) {
            return Err(OpenError::WrongKind { expected, found: header.kind });
        }
        if let Some(expected) = self.fleet.filter(|fleet| *fleet != header.fleet) {
            return Err(OpenError::WrongFleet { expected, found: header.fleet });
        }
        if let Some(expected) = self.cluster.filter(|cluster| *cluster != header.cluster) {
            return Err(OpenError::WrongCluster { expected, found: header.cluster });
        }
        Ok(())
    }
}

/// Whether it is known who made a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Signed by the pinned key.
    Proven,
    /// Signed by this key, which nobody pinned: to be printed and compared by a person.
    Unproven(KeyFingerprint),
}

/// Whether it is known that no newer state exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Not older than a head seen before.
    Proven,
    /// No head was seen before, so there is nothing to compare with.
    Unproven,
}

/// Compares a manifest that was offered as the newest with the newest one seen before.
///
/// # Errors
/// [`OpenError::Rollback`] when it is older, [`OpenError::Forked`] when it is another manifest of
/// the same point.
pub fn check_freshness(
    known_head: Option<(Sequence, BundleId)>,
    offered: (Sequence, BundleId),
) -> Result<Freshness, OpenError> {
    let Some((sequence, manifest)) = known_head else {
        return Ok(Freshness::Unproven);
    };
    if offered.0 < sequence {
        return Err(OpenError::Rollback { known: sequence, offered: offered.0 });
    }
    if offered.0 == sequence && offered.1 != manifest {
        return Err(OpenError::Forked { sequence, known: manifest, offered: offered.1 });
    }
    Ok(Freshness::Proven)
}

/// The header of a file to be sealed, its body's part still empty.
pub(crate) fn blank_header(
    kind: BundleKind,
    identity: &Identity,
    signer: SigningPublicKey,
) -> ClearHeader {
    ClearHeader {
        kind,
        suite: proto_types::SUITE_AES256GCM_HKDF_SHA256,
        fleet: identity.fleet,
        cluster: identity.cluster,
        lineage: identity.lineage,
        sequence: identity.sequence,
        epoch: identity.epoch,
        created: identity.created,
        body_bytes: 0,
        blob_count: 0,
        body_sha256: [0; 32],
        signer,
        predecessor: BundleId::ZERO,
        base: BundleId::ZERO,
        recovery_key: KeyFingerprint::ZERO,
        kek_generation: proto_types::Generation::default(),
        dek_ids: Vec::new(),
    }
}

/// Shorthand for a header field that holds what no writer writes.
pub(crate) fn bad_field(field: &'static str) -> OpenError {
    OpenError::Header(HeaderError::Field { field })
}
