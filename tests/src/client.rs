//! Clients of every role, at one coordinator of choice, without retries: what a test sees is what
//! that coordinator answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use proto::channel::{Deadlines, lazy_channel};
use proto::env::{Env, TcpNet};
use proto::fleet_client::{FleetClient, RetryPolicy};
use proto::tls::{ClientTls, TlsFiles};
use proto::v1::backup_client::BackupClient;
use proto::v1::catalog_client::CatalogClient;
use proto::v1::fleet_client::FleetClient as FleetServiceClient;
use proto::{ApiError, v1};
use proto_types::env::SystemRandom;
use proto_types::{FleetId, SessionId};
use tonic::transport::Channel;

/// Somebody who calls coordinators, with a session for writes.
pub struct Party {
    tls: ClientTls,
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
        proto::tls::install_crypto_provider();
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
        proto::tls::install_crypto_provider();
        Self::new(ClientTls::new(&ca, None, fleet).expect("an authority's file"), None)
    }

    /// Somebody with a certificate of one authority who trusts another.
    ///
    /// # Panics
    /// When a file cannot be read.
    #[must_use]
    pub fn trusting(files: &TlsFiles, ca: &std::path::Path, fleet: FleetId) -> Self {
        proto::tls::install_crypto_provider();
        let read = |path| std::fs::read(path).expect("a test's PEM file can be read");
        let own = (read(&files.certificate), read(&files.key));
        let tls = ClientTls::new(&read(&ca.to_owned()), Some((&own.0, &own.1)), fleet)
            .expect("a test's PEM files can be used");
        Self::new(tls, None)
    }

    /// Somebody with this trust and what it shows.
    #[must_use]
    pub fn with_tls(tls: ClientTls) -> Self {
        Self::new(tls, None)
    }

    fn new(tls: ClientTls, files: Option<TlsFiles>) -> Self {
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
    #[must_use]
    pub fn channel(&self, address: &str) -> Channel {
        lazy_channel(Arc::new(TcpNet), address, self.tls.clone(), Deadlines::default())
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
