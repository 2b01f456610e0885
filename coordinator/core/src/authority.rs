//! The fleet's certificate authority as the state carries it: the root's certificate, and its
//! private key sealed to the recovery key. Written once; who restores a snapshot with the recovery
//! key has the same authority again.

use std::sync::Arc;

use crate::apply::Context;
use crate::command::SetAuthority;
use crate::fleet;
use crate::limits::{AUTHORITY_CERTIFICATE_BYTES_MAX, AUTHORITY_KEY_BYTES_MAX};
use crate::outcome::{Event, Outcome};
use crate::refusal::{Field, Refusal};
use crate::rows::Authority;
use crate::state::State;

pub(crate) fn set(
    state: &mut State,
    context: &mut Context<'_>,
    command: &SetAuthority,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    let lengths = (command.root_certificate.len(), command.sealed_root_key.len());
    if !(1..=AUTHORITY_CERTIFICATE_BYTES_MAX).contains(&lengths.0)
        || !(1..=AUTHORITY_KEY_BYTES_MAX).contains(&lengths.1)
    {
        return Err(Refusal::InvalidField { field: Field::Authority });
    }
    let offered = Authority {
        root_certificate: command.root_certificate.clone(),
        sealed_root_key: command.sealed_root_key.clone(),
    };
    match state.authority() {
        Some(there) if *there == offered => Ok(Outcome::AuthoritySet),
        Some(_) => Err(Refusal::AuthorityExists),
        None => {
            state.authority = Some(Arc::new(offered));
            context.events.push(Event::AuthoritySet);
            Ok(Outcome::AuthoritySet)
        }
    }
}

impl State {
    /// The fleet's certificate authority, if it was founded with one of its own.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_deref()
    }
}
