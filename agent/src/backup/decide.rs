//! Which form a new point's manifest takes, and which bundles a full one sweeps together. Pure:
//! numbers in, decision out.

use std::collections::BTreeSet;

use proto_types::BundleId;

/// A full manifest is due when a quarter of its items changed since.
const CHANGED_SHARE: u64 = 4;
/// Or after so many points.
const POINTS_MAX: u64 = 64;
/// Or when the point would need more config bundles than this. A commit names every bundle that
/// a full manifest drops, and must stay under 4 KiB: 48 ids are 1.5 KiB.
const BUNDLES_MAX: usize = 48;
/// So many config bundles are left after a full manifest, at most, so that deltas have room.
const BUNDLES_KEPT_MAX: usize = 16;

/// What a decision is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Items of the full manifest that a delta would be against.
    pub(crate) base_items: u64,
    /// Items that a delta would list, removed ones included.
    pub(crate) delta_items: u64,
    /// Points since the base, this one included.
    pub(crate) points_since_base: u64,
    /// Config bundles that the point would need, a new one included.
    pub(crate) bundles: usize,
}

/// Why a full manifest is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FullReason {
    /// There is none yet.
    First,
    /// Somebody asked for it.
    Asked,
    /// A quarter of the items changed.
    Changed,
    /// It was long ago.
    Old,
    /// Too many bundles are needed.
    Bundles,
}

impl FullReason {
    /// For logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::First => "the first one",
            Self::Asked => "asked for",
            Self::Changed => "a quarter changed",
            Self::Old => "64 points since the last full one",
            Self::Bundles => "too many bundles needed",
        }
    }
}

/// Full, and why, or a delta.
pub(crate) fn form(base: Option<Shape>, asked: bool) -> Option<FullReason> {
    let Some(shape) = base else { return Some(FullReason::First) };
    if asked {
        Some(FullReason::Asked)
    } else if shape.delta_items.saturating_mul(CHANGED_SHARE) >= shape.base_items {
        Some(FullReason::Changed)
    } else if shape.points_since_base >= POINTS_MAX {
        Some(FullReason::Old)
    } else if shape.bundles > BUNDLES_MAX {
        Some(FullReason::Bundles)
    } else {
        None
    }
}

/// A config bundle that the point before needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) bundle: BundleId,
    /// Bytes of records that unchanged items still need.
    pub(crate) live: u64,
    /// Length of the file.
    pub(crate) total: u64,
}

/// The bundles whose items a full manifest reads and seals anew: those less than half live, and
/// the least live of the others until few enough remain.
pub(crate) fn repack(usages: &[Usage]) -> BTreeSet<BundleId> {
    let half_dead = |usage: &&Usage| usage.live.saturating_mul(2) < usage.total;
    let mut gone: BTreeSet<BundleId> =
        usages.iter().filter(half_dead).map(|usage| usage.bundle).collect();
    let mut kept: Vec<&Usage> = usages.iter().filter(|usage| !half_dead(usage)).collect();
    // One place is for the bundle that takes in what is sealed anew.
    let room = BUNDLES_KEPT_MAX - 1;
    if kept.len() > room {
        kept.sort_by_key(|usage| (usage.live, usage.bundle));
        gone.extend(kept[..kept.len() - room].iter().map(|usage| usage.bundle));
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Shape =
        Shape { base_items: 100, delta_items: 3, points_since_base: 5, bundles: 7 };

    #[test]
    fn decide_full_or_delta() {
        for (base, asked, expected) in [
            (None, false, Some(FullReason::First)),
            (Some(SMALL), false, None),
            (Some(SMALL), true, Some(FullReason::Asked)),
            (Some(Shape { delta_items: 24, ..SMALL }), false, None),
            (Some(Shape { delta_items: 25, ..SMALL }), false, Some(FullReason::Changed)),
            (
                Some(Shape { base_items: 0, delta_items: 0, ..SMALL }),
                false,
                Some(FullReason::Changed),
            ),
            (Some(Shape { points_since_base: 63, ..SMALL }), false, None),
            (Some(Shape { points_since_base: 64, ..SMALL }), false, Some(FullReason::Old)),
            (Some(Shape { bundles: 48, ..SMALL }), false, None),
            (Some(Shape { bundles: 49, ..SMALL }), false, Some(FullReason::Bundles)),
        ] {
            assert_eq!(form(base, asked), expected, "{base:?} {asked}");
        }
    }

    #[test]
    fn decide_what_a_full_manifest_repacks() {
        let id = |n: u8| BundleId::from_bytes([n; 32]);
        let usage = |n, live, total| Usage { bundle: id(n), live, total };
        assert_eq!(repack(&[]), BTreeSet::new());
        assert_eq!(
            repack(&[usage(1, 50, 100), usage(2, 49, 100), usage(3, 0, 10)]),
            BTreeSet::from([id(2), id(3)])
        );
        let many: Vec<Usage> = (0..40).map(|n| usage(n, 100 + u64::from(n), 150)).collect();
        let gone = repack(&many);
        assert_eq!(gone.len(), 25);
        assert!(gone.contains(&id(0)) && gone.contains(&id(24)) && !gone.contains(&id(25)));
    }
}
