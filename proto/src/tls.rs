//! Mutual TLS between all parts: one certificate, its key, and the fleet's CA, from PEM files.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use proto_types::{Code, FleetId};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureScheme};
use serde::Deserialize;

use crate::authority::{Facts, PrivateKey, certificates_of};
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

/// Certificate, key and CA, read and understood. The certificate may be replaced while it is used.
pub struct TlsMaterial {
    roots: Arc<RootCertStore>,
    own: Arc<OwnCertificate>,
    identity: Identity,
    client: ClientTls,
}

/// What this party shows from its next handshake on.
#[derive(Debug)]
struct OwnCertificate(RwLock<Renewed>);

/// A certificate with its key, ready to be shown.
#[derive(Debug, Clone)]
pub struct Renewed {
    certified: Arc<CertifiedKey>,
    facts: Facts,
}

impl OwnCertificate {
    fn now(&self) -> Renewed {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.now().certified)
    }
    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now().certified)
    }
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
        let roots = Arc::new(roots_of(ca_pem)?);
        let own = own.map(|(certificate_pem, key_pem)| certified(certificate_pem, key_pem));
        let own = own.transpose()?.map(|own| Arc::new(OwnCertificate(RwLock::new(own))));
        Self::showing(roots, own, fleet)
    }

    fn showing(
        roots: Arc<RootCertStore>,
        own: Option<Arc<OwnCertificate>>,
        fleet: FleetId,
    ) -> Result<Self, ApiError> {
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => builder.with_client_cert_resolver(own),
        };
        // A resumed session is that of the certificate of before.
        config.resumption = Resumption::disabled();
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

fn unusable(what: &str, why: &str) -> ApiError {
    ApiError::new(
        Code::Unauthenticated,
        format!("the {what} cannot be used: {why}; is it the PEM file it should be?"),
    )
}

fn roots_of(ca_pem: &[u8]) -> Result<RootCertStore, ApiError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|der| roots.add(der).map_err(|error| error.to_string()));
        added.map_err(|why| unusable("ca", &why))?;
    }
    if roots.is_empty() {
        return Err(unusable("ca", "it holds no certificate"));
    }
    Ok(roots)
}

fn certified(certificate_pem: &[u8], key_pem: &[u8]) -> Result<Renewed, ApiError> {
    let chain = CertificateDer::pem_slice_iter(certificate_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable("certificate", &error.to_string()))?;
    let leaf = chain.first().ok_or_else(|| unusable("certificate", "it holds none"))?;
    let facts = Facts::of(leaf)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|error| unusable("key", &error.to_string()))?;
    let provider = rustls::crypto::ring::default_provider();
    let certified = CertifiedKey::from_der(chain, key, &provider)
        .map_err(|error| unusable("key of this certificate", &error.to_string()))?;
    Ok(Renewed { certified: Arc::new(certified), facts })
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
        let own = match certified(&certificate_pem, &key_pem) {
            Ok(own) => own,
            // A renewal was interrupted between certificate and key.
            Err(error) => match self.left_key().map(|key| certified(&certificate_pem, &key)) {
                Some(Ok(own)) => {
                    self.adopt_next_key()?;
                    own
                }
                _ => return Err(error.during(&self.names())),
            },
        };
        let roots = roots_of(&ca_pem).map_err(|error| error.during(&self.names()))?;
        TlsMaterial::new(roots, own, identity)
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

    fn new(roots: RootCertStore, own: Renewed, identity: Identity) -> Result<Self, ApiError> {
        let (roots, own) = (Arc::new(roots), Arc::new(OwnCertificate(RwLock::new(own))));
        let client = ClientTls::showing(roots.clone(), Some(own.clone()), identity.fleet)?;
        Ok(Self { roots, own, identity, client })
    }

    /// When its certificate was made and ends.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.own.now().facts
    }

    /// Its certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> Vec<u8> {
        self.own.now().certified.cert.first().map(|der| der.to_vec()).unwrap_or_default()
    }

    /// A certificate that may take the place of this one: of the same party, for this key, trusted
    /// now.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when it is anything else.
    pub fn certified(&self, chain: &str, key: &PrivateKey) -> Result<Renewed, ApiError> {
        let renewed = certified(chain.as_bytes(), key.to_pem().as_bytes())?;
        let all = certificates_of(chain.as_bytes())?;
        if Identity::from_certificate(&all[0])? != self.identity {
            return Err(unusable("new certificate", "it is of another party"));
        }
        let trusted = verifier(&self.roots, false)?
            .verify_client_cert(&all[0], &all[1..], UnixTime::now())
            .map(drop);
        trusted.map_err(|error| unusable("new certificate", &error.to_string()))?;
        Ok(renewed)
    }

    /// Shows it in every handshake from now on; connections that are open stay as they are.
    pub fn use_from_now_on(&self, renewed: Renewed) {
        *self.own.0.write().unwrap_or_else(PoisonError::into_inner) = renewed;
    }

    /// For a server that takes only clients of the same CA, or such as show no certificate: those
    /// get a word, and from nobody but the service that lets parties in more than that.
    ///
    /// # Errors
    /// When there is nothing to verify clients by.
    pub fn server(&self) -> Result<Arc<rustls::ServerConfig>, ApiError> {
        let mut config = rustls::ServerConfig::builder()
            .with_client_cert_verifier(verifier(&self.roots, true)?)
            .with_cert_resolver(self.own.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Who was let in by a certificate shows it again each time: it may have ended.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For a client of this fleet's coordinators.
    #[must_use]
    pub fn client(&self) -> ClientTls {
        self.client.clone()
    }
}

fn verifier(
    roots: &Arc<RootCertStore>,
    nobody_too: bool,
) -> Result<Arc<dyn ClientCertVerifier>, ApiError> {
    let builder = WebPkiClientVerifier::builder(roots.clone());
    let builder = if nobody_too { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| unusable("ca", &error.to_string()))
}
