//! `strongroom operator`: who may work with the fleet.

use std::path::PathBuf;

use agent::shown::{self, plain};
use clap::{Args, Subcommand, ValueEnum};
use proto::v1;
use serde::Serialize;

use crate::context::Context;
use crate::enrol_token::{EnrolToken, TokenKind};
use crate::enrol_tokens::{self, Maker, Wanted};
use crate::enrolling;
use crate::error::{CliError, Result};
use crate::output::Rows;
use crate::verbs::agent::TokenText;
use crate::{operator, views, when};

/// Verbs about operators.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a one-time token by which somebody becomes an operator (role admin)
    Add(AddArgs),
    /// Become one, with a one-time token: writes the operator's directory
    Enroll(EnrollArgs),
    /// Make void what an operator has, on open connections too (role admin)
    Revoke(RevokeArgs),
    /// List operators whose certificates the fleet has recorded, and open tokens
    List(ListArgs),
}

/// What an operator may do.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleArg {
    /// Reads
    Viewer,
    /// Backs up and restores
    Operator,
    /// Changes the fleet
    Admin,
}

/// Arguments of `operator add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// What it is called: lower-case letters, digits and hyphens
    pub name: String,
    /// What it may do
    #[arg(long)]
    pub role: RoleArg,
    /// The name is enrolled already, and what it has becomes void when the token is used
    #[arg(long)]
    pub again: bool,
    /// How long the token can be used, as in 90s, 2h or 7d
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = when::length_ms)]
    pub expires: u64,
    /// The fleet's recovery.pub, which the token pins [default: that of the operator's directory]
    #[arg(long, value_name = "FILE")]
    pub recovery_key: Option<PathBuf>,
}

/// Arguments of `operator enroll`.
#[derive(Debug, Args)]
pub struct EnrollArgs {
    #[command(flatten)]
    token: TokenText,
    /// Directory for operator.toml and what it names: absent, empty, or this operator's own
    /// [default: as of --operator-dir]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Arguments of `operator revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Its name
    pub name: String,
}

/// Arguments of `operator list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Take the answer of any single coordinator, not confirmed by a majority
    #[arg(long)]
    pub stale: bool,
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::Add(arguments) => add(arguments, context).await,
        Verb::Enroll(arguments) => enroll(arguments, context).await,
        Verb::Revoke(arguments) => revoke(arguments, context).await,
        Verb::List(arguments) => list(&arguments, context).await,
    }
}

async fn add(arguments: AddArgs, context: &Context) -> Result<()> {
    let maker = Maker::of(context, arguments.recovery_key.as_ref()).await?;
    let role = match arguments.role {
        RoleArg::Viewer => "viewer",
        RoleArg::Operator => "operator",
        RoleArg::Admin => "admin",
    };
    let wanted = Wanted {
        operator: arguments.name,
        role: role.to_owned(),
        again: arguments.again,
        count: 1,
        ttl_ms: arguments.expires,
        ..Wanted::default()
    };
    let view = maker.make(&wanted, context).await?;
    context.screen.show(&view, |view| {
        format!(
            "One-time token for {role} {}, until {}. Run where that person works:\n\n  {}\n\n\
             Whoever has it can enrol in their place: send it by a way you trust. It is not shown \
             again.\n",
            view.operator, view.expires, view.command
        )
    })
}

async fn enroll(arguments: EnrollArgs, context: &Context) -> Result<()> {
    let token = EnrolToken::from_text(&arguments.token.read()?)?;
    if token.kind != TokenKind::Operator {
        return Err(CliError::usage("this token is for an agent")
            .with_remedy("use it with `strongroom agent enroll`"));
    }
    let directory = match arguments.dir {
        Some(directory) => directory,
        None => context.operator_dir()?,
    };
    let enrolled = enrolling::operator(&token, &directory, &context.env).await?;
    context.screen.show(&enrolled, |enrolled| {
        format!(
            "enrolled     {} {} of fleet {}\nfiles        {}\n",
            enrolled.role,
            plain(&enrolled.name),
            plain(&enrolled.fleet),
            shown::path(&enrolled.operator_dir)
        )
    })
}

#[derive(Serialize)]
struct RevokedView {
    operator: String,
    revoked: bool,
    was_known: bool,
}

async fn revoke(arguments: RevokeArgs, context: &Context) -> Result<()> {
    let was_known = enrol_tokens::revoke("", &arguments.name, context).await?;
    let view = RevokedView { operator: arguments.name, revoked: true, was_known };
    context.screen.show(&view, |view| {
        let note = match view.was_known {
            true => "",
            false => "note         the fleet had recorded no certificate of that name: check it\n",
        };
        format!("revoked      what operator {} has\n{note}", view.operator)
    })
}

#[derive(Serialize)]
struct OperatorView {
    name: String,
    role: String,
    state: &'static str,
    since: Option<String>,
    ends: Option<String>,
}

impl OperatorView {
    fn of_party(party: &v1::PartyCertificate) -> Self {
        let some = |millis: u64| (millis > 0).then(|| views::time(millis));
        Self {
            name: party.name.clone(),
            role: party.role.clone(),
            state: if party.revoked { "revoked" } else { "enrolled" },
            since: some(party.since_ms),
            ends: some(party.ends_ms),
        }
    }

    fn of_token(token: &v1::OpenToken) -> Self {
        Self {
            name: token.operator.clone(),
            role: token.role.clone(),
            state: "invited",
            since: None,
            ends: Some(views::time(token.expires_ms)),
        }
    }
}

async fn list(arguments: &ListArgs, context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let listed = enrol_tokens::list(&client, arguments.stale).await?;
    let parties = listed.parties.iter().filter(|party| party.kind == "operator");
    let invited = listed.tokens.iter().filter(|token| !token.operator.is_empty());
    let views: Vec<OperatorView> =
        parties.map(OperatorView::of_party).chain(invited.map(OperatorView::of_token)).collect();
    context.screen.show(&views, |views| {
        let mut rows = Rows::new(&["NAME", "ROLE", "STATE", "SINCE", "ENDS"]);
        for view in views {
            let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            rows.push([
                view.name.clone(),
                if view.role.is_empty() { "-".to_owned() } else { view.role.clone() },
                view.state.to_owned(),
                or_dash(&view.since),
                or_dash(&view.ends),
            ]);
        }
        rows.render()
    })
}
