//! What verbs print: one struct per thing, its JSON form (stable, described in `docs/cli.md`) and
//! its lines for people. Converted from the protocol's messages here and nowhere else.

mod audit;
mod fleet;
mod point;

pub use audit::{ActorView, EntryView, PlaceView, SubjectView, entry_rows};
pub use fleet::{
    ChangeView, ClusterView, FindingView, NodeView, StatusView, cluster_rows, finding_rows,
};
pub use point::{BundleView, PointView, ProofView, point_rows, times_apart};

use proto_types::{ByteCount, LogTime};

use crate::when;

/// Hexadecimal of an id's bytes; empty bytes mean "none".
fn id(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() { None } else { Some(hex::encode(bytes)) }
}

pub(crate) fn time(millis: u64) -> String {
    when::rfc3339(LogTime::from_millis(millis))
}

fn size(bytes: u64) -> String {
    ByteCount::new(bytes).to_string()
}
