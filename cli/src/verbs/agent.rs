//! `strongroom agent`: makes an agent's keys and runs it.

use std::path::PathBuf;
use std::time::Duration;

use agent::config::{KubernetesConfig, SourceKind};
use agent::kubernetes::{Account, Api, Connection, Kinds};
use agent::shown;
use clap::{Args, Subcommand};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::enrol_token::{EnrolToken, TokenKind};
use crate::enrolling::{self, NewAgent};
use crate::error::{CliError, Result};
use crate::{shutdown, when};

/// Verbs of an agent.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a new agent's KEK and signing key, and print the public half for `cluster register`
    Init(InitArgs),
    /// Print the public half of the signing key in an agent's directory, to compare
    Keys(InitArgs),
    /// Make an agent's directory with a token: keys, certificate and config
    Enroll(EnrollArgs),
    /// Run until SIGINT or SIGTERM
    Run(RunArgs),
    /// Print the rights that a cluster's agent needs, as objects for `kubectl apply`
    Rbac(RbacArgs),
}

/// Arguments of `agent init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The agent's directory; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// A token as people give it.
#[derive(Args)]
pub struct TokenText {
    /// What `strongroom cluster enroll` or `operator add` printed
    #[arg(
        value_name = "TOKEN",
        env = "STRONGROOM_ENROLL_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    token: Option<String>,
    /// A file with the token, which nobody sees in a list of processes
    #[arg(long, value_name = "FILE", env = "STRONGROOM_ENROLL_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// The token is a secret.
impl std::fmt::Debug for TokenText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenText").finish_non_exhaustive()
    }
}

impl TokenText {
    /// The text.
    ///
    /// # Errors
    /// When none is given, or the file cannot be read.
    pub fn read(&self) -> Result<Zeroizing<String>> {
        match (&self.token, &self.token_file) {
            (Some(text), _) => Ok(Zeroizing::new(text.clone())),
            (None, Some(path)) => std::fs::read_to_string(path)
                .map(Zeroizing::new)
                .map_err(|error| CliError::io("read", path, &error)),
            (None, None) => Err(CliError::usage("a token is missing")
                .with_remedy("give what an admin was shown, or --token-file FILE")),
        }
    }
}

/// Arguments of `agent enroll`.
#[derive(Debug, Args)]
pub struct EnrollArgs {
    #[command(flatten)]
    token: TokenText,
    /// The agent's directory: absent, empty, or that of an agent which gets a new certificate
    #[arg(long, value_name = "DIR", env = "STRONGROOM_ENROLL_DIR")]
    pub dir: PathBuf,
    /// The cluster's name, where the token is for several
    #[arg(long, value_name = "NAME", env = "STRONGROOM_ENROLL_NAME")]
    pub name: Option<String>,
    /// UID of the cluster's kube-system namespace
    #[arg(long, value_name = "UID")]
    pub kube_system_uid: Option<String>,
    /// A directory with the cluster's kek.key and signing.key, as of `agent init` or `key recover`
    /// [default: new ones]
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,
    /// How long to wait for approval, where the token is for several
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = when::length_ms)]
    pub wait: u64,
}

/// Arguments of `agent run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Its config file
    #[arg(long, env = "STRONGROOM_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// Also stop when standard input ends
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

/// Arguments of `agent rbac`.
#[derive(Debug, Args)]
pub struct RbacArgs {
    /// The agent's config file, which says what it backs up; the cluster is asked by its
    /// kubeconfig which kinds it serves
    #[arg(long, env = "STRONGROOM_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// Another kubeconfig for that question
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubernetes source, where there are several
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Name of the account, its role and its binding
    #[arg(long, value_name = "NAME", default_value = "strongroom-agent")]
    pub name: String,
    /// Namespace of the account
    #[arg(long, value_name = "NAME", default_value = "strongroom")]
    pub namespace: String,
    /// Also what a restore needs
    #[arg(long)]
    pub restore: bool,
}

#[derive(Serialize)]
struct RbacView {
    objects: Vec<serde_json::Value>,
}

#[derive(Serialize)]
struct InitView {
    kek: PathBuf,
    signing_key: PathBuf,
    signing_public_key: String,
    signing_key_fingerprint: String,
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::Init(arguments) => init(&arguments, context),
        Verb::Keys(arguments) => keys(&arguments, context),
        Verb::Enroll(arguments) => enroll(arguments, context).await,
        Verb::Run(arguments) => serve(arguments, context).await,
        Verb::Rbac(arguments) => rbac(arguments, context).await,
    }
}

fn init(arguments: &InitArgs, context: &Context) -> Result<()> {
    let made = agent::init(&arguments.dir, &*context.env.random)?;
    let view = InitView {
        kek: made.kek,
        signing_key: made.signing_key,
        signing_public_key: made.signing_public.to_string(),
        signing_key_fingerprint: made.signing_fingerprint.to_string(),
    };
    context.screen.show(&view, |view| {
        format!(
            "made         {} (opens this cluster's backups: keep a copy outside the cluster)\n\
             made         {}\nfingerprint  {}\n\nregister the cluster with\n  \
             strongroom cluster register NAME --signing-key {}\n",
            shown::path(&view.kek),
            shown::path(&view.signing_key),
            view.signing_key_fingerprint,
            view.signing_public_key
        )
    })
}

async fn rbac(arguments: RbacArgs, context: &Context) -> Result<()> {
    let config = agent::config::Config::load(&arguments.config)?;
    let mut sources = config.sources.iter().filter_map(|source| match &source.kind {
        SourceKind::Kubernetes(kubernetes) => Some((&source.name, kubernetes)),
        SourceKind::Directory(_) => None,
    });
    let wanted = |(name, _): &(&String, &KubernetesConfig)| {
        arguments.source.as_ref().is_none_or(|wanted| wanted == *name)
    };
    let (_, source) = sources.find(wanted).ok_or_else(|| {
        CliError::usage("the config has no such source of kind \"kubernetes\"")
            .with_remedy("name one with --source")
    })?;
    let connection = match &arguments.kubeconfig {
        Some(path) => Connection { kubeconfig: Some(path.clone()), context: None },
        None => source.connection.clone(),
    };
    let api = Api::connect(&connection).await?;
    let kinds = Kinds::discover(&api).await?;
    let account = Account {
        name: arguments.name,
        namespace: arguments.namespace,
        restores: arguments.restore,
    };
    let objects = agent::kubernetes::rbac(&source.policy, kinds.listable(), &account);
    let mut text = String::new();
    for object in &objects {
        let yaml = serde_saphyr::to_string(object).map_err(|error| {
            CliError::new(proto_types::Code::Internal, format!("no YAML: {error}"))
        })?;
        text.push_str(&format!("---\n{}\n", yaml.trim_end()));
    }
    context.screen.show(&RbacView { objects }, |_| text)
}

#[derive(Serialize)]
struct KeysView {
    signing_public_key: String,
    signing_key_fingerprint: String,
}

fn keys(arguments: &InitArgs, context: &Context) -> Result<()> {
    let public = agent::home::signing_public(&arguments.dir)?;
    let view = KeysView {
        signing_public_key: public.to_string(),
        signing_key_fingerprint: public.fingerprint().to_string(),
    };
    context.screen.show(&view, |view| {
        format!(
            "signing key  {}\nfingerprint  {}\n",
            view.signing_public_key, view.signing_key_fingerprint
        )
    })
}

async fn enroll(arguments: EnrollArgs, context: &Context) -> Result<()> {
    let token = EnrolToken::from_text(&arguments.token.read()?)?;
    if token.kind == TokenKind::Operator {
        return Err(CliError::usage("this token is for an operator")
            .with_remedy("use it with `strongroom operator enroll`"));
    }
    let again = arguments.dir.join(enrolling::CONFIG).exists();
    if token.kind == TokenKind::Agents && arguments.name.is_none() && !again {
        return Err(CliError::usage("this token is for several clusters")
            .with_remedy("say which one this is with --name NAME"));
    }
    let new = NewAgent {
        name: arguments.name,
        kube_system_uid: arguments.kube_system_uid,
        keys: arguments.keys,
        wait: Duration::from_millis(arguments.wait),
    };
    let note = |line: &str| context.screen.note(line);
    let enrolled = enrolling::agent(&token, &new, &arguments.dir, &context.env, note).await?;
    context.screen.show(&enrolled, |enrolled| {
        let next = match enrolled.again {
            true => "its certificate is new, all else as it was".to_owned(),
            false => format!(
                "say in {} what is backed up ([[sources]]), keep a copy of {}/kek.key, then\n  \
                 strongroom agent run --config {}",
                shown::path(&enrolled.config),
                shown::path(arguments.dir.join(enrolling::STATE)),
                shown::path(&enrolled.config)
            ),
        };
        format!(
            "enrolled     {} of fleet {}\ncluster id   {}\nsigning key  {}\n\n{next}\n",
            shown::plain(&enrolled.cluster),
            shown::plain(&enrolled.fleet),
            enrolled.cluster_id,
            enrolled.signing_key_fingerprint,
        )
    })
}

async fn serve(arguments: RunArgs, context: &Context) -> Result<()> {
    let config = agent::config::Config::load(&arguments.config)?;
    let shutdown = shutdown::token(arguments.stop_with_stdin)?;
    Ok(agent::run(config, context.env.clone(), shutdown).await?)
}
