//! Frames and records: the bytes between a segment's header and its end. One batch is one frame,
//! valid as a whole or not at all. Pure: no files here.
//!
//! ```text
//! frame  = "SRWF" version:u8 kind:u8 0:u16 position durable body_bytes:u32 records:u32
//!          crc32c:u32 0:u32 body           position, durable = segment:u64 offset:u64
//! record = payload_bytes:u32 kind:u8 0[3] index:u64 crc32c:u32 0:u32 payload
//! ```
//! Little endian; a body is padded with zeros to eight bytes, and the checksum covers the padding.

use super::{LOG_VERSION, Position};

pub(super) const FRAME_HEADER_BYTES: usize = 56;
pub(super) const RECORD_HEADER_BYTES: usize = 24;
/// Frames start at multiples of this.
pub(super) const ALIGNMENT: u64 = 8;
const MAGIC: [u8; 4] = *b"SRWF";
const CRC_AT: usize = 48;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// Records.
    Batch,
    /// The last frame of a segment that has a successor.
    Seal,
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// An entry at `index`.
    Entry,
    /// The vote; replaces the one before.
    Vote,
    /// Entries from `index` on are gone.
    TruncateFrom,
    /// Entries up to `index` are gone; the payload is the log id of the last of them.
    Purge,
    /// The last log id known committed; empty for none.
    Committed,
}

impl RecordKind {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::Vote => 2,
            Self::TruncateFrom => 3,
            Self::Purge => 4,
            Self::Committed => 5,
        }
    }
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Entry),
            2 => Some(Self::Vote),
            3 => Some(Self::TruncateFrom),
            4 => Some(Self::Purge),
            5 => Some(Self::Committed),
            _ => None,
        }
    }
}

/// One record, owned, as it waits for the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// What it is.
    pub(crate) kind: RecordKind,
    /// The log index it is about; 0 where there is none.
    pub(crate) index: u64,
    /// Encoded by `raft_codec`.
    pub(crate) payload: Vec<u8>,
}

impl Record {
    /// Its bytes in a frame.
    pub(crate) const fn encoded_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload.len()
    }
}

/// One record inside a parsed frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordRef<'a> {
    pub(super) kind: RecordKind,
    pub(super) index: u64,
    pub(super) payload: &'a [u8],
}

/// A valid frame.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: FrameKind,
    /// Everything before this was durable when the frame was written.
    pub(super) durable: Position,
    /// Records with their offsets from the frame's start.
    pub(super) records: Vec<(RecordRef<'a>, usize)>,
    /// Length with header and padding.
    pub(super) bytes: usize,
}

/// Builds a frame and tells where in it each record stands.
pub(super) fn encode(
    kind: FrameKind,
    position: Position,
    durable: Position,
    records: &[&Record],
) -> (Vec<u8>, Vec<usize>) {
    let body: usize = records.iter().map(|r| r.encoded_bytes()).sum();
    let body = body.next_multiple_of(ALIGNMENT as usize);
    let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + body);
    out.extend_from_slice(&MAGIC);
    out.push(LOG_VERSION);
    out.push(match kind {
        FrameKind::Batch => 1,
        FrameKind::Seal => 2,
    });
    out.extend_from_slice(&[0; 2]);
    for number in [position.segment, position.offset, durable.segment, durable.offset] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&length(body).to_le_bytes());
    out.extend_from_slice(&length(records.len()).to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    let mut offsets = Vec::with_capacity(records.len());
    for record in records {
        offsets.push(out.len());
        let start = out.len();
        out.extend_from_slice(&length(record.payload.len()).to_le_bytes());
        out.push(record.kind.to_byte());
        out.extend_from_slice(&[0; 3]);
        out.extend_from_slice(&record.index.to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&out[start..]), &record.payload);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&record.payload);
    }
    out.resize(FRAME_HEADER_BYTES + body, 0);
    let checksum = checksum_of(&out);
    out[CRC_AT..CRC_AT + 4].copy_from_slice(&checksum.to_le_bytes());
    (out, offsets)
}

/// Reads the frame that begins at `bytes[0]`, which stands at `position`. `None` when there is no
/// valid one: whether that is a torn tail or damage only the caller can tell.
pub(super) fn parse(bytes: &[u8], position: Position) -> Option<Frame<'_>> {
    let header = bytes.get(..FRAME_HEADER_BYTES)?;
    if header[..4] != MAGIC || header[4] != LOG_VERSION || header[6..8] != [0; 2] {
        return None;
    }
    let kind = match header[5] {
        1 => FrameKind::Batch,
        2 => FrameKind::Seal,
        _ => return None,
    };
    let at = |i: usize| u64::from_le_bytes(header[i..i + 8].try_into().expect("eight bytes"));
    let short = |i: usize| u32::from_le_bytes(header[i..i + 4].try_into().expect("four bytes"));
    if (Position { segment: at(8), offset: at(16) }) != position {
        return None;
    }
    let durable = Position { segment: at(24), offset: at(32) };
    let body = short(40) as usize;
    if !body.is_multiple_of(ALIGNMENT as usize) || header[52..] != [0; 4] {
        return None;
    }
    let whole = bytes.get(..FRAME_HEADER_BYTES.checked_add(body)?)?;
    if checksum_of(whole) != short(CRC_AT) {
        return None;
    }
    let mut records = Vec::new();
    let mut offset = FRAME_HEADER_BYTES;
    for _ in 0..short(44) {
        let (record, length) = parse_record(&whole[offset..])?;
        records.push((record, offset));
        offset += length;
    }
    (whole.len() - offset < ALIGNMENT as usize).then_some(Frame {
        kind,
        durable,
        records,
        bytes: whole.len(),
    })
}

/// Reads the record that begins at `bytes[0]`; also says how long it is.
pub(super) fn parse_record(bytes: &[u8]) -> Option<(RecordRef<'_>, usize)> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    let payload_bytes = u32::from_le_bytes(header[..4].try_into().expect("four bytes")) as usize;
    let end = RECORD_HEADER_BYTES.checked_add(payload_bytes)?;
    let payload = bytes.get(RECORD_HEADER_BYTES..end)?;
    let checksum = u32::from_le_bytes(header[16..20].try_into().expect("four bytes"));
    if checksum != crc32c::crc32c_append(crc32c::crc32c(&header[..16]), payload) {
        return None;
    }
    let kind = RecordKind::from_byte(header[4])?;
    let index = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
    Some((RecordRef { kind, index, payload }, end))
}

/// Whether any valid frame stands after `from`, and the furthest position that such frames say
/// was durable. A frame carries its own position, so stray bytes are not taken for one.
pub(super) fn durable_according_to_later_frames(
    segment_bytes: &[u8],
    segment: u64,
    from: u64,
) -> Option<Position> {
    let mut latest = None;
    let mut offset = from.next_multiple_of(ALIGNMENT);
    while let Some(rest) = usize::try_from(offset).ok().and_then(|o| segment_bytes.get(o..)) {
        if rest.len() < FRAME_HEADER_BYTES {
            break;
        }
        if rest[..4] == MAGIC
            && let Some(frame) = parse(rest, Position { segment, offset })
        {
            latest = latest.max(Some(frame.durable));
        }
        offset += ALIGNMENT;
    }
    latest
}

// The checksum field itself counts as zero.
fn checksum_of(frame: &[u8]) -> u32 {
    let before = crc32c::crc32c(&frame[..CRC_AT]);
    crc32c::crc32c_append(crc32c::crc32c_append(before, &[0; 4]), &frame[CRC_AT + 4..])
}

fn length(value: usize) -> u32 {
    u32::try_from(value).expect("the queue refuses longer records and batches")
}
