//! Creating the fleet: the first command of every log. What other commands need of it.

use std::sync::Arc;

use crate::apply::Context;
use crate::command::InitFleet;
use crate::outcome::{Event, Outcome};
use crate::refusal::{Field, Refusal};
use crate::rows::Fleet;
use crate::state::State;

pub(crate) fn init(
    state: &mut State,
    context: &mut Context<'_>,
    command: &InitFleet,
) -> Result<Outcome, Refusal> {
    if let Some(fleet) = state.fleet() {
        let same = fleet.id == command.fleet
            && fleet.name == command.name
            && fleet.recovery == command.recovery;
        return if same {
            Ok(Outcome::FleetReady { fleet: fleet.id })
        } else {
            Err(Refusal::FleetExists { fleet: fleet.id, name: fleet.name.clone() })
        };
    }
    proto_types::check_cluster_name(&command.name)
        .map_err(|_| Refusal::InvalidField { field: Field::FleetName })?;
    if command.recovery.hpke == [0; 32] || command.recovery.signing == [0; 32] {
        return Err(Refusal::InvalidField { field: Field::PublicKey });
    }
    state.fleet = Some(Arc::new(Fleet {
        id: command.fleet,
        name: command.name.clone(),
        created: context.now,
        recovery: command.recovery,
        generation: 0,
        restored_from: None,
    }));
    context.events.push(Event::FleetCreated { fleet: command.fleet });
    Ok(Outcome::FleetReady { fleet: command.fleet })
}

/// The fleet, or a refusal.
pub(crate) fn require(state: &State) -> Result<&Fleet, Refusal> {
    state.fleet().ok_or(Refusal::FleetMissing)
}
