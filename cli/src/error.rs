//! The one error a person sees: a stable code, a sentence, and what to do. Everything below has
//! its own error type; here they become text and an exit code, and nowhere else.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use agent::shown::{self, plain, plain_json, plain_lines};
use proto::ApiError;
use proto_types::Code;
use serde_json::json;

use crate::args::Format;

/// Result of a verb.
pub type Result<T> = std::result::Result<T, CliError>;

/// What ends a verb before its end.
#[derive(Debug)]
pub struct CliError {
    code: Code,
    message: String,
    remedy: Option<String>,
    silent: bool,
}

impl CliError {
    /// An error of this code with a sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: None, silent: false }
    }

    /// An argument that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// A file or directory of this machine that could not be used.
    pub fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(Code::LocalIo, format!("cannot {doing} {}: {error}", shown::path(path)))
    }

    /// Whoever read our output has gone, as `head` does: an end, not a failure.
    #[must_use]
    pub fn reader_gone() -> Self {
        Self { silent: true, ..Self::new(Code::LocalIo, "nobody reads the output any more") }
    }

    /// The same error with this advice instead of the code's usual one.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The same error with more advice after what it has.
    #[must_use]
    pub fn and_remedy(mut self, more: &str) -> Self {
        let first = self.remedy.take().or_else(|| usual_remedy(self.code).map(str::to_owned));
        self.remedy = Some(match first {
            Some(first) => format!("{first}; {more}"),
            None => more.to_owned(),
        });
        self
    }

    /// The same error with words in front that say during what it happened.
    #[must_use]
    pub fn during(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// The sentence, without code and advice.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the process ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        if self.silent { ExitCode::SUCCESS } else { ExitCode::from(self.code.exit_code()) }
    }

    /// The text for standard error; `None` when there is nobody to tell.
    #[must_use]
    pub fn render(&self, format: Format) -> Option<String> {
        if self.silent {
            return None;
        }
        let remedy = self.remedy.as_deref().or_else(|| usual_remedy(self.code));
        let shown = match format {
            Format::Table => match remedy {
                Some(remedy) => {
                    format!("error[{}]: {}\n  help: {remedy}\n", self.code, plain(&self.message))
                }
                None => format!("error[{}]: {}\n", self.code, plain(&self.message)),
            },
            Format::Json => {
                let mut error = json!({ "code": self.code.as_str(), "message": self.message });
                if let Some(remedy) = remedy {
                    error["remedy"] = remedy.into();
                }
                return Some(plain_json(&format!("{}\n", json!({ "error": error }))));
            }
        };
        // Advice may have lines of its own, as a usage has; the sentence may not.
        Some(plain_lines(&shown))
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)
    }
}

impl std::error::Error for CliError {}

impl From<ApiError> for CliError {
    fn from(error: ApiError) -> Self {
        Self::new(error.code(), error.message())
    }
}

/// The errors of the packages below, each with its code and its causes in one sentence.
macro_rules! from_errors {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                Self::new(error.code(), chain(&error))
            }
        })*
    };
}

from_errors!(
    agent::AgentError,
    agent::config::ConfigError,
    agent::export::ExportError,
    agent::heads::HeadsError,
    agent::home::HomeError,
    agent::opened::PointError,
    agent::point_store::StoreError,
    coordinator::config::ConfigError,
);

impl From<agent::restore::RestoreError> for CliError {
    fn from(error: agent::restore::RestoreError) -> Self {
        let said = Self::new(error.code(), chain(&error));
        match said.code {
            Code::NoSpace => {
                said.with_remedy("free space at the target, then start the restore again")
            }
            _ => said,
        }
    }
}

/// An error's sentence with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}

/// Advice for codes whose sentences come from far away and cannot know what the person can do
/// here. Codes that are absent carry their remedy in the sentence.
const fn usual_remedy(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::Internal => "this should not happen; please report it with the log of the program",
        Code::Unavailable => {
            "check with `strongroom status` that a majority of the coordinators runs; what was \
             sealed before can be restored from an exported file with `restore --from`"
        }
        Code::DeadlineExceeded => {
            "it may or may not have happened: look with `strongroom status`, then try again"
        }
        Code::Busy | Code::ResourceExhausted => "try again when the other work is done",
        Code::StaleEpoch => "stop the older agent; only the newest one of a cluster may commit",
        Code::ClusterNotFound => "`strongroom cluster list` prints the clusters there are",
        Code::PointNotFound => "`strongroom backup list` prints the recovery points there are",
        Code::WrongKey => {
            "give the key that was in use when the point was sealed, or shares of the fleet's \
             recovery key with --share or --shares"
        }
        Code::Damaged | Code::DigestMismatch => {
            "`strongroom node scrub` finds damaged copies and repairs them from the other \
             coordinators"
        }
        Code::Rollback => {
            "do not trust the answer: a coordinator may be serving old data; ask the others, or \
             restore an exact --point"
        }
        Code::NoSpace => "free space or enlarge the disk; bundles are taken again by themselves",
        Code::InvalidArgument
        | Code::InvalidConfig
        | Code::LimitReached
        | Code::LocalIo
        | Code::AddressInUse
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::WrongFleet
        | Code::StaleHead
        | Code::LeaseGone
        | Code::SessionExpired
        | Code::KeyBundleIncomplete
        | Code::BundleNotDurable
        | Code::TooLarge
        | Code::AlreadyExists
        | Code::BundleNotFound
        | Code::NothingMatches
        | Code::UnsupportedVersion
        | Code::BadSignature
        | Code::WrongCluster
        | Code::NotEqual
        | Code::KeyMissing
        | Code::KeyTooShort
        | Code::LevelTooLow
        | Code::TimeFrozen
        | Code::UploadFirst
        | Code::Conflict => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_render_for_people_and_for_programs() {
        let error = CliError::new(Code::Conflict, "3 files are in the way")
            .with_remedy("choose --on-conflict");
        assert_eq!(
            error.render(Format::Table).unwrap(),
            "error[CONFLICT]: 3 files are in the way\n  help: choose --on-conflict\n"
        );
        assert_eq!(
            error.render(Format::Json).unwrap(),
            "{\"error\":{\"code\":\"CONFLICT\",\"message\":\"3 files are in the way\",\
             \"remedy\":\"choose --on-conflict\"}}\n"
        );
        let plain = CliError::new(Code::NotEqual, "one file differs");
        assert_eq!(plain.render(Format::Table).unwrap(), "error[NOT_EQUAL]: one file differs\n");
        assert_eq!(
            plain.render(Format::Json).unwrap(),
            "{\"error\":{\"code\":\"NOT_EQUAL\",\"message\":\"one file differs\"}}\n"
        );
    }

    #[test]
    fn names_in_errors_neither_drive_a_terminal_nor_add_lines() {
        use agent::restore::RestoreError;
        let path = || std::path::PathBuf::from("a\u{1b}[2Jb\u{9b}1m\nerror[NONE]: c");
        let shown = "a\\u{1b}[2Jb\\u{9b}1m\\nerror[NONE]: c";
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let sized = agent::restore::Unequal { path: "x\u{1b}]0;t\u{7}".to_owned(), what: "size" };
        let report = agent::restore::RestoreReport { unequal: vec![sized], ..Default::default() };
        for (error, said) in [
            (RestoreError::Observe { path: path(), source: gone() }.into(), shown),
            (RestoreError::Write { what: "make", path: path(), source: gone() }.into(), shown),
            (RestoreError::TargetChanged { path: path() }.into(), shown),
            (RestoreError::Busy { path: path() }.into(), shown),
            (
                RestoreError::Unfinished {
                    safety_file: path(),
                    source: Box::new(RestoreError::NothingMatches),
                }
                .into(),
                shown,
            ),
            (
                RestoreError::NotEqual { report: Box::new(report) }.into(),
                "x\\u{1b}]0;t\\u{7} (size)",
            ),
            (agent::export::ExportError::Exists { path: path() }.into(), shown),
            (agent::home::HomeError::KeyMissing { path: path() }.into(), shown),
            (CliError::io("read", &path(), &gone()), shown),
            // A sentence that somebody else made, and an argument of ours.
            (CliError::usage("a\u{1b}[2Jb\u{9b}1m\nerror[NONE]: c"), shown),
        ] {
            let error: CliError = error;
            let text = error.render(Format::Table).unwrap();
            assert!(text.contains(said), "{text:?}");
            let lines = text.lines().count();
            assert!(lines == 1 || (lines == 2 && text.contains("\n  help: ")), "{text:?}");
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
            let json = error.render(Format::Json).unwrap();
            assert!(!json.trim_end().chars().any(char::is_control), "{json:?}");
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(read["error"]["message"], error.message());
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let error = CliError::reader_gone();
        assert_eq!(error.render(Format::Table), None);
        assert_eq!(error.exit_code(), ExitCode::SUCCESS);
    }
}
