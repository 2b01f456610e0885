//! Channels to the other coordinators. Every call carries the fleet and both node ids, and both
//! ends check them: a node that answers at another's address must not be taken for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::ApiError;
use proto::channel::{Deadlines, lazy_channel};
use proto::env::Env;
use proto::tls::TlsMaterial;
use proto::v1::peer_client::PeerClient;
use proto_types::{Code, FleetId, NodeId};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::config::Member;

const FLEET: &str = "strongroom-fleet";
const FROM: &str = "strongroom-from-node";
const TO: &str = "strongroom-to-node";

/// Largest Raft message: a full batch of 4 KiB entries stays far below.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A client of one other coordinator.
pub(crate) type Peer = PeerClient<InterceptedService<Channel, Stamp>>;

/// Puts the identities into every call.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    fleet: MetadataValue<Ascii>,
    from: MetadataValue<Ascii>,
    to: MetadataValue<Ascii>,
}

impl Interceptor for Stamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert(FLEET, self.fleet.clone());
        metadata.insert(FROM, self.from.clone());
        metadata.insert(TO, self.to.clone());
        Ok(request)
    }
}

/// Checks the identities of an incoming call against ours and the caller's certificate.
pub(crate) fn check_stamp(
    metadata: &MetadataMap,
    fleet: FleetId,
    this: NodeId,
    certified: NodeId,
) -> Result<(), ApiError> {
    let get = |key: &str| metadata.get(key).and_then(|value| value.to_str().ok()).unwrap_or("");
    if get(FLEET) != fleet.to_string() {
        return Err(ApiError::new(
            Code::WrongFleet,
            format!("a peer of another fleet called: this is fleet {}", fleet.short()),
        ));
    }
    if get(FROM) != certified.to_string() {
        return Err(ApiError::new(
            Code::PermissionDenied,
            format!("the caller says it is node {}, its certificate {certified}", get(FROM)),
        ));
    }
    if get(TO) != this.to_string() {
        return Err(ApiError::new(
            Code::InvalidArgument,
            format!(
                "the call is for node {}, this is node {this}: check the members' addresses",
                get(TO)
            ),
        ));
    }
    Ok(())
}

/// All other coordinators.
#[derive(Clone)]
pub(crate) struct Peers {
    inner: Arc<BTreeMap<NodeId, (Member, Peer)>>,
}

impl Peers {
    /// Channels to all members but this one; they connect when first used.
    pub(crate) fn new(
        env: &Env,
        fleet: FleetId,
        this: NodeId,
        members: &BTreeMap<NodeId, Member>,
        tls: &TlsMaterial,
        connect: Duration,
    ) -> Result<Self, ApiError> {
        let number = |text: String| {
            MetadataValue::try_from(text)
                .map_err(|_| ApiError::new(Code::Internal, "an id cannot be sent as metadata"))
        };
        let deadlines = Deadlines { connect, ..Deadlines::default() };
        let mut inner = BTreeMap::new();
        for (id, member) in members.iter().filter(|(id, _)| **id != this) {
            let channel = lazy_channel(env.net.clone(), &member.address, tls.client(), deadlines);
            let stamp = Stamp {
                fleet: number(fleet.to_string())?,
                from: number(this.to_string())?,
                to: number(id.to_string())?,
            };
            let client = PeerClient::with_interceptor(channel, stamp)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            inner.insert(*id, (member.clone(), client));
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A client of this node.
    pub(crate) fn get(&self, node: NodeId) -> Option<Peer> {
        self.inner.get(&node).map(|(_, client)| client.clone())
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = (NodeId, Peer)> + '_ {
        self.inner.iter().map(|(id, (_, client))| (*id, client.clone()))
    }

    /// Largest message the peer service takes.
    pub(crate) const MESSAGE_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
}
