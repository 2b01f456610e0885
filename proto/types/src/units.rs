//! Units that must not be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, as stamped into log entries by the leader. The largest one
/// seen is part of the replicated state, so it never runs backwards.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct LogTime(u64);

impl LogTime {
    /// The Unix epoch.
    pub const ZERO: Self = Self(0);

    /// Wraps milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }
    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }
    /// This time and `millis` more.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
    /// Milliseconds from `earlier` to this, zero if it is later.
    #[must_use]
    pub const fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What a program can apply, decode and answer, as one number: it grows by one with a release that
/// adds something the one before could not read. A fleet has an active level, and every data
/// directory the level a program needs to use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Level(u16);

impl Level {
    /// The first there was, and the lowest that this program still works with.
    pub const OLDEST: Self = Self(1);
    /// The highest that this program can do.
    pub const NEWEST: Self = Self(2);

    /// Wraps a number.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }
    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for Level {
    fn default() -> Self {
        Self::OLDEST
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A number of bytes; prints in binary units.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteCount(u64);

impl ByteCount {
    /// Wraps a number of bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }
    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        // Tenths, in integers: rounding to the nearest, the unit chosen so that it stays under 1024.
        let mut unit = 0;
        let mut scale: u128 = 1024;
        while u128::from(self.0) * 10 / scale >= 10_240 && unit + 1 < UNITS.len() {
            unit += 1;
            scale *= 1024;
        }
        let tenths = (u128::from(self.0) * 10 + scale / 2) / scale;
        write!(f, "{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::ByteCount;

    #[test]
    fn byte_counts_print_in_binary_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (5 << 20, "5.0 MiB"),
            (3 << 30, "3.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(ByteCount::new(bytes).to_string(), text);
        }
    }
}
