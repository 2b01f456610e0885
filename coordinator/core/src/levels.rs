//! The active level: what every member can apply. A command above it is refused, so that a node with
//! an older program never meets an entry that it cannot read. The level only rises, by an entry of
//! its own, which the leader proposes once every member supports it.

use proto_types::Level;

use crate::apply::Context;
use crate::command::{Command, RaiseLevel};
use crate::outcome::{Event, Outcome};
use crate::refusal::Refusal;
use crate::state::State;

/// Refuses what is above the active level.
pub(crate) fn require(state: &State, command: &Command) -> Result<(), Refusal> {
    let needed = command.level();
    if needed > state.level && command.waits_for_level() {
        return Err(Refusal::LevelTooLow { needed, active: state.level });
    }
    Ok(())
}

/// Works in a log without a fleet too: what creates the fleet may need the level.
pub(crate) fn raise(state: &mut State, context: &mut Context<'_>, command: RaiseLevel) -> Outcome {
    if command.to > state.level {
        state.level = command.to;
        context.events.push(Event::LevelRaised { level: command.to });
    }
    Outcome::LevelRaised { level: state.level }
}

impl State {
    /// The active level.
    #[must_use]
    pub const fn level(&self) -> Level {
        self.level
    }
}
