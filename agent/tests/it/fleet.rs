//! A fake fleet: real gRPC over mutual TLS on loopback, several nodes over one state, which
//! keeps the protocol's rules as far as an agent can notice, and can be told to misbehave. For
//! the agent's own tests only; the real coordinators are tested with real agents elsewhere.

#[path = "fleet_keys.rs"]
mod fleet_keys;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use proto::ApiError;
use proto::env::{Env, incoming};
use proto::fleet_client::{FleetClient, RetryPolicy};
use proto::identity::{Identity, Party, Role};
use proto::serving::secured;
use proto::tls::TlsFiles;
use proto::v1;
use proto::v1::backup_server::{Backup, BackupServer};
use proto::v1::catalog_server::{Catalog, CatalogServer};
use proto::v1::keys_server::KeysServer;
use proto::v1::upload_bundle_request::Part;
use proto_types::{
    BundleId, BundleKind, ClusterId, Code, FleetId, NodeId, SignedHeader, SigningPublicKey,
};
use tonic::{Request, Response, Status, Streaming};

pub(crate) const FLEET: FleetId = FleetId::from_bytes([0xf1; 16]);
pub(crate) const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 16]);
pub(crate) const CLUSTER_NAME: &str = "prod-eu";

/// What the fleet keeps and how it misbehaves.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) signing_key: Vec<u8>,
    pub(crate) recovery: Option<bundle::RecoveryPublic>,
    pub(crate) epoch: u64,
    pub(crate) active: Vec<u8>,
    pub(crate) points: Vec<v1::Point>,
    pub(crate) needs: Vec<BTreeSet<Vec<u8>>>,
    pub(crate) bundles: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) headers: BTreeMap<Vec<u8>, SignedHeader>,
    pub(crate) findings: BTreeMap<(String, String), v1::Finding>,
    pub(crate) leases: BTreeSet<Vec<u8>>,
    pub(crate) commits: HashMap<(Vec<u8>, u64), v1::Point>,
    pub(crate) calls: Vec<&'static str>,
    /// Bytes that came in over all upload streams.
    pub(crate) uploaded: u64,
    pub(crate) read: u64,
    pub(crate) faults: Faults,
    /// What operators want of the cluster's keys.
    pub(crate) orders: v1::KeyOrders,
    /// Recovery keys before the one of now, as it says.
    pub(crate) former: Vec<v1::FormerRecoveryKey>,
}

/// Each is used up when it strikes.
#[derive(Default)]
pub(crate) struct Faults {
    /// Break the next upload streams after so many bytes.
    pub(crate) break_uploads: Vec<u64>,
    /// Commit, and lose the answer.
    pub(crate) lose_commit_answers: u32,
    /// Refuse the next uploads with this code.
    pub(crate) refuse_uploads: Vec<Code>,
    /// Break the next read streams after so many bytes.
    pub(crate) break_reads: Vec<u64>,
    /// Flip a bit of what ranged reads return, so often.
    pub(crate) damage_ranges: u32,
    /// Hash config bundles and forget them, for tests that measure memory.
    pub(crate) forget_config: bool,
    /// Grant leases for so long.
    pub(crate) lease_millis: Option<u64>,
    /// Offer this point instead of the newest.
    pub(crate) offer_instead: Option<u64>,
}

#[derive(Clone)]
pub(crate) struct Node {
    id: u64,
    pub(crate) state: Arc<Mutex<State>>,
    partial: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
}

pub(crate) struct Fleet {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) addresses: Vec<String>,
    pub(crate) nodes: Vec<tokio::task::JoinHandle<()>>,
    pki: tempfile::TempDir,
}

impl Fleet {
    /// Starts `nodes` coordinators.
    pub(crate) async fn start(nodes: u64) -> Self {
        proto::tls::install_crypto_provider();
        let pki = tempfile::tempdir().unwrap();
        make_pki(pki.path(), nodes);
        let state = Arc::new(Mutex::new(State::default()));
        let mut fleet = Self { state, addresses: vec![], nodes: vec![], pki };
        for id in 1..=nodes {
            let listener = Env::system().net.listen("127.0.0.1:0").await.unwrap();
            let address: SocketAddr = listener.local_address().unwrap();
            let node = Node { id, state: fleet.state.clone(), partial: Arc::default() };
            let tls = fleet.tls(&format!("node-{id}")).load().unwrap().server().unwrap();
            let server = tonic::transport::Server::builder()
                .add_service(BackupServer::new(node.clone()))
                .add_service(KeysServer::new(node.clone()))
                .add_service(CatalogServer::new(node))
                .serve_with_incoming(Box::pin(secured(incoming(listener), tls)));
            fleet.nodes.push(tokio::spawn(async move {
                let _ = server.await;
            }));
            fleet.addresses.push(address.to_string());
        }
        fleet
    }

    pub(crate) fn tls(&self, name: &str) -> TlsFiles {
        let path = |file: String| self.pki.path().join(file);
        TlsFiles {
            ca: path("ca.pem".into()),
            certificate: path(format!("{name}.pem")),
            key: path(format!("{name}.key")),
        }
    }

    pub(crate) fn operator(&self, env: &Env) -> Arc<FleetClient> {
        let tls = self.tls("operator").load().unwrap();
        FleetClient::new(env.clone(), self.addresses.clone(), &tls, quick()).unwrap()
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// How often a call was made since the last time this was asked.
    pub(crate) fn take_calls(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for call in std::mem::take(&mut self.lock().calls) {
            *counts.entry(call).or_default() += 1;
        }
        counts
    }
}

/// Gives up soon, for tests of failures.
pub(crate) fn quick() -> RetryPolicy {
    RetryPolicy {
        call_timeout: Duration::from_secs(5),
        total_timeout: Duration::from_secs(10),
        delay_min: Duration::from_millis(5),
        delay_max: Duration::from_millis(20),
    }
}

fn make_pki(directory: &Path, nodes: u64) {
    let write = |name: String, text: String| std::fs::write(directory.join(name), text).unwrap();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    write("ca.pem".into(), ca.pem());
    let issuer = rcgen::Issuer::from_params(&params, &ca_key);
    let mut parties: Vec<(String, Party)> =
        (1..=nodes).map(|id| (format!("node-{id}"), Party::Coordinator(NodeId::new(id)))).collect();
    parties.push(("agent".into(), Party::Agent(CLUSTER)));
    let operator = Party::Operator { name: "ann".into(), role: Role::Admin };
    parties.push(("operator".into(), operator));
    for (name, party) in parties {
        let names = Identity { fleet: FLEET, party }.dns_names();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        write(format!("{name}.pem"), certificate.pem());
        write(format!("{name}.key"), key.serialize_pem());
    }
}

pub(crate) fn refuse<T>(code: Code, message: &str) -> Result<T, Status> {
    Err(ApiError::new(code, message).into())
}

impl State {
    fn cluster(&self) -> v1::Cluster {
        let head = self.points.last();
        v1::Cluster {
            cluster_id: Bytes::copy_from_slice(CLUSTER.as_bytes()),
            name: CLUSTER_NAME.into(),
            signing_key: self.signing_key.clone().into(),
            epoch: self.epoch,
            head_sequence: head.map_or(0, |point| point.sequence),
            head_manifest: head.map(|point| point.manifest_id.clone()).unwrap_or_default(),
            ..v1::Cluster::default()
        }
    }

    fn commit(&mut self, request: &v1::CommitPointRequest) -> Result<v1::Point, Status> {
        use v1::commit_point_request::Content;
        if request.epoch != self.epoch {
            return refuse(Code::StaleEpoch, "a newer agent is active");
        }
        let head = self.points.last().cloned();
        let head_sequence = head.as_ref().map_or(0, |point| point.sequence);
        let head_manifest = head.as_ref().map(|p| p.manifest_id.clone()).unwrap_or_default();
        if request.sequence != head_sequence + 1 || request.parent_manifest_id != head_manifest {
            return refuse(Code::StaleHead, "not the head's successor");
        }
        let mut point = v1::Point {
            cluster_id: Bytes::copy_from_slice(CLUSTER.as_bytes()),
            cluster_name: CLUSTER_NAME.into(),
            sequence: request.sequence,
            taken_ms: request.taken_ms,
            committed_ms: request.taken_ms,
            epoch: request.epoch,
            proofs: request.proofs.clone(),
            items: request.items,
            logical_bytes: request.logical_bytes,
            ..v1::Point::default()
        };
        let signer = SigningPublicKey::from_slice(&self.signing_key).unwrap();
        let needs = match request.content.as_ref().unwrap() {
            Content::Unchanged(unchanged) => {
                let head = head.unwrap();
                let statement = proto_types::PointStatement {
                    fleet: FLEET,
                    cluster: CLUSTER,
                    lineage: 0,
                    sequence: proto_types::Sequence::new(request.sequence),
                    epoch: proto_types::Epoch::new(request.epoch),
                    taken: proto_types::LogTime::from_millis(request.taken_ms),
                    manifest: BundleId::from_slice(&head.manifest_id).unwrap(),
                    key_bundle: BundleId::from_slice(&head.key_bundle_id).unwrap(),
                };
                let signature = unchanged.signature[..].try_into().unwrap();
                if !statement.is_signed_by(&signer, &signature) {
                    return refuse(Code::BadSignature, "the statement is not signed");
                }
                point.unchanged = true;
                point.statement_signature = unchanged.signature.clone();
                point.manifest_id = head.manifest_id;
                point.base_manifest_id = head.base_manifest_id;
                point.key_bundle_id = head.key_bundle_id;
                point.wraps_id = head.wraps_id;
                self.needs.last().cloned().unwrap()
            }
            Content::Changed(changed) => {
                for (id, file) in changed.added.iter().zip(&changed.carried) {
                    assert_eq!(BundleId::of(file).as_bytes()[..], id[..], "the file of its name");
                    let signed = SignedHeader::from_tail(file, file.len() as u64).unwrap();
                    self.headers.insert(id.to_vec(), signed);
                    self.bundles.insert(id.to_vec(), file.to_vec());
                }
                if changed.carried.is_empty() && !self.leases.contains(&request.lease_id[..]) {
                    return refuse(Code::LeaseGone, "no such lease");
                }
                let mut needs = self.needs.last().cloned().unwrap_or_default();
                for dropped in &changed.dropped {
                    assert!(needs.remove(&dropped[..]), "only what the parent needs is dropped");
                }
                for added in &changed.added {
                    let header = self.headers.get(&added[..]).expect("uploaded before");
                    header.verify(&signer).expect("signed by the cluster");
                    needs.insert(added.to_vec());
                    point.added_bytes += header.file_bytes();
                }
                let header = |id: &[u8]| self.headers.get(id).unwrap().header().clone();
                let manifest = header(&changed.manifest_id);
                assert_eq!(manifest.kind, BundleKind::Manifest);
                assert_eq!(
                    manifest.predecessor.as_bytes()[..].to_vec(),
                    match head_manifest.len() {
                        0 => vec![0; 32],
                        _ => head_manifest.to_vec(),
                    }
                );
                if !manifest.base.is_zero() {
                    let base = manifest.base.as_bytes().to_vec();
                    assert!(needs.contains(&base), "a delta's base is needed");
                    point.base_manifest_id = base.into();
                }
                let keys = header(&changed.key_bundle_id);
                assert_eq!(keys.kind, BundleKind::Key);
                let wraps = header(&changed.wraps_id);
                assert_eq!(wraps.predecessor.as_bytes()[..], changed.key_bundle_id[..]);
                for id in &needs {
                    let needed = header(id);
                    // Invariant B4, as the coordinators see it.
                    assert!(
                        needed.kind == BundleKind::Wraps
                            || needed.dek_ids.iter().all(|dek| keys.dek_ids.contains(dek)),
                        "the key bundle holds every key"
                    );
                }
                assert!(
                    needs.iter().filter(|id| header(id).kind == BundleKind::Key).count() == 1,
                    "old key bundles are dropped"
                );
                point.manifest_id = changed.manifest_id.clone();
                point.key_bundle_id = changed.key_bundle_id.clone();
                point.wraps_id = changed.wraps_id.clone();
                self.leases.remove(&request.lease_id[..]);
                needs
            }
        };
        self.needs.push(needs);
        self.points.push(point.clone());
        Ok(point)
    }

    fn with_bundles(&self, sequence: u64) -> v1::Point {
        let at = sequence as usize - 1;
        v1::Point { bundles: self.bundles_of(at), ..self.points[at].clone() }
    }

    /// The newest point as a session tells it, whatever a test made of its number.
    fn head(&self) -> Option<v1::Point> {
        let newest = self.points.last()?;
        Some(v1::Point { bundles: self.bundles_of(self.points.len() - 1), ..newest.clone() })
    }

    fn bundles_of(&self, at: usize) -> Vec<v1::BundleInfo> {
        self.needs[at]
            .iter()
            .filter_map(|id| {
                Some(v1::BundleInfo {
                    bundle_id: Bytes::copy_from_slice(id),
                    kind: self.headers.get(id)?.header().kind.as_str().to_owned(),
                    bytes: self.bundles.get(id)?.len() as u64,
                    holders: vec![1],
                    in_bucket: false,
                    in_log: false,
                })
            })
            .collect()
    }
}

impl Node {
    fn note(&self, call: &'static str) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap();
        state.calls.push(call);
        state
    }
}

#[tonic::async_trait]
impl Backup for Node {
    async fn open_agent_session(
        &self,
        request: Request<v1::OpenAgentSessionRequest>,
    ) -> Result<Response<v1::OpenAgentSessionResponse>, Status> {
        let mut state = self.note("open_agent_session");
        let instance = request.into_inner().instance_id.to_vec();
        if state.active != instance {
            state.epoch += 1;
            state.active = instance;
        }
        let recovery = state.recovery.unwrap();
        Ok(Response::new(v1::OpenAgentSessionResponse {
            fleet_id: Bytes::copy_from_slice(FLEET.as_bytes()),
            cluster: Some(state.cluster()),
            epoch: state.epoch,
            recovery_hpke: Bytes::copy_from_slice(&recovery.hpke),
            recovery_signing: Bytes::copy_from_slice(&recovery.signing),
            head: state.head(),
            key_orders: Some(state.orders),
            former_recovery_keys: state.former.clone(),
            ..Default::default()
        }))
    }

    async fn open_upload(
        &self,
        request: Request<v1::OpenUploadRequest>,
    ) -> Result<Response<v1::OpenUploadResponse>, Status> {
        let mut state = self.note("open_upload");
        if request.into_inner().epoch != state.epoch {
            return refuse(Code::StaleEpoch, "a newer agent is active");
        }
        let lease = vec![state.leases.len() as u8 + 1; 16];
        state.leases.insert(lease.clone());
        let ttl_ms = state.faults.lease_millis.unwrap_or(60_000);
        Ok(Response::new(v1::OpenUploadResponse { lease_id: lease.into(), log_index: 7, ttl_ms }))
    }

    async fn renew_upload(
        &self,
        request: Request<v1::RenewUploadRequest>,
    ) -> Result<Response<v1::RenewUploadResponse>, Status> {
        let state = self.note("renew_upload");
        if !state.leases.contains(&request.into_inner().lease_id[..]) {
            return refuse(Code::LeaseGone, "no such lease");
        }
        Ok(Response::new(v1::RenewUploadResponse {}))
    }

    async fn get_upload_offset(
        &self,
        request: Request<v1::GetUploadOffsetRequest>,
    ) -> Result<Response<v1::GetUploadOffsetResponse>, Status> {
        let id = request.into_inner().bundle_id.to_vec();
        let state = self.note("get_upload_offset");
        let complete = state.bundles.contains_key(&id);
        let partial = self.partial.lock().unwrap();
        let offset = partial.get(&id).map_or(0, |bytes| bytes.len() as u64);
        Ok(Response::new(v1::GetUploadOffsetResponse { offset, complete }))
    }

    async fn upload_bundle(
        &self,
        request: Request<Streaming<v1::UploadBundleRequest>>,
    ) -> Result<Response<v1::UploadBundleResponse>, Status> {
        let (refusal, mut left) = {
            let mut state = self.note("upload_bundle");
            (state.faults.refuse_uploads.pop(), state.faults.break_uploads.pop())
        };
        if let Some(code) = refusal {
            return refuse(code, "refused by the test");
        }
        let mut stream = request.into_inner();
        let first = stream.message().await?.and_then(|message| message.part);
        let Some(Part::Begin(begin)) = first else {
            return refuse(Code::InvalidArgument, "no beginning");
        };
        let id = begin.bundle_id.to_vec();
        if !self.state.lock().unwrap().leases.contains(&begin.lease_id[..]) {
            return refuse(Code::LeaseGone, "no such lease");
        }
        let forget = self.state.lock().unwrap().faults.forget_config;
        if forget && begin.kind == "config" {
            let mut reader = Vec::new();
            let mut hash = sha2::Sha256::default();
            while let Some(message) = stream.message().await? {
                if let Some(Part::Data(data)) = message.part {
                    sha2::Digest::update(&mut hash, &data);
                    reader = data.to_vec();
                }
            }
            assert_eq!(sha2::Digest::finalize(hash)[..], id[..]);
            let header = SignedHeader::from_tail(&reader, begin.bytes).unwrap();
            let mut state = self.state.lock().unwrap();
            state.headers.insert(id.clone(), header);
            state.bundles.insert(id.clone(), reader);
        }
        if !self.state.lock().unwrap().bundles.contains_key(&id) {
            let mut bytes = self.partial.lock().unwrap().get(&id).cloned().unwrap_or_default();
            assert!(begin.offset <= bytes.len() as u64, "continues what is there");
            bytes.truncate(begin.offset as usize);
            while let Some(message) = stream.message().await? {
                let Some(Part::Data(data)) = message.part else {
                    return refuse(Code::InvalidArgument, "no data");
                };
                assert!(data.len() <= 1 << 20, "a message is at most 1 MiB");
                bytes.extend_from_slice(&data);
                self.state.lock().unwrap().uploaded += data.len() as u64;
                if let Some(left) = &mut left {
                    if (data.len() as u64) >= *left {
                        self.partial.lock().unwrap().insert(id, bytes);
                        return refuse(Code::Unavailable, "broken by the test");
                    }
                    *left -= data.len() as u64;
                }
            }
            if BundleId::of(&bytes).as_bytes()[..] != id {
                return refuse(Code::DigestMismatch, "other bytes");
            }
            assert_eq!(bytes.len() as u64, begin.bytes);
            let file = bundle::verify_bytes(&bytes, &bundle::Expect::of(FLEET, CLUSTER)).unwrap();
            assert_eq!(file.header.header().kind.as_str(), begin.kind);
            let mut state = self.state.lock().unwrap();
            state.headers.insert(id.clone(), file.header);
            state.bundles.insert(id, bytes);
        }
        Ok(Response::new(v1::UploadBundleResponse { holders: vec![self.id], in_bucket: false }))
    }

    async fn commit_point(
        &self,
        request: Request<v1::CommitPointRequest>,
    ) -> Result<Response<v1::CommitPointResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.note("commit_point");
        let write = request.write_id.clone().unwrap();
        let key = (write.session_id.to_vec(), write.sequence);
        let point = match state.commits.get(&key) {
            Some(point) => point.clone(),
            None => {
                let point = state.commit(&request)?;
                state.commits.insert(key, point.clone());
                point
            }
        };
        if state.faults.lose_commit_answers > 0 {
            state.faults.lose_commit_answers -= 1;
            return refuse(Code::Unavailable, "the answer was lost by the test");
        }
        let key_orders = Some(state.orders);
        Ok(Response::new(v1::CommitPointResponse {
            point: Some(point),
            key_orders,
            recovery_generation: 0,
        }))
    }

    async fn end_upload(
        &self,
        request: Request<v1::EndUploadRequest>,
    ) -> Result<Response<v1::EndUploadResponse>, Status> {
        self.note("end_upload").leases.remove(&request.into_inner().lease_id[..]);
        Ok(Response::new(v1::EndUploadResponse {}))
    }

    async fn report_findings(
        &self,
        request: Request<v1::ReportFindingsRequest>,
    ) -> Result<Response<v1::ReportFindingsResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.note("report_findings");
        for finding in request.clear {
            state.findings.remove(&(finding.kind, finding.subject));
        }
        for finding in request.raise {
            state.findings.insert((finding.kind.clone(), finding.subject.clone()), finding);
        }
        Ok(Response::new(v1::ReportFindingsResponse {}))
    }
}

type ReadStream =
    Pin<Box<dyn Stream<Item = Result<v1::ReadBundleResponse, Status>> + Send + 'static>>;

#[tonic::async_trait]
impl Catalog for Node {
    type ReadBundleStream = ReadStream;

    async fn list_points(
        &self,
        _request: Request<v1::ListPointsRequest>,
    ) -> Result<Response<v1::ListPointsResponse>, Status> {
        let points = self.state.lock().unwrap().points.iter().rev().cloned().collect();
        Ok(Response::new(v1::ListPointsResponse { read: None, points, ..Default::default() }))
    }

    async fn get_point(
        &self,
        request: Request<v1::GetPointRequest>,
    ) -> Result<Response<v1::GetPointResponse>, Status> {
        use v1::get_point_request::Which;
        let request = request.into_inner();
        let mut state = self.note("get_point");
        if request.cluster_name != CLUSTER_NAME {
            return refuse(Code::ClusterNotFound, "no such cluster");
        }
        let newest = state.points.len() as u64;
        let sequence = match request.which.unwrap() {
            Which::Sequence(sequence) => sequence,
            Which::Newest(_) => state.faults.offer_instead.take().unwrap_or(newest),
            Which::AtMs(at) => state.points.iter().filter(|p| p.committed_ms <= at).count() as u64,
        };
        if sequence == 0 || sequence > newest {
            return refuse(Code::PointNotFound, "no such point");
        }
        Ok(Response::new(v1::GetPointResponse {
            read: None,
            point: Some(state.with_bundles(sequence)),
            cluster: Some(state.cluster()),
            fleet_id: Bytes::copy_from_slice(FLEET.as_bytes()),
        }))
    }

    async fn open_read_lease(
        &self,
        _request: Request<v1::OpenReadLeaseRequest>,
    ) -> Result<Response<v1::OpenReadLeaseResponse>, Status> {
        let ttl_ms = self.note("open_read_lease").faults.lease_millis.unwrap_or(60_000);
        Ok(Response::new(v1::OpenReadLeaseResponse { lease_id: vec![9; 16].into(), ttl_ms }))
    }

    async fn renew_read_lease(
        &self,
        _request: Request<v1::RenewReadLeaseRequest>,
    ) -> Result<Response<v1::RenewReadLeaseResponse>, Status> {
        drop(self.note("renew_read_lease"));
        Ok(Response::new(v1::RenewReadLeaseResponse {}))
    }

    async fn end_read_lease(
        &self,
        _request: Request<v1::EndReadLeaseRequest>,
    ) -> Result<Response<v1::EndReadLeaseResponse>, Status> {
        drop(self.note("end_read_lease"));
        Ok(Response::new(v1::EndReadLeaseResponse {}))
    }

    async fn read_bundle(
        &self,
        request: Request<v1::ReadBundleRequest>,
    ) -> Result<Response<ReadStream>, Status> {
        let request = request.into_inner();
        let mut state = self.note("read_bundle");
        let Some(bytes) = state.bundles.get(&request.bundle_id[..]).cloned() else {
            return refuse(Code::BundleNotFound, "no such bundle");
        };
        let total_bytes = bytes.len() as u64;
        let end = match request.length {
            0 => total_bytes,
            length => (request.offset + length).min(total_bytes),
        };
        let mut part = bytes[request.offset as usize..end as usize].to_vec();
        if request.length > 0 && state.faults.damage_ranges > 0 {
            state.faults.damage_ranges -= 1;
            part[20] ^= 1;
        }
        state.read += part.len() as u64;
        let cut = state.faults.break_reads.pop();
        let mut messages = Vec::new();
        let mut sent = 0;
        for chunk in part.chunks(64 << 10) {
            if cut.is_some_and(|cut| sent >= cut) {
                messages.push(refuse(Code::Unavailable, "broken by the test"));
                break;
            }
            sent += chunk.len() as u64;
            let data = Bytes::copy_from_slice(chunk);
            messages.push(Ok(v1::ReadBundleResponse { data, total_bytes }));
        }
        Ok(Response::new(Box::pin(futures::stream::iter(messages))))
    }
}
