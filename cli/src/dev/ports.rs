//! Chooses ports that stay free: below the range from which the system takes source ports, so
//! that no outgoing connection of anybody sits on one while its coordinator is down.

use std::net::{Ipv4Addr, TcpListener};

use proto_types::Code;
use proto_types::env::Random;

use crate::error::{CliError, Result};

/// Ports that people expect, used when all are free.
const USUAL: [u16; 6] = [7401, 7402, 7403, 7411, 7412, 7413];
const LOWEST: u16 = 15_000;
/// Below 32768, where the range of source ports begins on Linux.
const HIGHEST: u16 = 32_000;

/// Six free ports: three for gRPC, three for metrics.
///
/// # Errors
/// When no six free ports are found.
pub(super) fn choose(random: &dyn Random, usual: bool) -> Result<[u16; 6]> {
    if usual && USUAL.iter().all(|port| is_free(*port)) {
        return Ok(USUAL);
    }
    let span = u64::from(HIGHEST - LOWEST);
    // Held until all are chosen, so that none is chosen twice.
    let mut held: Vec<(u16, TcpListener)> = Vec::new();
    for _ in 0..10_000 {
        let port = LOWEST + u16::try_from(random.next_u64() % span).unwrap_or(0);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
        if held.len() == 6 {
            let mut ports = [0; 6];
            for (port, (chosen, _)) in ports.iter_mut().zip(&held) {
                *port = *chosen;
            }
            return Ok(ports);
        }
    }
    Err(CliError::new(Code::AddressInUse, "no six free ports were found on 127.0.0.1")
        .with_remedy(format!("free some between {LOWEST} and {HIGHEST}")))
}

/// Refuses when somebody else listens on a port that is ours.
///
/// # Errors
/// `ADDRESS_IN_USE`, naming the port.
pub(super) fn require_free(ports: &[u16]) -> Result<()> {
    match ports.iter().find(|port| !is_free(**port)) {
        None => Ok(()),
        Some(port) => Err(CliError::new(
            Code::AddressInUse,
            format!("127.0.0.1:{port}, which this fleet uses, is taken by another program"),
        )
        .with_remedy(
            "stop that program (perhaps another `strongroom dev`), or give another --data \
             directory",
        )),
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use proto_types::env::SystemRandom;

    use super::*;

    #[test]
    fn ports_are_distinct_and_a_taken_one_is_named() {
        let ports = choose(&SystemRandom, false).unwrap();
        let distinct: std::collections::BTreeSet<u16> = ports.into_iter().collect();
        assert_eq!(distinct.len(), 6);
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, ports[0])).unwrap();
        let error = require_free(&ports).unwrap_err();
        assert_eq!(error.code(), Code::AddressInUse);
        assert!(error.message().contains(&ports[0].to_string()));
        drop(taken);
    }
}
