//! Builds a coordinator out of its parts, serves, and ends it: in order when asked to, at once
//! when a durable path failed (invariant R3).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::env::{Env, incoming};
use proto::identity::Party;
use proto::serving::secured;
use proto::tls::{TlsFiles, TlsMaterial};
use proto::v1::acts_server::ActsServer;
use proto::v1::audit_server::AuditServer;
use proto::v1::backup_server::BackupServer;
use proto::v1::catalog_server::CatalogServer;
use proto::v1::enrolment_server::EnrolmentServer;
use proto::v1::fleet_server::FleetServer;
use proto::v1::join_server::JoinServer;
use proto::v1::keys_server::KeysServer;
use proto::v1::peer_server::PeerServer;
use proto::v1::restore_server::RestoreServer;
use proto::{ApiError, v1};
use proto_types::{Code, LogIndex, NodeId};
use storage::bundles::BucketBundleStore;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Status};

use crate::audit;
use crate::auth::require_certificate;
use crate::authority::Authority;
use crate::config::Config;
use crate::keeper::{Carried, Keeper, Stores, keep_home, keep_house};
use crate::opening::Machine;
use crate::peers::Peers;
use crate::raft::{RaftNode, StateMachine};
use crate::revocation::Revocable;
use crate::roll_call::{self, RollCall};
use crate::service::{
    ActsService, Admission, AuditService, BackupService, CatalogService, EnrolmentService,
    FleetService, JOIN_BYTES_MAX, JoinService, KeysService, Parts, PeerService, RestoreService,
    Shared,
};
use crate::{certificates, leader, opening, scheduled, telemetry, wiped};

/// Why a coordinator ended, other than because it was asked to.
pub type RunError = ApiError;

/// How long open requests may take to finish once the coordinator is asked to end.
const DRAIN: Duration = Duration::from_secs(5);
/// Snapshots streamed at one time: each holds an encoded state in memory.
const SNAPSHOTS_OUT_MAX: usize = 2;
/// Requests of one connection at one time. A proxy of many agents opens more connections.
const STREAMS_PER_CONNECTION: u32 = 256;

/// Runs a coordinator until `shutdown` is cancelled.
///
/// # Errors
/// When it cannot start (config, certificate, data directory, address), or when a durable path
/// failed while it ran: then the node must not go on.
pub async fn run(config: Config, env: Env, shutdown: CancellationToken) -> Result<(), RunError> {
    run_on(config, env, Machine::system(), shutdown).await
}

/// [`run`] on a disk that is handed in.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    config: Config,
    env: Env,
    machine: Machine,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let tls = load_tls(&config)?;
    let authority = config.authority.as_ref().map(Authority::load).transpose()?.map(Arc::new);
    let metrics = config.metrics_listen.as_deref().map(serve_metrics).transpose()?;
    let listener = env.net.listen(&config.listen).await.map_err(|e| bind(&config.listen, &e))?;
    let opened = opening::open(&config, &env, machine).await?;
    let bucket = config.bucket.as_ref().map(|bucket| bucket.open("bucket")).transpose()?;
    // Its generation is chosen where it is used.
    let bucket = bucket.map(|bucket| BucketBundleStore::new(bucket, LogIndex::new(0)));

    let peers = Peers::new(
        &env,
        config.fleet.id,
        config.node_id,
        &config.members,
        &tls,
        Duration::from_millis(config.raft.election_timeout_min_ms),
    )?;
    let levels = config.upgrade.levels();
    peers.say(levels);
    if opened.log.bounds().last.is_none() && opened.snapshots.newest().is_none() {
        wiped::refuse(config.node_id, levels, &peers).await?;
    }
    let snapshots = opened.snapshots;
    let carried = Carried::new(env.clone(), opened.bundles.clone(), opened.ledger.clone());
    let machine = StateMachine::new(
        env.clone(),
        snapshots.clone(),
        opened.home,
        levels.max,
        carried.clone(),
        opened.log.clone(),
    );
    let book = machine.book();
    let roll = RollCall::new(env.clock.clone(), config.node_id, levels, opened.log.sync_times());
    let roll = Arc::new(roll);
    let raft =
        RaftNode::start(&config, env.clone(), peers.clone(), opened.log, machine, roll).await?;
    if !config.join {
        raft.initialize(&config).await?;
    }
    let keeper = Keeper::new(
        env.clone(),
        config.node_id,
        Stores {
            store: opened.bundles,
            bucket,
            ledger: opened.ledger,
            carried,
            snapshots: snapshots.clone(),
        },
        raft.clone(),
        peers.clone(),
    );
    let shared = Shared::new(Parts {
        uploads: Admission::new(config.limits),
        config: config.clone(),
        authority: authority.clone(),
        env: env.clone(),
        raft: raft.clone(),
        keeper: keeper.clone(),
        peers: peers.clone(),
        snapshots,
        snapshots_out: Arc::new(Semaphore::new(SNAPSHOTS_OUT_MAX)),
        book: book.clone(),
        refusals: audit::Refusals::default(),
        readers: audit::Recent::default(),
    });

    let stop_serving = CancellationToken::new();
    let (ended, mut serving_ended) = tokio::sync::oneshot::channel();
    let server = router(&shared).await?;
    let connections = secured(incoming(listener), tls.server()?);
    let stopped = stop_serving.clone();
    env.spawn.task(
        "serve",
        Box::pin(async move {
            let connections = Box::pin(connections);
            let served =
                server.serve_with_incoming_shutdown(connections, stopped.cancelled()).await;
            // Nobody listens any more when the coordinator has ended meanwhile.
            let _ = ended.send(served.err().map(|error| error.to_string()));
        }),
    );
    telemetry::serving(config.node_id, &config.listen, metrics.map(|a| a.to_string()).as_deref());

    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok("asked to"),
        reason = raft.failed() => Err(fatal(&reason)),
        error = follow_membership(config.node_id, &raft, &peers) => Err(error),
        error = wiped::until_out(config.node_id, levels, &peers, &raft) => Err(error),
        reason = keeper.failed() => Err(fatal(&reason)),
        served = &mut serving_ended => Err(fatal(&format!("serving ended: {served:?}"))),
        () = keep_house(keeper.clone()) => Ok("housekeeping ended"),
        () = leader::lead(&config, authority.as_deref(), &raft) => Ok("leading ended"),
        () = certificates::keep_own(&config, &env, &tls, authority.as_deref(), &raft) => {
            Ok("renewing the certificate ended")
        }
        () = roll_call::hold(&env, &raft, &peers) => Ok("the roll call ended"),
        () = keeper.scrub_by_itself(&env, config.scrub) => Ok("scrubbing ended"),
        () = keeper.scrub_bucket(config.scrub) => Ok("scrubbing ended"),
        () = keep_home(&keeper) => Ok("moving bundles ended"),
        () = scheduled::run(&shared) => Ok("scheduled snapshots ended"),
        () = audit::keep(&env, &raft, &peers, &book) => Ok("keeping the audit log ended"),
        () = audit::report(&env, &raft, &shared.refusals) => Ok("recording refusals ended"),
    };
    if let Ok(reason) = outcome {
        telemetry::stopping(config.node_id, reason);
        raft.hand_over().await;
        raft.settle_writes().await;
    }
    stop_serving.cancel();
    // After a durable path failed nothing more is promised: open requests are cut off at once.
    if outcome.is_ok() && tokio::time::timeout(DRAIN, serving_ended).await.is_err() {
        tracing::info!("open requests did not end in time and are cut off");
    }
    raft.shutdown().await;
    if outcome.is_ok() {
        keeper.close_books().await;
    }
    outcome.map(drop)
}

/// Keeps the channels to those who belong to the fleet; ends when this node does not any more.
async fn follow_membership(this: NodeId, raft: &RaftNode, peers: &Peers) -> ApiError {
    let mut published = raft.watch();
    let mut known = Arc::default();
    loop {
        let view = published.borrow_and_update().clone();
        if view.state.was_removed(this) {
            return wiped::removed(this);
        }
        // None before the first entry: those of the config are all there is.
        if !view.members.is_empty() && view.members != known {
            peers.learn(&view.members);
            known = view.members;
        }
        if published.changed().await.is_err() {
            return fatal("the state machine has ended");
        }
    }
}

async fn router(shared: &Shared) -> Result<tonic::transport::server::Router, ApiError> {
    let limit = shared.config.limits.request_bytes_max;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<FleetServer<FleetService>>().await;
    health.set_serving::<BackupServer<BackupService>>().await;
    health.set_serving::<CatalogServer<CatalogService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
    let server = Server::builder()
        // With the certificate of now on both sides; what runs is let to its end.
        .max_connection_age(shared.config.certificates.connection_age())
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(Some(STREAMS_PER_CONNECTION))
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_service(
            JoinServer::new(JoinService::new(shared.clone()))
                .max_decoding_message_size(JOIN_BYTES_MAX),
        )
        .add_service(certified(shared, health_service))
        .add_service(certified(shared, reflection))
        .add_service(certified(
            shared,
            FleetServer::new(FleetService(shared.clone())).max_decoding_message_size(limit),
        ))
        .add_service(certified(
            shared,
            CatalogServer::new(CatalogService(shared.clone())).max_decoding_message_size(limit),
        ))
        .add_service(certified(
            shared,
            BackupServer::new(BackupService(shared.clone())).max_decoding_message_size(limit),
        ))
        .add_service(certified(
            shared,
            RestoreServer::new(RestoreService(shared.clone())).max_decoding_message_size(limit),
        ))
        .add_service(certified(
            shared,
            AuditServer::new(AuditService(shared.clone())).max_decoding_message_size(limit),
        ))
        .add_service(certified(
            shared,
            KeysServer::new(KeysService(shared.clone())).max_decoding_message_size(limit),
        ))
        .add_service(certified(
            shared,
            EnrolmentServer::new(EnrolmentService(shared.clone())).max_decoding_message_size(limit),
        ))
        .add_service(certified(
            shared,
            ActsServer::new(ActsService(shared.clone())).max_decoding_message_size(limit),
        ))
        .add_service(certified(
            shared,
            PeerServer::new(PeerService(shared.clone()))
                .max_decoding_message_size(Peers::MESSAGE_BYTES_MAX)
                .max_encoding_message_size(Peers::MESSAGE_BYTES_MAX),
        ));
    Ok(server)
}

type Certified<S> =
    InterceptedService<Revocable<S>, fn(Request<()>) -> Result<Request<()>, Status>>;

/// The service for those who show a certificate of this fleet, as long as it counts.
fn certified<S>(shared: &Shared, service: S) -> Certified<S> {
    InterceptedService::new(Revocable::new(service, shared.raft.clone()), require_certificate)
}

/// Reads the certificate and compares it with the config.
pub(crate) fn load_tls(config: &Config) -> Result<TlsMaterial, ApiError> {
    let tls = TlsFiles::load(&config.tls)?;
    let identity = tls.identity();
    if identity.fleet != config.fleet.id {
        return Err(ApiError::new(
            Code::WrongFleet,
            format!(
                "the certificate {} is of fleet {}, the config says fleet {}",
                config.tls.certificate.display(),
                identity.fleet,
                config.fleet.id
            ),
        ));
    }
    if identity.party != Party::Coordinator(config.node_id) {
        return Err(ApiError::new(
            Code::InvalidConfig,
            format!(
                "the certificate {} is of {}, the config says coordinator {}: give each its own",
                config.tls.certificate.display(),
                identity.party,
                config.node_id
            ),
        ));
    }
    Ok(tls)
}

fn serve_metrics(listen: &str) -> Result<SocketAddr, ApiError> {
    let address: SocketAddr = listen.parse().map_err(|_| {
        ApiError::new(
            Code::InvalidConfig,
            format!("metrics_listen: {listen:?} is no address; write it as 127.0.0.1:7411"),
        )
    })?;
    telemetry::install(address).map_err(|error| {
        ApiError::new(
            Code::AddressInUse,
            format!("cannot serve metrics on {listen}: {error}; choose another metrics_listen"),
        )
    })?;
    Ok(address)
}

fn bind(listen: &str, error: &std::io::Error) -> ApiError {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        ApiError::new(
            Code::AddressInUse,
            format!(
                "{listen} is in use by another program: stop it, or choose another address for \
                 `listen` here and in the members lists"
            ),
        )
    } else {
        ApiError::new(
            Code::InvalidConfig,
            format!("cannot listen on {listen}: {error}; correct `listen` in the config"),
        )
    }
}

fn fatal(reason: &str) -> ApiError {
    tracing::error!(event = "fatal", reason, "a durable path failed: this coordinator ends");
    ApiError::new(
        Code::Internal,
        format!(
            "this coordinator ended, because it can no longer keep its promises: {reason}. The \
             others go on; mend the cause (disk full, disk broken), then start it again"
        ),
    )
}
