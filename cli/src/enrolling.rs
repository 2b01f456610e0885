//! Enrols an agent or an operator with a token: trusts only the root and the recovery key that the
//! token pins, has a key of its own certified, and writes the directory, whole or not at all. The
//! key is on disk before the token is used, so that a lost answer can be asked for again. Where the
//! directory is there already, only the certificate and its key are replaced.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::agent::shown;
use bundle::RecoveryPublic;
use proto::authority::{PrivateKey, certificate_digest, certificate_pem, certificates_of};
use proto::env::Env;
use proto::fleet_client::{FleetClient, RetryPolicy};
use proto::identity::{Identity, Party, Role};
use proto::tls::{ClientTls, TlsFiles};
use proto::v1;
use proto_types::{ClusterId, Code, SigningPublicKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::enrol_token::EnrolToken;
use crate::error::{CliError, Result};
use crate::operator_files::OperatorFiles;
use crate::staging::Staging;
use crate::{joining, key_files, operator, private_file};

/// Name of an agent's config file.
pub const CONFIG: &str = "agent.toml";
/// Where a new agent keeps its keys, beside its config.
pub const STATE: &str = "state";
/// Where the key waits for its certificate, in the staging directory.
const KEY: &str = ".enrol.key";
const KEK_FILE: &str = "kek.key";
const SIGNING_FILE: &str = "signing.key";
/// Between two questions whether somebody has approved.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// What a person says of an agent that enrols; the rest is in the token.
#[derive(Debug, Default)]
pub struct NewAgent {
    /// The cluster's name, where the token does not say it.
    pub name: Option<String>,
    /// UID of its `kube-system` namespace.
    pub kube_system_uid: Option<String>,
    /// A directory with the cluster's `kek.key` and `signing.key`, where it has them already.
    pub keys: Option<PathBuf>,
    /// How long to wait for approval.
    pub wait: Duration,
}

/// What became of it.
#[derive(Debug, Serialize)]
pub struct EnrolledAgent {
    /// The cluster's name.
    pub cluster: String,
    /// Its id.
    pub cluster_id: String,
    /// The fleet's name.
    pub fleet: String,
    /// Its config file.
    pub config: PathBuf,
    /// The fingerprint of the key that signs its backups.
    pub signing_key_fingerprint: String,
    /// Whether it was there before, and only its certificate is new.
    pub again: bool,
}

/// What became of an operator.
#[derive(Debug, Serialize)]
pub struct EnrolledOperator {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: String,
    /// The fleet's name.
    pub fleet: String,
    /// The directory of `operator.toml`.
    pub operator_dir: PathBuf,
    /// Whether it was there before, and only its certificate is new.
    pub again: bool,
}

/// Enrols an agent into `directory`. `note` hears that it waits for approval.
///
/// # Errors
/// What the fleet refuses; `UNAUTHENTICATED` when whoever answers is not what the token pins;
/// `ALREADY_EXISTS` when something else is there; `UNAVAILABLE` when nobody approved in time.
pub async fn agent(
    token: &EnrolToken,
    new: &NewAgent,
    directory: &Path,
    env: &Env,
    note: impl Fn(&str),
) -> Result<EnrolledAgent> {
    Staging::recover(directory, CONFIG)?;
    let config = directory.join(CONFIG);
    if config.exists() {
        return agent_again(token, &config, env).await;
    }
    let staging = Staging::resume(directory, CONFIG)?;
    let key = joining::own_key(&staging, KEY)?;
    let signing = cluster_keys(&staging.path().join(STATE), new, env)?;
    let asking = Asking { token, key: &key, signing: Some(signing), new, env };
    let answer = asking.until_approved(&note).await?;
    let certified = check(token, &answer)?;
    let Party::Agent(cluster) = &certified.party else {
        return Err(wrong("the certificate of another party"));
    };
    let cluster = *cluster;
    // What an interrupted run wrote of an answer before this one.
    staging.clear_but(&[KEY, STATE])?;
    let tls = staging.path().join("tls");
    private_file::make_directory(&tls)?;
    private_file::create(&tls.join("ca.pem"), certified.root.as_bytes())?;
    private_file::create(&tls.join("agent.pem"), answer.certificate_pem.as_bytes())?;
    private_file::create(&tls.join("agent.key"), key.to_pem().as_bytes())?;
    let recovery = certified.recovery.to_text();
    private_file::create(&staging.path().join("recovery.pub"), recovery.as_bytes())?;
    let text = agent_config(&answer)?;
    private_file::create(&staging.path().join(CONFIG), text.as_bytes())?;
    let files = TlsFiles {
        ca: tls.join("ca.pem"),
        certificate: tls.join("agent.pem"),
        key: tls.join("agent.key"),
    };
    // Also finds out a certificate of another key.
    files.load()?;
    staging.finish()?;
    Ok(enrolled_agent(answer, cluster, config, signing, false))
}

fn enrolled_agent(
    answer: v1::EnrolResponse,
    cluster: ClusterId,
    config: PathBuf,
    signing: SigningPublicKey,
    again: bool,
) -> EnrolledAgent {
    EnrolledAgent {
        cluster: answer.name,
        cluster_id: cluster.to_string(),
        fleet: answer.fleet_name,
        config,
        signing_key_fingerprint: signing.fingerprint().to_string(),
        again,
    }
}

/// What of an agent's config an enrolment needs to know; its sources may still be missing.
#[derive(Deserialize)]
struct AgentFile {
    cluster: String,
    state_dir: PathBuf,
    tls: TlsFiles,
}

async fn agent_again(token: &EnrolToken, config: &Path, env: &Env) -> Result<EnrolledAgent> {
    let text =
        std::fs::read_to_string(config).map_err(|error| CliError::io("read", config, &error))?;
    let file: AgentFile = toml::from_str(&text).map_err(|error| {
        CliError::new(Code::InvalidConfig, format!("{}: {error}", shown::path(config)))
    })?;
    let directory = config.parent().unwrap_or(Path::new(""));
    let signing = signing_key(&directory.join(&file.state_dir))?;
    let new = NewAgent { name: Some(file.cluster.clone()), ..NewAgent::default() };
    let files = file.tls.relative_to(directory);
    require_root(token, &files)?;
    let key = files.next_key()?;
    let asking = Asking { token, key: &key, signing: Some(signing), new: &new, env };
    let answer = asking.once().await?;
    if answer.pending {
        return Err(CliError::usage("the token is for a new cluster, and this directory has one")
            .with_remedy("ask an admin for `strongroom cluster enroll NAME --again`"));
    }
    let certified = check(token, &answer)?;
    let Party::Agent(cluster) = certified.party else {
        return Err(wrong("the certificate of another party"));
    };
    if answer.name != file.cluster {
        return Err(CliError::new(
            Code::WrongCluster,
            format!(
                "the token is of cluster {}, {} says {}",
                shown::plain(&answer.name),
                shown::path(config),
                shown::plain(&file.cluster)
            ),
        )
        .with_remedy("use each token with its own cluster's directory"));
    }
    replace(&files, &answer.certificate_pem, &key)?;
    Ok(enrolled_agent(answer, cluster, config.to_owned(), signing, true))
}

/// Enrols an operator into `directory`.
///
/// # Errors
/// As [`agent()`].
pub async fn operator(token: &EnrolToken, directory: &Path, env: &Env) -> Result<EnrolledOperator> {
    Staging::recover(directory, operator::FILE)?;
    let new = NewAgent::default();
    let again = directory.join(operator::FILE).exists();
    let (answer, certified) = if again {
        let files = operator::Operator::load(directory)?.tls;
        require_root(token, &files)?;
        let key = files.next_key()?;
        let answer = Asking { token, key: &key, signing: None, new: &new, env }.once().await?;
        let certified = check(token, &answer)?;
        replace(&files, &answer.certificate_pem, &key)?;
        (answer, certified)
    } else {
        let staging = Staging::resume(directory, operator::FILE)?;
        let key = joining::own_key(&staging, KEY)?;
        let answer = Asking { token, key: &key, signing: None, new: &new, env }.once().await?;
        let certified = check(token, &answer)?;
        staging.clear_but(&[KEY])?;
        OperatorFiles {
            coordinators: answer.members.iter().map(|member| member.address.clone()).collect(),
            root: &certified.root,
            certificate: &answer.certificate_pem,
            key: &key.to_pem(),
            recovery: certified.recovery,
        }
        .write(staging.path())?;
        operator::Operator::load(staging.path())?.tls.load()?;
        staging.finish()?;
        (answer, certified)
    };
    let Party::Operator { name, role } = certified.party else {
        return Err(wrong("the certificate of another party"));
    };
    Ok(EnrolledOperator {
        name,
        role: role.as_str().to_owned(),
        fleet: answer.fleet_name,
        operator_dir: directory.to_owned(),
        again,
    })
}

/// A directory of another fleet is not to be turned into one of this.
fn require_root(token: &EnrolToken, files: &TlsFiles) -> Result<()> {
    let ca = std::fs::read(&files.ca).map_err(|error| CliError::io("read", &files.ca, &error))?;
    if certificates_of(&ca)?.iter().any(|der| certificate_digest(der) == token.root) {
        return Ok(());
    }
    Err(CliError::new(
        Code::WrongFleet,
        format!("{} is of another fleet than the token", shown::path(&files.ca)),
    )
    .with_remedy("enrol into a new directory"))
}

fn replace(files: &TlsFiles, chain: &str, key: &PrivateKey) -> Result<()> {
    let leaf = certificates_of(chain.as_bytes())?.remove(0);
    if !proto::authority::is_key_of(key, &leaf)? {
        return Err(wrong("a certificate of another key"));
    }
    Ok(files.replace(chain)?)
}

fn signing_key(state: &Path) -> Result<SigningPublicKey> {
    Ok(key_files::signing(&state.join(SIGNING_FILE))?.public())
}

/// The cluster's KEK and signing key: those of an interrupted run, those at hand, or new ones.
fn cluster_keys(state: &Path, new: &NewAgent, env: &Env) -> Result<SigningPublicKey> {
    if state.join(SIGNING_FILE).exists() {
        return signing_key(state);
    }
    // A KEK alone was never used.
    if state.exists() {
        std::fs::remove_dir_all(state).map_err(|error| CliError::io("clear", state, &error))?;
    }
    let Some(keys) = &new.keys else {
        return Ok(::agent::init(state, &*env.random)?.signing_public);
    };
    let public = signing_key(keys)?;
    private_file::make_directory(state)?;
    for name in [KEK_FILE, SIGNING_FILE] {
        let from = keys.join(name);
        let text = std::fs::read(&from).map(Zeroizing::new);
        let text = text.map_err(|error| CliError::io("read", &from, &error))?;
        private_file::create(&state.join(name), &text)?;
    }
    Ok(public)
}

/// One who asks to be let in.
struct Asking<'a> {
    token: &'a EnrolToken,
    key: &'a PrivateKey,
    signing: Option<SigningPublicKey>,
    new: &'a NewAgent,
    env: &'a Env,
}

impl Asking<'_> {
    async fn until_approved(&self, note: &impl Fn(&str)) -> Result<v1::EnrolResponse> {
        let began = self.env.clock.elapsed_millis();
        let mut said = false;
        loop {
            let answer = self.once().await?;
            if !answer.pending {
                return Ok(answer);
            }
            let id = hex::encode(&answer.cluster_id);
            let waited = self.env.clock.elapsed_millis().saturating_sub(began);
            if Duration::from_millis(waited) >= self.new.wait {
                return Err(CliError::new(
                    Code::Unavailable,
                    format!("the cluster waits as {id}, and nobody has approved it yet"),
                )
                .with_remedy(format!(
                    "an admin says `strongroom cluster approve {id}`; then give the same command \
                     again"
                )));
            }
            if !said {
                note(&format!("waiting for `strongroom cluster approve {id}`"));
                said = true;
            }
            tokio::time::sleep(ASK_AGAIN.min(self.new.wait)).await;
        }
    }

    async fn once(&self) -> Result<v1::EnrolResponse> {
        let token = self.token;
        let tls = ClientTls::pinned(token.root, token.fleet)?;
        let client = FleetClient::of_fleet(
            self.env.clone(),
            token.coordinators.clone(),
            &tls,
            token.fleet,
            RetryPolicy::default(),
        )?;
        let request = v1::EnrolRequest {
            fleet_id: token.fleet.as_bytes().to_vec().into(),
            secret: token.secret().to_vec().into(),
            request: self.key.request()?.into(),
            signing_key: self.signing.map(|key| key.as_bytes().to_vec()).unwrap_or_default().into(),
            name: self.new.name.clone().unwrap_or_default(),
            kube_system_uid: self.new.kube_system_uid.clone().unwrap_or_default(),
        };
        let asked = client
            .call("enrolling", |channel| {
                let request = request.clone();
                async move { v1::join_client::JoinClient::new(channel).enrol(request).await }
            })
            .await;
        asked.map_err(|error| {
            let said = CliError::from(error);
            match said.code() {
                Code::Unavailable => said.with_remedy(format!(
                    "check that this host reaches {}",
                    token.coordinators.join(", ")
                )),
                _ => said,
            }
        })
    }
}

fn wrong(what: &str) -> CliError {
    CliError::new(Code::Unauthenticated, format!("the coordinator's answer has {what}"))
        .with_remedy("do not trust this fleet's coordinators before somebody has looked")
}

struct Certified {
    root: String,
    recovery: RecoveryPublic,
    party: Party,
}

/// Looks at everything in the answer before any of it is believed.
fn check(token: &EnrolToken, answer: &v1::EnrolResponse) -> Result<Certified> {
    let chain = certificates_of(answer.certificate_pem.as_bytes())?;
    let identity = Identity::from_certificate(&chain[0])?;
    let named = match &identity.party {
        Party::Agent(cluster) => cluster.as_bytes()[..] == answer.cluster_id[..],
        Party::Operator { name, role } => *name == answer.name && role_word(*role) == answer.role,
        Party::Coordinator(_) => false,
    };
    if identity.fleet != token.fleet || !named {
        return Err(wrong("the certificate of another party"));
    }
    let root = chain.iter().find(|der| certificate_digest(der) == token.root);
    let root = root.ok_or_else(|| wrong("another root than the token pins"))?;
    let half = |bytes: &[u8]| {
        <[u8; 32]>::try_from(bytes).map_err(|_| wrong("a recovery key that is none"))
    };
    let recovery = RecoveryPublic {
        hpke: half(&answer.recovery_hpke)?,
        signing: half(&answer.recovery_signing)?,
    };
    // Whoever holds the fleet's recovery key opens everything: a coordinator must not slip in one.
    if recovery.fingerprint() != token.recovery {
        return Err(wrong("another recovery key than the token pins"));
    }
    Ok(Certified { root: certificate_pem(root), recovery, party: identity.party })
}

const fn role_word(role: Role) -> &'static str {
    role.as_str()
}

#[derive(Serialize)]
struct Config<'a> {
    cluster: &'a str,
    coordinators: Vec<&'a str>,
    state_dir: &'static str,
    recovery_key: &'static str,
    tls: Tls,
}

#[derive(Serialize)]
struct Tls {
    ca: &'static str,
    certificate: &'static str,
    key: &'static str,
}

/// Ready to run but for what is to be backed up.
fn agent_config(answer: &v1::EnrolResponse) -> Result<String> {
    let config = Config {
        cluster: &answer.name,
        coordinators: answer.members.iter().map(|member| member.address.as_str()).collect(),
        state_dir: STATE,
        recovery_key: "recovery.pub",
        tls: Tls { ca: "tls/ca.pem", certificate: "tls/agent.pem", key: "tls/agent.key" },
    };
    let text = toml::to_string(&config)
        .map_err(|error| CliError::new(Code::Internal, format!("{CONFIG}: {error}")))?;
    Ok(format!(
        "{text}\n# What is backed up: one table for each source. Nothing runs without one.\n#\n\
         # [[sources]]\n# kind = \"directory\"\n# path = \"/etc/something\"\n\
         # keys = [\"*.key\"]        # files whose content goes into the key bundle\n\
         # exclude = [\"*.tmp\"]\n"
    ))
}
