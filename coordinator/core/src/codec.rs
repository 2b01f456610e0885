//! The versioned bytes of requests, outcomes and the whole state.

use std::io;

use crate::command::Request;
use crate::outcome::Outcome;
use crate::state::State;

/// Why bytes are not what they should be. On a node's own log or state this stops the node.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("x")]
    X,
}

/// The bytes of a log entry: a version byte, then the request.
#[must_use]
pub fn encode_request(request: &Request) -> Vec<u8> {
    todo!()
}
/// Reads a log entry.
/// # Errors
/// Unknown version or command, or damage.
pub fn decode_request(bytes: &[u8]) -> Result<Request, DecodeError> {
    todo!()
}
/// The bytes of an outcome: a version byte, then the outcome.
#[must_use]
pub fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    todo!()
}
/// Reads an outcome.
/// # Errors
/// Unknown version or outcome, or damage.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, DecodeError> {
    todo!()
}
/// Writes the whole state as a stream of rows.
/// # Errors
/// Of the writer.
pub fn write_state(state: &State, out: &mut dyn io::Write) -> io::Result<()> {
    todo!()
}
/// Reads a whole state, to its end row.
/// # Errors
/// Unknown version or row, damage, or an error of the reader.
pub fn read_state(input: &mut dyn io::Read) -> Result<State, DecodeError> {
    todo!()
}
