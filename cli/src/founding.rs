//! Founds a fleet: what it is (its id, its certificate authority, whose root is sealed to the
//! recovery key), and the files of its first coordinator and first operator. The first part may
//! also come from a snapshot.

use std::path::{Path, PathBuf};

use bundle::{RecoveryPublic, RecoverySecret, open_authority, seal_authority};
use proto::authority::{PrivateKey, Root, Term, certificate_pem};
use proto::env::Env;
use proto::identity::{Identity, Party, Role};
use proto_types::{FleetId, NodeId};

use crate::coordinator_files::{CONFIG, CoordinatorFiles};
use crate::error::{CliError, Result};
use crate::operator_files::OperatorFiles;
use crate::staging::Staging;

/// Directory of the first operator's files, beside the coordinator's config.
pub const OPERATOR: &str = "operator";

/// What makes a fleet itself. The root's private key is in memory only, to sign an intermediate.
pub struct FleetSeed {
    /// Its id.
    pub id: FleetId,
    /// What people call it.
    pub name: String,
    /// The public halves of its recovery key.
    pub recovery: RecoveryPublic,
    /// Its root authority.
    root: Root,
    /// The root's private key, sealed to the recovery key.
    sealed: Vec<u8>,
}

impl FleetSeed {
    /// A new fleet: draws its id and its authority.
    ///
    /// # Errors
    /// When the recovery key cannot be sealed to.
    pub fn draw(name: &str, recovery: RecoveryPublic, env: &Env) -> Result<Self> {
        let id = FleetId::random(&*env.random);
        let root = Root::create(id, env.clock.now(), &*env.random)?;
        let key = root.key().as_der();
        let sealed = seal_authority(key, id, root.certificate(), &recovery, &*env.random)
            .map_err(|error| CliError::new(error.code(), error.to_string()))?;
        Ok(Self { id, name: name.to_owned(), recovery, root, sealed })
    }

    /// A fleet whose authority is known from its state, as a snapshot holds it: the root's
    /// certificate (DER) and its private key, sealed to the recovery key at hand.
    ///
    /// # Errors
    /// When the key does not open, or is not that of the certificate.
    pub fn reopen(
        id: FleetId,
        name: &str,
        root_certificate: &[u8],
        sealed_root_key: &[u8],
        recovery: &RecoverySecret,
    ) -> Result<Self> {
        let key = open_authority(sealed_root_key, id, root_certificate, recovery)
            .map_err(|error| CliError::new(error.code(), error.to_string()))?;
        let root = Root::reopen(root_certificate, &key)?;
        let recovery = recovery.public();
        Ok(Self { id, name: name.to_owned(), recovery, root, sealed: sealed_root_key.to_vec() })
    }
}

/// The first coordinator of a fleet, as a person describes it.
#[derive(Debug)]
pub struct FirstNode {
    /// Its id: 1 of a new fleet.
    pub id: u64,
    /// What people call it.
    pub name: String,
    /// `host:port` for gRPC.
    pub listen: String,
    /// `host:port` as others reach it.
    pub address: String,
    /// `host:port` for `/metrics`.
    pub metrics_listen: Option<String>,
    /// Where it keeps everything; beside its config if absent.
    pub data_dir: Option<PathBuf>,
    /// Name of the first operator, whose role is admin.
    pub operator: String,
}

/// Writes the directory of a fleet's first coordinator, with its first operator's in it: whole or
/// not at all.
///
/// # Errors
/// `ALREADY_EXISTS` when something is there; otherwise when a file cannot be made.
pub fn found(seed: &FleetSeed, node: &FirstNode, directory: &Path, env: &Env) -> Result<()> {
    let staging = Staging::begin(directory, CONFIG)?;
    let (now, random) = (env.clock.now(), &*env.random);
    let intermediate = seed.root.intermediate(seed.id, now, random)?;
    let root = certificate_pem(seed.root.certificate());

    let admin = Party::Operator { name: node.operator.clone(), role: Role::Admin };
    let key = PrivateKey::generate()?;
    let identity = Identity { fleet: seed.id, party: admin };
    let term = Term::first(&identity.party);
    let certificate = intermediate.certify(&identity, &key, &term, now, random)?;
    OperatorFiles {
        coordinators: vec![node.address.clone()],
        root: &root,
        certificate: &certificate.chain,
        key: &key.to_pem(),
        recovery: seed.recovery,
    }
    .write(&staging.path().join(OPERATOR))?;

    let key = PrivateKey::generate()?;
    let party = Party::Coordinator(NodeId::new(node.id));
    let identity = Identity { fleet: seed.id, party };
    let term = Term::first(&identity.party);
    let certificate = intermediate.certify(&identity, &key, &term, now, random)?;
    CoordinatorFiles {
        node_id: node.id,
        name: &node.name,
        data_dir: node.data_dir.as_deref(),
        listen: &node.listen,
        metrics_listen: node.metrics_listen.as_deref(),
        join: false,
        fleet: seed.id,
        fleet_name: &seed.name,
        recovery: seed.recovery,
        members: vec![(node.id, node.name.clone(), node.address.clone())],
        root: &root,
        certificate: &certificate.chain,
        key: Some(&key.to_pem()),
        authority: intermediate.chain(),
        authority_key: &intermediate.key().to_pem(),
        sealed: Some(&seed.sealed),
    }
    .write(staging.path())?;
    staging.finish()
}
