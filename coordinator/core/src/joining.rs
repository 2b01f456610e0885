//! One-time tokens by which a coordinator joins. The state knows a token by the SHA-256 of its
//! secret; redeeming one gives out a node id, once, to the key that came with it. A token that is
//! over, used, or never was gets one and the same refusal.

use std::sync::Arc;

use proto_types::NodeId;

use crate::apply::Context;
use crate::command::{CreateJoinToken, RedeemJoinToken};
use crate::limits::{JOIN_TOKEN_TTL_MS_MAX, JOIN_TOKENS_MAX};
use crate::outcome::Outcome;
use crate::refusal::{Field, Limit, Refusal};
use crate::rows::{JoinToken, NodeState, Redeemed};
use crate::state::State;
use crate::{fleet, leases, members};

/// Makes a token known. The same one again answers the same; those that are over are forgotten.
pub(crate) fn create(
    state: &mut State,
    context: &mut Context<'_>,
    command: &CreateJoinToken,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    if state.authority().is_none() {
        return Err(Refusal::AuthorityMissing);
    }
    members::check_names(&command.name, &command.address)?;
    if !(1..=JOIN_TOKEN_TTL_MS_MAX).contains(&command.ttl_ms) {
        return Err(Refusal::InvalidField { field: Field::JoinTtl });
    }
    if let Some(token) = state.join_tokens.get(&command.token) {
        let same = token.name == command.name && token.address == command.address;
        return if same && token.redeemed.is_none() {
            Ok(Outcome::JoinTokenCreated { expires: token.expires })
        } else {
            Err(Refusal::JoinTokenRefused)
        };
    }
    require_free(state, &command.name)?;
    let over: Vec<_> = state
        .join_tokens
        .iter()
        .filter(|(_, token)| token.expires <= context.now)
        .map(|(hash, _)| *hash)
        .collect();
    leases::within(Limit::JoinTokens, state.join_tokens.len() - over.len() + 1, JOIN_TOKENS_MAX)?;
    for hash in over {
        state.join_tokens.remove(&hash);
    }
    let expires = context.now.plus_millis(command.ttl_ms);
    let token = JoinToken {
        name: command.name.clone(),
        address: command.address.clone(),
        expires,
        redeemed: None,
    };
    state.join_tokens.insert(command.token, Arc::new(token));
    Ok(Outcome::JoinTokenCreated { expires })
}

/// Admits the node that a token is for, with an id that nobody ever had. Asked again with the same
/// key, as when the answer was lost, it answers the same.
pub(crate) fn redeem(
    state: &mut State,
    context: &mut Context<'_>,
    command: &RedeemJoinToken,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    let token = state.join_tokens.get(&command.token).cloned();
    let token =
        token.filter(|token| token.expires > context.now).ok_or(Refusal::JoinTokenRefused)?;
    if let Some(redeemed) = &token.redeemed {
        // Who has the token and not the key comes too late; so does a node that was removed since.
        let same = redeemed.key == command.key && !state.was_removed(redeemed.node);
        return if same {
            Ok(Outcome::NodeAdded { node: redeemed.node })
        } else {
            Err(Refusal::JoinTokenRefused)
        };
    }
    require_free(state, &token.name)?;
    let node = members::admit(state, context, &token.name, &token.address)?;
    let redeemed = Some(Redeemed { node, key: command.key });
    let token = JoinToken { redeemed, ..token.as_ref().clone() };
    state.join_tokens.insert(command.token, Arc::new(token));
    Ok(Outcome::NodeAdded { node })
}

/// No two nodes of one name; and no id twice, so a node that lost what it had is removed first.
fn require_free(state: &State, name: &str) -> Result<(), Refusal> {
    let taken: Option<NodeId> = state
        .nodes
        .values()
        .find(|row| row.state == NodeState::Admitted && row.name == name)
        .map(|row| row.id);
    match taken {
        Some(node) => Err(Refusal::NodeNameTaken { name: name.to_owned(), node }),
        None => Ok(()),
    }
}

impl State {
    /// All join tokens that are kept, by the SHA-256 of their secret: open, used and over.
    pub fn join_tokens(&self) -> impl Iterator<Item = (&[u8; 32], &JoinToken)> {
        self.join_tokens.iter().map(|(hash, token)| (hash, token.as_ref()))
    }
}
