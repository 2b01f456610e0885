//! The most memory that our processes ever held during the other measurements, beside the limits
//! that the project sets itself.

use anyhow::Result;

use crate::figure::{Better, Figure, Report, Runs};
use crate::process::Server;

const AGENT: Figure = Figure {
    name: "agent_peak_resident",
    unit: "bytes",
    better: Better::Less,
    target: Some(1.0),
    peer_name: "limit of 128 MiB",
    how: "",
    note: "largest VmHWM of all agents of this run",
};
const COORDINATOR: Figure = Figure {
    name: "coordinator_peak_resident",
    unit: "bytes",
    better: Better::Less,
    target: Some(1.0),
    peer_name: "limit of 256 MiB",
    how: "",
    note: "largest VmHWM of all coordinators of this run",
};
const AGENT_LIMIT: u32 = 128 << 20;
const COORDINATOR_LIMIT: u32 = 256 << 20;

/// Peaks seen so far.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    agents: Vec<u64>,
    coordinators: Vec<u64>,
}

impl Memory {
    /// Notes an agent's peak. Call before it ends.
    pub(crate) fn of_agent(&mut self, server: &Server) -> Result<()> {
        self.agents.push(server.peak_resident_bytes()?);
        Ok(())
    }

    /// Notes a coordinator's peak. Call before it ends.
    pub(crate) fn of_coordinator(&mut self, server: &Server) -> Result<()> {
        self.coordinators.push(server.peak_resident_bytes()?);
        Ok(())
    }

    /// Reports the largest ones.
    pub(crate) fn report(&self, report: &mut Report) -> Result<()> {
        for (figure, peaks, limit) in [
            (AGENT, &self.agents, AGENT_LIMIT),
            (COORDINATOR, &self.coordinators, COORDINATOR_LIMIT),
        ] {
            if let Some(peak) = peaks.iter().max() {
                // Far below the 2^53 up to which a float counts every byte.
                #[allow(clippy::cast_precision_loss)]
                let ours = vec![*peak as f64];
                report.add(figure, &Runs { ours, peer: vec![f64::from(limit)] })?;
            }
        }
        Ok(())
    }
}
