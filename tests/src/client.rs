//! Clients of every role, at one coordinator of choice, without retries: what a test sees is what
//! that coordinator answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use proto::channel::{Deadlines, lazy_channel};
use proto::env::{Env, TcpNet};
use proto::fleet_client::{FleetClient, RetryPolicy};
use proto::identity::coordinator_server_name;
use proto::tls::TlsFiles;
use proto::v1::backup_client::BackupClient;
use proto::v1::catalog_client::CatalogClient;
use proto::v1::fleet_client::FleetClient as FleetServiceClient;
use proto::{ApiError, v1};
use proto_types::env::SystemRandom;
use proto_types::{FleetId, SessionId};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

/// Somebody who calls coordinators, with a session for writes.
pub struct Party {
    tls: ClientTlsConfig,
    files: Option<TlsFiles>,
    session: SessionId,
    sequence: AtomicU64,
}

impl Party {
    /// Whoever holds this certificate.
    ///
    /// # Panics
    /// When the files are no certificate of a strongroom party.
    #[must_use]
    pub fn with(files: &TlsFiles) -> Self {
        let material = files.load().expect("a test's certificate can be read");
        Self::new(material.client(), Some(files.clone()))
    }

    /// Somebody who trusts this fleet's authority and shows no certificate.
    ///
    /// # Panics
    /// When the authority's file cannot be read.
    #[must_use]
    pub fn without_certificate(ca: &std::path::Path, fleet: FleetId) -> Self {
        let ca = std::fs::read(ca).expect("the authority's file can be read");
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .domain_name(coordinator_server_name(fleet));
        Self::new(tls, None)
    }

    /// Somebody with a certificate of one authority who trusts another.
    ///
    /// # Panics
    /// When a file cannot be read.
    #[must_use]
    pub fn trusting(files: &TlsFiles, ca: &std::path::Path, fleet: FleetId) -> Self {
        let read = |path| std::fs::read(path).expect("a test's PEM file can be read");
        let tls = ClientTlsConfig::new()
            .identity(tonic::transport::Identity::from_pem(
                read(&files.certificate),
                read(&files.key),
            ))
            .ca_certificate(Certificate::from_pem(read(&ca.to_owned())))
            .domain_name(coordinator_server_name(fleet));
        Self::new(tls, None)
    }

    fn new(tls: ClientTlsConfig, files: Option<TlsFiles>) -> Self {
        proto::tls::install_crypto_provider();
        let session = SessionId::random(&SystemRandom);
        Self { tls, files, session, sequence: AtomicU64::new(0) }
    }

    /// The PEM files.
    ///
    /// # Panics
    /// When this party has none.
    #[must_use]
    pub fn files(&self) -> &TlsFiles {
        self.files.as_ref().expect("this party has a certificate")
    }

    /// A channel to one coordinator.
    ///
    /// # Panics
    /// When the TLS material is not valid.
    #[must_use]
    pub fn channel(&self, address: &str) -> Channel {
        lazy_channel(Arc::new(TcpNet), address, self.tls.clone(), Deadlines::default())
            .expect("a test's TLS material is valid")
    }

    /// The number of a new write.
    #[must_use]
    pub fn write_id(&self) -> v1::WriteId {
        v1::WriteId {
            session_id: Bytes::copy_from_slice(self.session.as_bytes()),
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }

    /// The `Fleet` service of one coordinator.
    #[must_use]
    pub fn fleet(&self, address: &str) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel(address))
    }

    /// The `Catalog` service of one coordinator.
    #[must_use]
    pub fn catalog(&self, address: &str) -> CatalogClient<Channel> {
        CatalogClient::new(self.channel(address))
    }

    /// The `Backup` service of one coordinator.
    #[must_use]
    pub fn backup(&self, address: &str) -> BackupClient<Channel> {
        BackupClient::new(self.channel(address))
    }

    /// The product's own client of the whole fleet, with its retries.
    ///
    /// # Panics
    /// When this party has no certificate.
    #[must_use]
    pub fn everywhere(&self, addresses: Vec<String>) -> Arc<FleetClient> {
        let tls = self.files().load().expect("a test's certificate can be read");
        FleetClient::new(Env::system(), addresses, &tls, RetryPolicy::default())
            .expect("a client can be made")
    }
}

/// An answer without the transport's wrapping, or the product's error.
pub trait Answer<T> {
    /// The message or the error with its stable code.
    ///
    /// # Errors
    /// The product's error.
    fn answer(self) -> Result<T, ApiError>;
}

impl<T> Answer<T> for Result<tonic::Response<T>, tonic::Status> {
    fn answer(self) -> Result<T, ApiError> {
        self.map(tonic::Response::into_inner).map_err(ApiError::from)
    }
}

/// Asserts that `result` is refused with this code and that its message contains each of `parts`:
/// the thing it is about, and what to do.
///
/// # Panics
/// When it is not so.
#[track_caller]
pub fn assert_refused<T>(
    what: &str,
    result: Result<T, ApiError>,
    code: proto_types::Code,
    parts: &[&str],
) {
    let Err(error) = result else { panic!("{what}: was not refused, expected {code}") };
    assert_eq!(error.code(), code, "{what}: {error}");
    for part in parts {
        assert!(error.message().contains(part), "{what}: {part:?} is not in {:?}", error.message());
    }
}
