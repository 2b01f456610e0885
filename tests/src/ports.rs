//! Ports for servers that must know each other's before they start. Taken from below the range
//! the system gives to outgoing connections, and held by a lock on a file, so that two fleets
//! never choose the same one.

use std::fs::File;
use std::net::TcpListener;

use proto_types::env::{Random, SystemRandom};

const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// A port on loopback that is this test's until dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Takes a free one.
    ///
    /// # Panics
    /// When none is.
    #[must_use]
    pub fn reserve() -> Self {
        let begin = SystemRandom.next_u64();
        (0..u64::from(COUNT))
            .filter_map(|step| u16::try_from((begin.wrapping_add(step)) % u64::from(COUNT)).ok())
            .find_map(|step| Self::try_reserve(FIRST + step))
            .expect("a loopback port is free")
    }

    fn try_reserve(number: u16) -> Option<Self> {
        let directory = std::env::temp_dir().join("strongroom-tests-ports");
        std::fs::create_dir_all(&directory).expect("the temporary directory is writable");
        let lock = File::create(directory.join(number.to_string())).ok()?;
        lock.try_lock().ok()?;
        TcpListener::bind(("127.0.0.1", number)).ok()?;
        Some(Self { number, _lock: lock })
    }

    /// The number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}
