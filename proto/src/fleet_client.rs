//! A client of the whole fleet: any coordinator will do, so a call that one cannot answer goes to
//! the next, and a fleet between two leaders is asked again until the deadline.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use proto_types::{Code, FleetId, SessionId};
use tonic::Status;
use tonic::transport::Channel;

use crate::channel::{Deadlines, lazy_channel};
use crate::env::Env;
use crate::error::ApiError;
use crate::tls::{ClientTls, TlsMaterial};
use crate::v1;

/// How long and how often a call is tried.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// One try of a unary call.
    pub call_timeout: Duration,
    /// All tries together.
    pub total_timeout: Duration,
    /// Between the first two tries; doubles up to `delay_max`.
    pub delay_min: Duration,
    /// Longest pause between two tries.
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(30),
            delay_min: Duration::from_millis(50),
            delay_max: Duration::from_millis(500),
        }
    }
}

/// Channels to all coordinators, and which one answered last.
pub struct FleetClient {
    env: Env,
    fleet: FleetId,
    addresses: Vec<String>,
    channels: Vec<Channel>,
    preferred: AtomicUsize,
    policy: RetryPolicy,
    session: Mutex<Session>,
}

struct Session {
    id: SessionId,
    sequence: u64,
    /// When it was last used, in elapsed milliseconds.
    used_ms: u64,
}

/// Coordinators forget a session that was idle for a day; a client draws a new one long before.
const SESSION_IDLE_MS: u64 = 60 * 60 * 1000;

impl FleetClient {
    /// A client for these coordinators; connects when first used.
    ///
    /// # Errors
    /// When there is no address or the TLS material is not valid.
    pub fn new(
        env: Env,
        addresses: Vec<String>,
        tls: &TlsMaterial,
        policy: RetryPolicy,
    ) -> Result<Arc<Self>, ApiError> {
        Self::of_fleet(env, addresses, &tls.client(), tls.identity().fleet, policy)
    }

    /// The same for somebody who may have no certificate yet.
    ///
    /// # Errors
    /// When there is no address.
    pub fn of_fleet(
        env: Env,
        addresses: Vec<String>,
        tls: &ClientTls,
        fleet: FleetId,
        policy: RetryPolicy,
    ) -> Result<Arc<Self>, ApiError> {
        if addresses.is_empty() {
            return Err(ApiError::new(
                Code::InvalidArgument,
                "no coordinator address is given: name at least one",
            ));
        }
        let channels = addresses
            .iter()
            .map(|address| {
                lazy_channel(env.net.clone(), address, tls.clone(), Deadlines::default())
            })
            .collect();
        let session = Mutex::new(Session {
            id: SessionId::random(&*env.random),
            sequence: 0,
            used_ms: env.clock.elapsed_millis(),
        });
        Ok(Arc::new(Self {
            fleet,
            env,
            addresses,
            channels,
            preferred: AtomicUsize::new(0),
            policy,
            session,
        }))
    }

    /// The fleet that it asks.
    #[must_use]
    pub const fn fleet(&self) -> FleetId {
        self.fleet
    }

    /// The environment it was given.
    #[must_use]
    pub const fn env(&self) -> &Env {
        &self.env
    }

    /// The coordinators it knows.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The number of a new write. Sent again unchanged with every retry of the same write.
    pub fn next_write_id(&self) -> v1::WriteId {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.env.clock.elapsed_millis();
        if now.saturating_sub(session.used_ms) > SESSION_IDLE_MS {
            session.id = SessionId::random(&*self.env.random);
            session.sequence = 0;
        }
        session.used_ms = now;
        session.sequence += 1;
        v1::WriteId {
            session_id: Bytes::copy_from_slice(session.id.as_bytes()),
            sequence: session.sequence,
        }
    }

    /// Begins a new session of writes: the fleet does not know the old one any more.
    pub fn new_session(&self) {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        session.id = SessionId::random(&*self.env.random);
        session.sequence = 0;
    }

    /// The channel to use for a call that is not retried here (streams), with its address.
    #[must_use]
    pub fn channel(&self) -> (Channel, &str) {
        let at = self.preferred.load(Ordering::Relaxed) % self.channels.len();
        (self.channels[at].clone(), &self.addresses[at])
    }

    /// Turns to the next coordinator, after a stream to the present one broke.
    pub fn turn(&self) {
        self.preferred.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes one unary call, trying all coordinators until the policy's time is over. `call` gets
    /// a fresh channel each time and must send the same request each time.
    ///
    /// # Errors
    /// The last error, when it may not be retried or time is over.
    pub async fn call<T, F, Fut>(&self, what: &str, call: F) -> Result<T, ApiError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let started = self.env.clock.elapsed_millis();
        let total = u64::try_from(self.policy.total_timeout.as_millis()).unwrap_or(u64::MAX);
        let mut delays = ExponentialBuilder::default()
            .with_min_delay(self.policy.delay_min)
            .with_max_delay(self.policy.delay_max)
            .with_factor(1.5)
            .without_max_times()
            .build();
        loop {
            let (channel, address) = self.channel();
            let tried = tokio::time::timeout(self.policy.call_timeout, call(channel)).await;
            let error = match tried {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => ApiError::from(status),
                Err(_) => ApiError::new(
                    Code::DeadlineExceeded,
                    format!("{address} gave no answer in {:?}", self.policy.call_timeout),
                ),
            };
            let elapsed = self.env.clock.elapsed_millis().saturating_sub(started);
            if !error.is_retryable() || elapsed >= total {
                return Err(error.during(what));
            }
            tracing::debug!(what, address, code = %error.code(), %error, "retrying");
            self.turn();
            if let Some(delay) = delays.next() {
                tokio::time::sleep(delay).await;
            }
        }
    }
}
