//! Mutual TLS between all parts: one certificate, its key, and the fleet's CA, from PEM files.

use std::path::{Path, PathBuf};

use proto_types::Code;
use serde::Deserialize;
use tonic::transport::{Certificate, ClientTlsConfig, ServerTlsConfig};

use crate::error::ApiError;
use crate::identity::{Identity, coordinator_server_name};

/// Where the PEM files are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The fleet's CA certificate.
    pub ca: PathBuf,
    /// This party's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Certificate, key and CA, read and understood.
pub struct TlsMaterial {
    ca_pem: Vec<u8>,
    certificate_pem: Vec<u8>,
    key_pem: Vec<u8>,
    identity: Identity,
}

/// Makes ring the process's TLS provider. Call once, first thing in `main`.
pub fn install_crypto_provider() {
    // A second call finds it installed, which is what was wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl TlsFiles {
    /// The same files with relative paths taken from `directory`.
    #[must_use]
    pub fn relative_to(&self, directory: &Path) -> Self {
        Self {
            ca: directory.join(&self.ca),
            certificate: directory.join(&self.certificate),
            key: directory.join(&self.key),
        }
    }

    /// Reads all three.
    ///
    /// # Errors
    /// When a file cannot be read or holds no PEM certificate of a strongroom party; names the
    /// file.
    pub fn load(&self) -> Result<TlsMaterial, ApiError> {
        let read = |path: &Path, what: &str| {
            std::fs::read(path).map_err(|error| {
                ApiError::new(
                    Code::Unauthenticated,
                    format!("cannot read the {what} file {}: {error}", path.display()),
                )
            })
        };
        let certificate_pem = read(&self.certificate, "certificate")?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(&certificate_pem).map_err(|_| {
            ApiError::new(
                Code::Unauthenticated,
                format!("{} holds no PEM certificate", self.certificate.display()),
            )
        })?;
        Ok(TlsMaterial {
            ca_pem: read(&self.ca, "ca")?,
            identity: Identity::from_certificate(&pem.contents)?,
            certificate_pem,
            key_pem: read(&self.key, "key")?,
        })
    }
}

impl TlsMaterial {
    /// Who this certificate says we are.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// For a server that takes only clients of the same CA.
    #[must_use]
    pub fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(tonic::transport::Identity::from_pem(&self.certificate_pem, &self.key_pem))
            .client_ca_root(Certificate::from_pem(&self.ca_pem))
            .client_auth_optional(false)
    }

    /// For a client of this fleet's coordinators.
    #[must_use]
    pub fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(tonic::transport::Identity::from_pem(&self.certificate_pem, &self.key_pem))
            .ca_certificate(Certificate::from_pem(&self.ca_pem))
            .domain_name(coordinator_server_name(self.identity.fleet))
    }
}
