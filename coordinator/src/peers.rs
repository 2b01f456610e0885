//! Channels to the other coordinators. Every call carries the fleet and both node ids, and both
//! ends check them: a node that answers at another's address must not be taken for it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use proto::ApiError;
use proto::channel::{Deadlines, channel_to_any};
use proto::env::Env;
use proto::tls::{ClientTls, TlsMaterial};
use proto::v1::peer_client::PeerClient;
use proto_types::{Code, FleetId, Level, NodeId};
use tokio::sync::Notify;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::config::Member;
use crate::roll_call::levels::Levels;

const FLEET: &str = "strongroom-fleet";
const FROM: &str = "strongroom-from-node";
const TO: &str = "strongroom-to-node";
/// `min-max`; a program of the first level says nothing.
const LEVELS: &str = "strongroom-levels";

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
    levels: Arc<OnceLock<MetadataValue<Ascii>>>,
}

impl Interceptor for Stamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert(FLEET, self.fleet.clone());
        metadata.insert(FROM, self.from.clone());
        metadata.insert(TO, self.to.clone());
        if let Some(levels) = self.levels.get() {
            metadata.insert(LEVELS, levels.clone());
        }
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

/// The levels that the caller says its program works with.
pub(crate) fn levels_of(metadata: &MetadataMap) -> Levels {
    let said = metadata.get(LEVELS).and_then(|value| value.to_str().ok()).unwrap_or("");
    let numbers = said
        .split_once('-')
        .and_then(|(min, max)| Some((min.parse::<u32>().ok()?, max.parse::<u32>().ok()?)));
    let (min, max) = numbers.unwrap_or_default();
    Levels::told(min, max)
}

/// All other coordinators: at first those of the config, then those of Raft's membership.
#[derive(Clone)]
pub(crate) struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    this: NodeId,
    fleet: MetadataValue<Ascii>,
    levels: Arc<OnceLock<MetadataValue<Ascii>>>,
    tls: ClientTls,
    deadlines: Deadlines,
    known: RwLock<BTreeMap<NodeId, Known>>,
    /// Those of the config.
    seeds: Vec<(NodeId, Member)>,
    /// Somebody refused a message of ours as one who does not belong to the fleet.
    refused: Notify,
}

struct Known {
    member: Member,
    /// For what is short and must not wait: Raft, claims, status.
    control: Peer,
    /// For bundles: a connection of its own, whose full windows hold up no heartbeat.
    bulk: Peer,
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
        let fleet = MetadataValue::try_from(fleet.to_string())
            .map_err(|_| ApiError::new(Code::Internal, "an id cannot be sent as metadata"))?;
        let inner = Inner {
            env: env.clone(),
            this,
            fleet,
            levels: Arc::default(),
            tls: tls.client(),
            deadlines: Deadlines { connect, ..Deadlines::default() },
            known: RwLock::new(BTreeMap::new()),
            refused: Notify::new(),
            seeds: members.iter().map(|(node, member)| (*node, member.clone())).collect(),
        };
        let peers = Self { inner: Arc::new(inner) };
        peers.learn(members);
        Ok(peers)
    }

    /// Has every call say the levels that this program works with; one that is held back to the
    /// first says nothing, as programs did that knew of none.
    pub(crate) fn say(&self, levels: Levels) {
        let said = format!("{}-{}", levels.min, levels.max);
        if levels.max > Level::OLDEST
            && let Ok(said) = MetadataValue::try_from(said)
        {
            // Said once, when the node starts.
            let _ = self.inner.levels.set(said);
        }
    }

    /// Takes over who belongs to the fleet. A channel to an address that stayed the same stays.
    pub(crate) fn learn(&self, members: &BTreeMap<NodeId, Member>) {
        let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|node, known| members.get(node) == Some(&known.member));
        for (node, member) in members.iter().filter(|(node, _)| **node != self.inner.this) {
            known.entry(*node).or_insert_with(|| self.inner.known(*node, member.clone()));
        }
    }

    /// A client of this node at this address, which Raft's membership names.
    pub(crate) fn meet(&self, node: NodeId, member: Member) -> Peer {
        let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
        match known.get(&node) {
            Some(same) if same.member == member => same.control.clone(),
            Some(_) | None => {
                let new = self.inner.known(node, member);
                let client = new.control.clone();
                known.insert(node, new);
                client
            }
        }
    }

    /// A client of this node.
    pub(crate) fn get(&self, node: NodeId) -> Option<Peer> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&node).map(|known| known.control.clone())
    }

    /// A client of this node for bundles, and for whatever else is long.
    pub(crate) fn for_bundles(&self, node: NodeId) -> Option<Peer> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&node).map(|known| known.bulk.clone())
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = (NodeId, Peer)> + use<> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = known.iter().map(|(id, known)| (*id, known.control.clone())).collect();
        all.into_iter()
    }

    /// All of them, and those of the config: who was away for long may know nobody who is left.
    pub(crate) fn all_ever(&self) -> impl Iterator<Item = (NodeId, Peer)> + use<> {
        let known: BTreeMap<NodeId, Peer> = self.all().collect();
        let seeds = self.inner.seeds.iter();
        let others =
            seeds.filter(|(node, _)| *node != self.inner.this && !known.contains_key(node));
        let others: Vec<_> =
            others.map(|(node, member)| (*node, self.inner.client(*node, member))).collect();
        known.into_iter().chain(others)
    }

    /// All of them, for bundles.
    pub(crate) fn all_for_bundles(&self) -> impl Iterator<Item = (NodeId, Peer)> + use<> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = known.iter().map(|(id, known)| (*id, known.bulk.clone())).collect();
        all.into_iter()
    }

    /// Notes that another coordinator refused this one.
    pub(crate) fn note_refused(&self) {
        self.inner.refused.notify_one();
    }

    /// Waits until one does.
    pub(crate) async fn refused(&self) {
        self.inner.refused.notified().await;
    }

    /// Largest message the peer service takes.
    pub(crate) const MESSAGE_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
}

impl Inner {
    fn known(&self, node: NodeId, member: Member) -> Known {
        let (control, bulk) = (self.client(node, &member), self.client(node, &member));
        Known { member, control, bulk }
    }

    fn client(&self, node: NodeId, member: &Member) -> Peer {
        // Where the membership has it and, if nobody is there, where the config has it: a fleet that
        // moved as a whole finds itself again by its configs. Whoever answers proves who it is.
        let mut addresses = vec![member.address.clone()];
        let seed = self.seeds.iter().find(|(id, _)| *id == node);
        addresses.extend(seed.map(|(_, m)| m.address.clone()).filter(|a| *a != member.address));
        let channel =
            channel_to_any(self.env.net.clone(), addresses, self.tls.clone(), self.deadlines);
        let stamp = Stamp {
            fleet: self.fleet.clone(),
            from: MetadataValue::from(self.this.get()),
            to: MetadataValue::from(node.get()),
            levels: self.levels.clone(),
        };
        PeerClient::with_interceptor(channel, stamp)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}
