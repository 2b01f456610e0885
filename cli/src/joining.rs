//! Joins a fleet with a one-time token: trusts only the root that the token pins, has a key of its
//! own certified, and writes the coordinator's directory. The key is on disk before the token is
//! used, so that a lost answer can be asked for again.

use std::path::{Path, PathBuf};

use bundle::RecoveryPublic;
use proto::authority::{
    Intermediate, PrivateKey, certificate_digest, certificate_pem, certificates_of,
};
use proto::env::Env;
use proto::fleet_client::{FleetClient, RetryPolicy};
use proto::identity::{Identity, Party};
use proto::tls::{ClientTls, TlsFiles};
use proto::v1;
use proto_types::{Code, NodeId};

use crate::coordinator_files::{CONFIG, CoordinatorFiles, NODE_KEY, TLS};
use crate::error::{CliError, Result};
use crate::join_token::JoinToken;
use crate::private_file;
use crate::staging::Staging;

/// What a person says of a coordinator that joins; the rest is in the token.
#[derive(Debug)]
pub struct Newcomer {
    /// `host:port` for gRPC.
    pub listen: String,
    /// `host:port` as others reach it, to be compared with the token's.
    pub address: Option<String>,
    /// `host:port` for `/metrics`.
    pub metrics_listen: Option<String>,
    /// Where it keeps everything; beside its config if absent.
    pub data_dir: Option<PathBuf>,
}

/// What it became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Its id.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// `host:port` as others reach it.
    pub address: String,
    /// The fleet's name.
    pub fleet: String,
}

/// Joins, and writes `directory`.
///
/// # Errors
/// What the fleet refuses; `WRONG_FLEET` when whoever answers is not of the token's fleet;
/// `ALREADY_EXISTS` when something is there.
pub async fn join(
    token: &JoinToken,
    newcomer: &Newcomer,
    directory: &Path,
    env: &Env,
) -> Result<Joined> {
    let staging = Staging::resume(directory, CONFIG)?;
    let key = own_key(&staging, KEY)?;
    let answer = redeem(token, newcomer, &key, env).await?;
    let certified = check(token, &answer)?;
    // What an interrupted run wrote of an answer before this one.
    staging.clear_but(&[KEY])?;
    CoordinatorFiles {
        node_id: answer.node_id,
        name: &answer.name,
        data_dir: newcomer.data_dir.as_deref(),
        listen: &newcomer.listen,
        metrics_listen: newcomer.metrics_listen.as_deref(),
        join: true,
        fleet: token.fleet,
        fleet_name: &answer.fleet_name,
        recovery: certified.recovery,
        members: answer
            .members
            .iter()
            .map(|member| (member.node_id, member.name.clone(), member.address.clone()))
            .collect(),
        root: &certified.root,
        certificate: &answer.certificate_pem,
        key: Some(&key.to_pem()),
        authority: &answer.authority_pem,
        authority_key: &answer.authority_key_pem,
        sealed: None,
    }
    .write(staging.path())?;
    let tls = staging.path().join(TLS);
    let files = TlsFiles {
        ca: tls.join("ca.pem"),
        certificate: tls.join("node.pem"),
        key: tls.join(NODE_KEY),
    };
    // Also finds out a certificate of another key.
    files.load()?;
    staging.finish()?;
    Ok(Joined {
        node_id: answer.node_id,
        name: answer.name,
        address: answer.address,
        fleet: answer.fleet_name,
    })
}

/// Where the key waits for its certificate, in the staging directory.
const KEY: &str = ".node.key";

/// The key that waits under this name, or a new one, on the disk before it is used.
pub(crate) fn own_key(staging: &Staging, name: &str) -> Result<PrivateKey> {
    let path = staging.path().join(name);
    match std::fs::read_to_string(&path).map(zeroize::Zeroizing::new) {
        Ok(pem) => Ok(PrivateKey::from_pem(&pem)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = PrivateKey::generate()?;
            private_file::create(&path, key.to_pem().as_bytes())?;
            Ok(key)
        }
        Err(error) => Err(CliError::io("read", &path, &error)),
    }
}

async fn redeem(
    token: &JoinToken,
    newcomer: &Newcomer,
    key: &PrivateKey,
    env: &Env,
) -> Result<v1::JoinFleetResponse> {
    let tls = ClientTls::pinned(token.root, token.fleet)?;
    let client = FleetClient::of_fleet(
        env.clone(),
        token.coordinators.clone(),
        &tls,
        token.fleet,
        RetryPolicy::default(),
    )?;
    let request = v1::JoinFleetRequest {
        fleet_id: token.fleet.as_bytes().to_vec().into(),
        secret: token.secret().to_vec().into(),
        request: key.request()?.into(),
        address: newcomer.address.clone().unwrap_or_default(),
    };
    let joined = client
        .call("joining the fleet", |channel| {
            let request = request.clone();
            async move { v1::join_client::JoinClient::new(channel).join_fleet(request).await }
        })
        .await;
    joined.map_err(|error| {
        let said = CliError::from(error);
        match said.code() {
            Code::WrongFleet => said.with_remedy(
                "who answers at the token's addresses is not of the fleet that the token was made \
                 for: look who listens there, and make a new token with `strongroom node token`",
            ),
            Code::Unavailable => said.with_remedy(format!(
                "check that this host reaches {}",
                token.coordinators.join(", ")
            )),
            _ => said,
        }
    })
}

struct Certified {
    root: String,
    recovery: RecoveryPublic,
}

/// Looks at everything in the answer before any of it is believed.
fn check(token: &JoinToken, answer: &v1::JoinFleetResponse) -> Result<Certified> {
    let wrong = |what: &str| {
        CliError::new(Code::Unauthenticated, format!("the coordinator's answer has {what}"))
            .with_remedy("do not trust this fleet's coordinators before somebody has looked")
    };
    let chain = certificates_of(answer.certificate_pem.as_bytes())?;
    let identity = Identity::from_certificate(&chain[0])?;
    let expected = Party::Coordinator(NodeId::new(answer.node_id));
    if identity.fleet != token.fleet || identity.party != expected {
        return Err(wrong("the certificate of another party"));
    }
    let authority =
        Intermediate::from_pem(answer.authority_pem.as_bytes(), &answer.authority_key_pem)?;
    if certificate_digest(authority.root()) != token.root {
        return Err(wrong("another root than the token pins"));
    }
    let half = |bytes: &[u8]| {
        <[u8; 32]>::try_from(bytes).map_err(|_| wrong("a recovery key that is none"))
    };
    Ok(Certified {
        root: certificate_pem(authority.root()),
        recovery: RecoveryPublic {
            hpke: half(&answer.recovery_hpke)?,
            signing: half(&answer.recovery_signing)?,
        },
    })
}
