//! The operator's directory: `operator.toml` with the coordinators and the certificate, and the
//! file of pinned heads that makes a rollback visible (invariant K3).
//!
//! ```toml
//! coordinators = ["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"]
//! pins = "pins.json"          # optional
//! [tls]
//! ca = "ca.pem"
//! certificate = "operator.pem"
//! key = "operator.key"
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent::shown;
use proto::authority::{certificate_digest, certificates_of};
use proto::fleet_client::{FleetClient, RetryPolicy};
use proto::tls::TlsFiles;
use proto_types::Code;
use serde::Deserialize;

use crate::config_file;
use crate::context::Context;
use crate::error::{CliError, Result};

/// Name of the config file in the operator's directory.
pub const FILE: &str = "operator.toml";

/// A person waits this long for a fleet between two leaders, and no longer for one that is gone.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    coordinators: Vec<String>,
    #[serde(default = "default_pins")]
    pins: PathBuf,
    tls: TlsFiles,
}

fn default_pins() -> PathBuf {
    PathBuf::from("pins.json")
}

/// What an operator's program knows of its fleet.
#[derive(Debug, Clone)]
pub struct Operator {
    /// `host:port` of each coordinator.
    pub coordinators: Vec<String>,
    /// Where the newest heads seen and the signing keys pinned are kept.
    pub pins: PathBuf,
    /// Its certificate.
    pub tls: TlsFiles,
}

impl Operator {
    /// Reads `operator.toml` in `directory`.
    ///
    /// # Errors
    /// When it is absent or not valid.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        if !path.exists() {
            return Err(CliError::new(
                Code::InvalidConfig,
                format!("there is no {}", shown::path(&path)),
            )
            .with_remedy(
                "give the directory that holds operator.toml with --operator-dir DIR or \
                 STRONGROOM_OPERATOR_DIR; `strongroom operator enroll` makes one",
            ));
        }
        let file: File = config_file::read(&path)?;
        if file.coordinators.is_empty() {
            return Err(CliError::new(
                Code::InvalidConfig,
                format!("{}: coordinators is empty", shown::path(&path)),
            )
            .with_remedy("list host:port of every coordinator"));
        }
        Ok(Self {
            coordinators: file.coordinators,
            pins: directory.join(file.pins),
            tls: file.tls.relative_to(directory),
        })
    }

    /// SHA-256 of the root that this operator trusts, for a token to pin.
    ///
    /// # Errors
    /// When the file cannot be read, or holds several certificates.
    pub fn root_pin(&self) -> Result<[u8; 32]> {
        let ca = std::fs::read(&self.tls.ca)
            .map_err(|error| CliError::io("read", &self.tls.ca, &error))?;
        let roots = certificates_of(&ca)?;
        let [root] = &roots[..] else {
            return Err(CliError::new(
                Code::InvalidConfig,
                format!("{} holds several certificates", shown::path(&self.tls.ca)),
            )
            .with_remedy("a token pins one root: keep the fleet's alone in that file"));
        };
        Ok(certificate_digest(root))
    }

    /// A client of the fleet under this operator's certificate.
    ///
    /// # Errors
    /// When the certificate files cannot be used.
    pub fn connect(&self, context: &Context) -> Result<Arc<FleetClient>> {
        self.connect_for(context, RetryPolicy::default().call_timeout)
    }

    /// The same for calls that may take long.
    ///
    /// # Errors
    /// As [`Operator::connect`].
    pub fn connect_for(
        &self,
        context: &Context,
        call_timeout: Duration,
    ) -> Result<Arc<FleetClient>> {
        let tls = self.tls.load()?;
        let policy =
            RetryPolicy { total_timeout: PATIENCE, call_timeout, ..RetryPolicy::default() };
        let client =
            FleetClient::new(context.env.clone(), self.coordinators.clone(), &tls, policy)?;
        context.uses(self.tls.clone(), tls, client.clone());
        Ok(client)
    }
}

/// The operator of the command line, with its client.
///
/// # Errors
/// As [`Operator::load`] and [`Operator::connect`].
pub fn connect(context: &Context) -> Result<(Operator, Arc<FleetClient>)> {
    let operator = Operator::load(&context.operator_dir()?)?;
    let client = operator.connect(context)?;
    Ok((operator, client))
}
