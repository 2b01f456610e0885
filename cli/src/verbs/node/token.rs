//! `strongroom node token`: a one-time token by which a coordinator joins.

use clap::Args;
use proto::v1;
use proto::v1::fleet_client::FleetClient;
use proto_types::{Code, FleetId, LogTime};
use serde::Serialize;

use super::members;
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::join_token::JoinToken;
use crate::operator;
use crate::when;

/// Arguments of `node token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// What people will call the coordinator: lower-case letters, digits and hyphens
    pub name: String,
    /// Where the other coordinators will reach it
    #[arg(long, value_name = "HOST:PORT")]
    pub address: String,
    /// How long it can be used, in seconds; at most a day
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub ttl: u64,
}

#[derive(Serialize)]
struct TokenView {
    token: String,
    name: String,
    address: String,
    expires: String,
    expires_ms: u64,
}

pub(super) async fn make(arguments: TokenArgs, context: &Context) -> Result<()> {
    let (operator, client) = operator::connect(context)?;
    let root = operator.root_pin()?;
    let status = members::status(&client).await?;
    let fleet = FleetId::from_slice(&status.fleet_id)
        .map_err(|_| CliError::new(Code::Internal, "the status names no fleet"))?;
    // Those that vote stay; who is only learning may be the next to go.
    let (voters, learners): (Vec<_>, Vec<_>) = status.nodes.iter().partition(|node| node.voter);
    let addresses = voters.into_iter().chain(learners).map(|node| node.address.clone());
    let token = JoinToken::draw(fleet, root, addresses, &*context.env.random)?;
    let request = v1::CreateJoinTokenRequest {
        write_id: Some(client.next_write_id()),
        token_hash: token.hash().to_vec().into(),
        name: arguments.name.clone(),
        address: arguments.address.clone(),
        ttl_ms: arguments.ttl.saturating_mul(1000),
    };
    let answer = client
        .call("making the token", |channel| {
            let request = request.clone();
            async move { FleetClient::new(channel).create_join_token(request).await }
        })
        .await?;
    if answer.root_sha256[..] != root {
        return Err(CliError::new(
            Code::WrongFleet,
            "the fleet's root certificate is not the one this operator trusts",
        )
        .with_remedy("compare the ca of operator.toml with the coordinators' tls/ca.pem"));
    }
    let view = TokenView {
        token: token.to_text().to_string(),
        name: arguments.name,
        address: arguments.address,
        expires: when::rfc3339(LogTime::from_millis(answer.expires_ms)),
        expires_ms: answer.expires_ms,
    };
    context.screen.show(&view, |view| {
        format!(
            "One-time token for {} at {}, until {}. Run on that host:\n\n  \
             strongroom coordinator join {} --dir DIR --listen {}\n\n\
             Whoever has it can join in its place: send it by a way you trust. It is not shown \
             again.\n",
            view.name, view.address, view.expires, view.token, view.address
        )
    })
}
