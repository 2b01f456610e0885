//! Which recovery points to export, and what they lack. A choice over the state and a word about
//! each bundle, so that it can be tested without a disk.

use coordinator_core::{Cluster, PointRow, State};
use proto::ApiError;
use proto_types::{BundleId, Code, LogTime, Sequence};

/// Which points of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The newest complete one, committed at or before this time if one is given. A proved one
    /// where there is any.
    Newest(Option<LogTime>),
    /// This one.
    Sequence(Sequence),
    /// Every one.
    All,
}

/// A bundle that a point needs and that is not here, or not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The bundle.
    pub bundle: BundleId,
    /// config, key, manifest or wraps.
    pub kind: &'static str,
    /// Length of its file, as committed.
    pub bytes: u64,
    /// What is wrong, in words.
    pub what: &'static str,
}

type Incomplete<'a> = (&'a PointRow, Vec<Lack>);

/// Complete points, and those that were passed over because they lack something; newest first.
/// `problem` says of a bundle and its committed length what is wrong with it.
pub(super) fn choose<'a>(
    state: &'a State,
    cluster: &Cluster,
    which: Which,
    problem: impl Fn(&BundleId, u64) -> Result<Option<&'static str>, ApiError>,
) -> Result<(Vec<&'a PointRow>, Vec<Incomplete<'a>>), ApiError> {
    let not_found = |what: String| {
        ApiError::new(Code::PointNotFound, format!("cluster {} has no {what} here", cluster.name))
    };
    let all = || state.points(&cluster.id).rev();
    let (candidates, one_is_enough): (Vec<&PointRow>, bool) = match which {
        Which::All => (all().collect(), false),
        Which::Sequence(sequence) => {
            let point = state.point(&cluster.id, sequence);
            let point = point.ok_or_else(|| not_found(format!("recovery point {sequence}")))?;
            (vec![point], true)
        }
        Which::Newest(at) => {
            let in_time = || all().filter(|row| at.is_none_or(|at| row.committed <= at));
            let proved = in_time().filter(|row| row.is_proved());
            (proved.chain(in_time().filter(|row| !row.is_proved())).collect(), true)
        }
    };
    if candidates.is_empty() {
        let when = if matches!(which, Which::Newest(Some(_))) { " as old as that" } else { "" };
        return Err(not_found(format!("recovery point{when}")));
    }
    let (mut complete, mut incomplete) = (Vec::new(), Vec::new());
    for row in candidates {
        let lacks = lacks(state, row, &problem)?;
        if !lacks.is_empty() {
            incomplete.push((row, lacks));
            continue;
        }
        complete.push(row);
        if one_is_enough {
            break;
        }
    }
    Ok((complete, incomplete))
}

fn lacks(
    state: &State,
    row: &PointRow,
    problem: impl Fn(&BundleId, u64) -> Result<Option<&'static str>, ApiError>,
) -> Result<Vec<Lack>, ApiError> {
    let mut lacks = Vec::new();
    for (bundle, needed) in state.bundles_of(row) {
        let bytes = needed.facts.bytes;
        if let Some(what) = problem(bundle, bytes)? {
            let what = if needed.object.is_some() { "is in the bucket, not here" } else { what };
            lacks.push(Lack { bundle: *bundle, kind: needed.facts.kind.as_str(), bytes, what });
        }
    }
    Ok(lacks)
}
