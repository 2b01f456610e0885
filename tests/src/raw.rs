//! A cluster whose agent is the test itself: it speaks the protocol call by call, so that a test
//! can stop half way, lie, or be late.

use bundle::{Identity, Kek, Keyring, RecoveryPublic, SigningKey};
use bytes::Bytes;
use proto::identity::{Party as Who, Role};
use proto::{ApiError, v1};
use proto_types::env::{Clock, Random, SystemClock, SystemRandom};
use proto_types::{BundleId, ClusterId, Code, Epoch, FleetId, PointStatement, Sequence};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{Answer, Party};
use crate::fleet::Fleet;
use crate::sealed::{Content, Parent, PointFiles, Sealed};

/// Bytes of one message.
pub const PIECE_BYTES: usize = 1 << 20;
/// Upload leases live longer than any test.
const TTL_MS: u64 = 3_600_000;

/// A registered cluster and everything its agent has.
pub struct RawCluster {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: ClusterId,
    /// Its KEK.
    pub kek: Kek,
    /// Its signing key.
    pub signing: SigningKey,
    /// Its keyring.
    pub keyring: Keyring,
    /// The agent's certificate.
    pub party: Party,
    /// The epoch of its session.
    pub epoch: u64,
    /// The last point it knows to be committed.
    pub head: Option<v1::Point>,
    next: u64,
    fleet: FleetId,
    recovery: RecoveryPublic,
    instance: [u8; 16],
}

/// An upload under way.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Its id.
    pub id: Bytes,
    /// Where in the log it was opened.
    pub index: u64,
}

/// The sending end of an upload, to be fed piece by piece.
pub struct Sending {
    pieces: mpsc::Sender<v1::UploadBundleRequest>,
    answer: tokio::task::JoinHandle<Result<v1::UploadBundleResponse, ApiError>>,
}

impl RawCluster {
    /// Registers a cluster with new keys, and opens its agent's session through node 1.
    ///
    /// # Panics
    /// When the fleet refuses.
    pub async fn register(fleet: &Fleet, name: &str) -> Self {
        Self::register_at(fleet, name, 1).await
    }

    /// The same through another node.
    ///
    /// # Panics
    /// When the fleet refuses.
    pub async fn register_at(fleet: &Fleet, name: &str, node: u64) -> Self {
        let random = &SystemRandom;
        let signing = SigningKey::generate(random);
        let kek = Kek::generate(random);
        let admin = fleet.operator(Role::Admin);
        let request = v1::RegisterClusterRequest {
            write_id: Some(admin.write_id()),
            name: name.to_owned(),
            signing_key: Bytes::copy_from_slice(signing.public().as_bytes()),
            ..Default::default()
        };
        let address = fleet.address(node);
        let registered = admin.fleet(&address).register_cluster(request).await.answer();
        let cluster = registered.expect("the cluster is registered").cluster.expect("a cluster");
        let id = ClusterId::from_slice(&cluster.cluster_id).expect("a cluster id");
        let keyring = Keyring::create(0, &kek, &signing, SystemClock.now(), random);
        let party = Party::with(&fleet.pki.issue(&format!("raw-{name}"), Who::Agent(id)));
        let mut instance = [0; 16];
        random.fill(&mut instance);
        let mut raw = Self {
            name: name.to_owned(),
            id,
            kek,
            signing,
            keyring,
            party,
            epoch: 0,
            next: 1,
            head: None,
            fleet: fleet.id,
            recovery: fleet.recovery_public(),
            instance,
        };
        raw.open_session(&address).await.expect("a session opens");
        raw
    }

    /// Becomes the active agent.
    ///
    /// # Errors
    /// The fleet's refusal.
    pub async fn open_session(&mut self, address: &str) -> Result<(), ApiError> {
        let request = v1::OpenAgentSessionRequest {
            write_id: Some(self.party.write_id()),
            instance_id: Bytes::copy_from_slice(&self.instance),
        };
        let session = self.party.backup(address).open_agent_session(request).await.answer()?;
        self.epoch = session.epoch;
        self.next = session.cluster.map_or(1, |cluster| cluster.next_sequence);
        self.head = session.head;
        Ok(())
    }

    /// From now on another instance of the agent, as after a move to another machine.
    pub fn become_another(&mut self) {
        SystemRandom.fill(&mut self.instance);
    }

    /// Number of the last point known; 0 if there is none.
    #[must_use]
    pub fn head_sequence(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.sequence)
    }

    /// Number of the next point, which after a loss of coordinators is not the one after the last.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next.max(self.head_sequence() + 1)
    }

    /// The identity of the next point's bundles.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity {
            fleet: self.fleet,
            cluster: self.id,
            lineage: 0,
            sequence: Sequence::new(self.next_sequence()),
            epoch: Epoch::new(self.epoch),
            created: SystemClock.now(),
        }
    }

    /// What the next point follows.
    ///
    /// # Panics
    /// When the head names no valid ids.
    #[must_use]
    pub fn parent(&self) -> Parent {
        let id = |bytes: &[u8]| BundleId::from_slice(bytes).expect("a bundle id");
        self.head.as_ref().map_or(Parent::NONE, |head| Parent {
            manifest: id(&head.manifest_id),
            key_bundle: id(&head.key_bundle_id),
        })
    }

    /// Seals the next point under this cluster's own keys.
    #[must_use]
    pub fn seal(&self, contents: &[Content]) -> PointFiles {
        self.seal_under(&self.keyring, contents)
    }

    /// The same under other keys.
    #[must_use]
    pub fn seal_under(&self, keyring: &Keyring, contents: &[Content]) -> PointFiles {
        PointFiles::seal(keyring, self.identity(), self.parent(), contents, &self.recovery)
    }

    /// Opens an upload lease for the next point.
    ///
    /// # Errors
    /// The fleet's refusal.
    pub async fn open_upload(&self, address: &str) -> Result<Lease, ApiError> {
        let request = v1::OpenUploadRequest {
            write_id: Some(self.party.write_id()),
            epoch: self.epoch,
            parent_sequence: self.head_sequence(),
            ttl_ms: TTL_MS,
        };
        let opened = self.party.backup(address).open_upload(request).await.answer()?;
        Ok(Lease { id: opened.lease_id, index: opened.log_index })
    }

    /// How much of a bundle a coordinator has.
    ///
    /// # Errors
    /// The fleet's refusal.
    pub async fn offset(
        &self,
        address: &str,
        lease: &Lease,
        bundle: BundleId,
    ) -> Result<(u64, bool), ApiError> {
        let request = v1::GetUploadOffsetRequest {
            lease_id: lease.id.clone(),
            bundle_id: Bytes::copy_from_slice(bundle.as_bytes()),
        };
        let found = self.party.backup(address).get_upload_offset(request).await.answer()?;
        Ok((found.offset, found.complete))
    }

    /// Begins to send a bundle and leaves the stream open.
    #[must_use]
    pub fn begin(&self, address: &str, begin: v1::UploadBundleBegin) -> Sending {
        let (pieces, receiver) = mpsc::channel(64);
        let first =
            v1::UploadBundleRequest { part: Some(v1::upload_bundle_request::Part::Begin(begin)) };
        pieces.try_send(first).expect("the channel is empty");
        let mut client = self.party.backup(address);
        let answer = tokio::spawn(async move {
            client.upload_bundle(ReceiverStream::new(receiver)).await.answer()
        });
        Sending { pieces, answer }
    }

    /// What begins the upload of a bundle at an offset.
    #[must_use]
    pub fn begin_of(lease: &Lease, sealed: &Sealed, offset: u64) -> v1::UploadBundleBegin {
        v1::UploadBundleBegin {
            lease_id: lease.id.clone(),
            lease_log_index: lease.index,
            bundle_id: sealed.id_bytes(),
            bytes: sealed.file.len() as u64,
            offset,
            kind: sealed.kind().to_owned(),
        }
    }

    /// Uploads a bundle whole.
    ///
    /// # Errors
    /// The coordinator's refusal.
    pub async fn upload(
        &self,
        address: &str,
        lease: &Lease,
        sealed: &Sealed,
    ) -> Result<Vec<u64>, ApiError> {
        let sending = self.begin(address, Self::begin_of(lease, sealed, 0));
        sending.send(&sealed.file).await;
        Ok(sending.finish().await?.holders)
    }

    /// The same where it must succeed; a copy that is arriving there at this moment is waited for.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn upload_patiently(
        &self,
        address: &str,
        lease: &Lease,
        sealed: &Sealed,
    ) -> Vec<u64> {
        crate::wait::until("the upload is acknowledged", async || {
            match self.upload(address, lease, sealed).await {
                Ok(holders) => Some(holders),
                Err(error) if error.code() == proto_types::Code::Busy => None,
                Err(error) => panic!("refused: {}: {error}", error.code()),
            }
        })
        .await
    }

    /// What commits these files, each of which `holders` have, in place of all of the parent's.
    #[must_use]
    pub fn changed(&self, files: &PointFiles) -> v1::ChangedPoint {
        let dropped = self.head.as_ref().map_or_else(Vec::new, |head| {
            head.bundles.iter().map(|bundle| bundle.bundle_id.clone()).collect()
        });
        v1::ChangedPoint {
            added: files.all().iter().map(|sealed| sealed.id_bytes()).collect(),
            dropped,
            manifest_id: files.manifest.id_bytes(),
            key_bundle_id: files.key.id_bytes(),
            wraps_id: files.wraps.id_bytes(),
            carried: Vec::new(),
        }
    }

    /// The request that commits this content as the next point.
    #[must_use]
    pub fn commit_request(
        &self,
        lease: &Lease,
        changed: v1::ChangedPoint,
    ) -> v1::CommitPointRequest {
        v1::CommitPointRequest {
            write_id: Some(self.party.write_id()),
            epoch: self.epoch,
            lease_id: lease.id.clone(),
            sequence: self.next_sequence(),
            parent_manifest_id: self
                .head
                .as_ref()
                .map_or_else(Bytes::new, |head| head.manifest_id.clone()),
            taken_ms: SystemClock.now().as_millis(),
            content: Some(v1::commit_point_request::Content::Changed(changed)),
            proofs: vec![v1::SourceProof {
                source: "directory".to_owned(),
                state: v1::ProofState::Proved.into(),
                reason: String::new(),
            }],
            items: 1,
            logical_bytes: 1,
        }
    }

    /// The request that says, signed, that nothing has changed since the head.
    ///
    /// # Panics
    /// Before the first point.
    #[must_use]
    pub fn unchanged_request(&self, write_id: v1::WriteId) -> v1::CommitPointRequest {
        let head = self.head.as_ref().expect("there is a first point");
        let taken = SystemClock.now();
        let statement = PointStatement {
            fleet: self.fleet,
            cluster: self.id,
            lineage: 0,
            sequence: Sequence::new(self.next_sequence()),
            epoch: Epoch::new(self.epoch),
            taken,
            manifest: self.parent().manifest,
            key_bundle: self.parent().key_bundle,
        };
        let signature = Bytes::copy_from_slice(&self.signing.sign_statement(&statement));
        let unchanged = v1::UnchangedPoint { signature };
        v1::CommitPointRequest {
            write_id: Some(write_id),
            epoch: self.epoch,
            lease_id: Bytes::new(),
            sequence: self.next_sequence(),
            parent_manifest_id: head.manifest_id.clone(),
            taken_ms: taken.as_millis(),
            content: Some(v1::commit_point_request::Content::Unchanged(unchanged)),
            proofs: head.proofs.clone(),
            items: head.items,
            logical_bytes: head.logical_bytes,
        }
    }

    /// Commits, and takes the new point as the head.
    ///
    /// # Errors
    /// The fleet's refusal.
    pub async fn commit(
        &mut self,
        address: &str,
        request: v1::CommitPointRequest,
    ) -> Result<v1::Point, ApiError> {
        let done = self.party.backup(address).commit_point(request).await.answer()?;
        let point = done.point.expect("a commit answers with the point");
        self.head = Some(point.clone());
        Ok(point)
    }

    /// The whole way of a backup through one coordinator.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn try_backup(
        &mut self,
        address: &str,
        contents: &[Content],
    ) -> Result<v1::Point, ApiError> {
        let files = self.seal(contents);
        let lease = self.open_upload(address).await?;
        for sealed in files.all() {
            self.upload(address, &lease, sealed).await?;
        }
        let request = self.commit_request(&lease, self.changed(&files));
        self.commit(address, request).await
    }

    /// The same where it must succeed; what goes away by itself is tried again, as agents do.
    ///
    /// # Panics
    /// When it does not succeed.
    pub async fn backup(&mut self, address: &str, contents: &[Content]) -> v1::Point {
        crate::wait::until("a backup is acknowledged", async || {
            match self.try_backup(address, contents).await {
                Ok(point) => Some(point),
                Err(error) if error.is_retryable() => None,
                Err(error) => panic!("backup refused: {}: {error}", error.code()),
            }
        })
        .await
    }

    /// Writes the KEK as the agent's key file; gives its path.
    ///
    /// # Panics
    /// When the file cannot be made.
    #[must_use]
    pub fn kek_file(&self, directory: &std::path::Path) -> std::path::PathBuf {
        let path = directory.join(format!("{}.kek.key", self.name));
        std::fs::write(&path, self.kek.to_text().as_bytes()).expect("a file can be made");
        path
    }
}

impl Sending {
    /// Sends bytes in pieces. A coordinator that has given up takes no more, which its answer
    /// explains.
    pub async fn send(&self, bytes: &[u8]) {
        for piece in bytes.chunks(PIECE_BYTES) {
            let data = v1::upload_bundle_request::Part::Data(Bytes::copy_from_slice(piece));
            if self.pieces.send(v1::UploadBundleRequest { part: Some(data) }).await.is_err() {
                return;
            }
        }
    }

    /// Ends the stream properly and waits for the answer.
    ///
    /// # Errors
    /// The coordinator's refusal.
    ///
    /// # Panics
    /// When the sending task panicked.
    pub async fn finish(self) -> Result<v1::UploadBundleResponse, ApiError> {
        drop(self.pieces);
        self.answer.await.expect("the sending task ends")
    }

    /// Cuts the connection, as an agent that dies does.
    pub async fn cut(self) {
        self.answer.abort();
        // Its end is what was wanted.
        let _ = self.answer.await;
    }
}

/// Reads a bundle whole from one coordinator. One that is fetching it this very moment says `BUSY`,
/// and is asked again, as clients do.
///
/// # Errors
/// The coordinator's refusal.
pub async fn read_bundle(
    party: &Party,
    address: &str,
    bundle: BundleId,
) -> Result<Vec<u8>, ApiError> {
    crate::wait::until("the coordinator has fetched the bundle", async || {
        match read_bundle_once(party, address, bundle).await {
            Err(error) if error.code() == Code::Busy => None,
            read => Some(read),
        }
    })
    .await
}

async fn read_bundle_once(
    party: &Party,
    address: &str,
    bundle: BundleId,
) -> Result<Vec<u8>, ApiError> {
    let request = v1::ReadBundleRequest {
        bundle_id: Bytes::copy_from_slice(bundle.as_bytes()),
        offset: 0,
        length: 0,
    };
    let mut stream = party.catalog(address).read_bundle(request).await.answer()?;
    let mut bytes = Vec::new();
    while let Some(message) = stream.message().await.map_err(ApiError::from)? {
        bytes.extend_from_slice(&message.data);
    }
    Ok(bytes)
}

/// Has a node read all its bundles again; the last report.
///
/// # Errors
/// The coordinator's refusal.
///
/// # Panics
/// When the stream ends without a report.
pub async fn scrub(party: &Party, address: &str) -> Result<v1::ScrubProgress, ApiError> {
    let request = v1::ScrubNodeRequest { node_id: 0 };
    let mut stream = party.fleet(address).scrub_node(request).await.answer()?;
    let mut last = None;
    while let Some(message) = stream.message().await.map_err(ApiError::from)? {
        last = Some(message);
    }
    Ok(last.expect("a scrub ends with a report"))
}
