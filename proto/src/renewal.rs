//! A party's certificate renews itself: at two thirds of its life the running program asks for one
//! of a new key over the still valid one, writes both so that a crash at any moment leaves a pair
//! that fits, and shows it from then on.
//!
//! ```text
//! KEY.next            the new key, before it is asked for
//! CERTIFICATE.next    its certificate, before it takes the old one's place
//! ```
//! The certificate is replaced first: where it does not fit the key, the key beside it does.

use std::future::Future;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use proto_types::Code;
use zeroize::Zeroizing;

use crate::authority::PrivateKey;
use crate::env::Env;
use crate::error::ApiError;
use crate::fleet_client::FleetClient;
use crate::tls::{TlsFiles, TlsMaterial};
use crate::v1;
use crate::v1::enrolment_client::EnrolmentClient;

/// Looked at least this often whether it is time: clocks are set, and machines sleep.
const LOOK_MAX: Duration = Duration::from_secs(600);
const DELAY_MIN: Duration = Duration::from_millis(500);
const DELAY_MAX: Duration = Duration::from_secs(600);

/// Keeps the certificate renewed, until dropped. `ask` has a request (PKCS#10, DER) certified and
/// gives the chain as PEM text.
pub async fn keep<F, Fut>(env: &Env, files: &TlsFiles, tls: &TlsMaterial, ask: F)
where
    F: Fn(Vec<u8>) -> Fut,
    Fut: Future<Output = Result<String, ApiError>>,
{
    let mut delays = delays();
    loop {
        let left_ms = tls.facts().renews().millis_since(env.clock.now());
        if left_ms > 0 {
            tokio::time::sleep(Duration::from_millis(left_ms).min(LOOK_MAX)).await;
            continue;
        }
        match once(env, files, tls, &ask).await {
            Ok(()) => {
                delays = self::delays();
                let ends_ms = tls.facts().ends.as_millis();
                tracing::info!(
                    event = "certificate_renewed",
                    ends_ms,
                    "the certificate was renewed"
                );
            }
            Err(error) => {
                tracing::warn!(code = %error.code(), %error, "the certificate is not renewed yet");
                tokio::time::sleep(delays.next().unwrap_or(DELAY_MAX)).await;
            }
        }
    }
}

/// Has the fleet certify a new key of whoever the client is.
///
/// # Errors
/// What the fleet refuses.
pub async fn ask(client: &FleetClient, request: Vec<u8>) -> Result<String, ApiError> {
    let request = v1::RenewCertificateRequest { request: request.into() };
    let renewed = client
        .call("renewing the certificate", |channel| {
            let request = request.clone();
            async move { EnrolmentClient::new(channel).renew_certificate(request).await }
        })
        .await?;
    Ok(renewed.certificate_pem)
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(DELAY_MIN)
        .with_max_delay(DELAY_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Renews it now.
///
/// # Errors
/// What the fleet refuses; when what it gives is not this party's, or a file cannot be written. The
/// old certificate stays in use.
pub async fn once<F, Fut>(
    env: &Env,
    files: &TlsFiles,
    tls: &TlsMaterial,
    ask: &F,
) -> Result<(), ApiError>
where
    F: Fn(Vec<u8>) -> Fut,
    Fut: Future<Output = Result<String, ApiError>>,
{
    let panicked =
        |error: crate::env::BlockingPanicked| ApiError::new(Code::Internal, error.to_string());
    let at = files.clone();
    let key = env.blocking("next-key", move || at.next_key()).await.map_err(panicked)??;
    let chain = ask(key.request()?).await?;
    // Nothing that is no good takes the place of what is.
    let renewed = tls.certified(&chain, &key)?;
    let at = files.clone();
    env.blocking("renew", move || at.replace(&chain)).await.map_err(panicked)??;
    tls.use_from_now_on(renewed);
    Ok(())
}

impl TlsFiles {
    fn key_next(&self) -> PathBuf {
        beside(&self.key)
    }

    /// The key to be certified next: one that an interrupted try left, or a new one, on the disk
    /// before it is used.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn next_key(&self) -> Result<PrivateKey, ApiError> {
        let path = self.key_next();
        match std::fs::read_to_string(&path).map(Zeroizing::new) {
            // Half a key is none.
            Ok(text) => match PrivateKey::from_pem(&text) {
                Ok(key) => return Ok(key),
                Err(_) => std::fs::remove_file(&path).map_err(|error| failed(&path, &error))?,
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path, &error)),
        }
        let key = PrivateKey::generate()?;
        self.write_next_key(&key)?;
        Ok(key)
    }

    /// Makes this key the next one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_next_key(&self, key: &PrivateKey) -> Result<(), ApiError> {
        let path = self.key_next();
        write(&path, key.to_pem().as_bytes())?;
        sync_parent(&path)
    }

    /// Puts a certificate of [`TlsFiles::next_key`] and that key in the place of the old ones,
    /// durable when this returns.
    ///
    /// # Errors
    /// When a file cannot be written; then the old pair or the new one is whole.
    pub fn replace(&self, chain: &str) -> Result<(), ApiError> {
        let next = beside(&self.certificate);
        write(&next, chain.as_bytes())?;
        rename(&next, &self.certificate)?;
        self.adopt_next_key()
    }

    /// Finishes [`TlsFiles::replace`] that was interrupted after its first half.
    ///
    /// # Errors
    /// When the file cannot be renamed.
    pub(crate) fn adopt_next_key(&self) -> Result<(), ApiError> {
        rename(&self.key_next(), &self.key)
    }

    /// The key that an interrupted renewal left, as PEM text.
    pub(crate) fn left_key(&self) -> Option<Zeroizing<Vec<u8>>> {
        std::fs::read(self.key_next()).ok().map(Zeroizing::new)
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".next");
    path.with_file_name(name)
}

fn write(path: &Path, content: &[u8]) -> Result<(), ApiError> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .map_err(|error| failed(path, &error))
}

fn rename(from: &Path, to: &Path) -> Result<(), ApiError> {
    std::fs::rename(from, to).map_err(|error| failed(to, &error))?;
    sync_parent(to)
}

fn sync_parent(path: &Path) -> Result<(), ApiError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(parent.unwrap_or(Path::new(".")))
        .and_then(|directory| directory.sync_all())
        .map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &std::io::Error) -> ApiError {
    ApiError::new(
        Code::LocalIo,
        format!("cannot renew the certificate: {}: {error}", path.display()),
    )
}

#[cfg(test)]
#[path = "renewal_tests.rs"]
mod tests;
