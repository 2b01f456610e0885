//! An operator's directory as `fleet init` and `operator enroll` make it.
//!
//! ```text
//! operator.toml  ca.pem  operator.pem  operator.key
//! recovery.pub                                          the recovery key that enrolment tokens pin
//! ```

use std::path::Path;

use bundle::RecoveryPublic;
use proto_types::Code;
use serde::Serialize;

use crate::error::{CliError, Result};
use crate::{operator, private_file};

/// Name of the public half of the fleet's recovery key.
pub const RECOVERY: &str = "recovery.pub";

/// All that is told a new operator.
pub struct OperatorFiles<'a> {
    /// `host:port` of coordinators.
    pub coordinators: Vec<String>,
    /// PEM text of the root's certificate.
    pub root: &'a str,
    /// PEM text of the certificate and all above it.
    pub certificate: &'a str,
    /// PEM text of its private key.
    pub key: &'a str,
    /// The fleet's recovery key.
    pub recovery: RecoveryPublic,
}

#[derive(Serialize)]
struct File<'a> {
    coordinators: &'a [String],
    tls: Tls,
}

#[derive(Serialize)]
struct Tls {
    ca: &'static str,
    certificate: &'static str,
    key: &'static str,
}

impl OperatorFiles<'_> {
    /// Writes them all into `directory`, the config file last.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        private_file::make_directory(directory)?;
        let config = File {
            coordinators: &self.coordinators,
            tls: Tls { ca: "ca.pem", certificate: "operator.pem", key: "operator.key" },
        };
        let text = toml::to_string(&config)
            .map_err(|error| CliError::new(Code::Internal, format!("operator.toml: {error}")))?;
        let create = |name: &str, content: &str| {
            private_file::create(&directory.join(name), content.as_bytes())
        };
        create("ca.pem", self.root)?;
        create("operator.pem", self.certificate)?;
        create("operator.key", self.key)?;
        create(RECOVERY, &self.recovery.to_text())?;
        create(operator::FILE, &text)
    }
}
