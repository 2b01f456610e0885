//! One error type for both ends of a call: a stable code, a sentence that says what to do, and
//! the same two carried over gRPC as `ErrorInfo` with a retry hint.

use std::fmt;
use std::time::Duration;

use proto_types::Code;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

/// The `ErrorInfo.domain` of every error of ours.
pub const ERROR_DOMAIN: &str = "strongroom";

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    code: Code,
    message: String,
}

impl ApiError {
    /// An error of this code with a sentence for people.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }
    /// The sentence, without the code.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.code.is_retryable()
    }
    /// The same error with words in front that say during what it happened.
    #[must_use]
    pub fn during(self, what: &str) -> Self {
        Self { code: self.code, message: format!("{what}: {}", self.message) }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

const fn grpc_code(code: Code) -> tonic::Code {
    match code {
        Code::Internal | Code::LocalIo => tonic::Code::Internal,
        Code::InvalidArgument | Code::InvalidConfig => tonic::Code::InvalidArgument,
        Code::Unavailable | Code::Busy | Code::AddressInUse => tonic::Code::Unavailable,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::PermissionDenied | Code::WrongFleet => tonic::Code::PermissionDenied,
        Code::StaleEpoch
        | Code::StaleHead
        | Code::LeaseGone
        | Code::SessionExpired
        | Code::KeyBundleIncomplete
        | Code::BundleNotDurable
        | Code::WrongKey
        | Code::KeyMissing
        | Code::KeyTooShort
        | Code::Conflict
        | Code::LevelTooLow
        | Code::TimeFrozen
        | Code::UploadFirst
        | Code::Rollback => tonic::Code::FailedPrecondition,
        Code::DigestMismatch | Code::BadSignature | Code::WrongCluster => {
            tonic::Code::InvalidArgument
        }
        Code::TooLarge | Code::NoSpace | Code::ResourceExhausted | Code::LimitReached => {
            tonic::Code::ResourceExhausted
        }
        Code::AlreadyExists => tonic::Code::AlreadyExists,
        Code::ClusterNotFound
        | Code::PointNotFound
        | Code::BundleNotFound
        | Code::NothingMatches => tonic::Code::NotFound,
        Code::Damaged | Code::NotEqual => tonic::Code::DataLoss,
        Code::UnsupportedVersion => tonic::Code::Unimplemented,
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let mut details = ErrorDetails::new();
        details.set_error_info(error.code.as_str(), ERROR_DOMAIN, []);
        if error.is_retryable() {
            details.set_retry_info(Some(Duration::from_millis(200)));
        }
        Status::with_error_details(grpc_code(error.code), error.message, details)
    }
}

impl From<Status> for ApiError {
    fn from(status: Status) -> Self {
        let ours = status
            .get_details_error_info()
            .filter(|info| info.domain == ERROR_DOMAIN)
            .and_then(|info| info.reason.parse::<Code>().ok());
        if let Some(code) = ours {
            return Self::new(code, status.message());
        }
        if let Some(error) = tls_error(&status) {
            return error;
        }
        let code = match status.code() {
            tonic::Code::Unavailable | tonic::Code::Cancelled => Code::Unavailable,
            tonic::Code::DeadlineExceeded => Code::DeadlineExceeded,
            tonic::Code::Unauthenticated => Code::Unauthenticated,
            tonic::Code::PermissionDenied => Code::PermissionDenied,
            tonic::Code::ResourceExhausted => Code::ResourceExhausted,
            // What tonic says when a message exceeds the limit of the decoder.
            tonic::Code::OutOfRange => Code::TooLarge,
            tonic::Code::InvalidArgument => Code::InvalidArgument,
            tonic::Code::Unimplemented => Code::UnsupportedVersion,
            // A connection that broke under a call reaches us as Unknown or Internal.
            tonic::Code::Unknown | tonic::Code::Internal if broke(&status) => Code::Unavailable,
            _ => Code::Internal,
        };
        Self::new(code, chain(&status))
    }
}

/// Whether the transport, and not the program at the other end, ended the call.
fn broke(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
        || status.message().contains("h2 protocol error")
        || status.message().contains("transport error")
}

/// The sentence with the causes a transport error hides in its sources.
fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

/// Says in words what a failed TLS handshake means for whoever called.
pub(crate) fn tls_error(error: &(dyn std::error::Error + 'static)) -> Option<ApiError> {
    let mut source = Some(error);
    while let Some(error) = source {
        let inner = error.downcast_ref::<rustls::Error>().or_else(|| {
            error
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::get_ref)
                .and_then(|e| e.downcast_ref::<rustls::Error>())
        });
        if let Some(tls) = inner {
            return Some(describe_tls(tls));
        }
        source = error.source();
    }
    None
}

fn describe_tls(error: &rustls::Error) -> ApiError {
    use rustls::{AlertDescription, CertificateError, Error};
    match error {
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => ApiError::new(
            Code::WrongFleet,
            "the coordinator belongs to another fleet: its certificate is not signed by the \
                 CA this client trusts; check the address, and the ca file of this client",
        ),
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => ApiError::new(
            Code::WrongFleet,
            "the server's certificate is not that of a coordinator of this fleet; check the \
                 address",
        ),
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => ApiError::new(Code::Unauthenticated, "the coordinator's certificate has expired"),
        Error::AlertReceived(AlertDescription::CertificateRequired) => ApiError::new(
            Code::Unauthenticated,
            "the coordinator asks for a client certificate and none was sent; give certificate \
             and key of this fleet",
        ),
        Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            ApiError::new(
                Code::WrongFleet,
                "the coordinator does not know the CA of this client's certificate: it belongs to \
                 another fleet",
            )
        }
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            ApiError::new(Code::Unauthenticated, "this client's certificate has expired")
        }
        other => ApiError::new(Code::Unauthenticated, format!("TLS failed: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_code_and_sentence_over_grpc() {
        for code in Code::ALL {
            let error = ApiError::new(*code, "cluster \"x\" is not known: register it");
            let status = Status::from(error.clone());
            assert_eq!(ApiError::from(status.clone()), error);
            assert_eq!(status.get_details_retry_info().is_some(), code.is_retryable());
        }
    }

    #[test]
    fn foreign_statuses_get_a_code() {
        assert_eq!(ApiError::from(Status::unavailable("gone")).code(), Code::Unavailable);
        assert_eq!(ApiError::from(Status::out_of_range("large")).code(), Code::TooLarge);
        assert_eq!(ApiError::from(Status::not_found("x")).code(), Code::Internal);
    }
}
