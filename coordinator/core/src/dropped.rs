//! The bundles that a commit drops, in a quarter of their ids' length: a repack drops up to a
//! hundred at once, and the log entry must stay under 4 KiB.

use std::collections::BTreeSet;
use std::fmt;

use imbl::OrdSet;
use proto_types::BundleId;

/// The first eight bytes of a bundle's id. Among the hundred and some bundles of one point two
/// alike are as good as impossible; where somebody made them on purpose the commit is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BundlePrefix([u8; 8]);

impl BundlePrefix {
    /// Length in bytes.
    pub const LEN: usize = 8;

    /// Wraps raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }
    /// The first bytes of this id.
    #[must_use]
    pub fn of(bundle: &BundleId) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(&bundle.as_bytes()[..Self::LEN]);
        Self(bytes)
    }
    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// The one bundle among these that begins so; `None` when there is none, or more than one.
    pub(crate) fn resolve(self, among: &OrdSet<BundleId>) -> Option<BundleId> {
        let mut first = [0; BundleId::LEN];
        let mut last = [0xff; BundleId::LEN];
        first[..Self::LEN].copy_from_slice(&self.0);
        last[..Self::LEN].copy_from_slice(&self.0);
        let mut found = among.range(BundleId::from_bytes(first)..=BundleId::from_bytes(last));
        let bundle = found.next().copied();
        bundle.filter(|_| found.next().is_none())
    }
}

impl fmt::Display for BundlePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for BundlePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BundlePrefix({self})")
    }
}

/// The bundles that the parent needs and the new point does not. Collected from their ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dropped(Vec<BundlePrefix>);

impl Dropped {
    /// Wraps prefixes as they travelled.
    #[must_use]
    pub fn from_prefixes(prefixes: Vec<BundlePrefix>) -> Self {
        Self(prefixes)
    }
    /// The prefixes, in the order they came.
    #[must_use]
    pub fn prefixes(&self) -> &[BundlePrefix] {
        &self.0
    }
    /// Whether these are exactly the bundles, in any order.
    pub(crate) fn are(&self, bundles: &[BundleId]) -> bool {
        let these: BTreeSet<BundlePrefix> = self.0.iter().copied().collect();
        self.0.len() == bundles.len() && these == bundles.iter().map(BundlePrefix::of).collect()
    }
}

impl FromIterator<BundleId> for Dropped {
    fn from_iter<I: IntoIterator<Item = BundleId>>(bundles: I) -> Self {
        Self(bundles.into_iter().map(|bundle| BundlePrefix::of(&bundle)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{BundleId, BundlePrefix, OrdSet};

    fn id(prefix: u8, rest: u8) -> BundleId {
        let mut bytes = [rest; 32];
        bytes[..8].copy_from_slice(&[prefix; 8]);
        BundleId::from_bytes(bytes)
    }

    #[test]
    fn prefixes_name_one_bundle_or_none() {
        let among = OrdSet::from_iter([id(1, 0), id(2, 0), id(2, 9), id(3, 0xff), id(4, 7)]);
        let resolve = |prefix| BundlePrefix::from_bytes([prefix; 8]).resolve(&among);
        assert_eq!(resolve(0), None);
        assert_eq!(resolve(1), Some(id(1, 0)));
        assert_eq!(resolve(2), None, "two begin so");
        assert_eq!(resolve(3), Some(id(3, 0xff)));
        assert_eq!(resolve(4), Some(id(4, 7)));
        assert_eq!(resolve(5), None);
    }
}
