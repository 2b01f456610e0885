//! The fleet's certificate authority on this coordinator: the intermediate, which certifies who
//! joins, and the leader's part in it: the root's certificate and sealed key are brought into the
//! replicated state, and people are told a year before the intermediate ends.

use std::path::Path;

use coordinator_core::{
    ClearFinding, Command, FindingKey, Outcome, RaiseFinding, Scope, SetAuthority, Severity, State,
};
use proto::ApiError;
use proto::authority::{Intermediate, NOTICE_MS};
use proto_types::{Code, LogTime};
use zeroize::Zeroizing;

use crate::config::AuthorityFiles;
use crate::raft::RaftNode;
use crate::service::core_request;

/// The finding that the intermediate ends within a year.
const FINDING_EXPIRES: &str = "authority-expires";
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What this coordinator holds of the authority.
pub(crate) struct Authority {
    pub(crate) intermediate: Intermediate,
    sealed: Option<Vec<u8>>,
}

impl Authority {
    /// Reads the files.
    ///
    /// # Errors
    /// `INVALID_CONFIG` when one cannot be read, or they do not belong together; names the file.
    pub(crate) fn load(files: &AuthorityFiles) -> Result<Self, ApiError> {
        let key = Zeroizing::new(read(&files.key)?);
        let key =
            std::str::from_utf8(&key).map_err(|_| invalid(&files.key, "it is no PEM file"))?;
        let intermediate = Intermediate::from_pem(&read(&files.certificate)?, key)
            .map_err(|error| invalid(&files.certificate, &error.to_string()))?;
        // Once the state has it, it may be taken away.
        let sealed = match files.sealed.as_deref().filter(|path| path.exists()) {
            Some(path) => Some(read(path)?),
            None => None,
        };
        Ok(Self { intermediate, sealed })
    }

    /// The leader's round.
    pub(crate) async fn look_after(
        &self,
        raft: &RaftNode,
        state: &State,
        now: LogTime,
    ) -> Result<(), ApiError> {
        for command in self.owed(state, now) {
            let (outcome, _) = raft.propose_here(core_request(None, command)).await?;
            if let Outcome::Refused(refusal) = outcome {
                return Err(ApiError::new(Code::InvalidConfig, refusal.to_string()));
            }
        }
        Ok(())
    }

    /// Whether the state has yet to be told of it.
    pub(crate) fn is_owed(&self, state: &State) -> bool {
        self.sealed.is_some() && state.authority().is_none()
    }

    fn owed(&self, state: &State, now: LogTime) -> Vec<Command> {
        let mut owed = Vec::new();
        if let Some(sealed) = self.sealed.as_ref().filter(|_| self.is_owed(state)) {
            owed.push(Command::SetAuthority(SetAuthority {
                root_certificate: self.intermediate.root().to_vec(),
                sealed_root_key: sealed.clone(),
            }));
        }
        owed.extend(expiry(state, self.intermediate.ends(), now));
        owed
    }
}

/// Raises or clears the finding, where it is not as it should be.
fn expiry(state: &State, ends: LogTime, now: LogTime) -> Option<Command> {
    let key = FindingKey {
        scope: Scope::Fleet,
        kind: FINDING_EXPIRES.to_owned(),
        subject: String::new(),
    };
    let left_ms = ends.millis_since(now);
    let severity = match left_ms {
        0 => Severity::Critical,
        left if left < NOTICE_MS => Severity::Warning,
        _ => Severity::Info,
    };
    let standing = state.findings().find(|(found, _)| **found == key);
    let standing = standing.map(|(_, finding)| finding.severity);
    if severity == Severity::Info {
        return standing.map(|_| Command::ClearFinding(ClearFinding { key }));
    }
    if standing == Some(severity) {
        return None;
    }
    let message = match left_ms {
        0 => "the coordinators' certificate authority has ended: no certificate of this fleet is \
              accepted any more"
            .to_owned(),
        left => format!(
            "the coordinators' certificate authority ends in {} days, and with it every \
             certificate of this fleet",
            left / DAY_MS
        ),
    };
    Some(Command::RaiseFinding(RaiseFinding {
        key,
        severity,
        message,
        remedy:
            "on each coordinator's host, one after the other: `strongroom fleet renew --config \
                 FILE` with the recovery key, then restart it"
                .to_owned(),
    }))
}

fn read(path: &Path) -> Result<Vec<u8>, ApiError> {
    std::fs::read(path).map_err(|error| invalid(path, &error.to_string()))
}

fn invalid(path: &Path, why: &str) -> ApiError {
    ApiError::new(
        Code::InvalidConfig,
        format!("authority: {} cannot be used: {why}", path.display()),
    )
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
