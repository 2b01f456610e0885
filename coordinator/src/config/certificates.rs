//! How long the certificates are valid that this coordinator gives out.

use std::time::Duration;

use proto::authority::default_life_ms;
use proto::identity::Party;
use serde::Deserialize;

/// A shorter life leaves no time to renew it.
const SECONDS_MIN: u64 = 6;
/// Connections are made anew this often, so that each shows the certificate of now.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(3600);

/// How long certificates are valid, in seconds. Never longer than the coordinators' authority.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CertificatesConfig {
    /// Of agents; 90 days if absent.
    pub agent_seconds: Option<u64>,
    /// Of operators; 90 days if absent.
    pub operator_seconds: Option<u64>,
    /// Of coordinators; a year if absent.
    pub coordinator_seconds: Option<u64>,
}

impl CertificatesConfig {
    pub(super) fn check(self, problems: &mut Vec<String>) {
        let all = [
            ("agent_seconds", self.agent_seconds),
            ("operator_seconds", self.operator_seconds),
            ("coordinator_seconds", self.coordinator_seconds),
        ];
        for (key, seconds) in all {
            if seconds.is_some_and(|seconds| seconds < SECONDS_MIN) {
                problems.push(format!(
                    "certificates.{key}: less than {SECONDS_MIN} leaves no time to renew it; raise it"
                ));
            }
        }
    }

    /// How long a new certificate of this party is valid, in milliseconds.
    #[must_use]
    pub fn life_ms(self, party: &Party) -> u64 {
        let seconds = match party {
            Party::Agent(_) => self.agent_seconds,
            Party::Operator { .. } => self.operator_seconds,
            Party::Coordinator(_) => self.coordinator_seconds,
        };
        seconds.map_or_else(|| default_life_ms(party), |seconds| seconds.saturating_mul(1000))
    }

    /// How old a connection may become: a fraction of what is left when a certificate renews.
    #[must_use]
    pub fn connection_age(self) -> Duration {
        let all = [self.agent_seconds, self.operator_seconds, self.coordinator_seconds];
        let shortest = all.into_iter().flatten().min();
        let share = shortest.map(|seconds| Duration::from_secs((seconds / 6).max(1)));
        share.map_or(CONNECTION_AGE_MAX, |share| share.min(CONNECTION_AGE_MAX))
    }
}
