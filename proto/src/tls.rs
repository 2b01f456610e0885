//! Mutual TLS between all parts: one certificate, its key, and the fleet's CA, from PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto_types::{Code, FleetId};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use tonic::transport::{Certificate, ServerTlsConfig};

use crate::error::ApiError;
use crate::identity::{Identity, coordinator_server_name};
use crate::pinned::PinnedRoot;

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
    client: ClientTls,
}

/// What a client of a fleet's coordinators shows, whom it trusts, and the name it expects.
#[derive(Clone)]
pub struct ClientTls {
    pub(crate) config: Arc<rustls::ClientConfig>,
    pub(crate) server: ServerName<'static>,
}

impl ClientTls {
    /// Trusts the CA of `ca_pem`, expects a coordinator of `fleet`, and shows `certificate_pem`
    /// with its `key_pem` where they are given.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when something is not PEM, or the key is not the certificate's.
    pub fn new(
        ca_pem: &[u8],
        own: Option<(&[u8], &[u8])>,
        fleet: FleetId,
    ) -> Result<Self, ApiError> {
        let unusable = |what: &str, why: String| {
            ApiError::new(
                Code::Unauthenticated,
                format!("the {what} cannot be used: {why}; is it the PEM file it should be?"),
            )
        };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            let added = certificate
                .map_err(|error| error.to_string())
                .and_then(|der| roots.add(der).map_err(|error| error.to_string()));
            added.map_err(|why| unusable("ca", why))?;
        }
        if roots.is_empty() {
            return Err(unusable("ca", "it holds no certificate".to_owned()));
        }
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate_pem, key_pem)) => {
                let chain = CertificateDer::pem_slice_iter(certificate_pem)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| unusable("certificate", error.to_string()))?;
                let key = PrivateKeyDer::from_pem_slice(key_pem)
                    .map_err(|error| unusable("key", error.to_string()))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| unusable("key of this certificate", error.to_string()))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { config: Arc::new(config), server: server_name(fleet)? })
    }

    /// Trusts whatever coordinator of `fleet` is certified below the root certificate with this
    /// SHA-256, which must be in the chain it shows; shows no certificate.
    ///
    /// # Errors
    /// None that a fleet's id can cause.
    pub fn pinned(pin: [u8; 32], fleet: FleetId) -> Result<Self, ApiError> {
        let mut config = rustls::ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PinnedRoot::new(pin)))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { config: Arc::new(config), server: server_name(fleet)? })
    }
}

fn server_name(fleet: FleetId) -> Result<ServerName<'static>, ApiError> {
    ServerName::try_from(coordinator_server_name(fleet))
        .map_err(|error| ApiError::new(Code::Internal, error.to_string()))
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
        let identity = Identity::from_certificate(&pem.contents)?;
        let (ca_pem, key_pem) = (read(&self.ca, "ca")?, read(&self.key, "key")?);
        let client = ClientTls::new(&ca_pem, Some((&certificate_pem, &key_pem)), identity.fleet)
            .map_err(|error| error.during(&self.names()))?;
        Ok(TlsMaterial { ca_pem, certificate_pem, key_pem, identity, client })
    }

    fn names(&self) -> String {
        format!("{}, {}, {}", self.ca.display(), self.certificate.display(), self.key.display())
    }
}

impl TlsMaterial {
    /// Who this certificate says we are.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// For a server that takes only clients of the same CA, or such as show no certificate: those
    /// get a word, and from nobody but the service that lets coordinators join more than that.
    #[must_use]
    pub fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(tonic::transport::Identity::from_pem(&self.certificate_pem, &self.key_pem))
            .client_ca_root(Certificate::from_pem(&self.ca_pem))
            .client_auth_optional(true)
    }

    /// For a client of this fleet's coordinators.
    #[must_use]
    pub fn client(&self) -> ClientTls {
        self.client.clone()
    }
}
