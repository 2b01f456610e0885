//! Ports that stay free: below the range from which the system takes source ports, so that no
//! outgoing connection of anybody sits on one while its server is down for a restart.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

const LOWEST: u16 = 15_000;
/// Below 32768, where the range of source ports begins on Linux.
const HIGHEST: u16 = 32_000;

/// Distinct ports on loopback on which nobody listens.
pub(crate) fn free<const COUNT: usize>() -> Result<[u16; COUNT]> {
    let span = HIGHEST - LOWEST;
    // Begins elsewhere in each process, so that two of them seldom meet.
    let start = RandomState::new().build_hasher().finish() % u64::from(span);
    let start = u16::try_from(start)?;
    // Held until all are chosen, so that none is chosen twice.
    let mut held = Vec::new();
    for step in 0..span {
        let port = LOWEST + (start + step) % span;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
        if held.len() == COUNT {
            return Ok(std::array::from_fn(|at| held[at].0));
        }
    }
    bail!("no {COUNT} free ports between {LOWEST} and {HIGHEST} on 127.0.0.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct_and_free() {
        let ports = free::<6>().unwrap();
        let distinct: std::collections::BTreeSet<u16> = ports.into_iter().collect();
        assert_eq!(distinct.len(), 6);
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }
}
