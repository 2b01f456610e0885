//! `strongroom fleet renew`: brings back on its host what slept past its certificates' end, a
//! coordinator and an operator, without any coordinator that runs.

use std::path::{Path, PathBuf};

use agent::shown;
use bundle::open_authority;
use clap::Args;
use coordinator::config::{AuthorityFiles, Config};
use coordinator::offline::Offline;
use proto::authority::{Facts, Intermediate, NOTICE_MS, Root, Term, certificates_of};
use proto::env::Env;
use proto::identity::{Identity, Party};
use proto::tls::TlsFiles;
use proto_types::{Code, FleetId, LogTime, NodeId};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::error::{CliError, Result};
use crate::operator::Operator;
use crate::recovery::{Recovery, ShareArgs};
use crate::{environment, when};

/// Arguments of `fleet renew`.
#[derive(Debug, Args)]
pub struct RenewArgs {
    /// The coordinator's config file
    #[arg(long, env = "STRONGROOM_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// The secret recovery key, where it was kept in a file: renews the coordinators' authority too,
    /// which is needed in its last year
    #[arg(long, value_name = "FILE", conflicts_with_all = ["share", "shares"])]
    pub recovery_key: Option<PathBuf>,
    #[command(flatten)]
    shares: ShareArgs,
    /// Also renew the certificate of the operator whose directory this is
    #[arg(long, value_name = "DIR")]
    pub operator: Option<PathBuf>,
}

#[derive(Serialize)]
struct RenewedView {
    node_id: u64,
    certificate_ends: String,
    authority_ends: String,
    authority_renewed: bool,
    operator: Option<String>,
}

pub(super) fn run(arguments: &RenewArgs, context: &Context) -> Result<()> {
    let config = Config::load_with(Some(&arguments.config), environment::settings()?)?;
    let files = config.authority.as_ref().ok_or_else(|| {
        CliError::new(
            Code::InvalidConfig,
            format!("{} has no [authority]", shown::path(&arguments.config)),
        )
        .with_remedy("this fleet has its certificates from elsewhere: renew them there")
    })?;
    let recovery = Recovery::read(arguments.recovery_key.as_deref(), &arguments.shares)?;
    let env = &context.env;
    let (authority, authority_renewed) = match recovery {
        Some(recovery) => (renew_authority(&config, files, &recovery, env)?, true),
        None => (present_authority(files)?, false),
    };
    let now = env.clock.now();
    if authority.ends() <= now {
        return Err(CliError::new(
            Code::Unauthenticated,
            "the coordinators' certificate authority has ended, too",
        )
        .with_remedy("give the recovery key, with --share or --recovery-key, which renews it"));
    }
    if authority.ends().millis_since(now) < NOTICE_MS {
        context.screen.note("the authority ends within a year: give the recovery key to renew it");
    }
    let party = Party::Coordinator(config.node_id);
    let life_ms = config.certificates.life_ms(&party);
    let identity = Identity { fleet: config.fleet.id, party };
    let term = Term { generation: 0, life_ms };
    let ends = certify(&authority, &config.tls, &identity, &term, env)?;
    let operator = arguments.operator.as_deref();
    let operator = operator.map(|dir| renew_operator(dir, &config, &authority, env)).transpose()?;
    let view = RenewedView {
        node_id: NodeId::get(config.node_id),
        certificate_ends: when::rfc3339(ends),
        authority_ends: when::rfc3339(authority.ends()),
        authority_renewed,
        operator,
    };
    context.screen.show(&view, |view| {
        let authority = if view.authority_renewed { "renewed, " } else { "" };
        let operator = view.operator.as_ref().map(|name| format!("operator     {name}\n"));
        format!(
            "coordinator  {}, until {}\nauthority    {authority}until {}\n{}\
             Start the coordinator (again), so that it uses them.\n",
            view.node_id,
            view.certificate_ends,
            view.authority_ends,
            operator.unwrap_or_default()
        )
    })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    std::fs::read(path).map(Zeroizing::new).map_err(|error| CliError::io("read", path, &error))
}

fn present_authority(files: &AuthorityFiles) -> Result<Intermediate> {
    let key = read(&files.key)?;
    let key = std::str::from_utf8(&key).unwrap_or_default();
    Ok(Intermediate::from_pem(&read(&files.certificate)?, key)?)
}

/// A new intermediate under the same root, in the place of the old one.
fn renew_authority(
    config: &Config,
    files: &AuthorityFiles,
    recovery: &Recovery,
    env: &Env,
) -> Result<Intermediate> {
    let fleet = config.fleet.id;
    let (root, sealed) = sealed_root(config, files)?;
    let names = bundle::read_authority_names(&sealed)
        .map_err(|error| CliError::new(error.code(), error.to_string()))?;
    recovery.check(names.recovery_key, "the fleet")?;
    let root = reopen(fleet, &root, &sealed, recovery)?;
    let intermediate = root.intermediate(fleet, env.clock.now(), &*env.random)?;
    let pair = TlsFiles {
        ca: config.tls.ca.clone(),
        certificate: files.certificate.clone(),
        key: files.key.clone(),
    };
    // Interrupted between the two, the same command again mends it.
    pair.write_next_key(intermediate.key())?;
    pair.replace(intermediate.chain())?;
    Ok(intermediate)
}

fn reopen(fleet: FleetId, root: &[u8], sealed: &[u8], recovery: &Recovery) -> Result<Root> {
    let key = open_authority(sealed, fleet, root, recovery.secret())
        .map_err(|error| CliError::new(error.code(), error.to_string()))?;
    Ok(Root::reopen(root, &key)?)
}

/// The root's certificate and its sealed key: the file of the first coordinator, or the state.
fn sealed_root(config: &Config, files: &AuthorityFiles) -> Result<(Vec<u8>, Vec<u8>)> {
    if let Some(path) = files.sealed.as_ref().filter(|path| path.exists()) {
        let all = certificates_of(&read(&config.tls.ca)?)?;
        return Ok((all[0].to_vec(), read(path)?.to_vec()));
    }
    let offline = Offline::open(&config.data_dir)?;
    let authority = offline.authority();
    authority.map(|(root, sealed)| (root.to_vec(), sealed.to_vec())).ok_or_else(|| {
        CliError::new(Code::InvalidConfig, "the fleet's state has no certificate authority")
            .with_remedy("do this on the host on which the fleet was founded")
    })
}

fn certify(
    authority: &Intermediate,
    files: &TlsFiles,
    identity: &Identity,
    term: &Term,
    env: &Env,
) -> Result<LogTime> {
    let key = files.next_key()?;
    let now = env.clock.now();
    let certified = authority.certify(identity, &key, term, now, &*env.random)?;
    files.replace(&certified.chain)?;
    // What was written is what is started with.
    Ok(files.load()?.facts().ends)
}

/// The same operator, of the same generation: one that was revoked stays revoked.
fn renew_operator(
    directory: &Path,
    config: &Config,
    authority: &Intermediate,
    env: &Env,
) -> Result<String> {
    let files = Operator::load(directory)?.tls;
    let leaf = certificates_of(&read(&files.certificate)?)?.remove(0);
    let identity = Identity::from_certificate(&leaf)?;
    if identity.fleet != config.fleet.id || !matches!(identity.party, Party::Operator { .. }) {
        return Err(CliError::new(
            Code::WrongFleet,
            format!("{} is of no operator of this fleet", shown::path(&files.certificate)),
        ));
    }
    let life_ms = config.certificates.life_ms(&identity.party);
    let term = Term { generation: Facts::of(&leaf)?.generation, life_ms };
    certify(authority, &files, &identity, &term, env)?;
    Ok(identity.party.to_string())
}
