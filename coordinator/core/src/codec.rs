//! The versioned bytes of log entries, outcomes and the whole state. The structs that are encoded
//! are apart from those that the rules work on, each field with its tag; frozen examples are in
//! `tests/fixtures/`. Decoders accept exactly what encoders write: whatever else is in a node's
//! log or state stops the node, because to skip it would make replicas differ.

mod audit;
mod bucket;
mod delayed;
mod enrolment;
mod keys;
mod outcome;
mod refusal;
mod request;
mod state;
mod wire;

use std::io;

use prost::Message;
use proto_types::Code;

use crate::audit::{AuditEntry, Sender};
use crate::command::Request;
use crate::outcome::Outcome;
use crate::state::State;

/// Version of encoded requests.
pub const REQUEST_VERSION: u8 = 1;
/// Version of encoded outcomes.
pub const OUTCOME_VERSION: u8 = 1;
/// Version of the encoded state.
pub const STATE_VERSION: u16 = 1;
/// First bytes of an encoded state.
pub const STATE_MAGIC: [u8; 8] = *b"SRSTATE\0";

/// Why bytes are not what they should be. Where they are a node's own log or state, the node must
/// stop.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Nothing there.
    #[error("the {what} is empty: restore the file it came from, or rejoin as a new node")]
    Empty {
        /// What was read.
        what: &'static str,
    },
    /// Written by another version of the program.
    #[error(
        "the {what} has version {found}, this program reads {newest}: use the strongroom that \
         wrote it, or a newer one"
    )]
    UnsupportedVersion {
        /// What was read.
        what: &'static str,
        /// The version found.
        found: u16,
        /// The newest version that this program reads.
        newest: u16,
    },
    /// A command, outcome, row or field of a newer program.
    #[error("the {what} holds something this program does not know: use a newer strongroom")]
    Unknown {
        /// What was read.
        what: &'static str,
    },
    /// The bytes are no encoded message.
    #[error("the {what} is damaged")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What the parser says.
        #[source]
        source: prost::DecodeError,
    },
    /// A field holds what no encoder writes.
    #[error("the {what} is damaged: its field {field} is not valid")]
    Field {
        /// What was read.
        what: &'static str,
        /// The field.
        field: &'static str,
    },
    /// The first bytes are not those of a state.
    #[error("this is no strongroom state: the first bytes are wrong")]
    NotAState,
    /// A row is longer than any encoder writes.
    #[error("the state is damaged: a row claims to be {bytes} bytes long")]
    RowTooLong {
        /// The length it claims.
        bytes: u32,
    },
    /// The rows were not all there.
    #[error("the state is damaged: it has {found} rows where {expected} were written")]
    RowCount {
        /// Rows found.
        found: u64,
        /// Rows written.
        expected: u64,
    },
    /// The rows contradict each other.
    #[error("the state is damaged: its rows contradict each other ({what})")]
    Contradiction {
        /// What does not fit.
        what: &'static str,
    },
    /// The reader failed, or ended before the last row.
    #[error("the state could not be read to its end")]
    Read(#[source] io::Error),
}

impl DecodeError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::UnsupportedVersion { .. } | Self::Unknown { .. } => Code::UnsupportedVersion,
            Self::Empty { .. }
            | Self::Malformed { .. }
            | Self::Field { .. }
            | Self::NotAState
            | Self::RowTooLong { .. }
            | Self::RowCount { .. }
            | Self::Contradiction { .. } => Code::Damaged,
            Self::Read(_) => Code::LocalIo,
        }
    }
}

/// The bytes of a log entry: the version, then the request.
#[must_use]
pub fn encode_request(request: &Request) -> Vec<u8> {
    framed(REQUEST_VERSION, &request::to_wire(request))
}

/// Reads a log entry.
///
/// # Errors
/// When version or command are unknown to this program, or the bytes are damaged.
pub fn decode_request(bytes: &[u8]) -> Result<Request, DecodeError> {
    request::from_wire(unframed("log entry", REQUEST_VERSION, bytes)?)
}

/// The bytes of an outcome: the version, then the outcome.
#[must_use]
pub fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    framed(OUTCOME_VERSION, &outcome::to_wire(outcome))
}

/// Reads an outcome.
///
/// # Errors
/// When version or outcome are unknown to this program, or the bytes are damaged.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, DecodeError> {
    outcome::from_wire(unframed("outcome", OUTCOME_VERSION, bytes)?)
}

/// The bytes of an entry of the audit log, over which its hash goes. They have no version of their own:
/// the label of the hash has it.
#[must_use]
pub fn encode_audit_entry(entry: &AuditEntry) -> Vec<u8> {
    audit::put_entry(entry).encode_to_vec()
}

/// Reads an entry of the audit log.
///
/// # Errors
/// When the bytes are damaged, or of a newer program.
pub fn decode_audit_entry(bytes: &[u8]) -> Result<AuditEntry, DecodeError> {
    audit::get_entry(exact(audit::WHAT, bytes)?)
}

/// The bytes of a request's sender, which a forwarded request travels beside.
#[must_use]
pub fn encode_sender(sender: &Sender) -> Vec<u8> {
    audit::WireSender::put(sender).encode_to_vec()
}

/// Reads a request's sender.
///
/// # Errors
/// When the bytes are damaged, or of a newer program.
pub fn decode_sender(bytes: &[u8]) -> Result<Sender, DecodeError> {
    audit::WireSender::get(exact(audit::WHAT, bytes)?)
}

/// Writes the whole state as a stream of rows, in many small writes: hand in a buffered writer.
///
/// # Errors
/// Those of the writer.
pub fn write_state(state: &State, out: &mut dyn io::Write) -> io::Result<()> {
    state::write(state, out)
}

/// Reads a whole state, up to and with its end row and not beyond. Whether the bytes are those
/// once written is for the caller to know by a digest; what is found here is only a state that
/// could not be worked with.
///
/// # Errors
/// When version or row are unknown to this program, the bytes are damaged or cut short, or the
/// reader fails.
pub fn read_state(input: &mut dyn io::Read) -> Result<State, DecodeError> {
    state::read(input)
}

fn framed(version: u8, message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(version);
    message.encode_raw(&mut bytes);
    bytes
}

fn unframed<M: Message + Default>(
    what: &'static str,
    newest: u8,
    bytes: &[u8],
) -> Result<M, DecodeError> {
    let (version, bytes) = bytes.split_first().ok_or(DecodeError::Empty { what })?;
    if *version != newest {
        return Err(DecodeError::UnsupportedVersion {
            what,
            found: u16::from(*version),
            newest: u16::from(newest),
        });
    }
    exact(what, bytes)
}

/// Decodes a message of which nothing is skipped: protobuf would pass over a newer program's
/// fields in silence, and two replicas would come to different states.
fn exact<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, DecodeError> {
    let message = M::decode(bytes).map_err(|source| DecodeError::Malformed { what, source })?;
    if message.encode_to_vec() != bytes {
        return Err(DecodeError::Unknown { what });
    }
    Ok(message)
}
