//! Asking an API server: connection, retries, and errors in words. Bodies are never logged: they
//! may hold secrets.

use std::path::PathBuf;
use std::time::Duration;

use ::kube::api::{GetParams, Request};
use ::kube::config::{KubeConfigOptions, Kubeconfig};
use ::kube::core::Status;
use backon::{ExponentialBuilder, Retryable};
use proto_types::Code;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One connection is given up after this; lists of thousands of objects take seconds.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that restarts, or one that throttles, is waited for about half a minute.
const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(5);
const TRIES_MAX: usize = 10;

/// How a cluster is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// A kubeconfig file; none: the account of the pod that this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// A context of it; none: its current one.
    pub context: Option<String>,
}

/// Why the API server did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiFailure {
    /// The kubeconfig, or the pod's account, cannot be used.
    #[error("cannot use {what}: {problem}")]
    Config {
        /// Which.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// The server does not answer.
    #[error("the API server does not answer: {0}")]
    OutOfReach(String),
    /// The credentials are not accepted.
    #[error(
        "the API server does not accept these credentials ({0}): renew the token or certificate"
    )]
    Unauthenticated(String),
    /// The account lacks a right.
    #[error(
        "the account may not {verb} {resource}: grant it; `strongroom agent rbac` prints what is needed"
    )]
    Forbidden {
        /// The verb.
        verb: &'static str,
        /// The resource with its group, and the namespace if the right is needed there only.
        resource: String,
    },
    /// It is not there.
    #[error("not found")]
    NotFound,
    /// It was changed by somebody else meanwhile, or another manager holds a field.
    #[error("{0}")]
    Conflict(String),
    /// A list's token or a watch's version is too old.
    #[error("the version is too old")]
    Gone,
    /// The object is refused as it is.
    #[error("{0}")]
    Invalid(String),
    /// The server could not do it.
    #[error("the API server failed: {0}")]
    Failed(String),
    /// The answer is not what the API promises.
    #[error("the API server's answer makes no sense: {0}")]
    Answer(String),
}

impl ApiFailure {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Config { .. } => Code::InvalidConfig,
            Self::OutOfReach(_) | Self::Failed(_) | Self::Gone => Code::Unavailable,
            Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::Forbidden { .. } => Code::PermissionDenied,
            Self::NotFound => Code::NothingMatches,
            Self::Conflict(_) => Code::Conflict,
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Answer(_) => Code::Internal,
        }
    }

    /// Whether asking again may help.
    const fn may_pass(&self) -> bool {
        matches!(self, Self::OutOfReach(_) | Self::Failed(_))
    }
}

/// What is asked, for the words of a refusal.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) verb: &'static str,
    pub(crate) resource: String,
}

/// An API server.
#[derive(Clone)]
pub struct Api {
    client: ::kube::Client,
    /// The cluster's name in the kubeconfig.
    name: String,
}

struct Failure {
    failure: ApiFailure,
    /// What a throttling server asked for.
    after: Option<Duration>,
}

impl Api {
    /// Reads the kubeconfig or the pod's account. Asks the server nothing.
    ///
    /// # Errors
    /// [`ApiFailure::Config`].
    pub async fn connect(connection: &Connection) -> Result<Self, ApiFailure> {
        let (mut config, name, what) = match &connection.kubeconfig {
            Some(path) => {
                let what = format!("the kubeconfig {}", crate::shown::path(path));
                let failed = |error: ::kube::config::KubeconfigError| ApiFailure::Config {
                    what: what.clone(),
                    problem: chain(&error),
                };
                let file = Kubeconfig::read_from(path).map_err(failed)?;
                let name = cluster_name(&file, connection.context.as_deref());
                let options =
                    KubeConfigOptions { context: connection.context.clone(), ..Default::default() };
                let config = ::kube::Config::from_custom_kubeconfig(file, &options);
                (config.await.map_err(failed)?, name, what.clone())
            }
            None => {
                let what = "this pod's account (no kubeconfig is given)".to_owned();
                let config = ::kube::Config::incluster().map_err(|error| ApiFailure::Config {
                    what: what.clone(),
                    problem: chain(&error),
                })?;
                (config, "in-cluster".to_owned(), what)
            }
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // Watches are silent for longer; they bring their own bookmarks and end.
        config.read_timeout = None;
        // Here retries know what a throttling server asked for.
        config.default_retry = false;
        let client = ::kube::Client::try_from(config)
            .map_err(|error| ApiFailure::Config { what, problem: chain(&error) })?;
        Ok(Self { client, name })
    }

    /// The cluster's name in the kubeconfig; `in-cluster` without one.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The library's client, for discovery.
    pub(crate) const fn client(&self) -> &::kube::Client {
        &self.client
    }

    /// Asks, again while that may help, and reads the answer.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        asked: &Asked,
        request: impl Fn() -> Result<http::Request<Vec<u8>>, ::kube::core::request::Error>,
    ) -> Result<T, ApiFailure> {
        let text = self.ask_text(asked, request).await?;
        serde_json::from_str(&text).map_err(|error| answer(&error))
    }

    /// The same, the answer as it came.
    pub(crate) async fn ask_text(
        &self,
        asked: &Asked,
        request: impl Fn() -> Result<http::Request<Vec<u8>>, ::kube::core::request::Error>,
    ) -> Result<String, ApiFailure> {
        let once = || async {
            let request = request().map_err(|error| Failure {
                failure: ApiFailure::Invalid(error.to_string()),
                after: None,
            })?;
            match tokio::time::timeout(READ_TIMEOUT, self.client.request_text(request)).await {
                Ok(answer) => answer.map_err(|error| failure(error, asked)),
                Err(_) => Err(Failure {
                    failure: ApiFailure::OutOfReach("no answer in 60 s".to_owned()),
                    after: None,
                }),
            }
        };
        let delays = ExponentialBuilder::default()
            .with_min_delay(DELAY_MIN)
            .with_max_delay(DELAY_MAX)
            .with_jitter()
            .with_max_times(TRIES_MAX);
        once.retry(delays)
            .when(|error| error.failure.may_pass())
            .adjust(|error, delay| match (delay, error.after) {
                (Some(delay), Some(after)) => Some(delay.max(after)),
                (delay, _) => delay,
            })
            .await
            .map_err(|error| error.failure)
    }

    /// The cluster's identity: the UID of its `kube-system` namespace.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn cluster_uid(&self) -> Result<String, ApiFailure> {
        let asked = Asked { verb: "get", resource: "namespaces (kube-system)".to_owned() };
        let get = || Request::new("/api/v1/namespaces").get("kube-system", &GetParams::default());
        let found: Value = self.ask(&asked, get).await?;
        let uid = found["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty());
        uid.map(str::to_owned)
            .ok_or_else(|| ApiFailure::Answer("kube-system has no uid".to_owned()))
    }
}

fn cluster_name(file: &Kubeconfig, context: Option<&str>) -> String {
    let wanted = context.or(file.current_context.as_deref()).unwrap_or_default();
    let named = file.contexts.iter().find(|named| named.name == wanted);
    let context = named.and_then(|named| named.context.as_ref());
    context.map(|context| context.cluster.clone()).unwrap_or_default()
}

fn answer(error: &serde_json::Error) -> ApiFailure {
    // Its place only: its words may quote what was read.
    ApiFailure::Answer(format!("line {}, column {}", error.line(), error.column()))
}

/// A failure of the library, in our words.
pub(crate) fn failure_of(error: ::kube::Error, asked: &Asked) -> ApiFailure {
    failure(error, asked).failure
}

fn failure(error: ::kube::Error, asked: &Asked) -> Failure {
    match error {
        ::kube::Error::Api(status) => {
            let after = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
            Failure {
                failure: refusal(&status, asked),
                after: (after > 0).then(|| Duration::from_secs(after.into())),
            }
        }
        ::kube::Error::Auth(error) => {
            Failure { failure: ApiFailure::Unauthenticated(chain(&error)), after: None }
        }
        other => Failure { failure: ApiFailure::OutOfReach(chain(&other)), after: None },
    }
}

/// A server's refusal in our words.
pub(crate) fn refusal(status: &Status, asked: &Asked) -> ApiFailure {
    let message = status.message.clone();
    match status.code {
        401 => ApiFailure::Unauthenticated(message),
        // An admission plugin refuses with 403, too, and says why; a missing right names itself.
        403 if message.contains(" cannot ") => {
            ApiFailure::Forbidden { verb: asked.verb, resource: asked.resource.clone() }
        }
        404 => ApiFailure::NotFound,
        409 => ApiFailure::Conflict(message),
        410 => ApiFailure::Gone,
        400 | 403 | 405 | 406 | 413 | 415 | 422 => ApiFailure::Invalid(message),
        // A webhook that cannot be called, or etcd's limit of a request, does not pass by waiting.
        500 if message.contains("webhook") || message.contains("too large") => {
            ApiFailure::Invalid(message)
        }
        _ => ApiFailure::Failed(if message.is_empty() { status.reason.clone() } else { message }),
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(code: u16, message: &str, after: u32) -> Failure {
        let status: Status = serde_json::from_value(json!({
            "status": "Failure", "code": code, "message": message, "reason": "R",
            "details": {"retryAfterSeconds": after},
        }))
        .unwrap();
        let asked = Asked { verb: "list", resource: "secrets".to_owned() };
        failure(::kube::Error::Api(Box::new(status)), &asked)
    }

    #[test]
    fn kubernetes_refusals_are_told_apart_and_only_what_may_pass_is_asked_again() {
        let missing = "secrets is forbidden: User \"a\" cannot list resource \"secrets\"";
        let ending = "configmaps \"x\" is forbidden: unable to create new content in namespace n \
                      because it is being terminated";
        for (code, message, again, expected) in [
            (401, "Unauthorized", false, Code::Unauthenticated),
            (403, missing, false, Code::PermissionDenied),
            (403, ending, false, Code::InvalidArgument),
            (404, "", false, Code::NothingMatches),
            (409, "the object has been modified", false, Code::Conflict),
            (410, "The provided continue parameter is too old", false, Code::Unavailable),
            (413, "Request entity too large", false, Code::InvalidArgument),
            (422, "field is immutable", false, Code::InvalidArgument),
            (429, "too many requests", true, Code::Unavailable),
            (500, "failed calling webhook \"w\"", false, Code::InvalidArgument),
            (500, "conversion webhook for e/v1 failed", false, Code::InvalidArgument),
            (500, "etcdserver: request is too large", false, Code::InvalidArgument),
            (500, "etcdserver: leader changed", true, Code::Unavailable),
            (503, "apiserver is shutting down", true, Code::Unavailable),
            (504, "timed out", true, Code::Unavailable),
        ] {
            let failure = refused(code, message, 0).failure;
            assert_eq!((failure.may_pass(), failure.code()), (again, expected), "{code} {message}");
        }
        let forbidden = refused(403, missing, 0).failure.to_string();
        assert!(forbidden.contains("may not list secrets"), "{forbidden}");
        assert_eq!(refused(429, "", 7).after, Some(Duration::from_secs(7)));
        assert_eq!(refused(429, "", 0).after, None);
    }
}
