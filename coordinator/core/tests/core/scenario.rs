//! The vocabulary of the tests: a world with a fleet, clusters 1, 2 … whose ids, names and signing
//! keys follow from their number, and drafts of commits that a test spoils before they are sent.

use std::collections::{BTreeMap, BTreeSet};

use coordinator_core::{
    AcquireEpoch, AddedBundle, Applied, ChangedContent, Cluster, Command, CommitPoint, Content,
    EndReadLease, InitFleet, Instance, LogContext, OfChange, OpenReadLease, OpenUpload, Outcome,
    PointRow, Proof, ProofState, RaiseLevel, ReadPurpose, RecoveryPublicKey, Refusal,
    RegisterCluster, Request, State, apply,
};
use ed25519_dalek::{Signer, SigningKey};
use proto_types::{
    BundleId, BundleKind, ClearHeader, ClusterId, DekId, Epoch, FleetId, Generation,
    KeyFingerprint, LeaseId, LogIndex, LogTime, NodeId, PointStatement,
    SUITE_AES256GCM_HKDF_SHA256, Sequence, SessionId, SigningPublicKey, header_signing_input,
};

pub(crate) const FLEET: FleetId = FleetId::from_bytes([0xf1; 16]);
pub(crate) const RECOVERY: RecoveryPublicKey =
    RecoveryPublicKey { hpke: [0xa1; 32], signing: [0xa2; 32] };
pub(crate) const HOUR_MS: u64 = 3_600_000;

pub(crate) fn cluster(n: u8) -> ClusterId {
    ClusterId::from_bytes([n; 16])
}
pub(crate) fn lease(n: u8) -> LeaseId {
    LeaseId::from_bytes([n; 16])
}
pub(crate) fn session(n: u8) -> SessionId {
    SessionId::from_bytes([n; 16])
}
pub(crate) fn instance(n: u8) -> Instance {
    Instance::from_bytes([n; 16])
}
pub(crate) fn dek(n: u8) -> DekId {
    DekId::from_bytes([n; 16])
}
pub(crate) fn bundle(label: &str) -> BundleId {
    BundleId::of(label.as_bytes())
}
pub(crate) fn nodes(numbers: &[u64]) -> BTreeSet<NodeId> {
    numbers.iter().copied().map(NodeId::new).collect()
}
pub(crate) fn seq(n: u64) -> Sequence {
    Sequence::new(n)
}
pub(crate) fn signing_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}
pub(crate) fn public_key(key: &SigningKey) -> SigningPublicKey {
    SigningPublicKey::from_bytes(key.verifying_key().to_bytes())
}

/// A state and what stands around it.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) index: u64,
    pub(crate) now_ms: u64,
    pub(crate) voters: BTreeSet<NodeId>,
    /// The voters that Raft is changing to.
    pub(crate) next_voters: Option<BTreeSet<NodeId>>,
}

impl World {
    /// No fleet yet; three voters.
    pub(crate) fn empty() -> Self {
        Self {
            state: State::new(),
            index: 0,
            now_ms: 1_000_000,
            voters: nodes(&[1, 2, 3]),
            next_voters: None,
        }
    }

    /// A fleet with cluster 1, whose agent instance 1 holds epoch 1.
    pub(crate) fn new() -> Self {
        let mut world = Self::empty();
        world.ok(init_fleet());
        world.add_cluster(1);
        world
    }

    /// One with the first point of cluster 1: bundles `c1`, `m1`, `k1`, `w1` under DEK 1.
    pub(crate) fn with_first_point() -> Self {
        let mut world = Self::new();
        world.commit_first(1);
        world
    }

    pub(crate) fn add_cluster(&mut self, n: u8) {
        self.ok(register(n));
        self.ok(Command::AcquireEpoch(AcquireEpoch { cluster: cluster(n), instance: instance(n) }));
    }

    pub(crate) fn request(&self, command: Command) -> Request {
        let time = LogTime::from_millis(self.now_ms);
        Request { session: None, time, sender: None, command }
    }

    pub(crate) fn apply(&mut self, request: &Request) -> Applied {
        self.index += 1;
        let sets = [Some(self.voters.clone()), self.next_voters.clone()];
        let voters = coordinator_core::Voters::joint(sets.into_iter().flatten());
        let log = LogContext { index: LogIndex::new(self.index), voters: &voters };
        apply(&mut self.state, request, &log)
    }

    /// Raises the active level to what the command needs, as the leader would have.
    pub(crate) fn run(&mut self, command: Command) -> Applied {
        let to = command.level();
        if to > self.state.level() && command.waits_for_level() {
            self.apply(&self.request(Command::RaiseLevel(RaiseLevel { to })));
        }
        self.apply(&self.request(command))
    }

    /// Runs a command that must not be refused.
    pub(crate) fn ok(&mut self, command: Command) -> Outcome {
        let outcome = self.run(command).outcome;
        assert!(outcome.refusal().is_none(), "{outcome:?}");
        outcome
    }

    /// Runs a command that must be refused, and must change nothing by it (R3).
    pub(crate) fn refused(&mut self, command: Command) -> Refusal {
        // Log time moves with any entry: move it before the comparison, by one that does nothing.
        self.run(Command::EndReadLease(EndReadLease { lease: LeaseId::ZERO }));
        self.index -= 1;
        if command.waits_for_level() {
            self.run(Command::RaiseLevel(RaiseLevel { to: command.level() }));
            self.index -= 1;
        }
        let before = self.state.clone();
        let applied = self.run(command);
        assert_eq!(applied.events, [], "a refusal has no events");
        assert!(self.state == before, "a refusal changes nothing");
        match applied.outcome {
            Outcome::Refused(refusal) => refusal,
            outcome => panic!("not refused but {outcome:?}"),
        }
    }

    fn change(&self) -> OfChange {
        let begun = self.state.change().map_or(LogIndex::new(0), |change| change.begun);
        OfChange { begun }
    }

    /// Seals the change under way.
    pub(crate) fn seal(&self) -> Command {
        Command::SealChange(self.change())
    }

    /// Ends the change under way.
    pub(crate) fn end(&self) -> Command {
        Command::EndChange(self.change())
    }

    pub(crate) fn head(&self, n: u8) -> Option<&PointRow> {
        self.state.newest_point(&cluster(n))
    }

    pub(crate) fn epoch(&self, n: u8) -> Epoch {
        self.state.cluster(&cluster(n)).unwrap().epoch
    }

    /// Opens an upload on the head of cluster `n`; the lease's number is the new point's.
    pub(crate) fn open(&mut self, n: u8) -> LeaseId {
        let parent = self.state.cluster(&cluster(n)).unwrap().head.sequence;
        let id = lease(u8::try_from(parent.get() % 100).unwrap() + 100 * n);
        self.ok(open_upload(n, self.epoch(n), id, parent));
        id
    }

    pub(crate) fn commit_first(&mut self, n: u8) -> Outcome {
        let lease = self.open(n);
        let draft = Draft::first(self, n, lease);
        self.ok(draft.command())
    }

    pub(crate) fn commit_delta(&mut self, n: u8) -> Outcome {
        let lease = self.open(n);
        let draft = Draft::delta(self, n, lease);
        self.ok(draft.command())
    }

    pub(crate) fn commit_unchanged(&mut self, n: u8) -> Outcome {
        let draft = Draft::unchanged(self, n);
        self.ok(draft.command())
    }

    pub(crate) fn open_read(&mut self, n: u8, id: LeaseId, sequence: u64) -> Outcome {
        self.ok(open_read(n, id, sequence))
    }
}

/// On a copy of `before`, the command has this outcome; a refusal leaves the copy as it was.
#[track_caller]
pub(crate) fn check(before: &World, command: Command, expect: Result<Outcome, Refusal>) {
    let mut world = before.clone();
    match expect {
        Ok(outcome) => assert_eq!(world.run(command).outcome, outcome),
        Err(refusal) => assert_eq!(world.refused(command), refusal),
    }
}

pub(crate) fn init_fleet() -> Command {
    Command::InitFleet(InitFleet { fleet: FLEET, name: "home".to_owned(), recovery: RECOVERY })
}

pub(crate) fn register_cluster(n: u8) -> RegisterCluster {
    RegisterCluster {
        cluster: cluster(n),
        name: format!("c{n}"),
        signing_key: public_key(&signing_key(n)),
        labels: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
        kube_system_uid: Some(format!("uid-{n}")),
    }
}

pub(crate) fn register(n: u8) -> Command {
    Command::RegisterCluster(register_cluster(n))
}

pub(crate) fn open_upload(n: u8, epoch: Epoch, lease: LeaseId, parent: Sequence) -> Command {
    Command::OpenUpload(OpenUpload { cluster: cluster(n), epoch, lease, parent, ttl_ms: HOUR_MS })
}

pub(crate) fn open_read(n: u8, lease: LeaseId, sequence: u64) -> Command {
    Command::OpenReadLease(OpenReadLease {
        lease,
        cluster: cluster(n),
        sequence: seq(sequence),
        purpose: ReadPurpose::Restore,
        ttl_ms: HOUR_MS,
    })
}

/// A bundle about to be committed.
#[derive(Clone)]
pub(crate) struct DraftBundle {
    pub(crate) id: BundleId,
    pub(crate) header: ClearHeader,
    pub(crate) holders: Vec<u64>,
    pub(crate) signer: SigningKey,
    /// Added to the true length.
    pub(crate) extra_bytes: u64,
    pub(crate) in_bucket: bool,
}

/// A commit about to be sent. Bundles go by their label: `c3` is the config bundle of point 3,
/// `m3` its manifest, `k3` its key bundle, `w3` its wraps; other clusters' labels begin `2/c3`.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) commit: CommitPoint,
    pub(crate) bundles: BTreeMap<String, DraftBundle>,
    pub(crate) dropped: Vec<BundleId>,
    pub(crate) manifest: BundleId,
    pub(crate) key_bundle: BundleId,
    pub(crate) wraps: BundleId,
    /// `None` when there is new content.
    pub(crate) statement_signer: Option<SigningKey>,
    head_manifest: BundleId,
    head_key_bundle: BundleId,
    n: u8,
    voters: Vec<u64>,
}

impl Draft {
    fn empty(world: &World, n: u8, lease: Option<LeaseId>) -> Self {
        let head = world.head(n);
        let manifest = head.map_or(BundleId::ZERO, |head| head.manifest);
        let key_bundle = head.map_or(BundleId::ZERO, |head| head.key_bundle);
        Self {
            commit: CommitPoint {
                cluster: cluster(n),
                epoch: world.epoch(n),
                lease,
                sequence: world.state.cluster(&cluster(n)).map_or(seq(1), Cluster::next_sequence),
                parent_manifest: manifest,
                taken: LogTime::from_millis(world.now_ms.saturating_sub(1_000)),
                content: Content::Unchanged { signature: [0; 64] },
                proofs: vec![proved("directory")],
                items: 7,
                logical_bytes: 7_000,
            },
            bundles: BTreeMap::new(),
            dropped: Vec::new(),
            manifest,
            key_bundle,
            wraps: head.map_or(BundleId::ZERO, |head| head.wraps),
            statement_signer: None,
            head_manifest: manifest,
            head_key_bundle: key_bundle,
            n,
            voters: world.voters.iter().map(|node| node.get()).collect(),
        }
    }

    /// A full first point: config bundle, full manifest, key bundle with DEK 1, wraps.
    pub(crate) fn first(world: &World, n: u8, lease: LeaseId) -> Self {
        let mut draft = Self::empty(world, n, Some(lease));
        draft.add(BundleKind::Config);
        draft.manifest = draft.add(BundleKind::Manifest);
        draft.key_bundle = draft.add(BundleKind::Key);
        draft.wraps = draft.add(BundleKind::Wraps);
        draft
    }

    /// A point with one more config bundle and a delta manifest on the last full one.
    pub(crate) fn delta(world: &World, n: u8, lease: LeaseId) -> Self {
        let mut draft = Self::empty(world, n, Some(lease));
        let head = world.head(n).unwrap();
        let base = head.base.unwrap_or(head.manifest);
        if head.base.is_some() {
            draft.dropped.push(head.manifest);
        }
        draft.add(BundleKind::Config);
        draft.manifest = draft.add(BundleKind::Manifest);
        draft.edit('m', |header| header.base = base);
        draft
    }

    /// A point with everything new, and everything old dropped.
    pub(crate) fn repack(world: &World, n: u8, lease: LeaseId) -> Self {
        let mut draft = Self::first(world, n, lease);
        draft.dropped = world.head(n).unwrap().needs.iter().copied().collect();
        draft
    }

    /// A statement that nothing changed.
    pub(crate) fn unchanged(world: &World, n: u8) -> Self {
        let mut draft = Self::empty(world, n, None);
        draft.statement_signer = Some(signing_key(n));
        draft
    }

    /// Adds a bundle of this kind, held by all three nodes, and gives its id.
    pub(crate) fn add(&mut self, kind: BundleKind) -> BundleId {
        let letter = match kind {
            BundleKind::Config => 'c',
            BundleKind::Manifest => 'm',
            BundleKind::Key => 'k',
            BundleKind::Wraps => 'w',
        };
        let label = self.label(letter);
        self.add_labelled(kind, label)
    }

    pub(crate) fn add_labelled(&mut self, kind: BundleKind, label: String) -> BundleId {
        let signer = signing_key(self.n);
        let sealed = matches!(kind, BundleKind::Key | BundleKind::Wraps);
        let header = ClearHeader {
            kind,
            suite: SUITE_AES256GCM_HKDF_SHA256,
            fleet: FLEET,
            cluster: cluster(self.n),
            lineage: 0,
            sequence: self.commit.sequence,
            epoch: self.commit.epoch,
            created: self.commit.taken,
            body_bytes: 1_000,
            blob_count: 1,
            body_sha256: [9; 32],
            signer: public_key(&signer),
            predecessor: match kind {
                BundleKind::Config => BundleId::ZERO,
                BundleKind::Manifest => self.head_manifest,
                BundleKind::Key => self.head_key_bundle,
                BundleKind::Wraps => self.key_bundle,
            },
            base: BundleId::ZERO,
            recovery_key: if sealed { RECOVERY.fingerprint() } else { KeyFingerprint::ZERO },
            kek_generation: Generation::new(u32::from(sealed)),
            dek_ids: if kind == BundleKind::Wraps { Vec::new() } else { vec![dek(1)] },
        };
        let id = bundle(&label);
        let draft = DraftBundle {
            id,
            header,
            holders: self.voters.clone(),
            signer,
            extra_bytes: 0,
            in_bucket: false,
        };
        self.bundles.insert(label, draft);
        id
    }

    fn label(&self, letter: char) -> String {
        let sequence = self.commit.sequence;
        if self.n == 1 {
            format!("{letter}{sequence}")
        } else {
            format!("{}/{letter}{sequence}", self.n)
        }
    }

    /// The added bundle with this letter.
    pub(crate) fn bundle(&mut self, letter: char) -> &mut DraftBundle {
        let label = self.label(letter);
        self.bundles.get_mut(&label).unwrap_or_else(|| panic!("no bundle {label}"))
    }

    /// Whether it adds a bundle with this letter.
    pub(crate) fn has(&self, letter: char) -> bool {
        self.bundles.contains_key(&self.label(letter))
    }

    /// Changes a header before it is signed.
    pub(crate) fn edit(&mut self, letter: char, change: impl FnOnce(&mut ClearHeader)) {
        change(&mut self.bundle(letter).header);
    }

    pub(crate) fn remove(&mut self, letter: char) {
        let label = self.label(letter);
        self.bundles.remove(&label).unwrap_or_else(|| panic!("no bundle {label}"));
    }

    /// Signs everything.
    pub(crate) fn build(&self) -> CommitPoint {
        let mut commit = self.commit.clone();
        commit.content = match &self.statement_signer {
            None => Content::Changed(ChangedContent {
                added: self.bundles.values().map(added).collect(),
                dropped: self.dropped.iter().copied().collect(),
                manifest: self.manifest,
                key_bundle: self.key_bundle,
                wraps: self.wraps,
            }),
            Some(signer) => {
                let statement = PointStatement {
                    fleet: FLEET,
                    cluster: commit.cluster,
                    lineage: 0,
                    sequence: commit.sequence,
                    epoch: commit.epoch,
                    taken: commit.taken,
                    manifest: self.manifest,
                    key_bundle: self.key_bundle,
                };
                let signature = signer.sign(&statement.signing_input()).to_bytes();
                Content::Unchanged { signature }
            }
        };
        commit
    }

    pub(crate) fn command(&self) -> Command {
        Command::CommitPoint(Box::new(self.build()))
    }
}

fn added(draft: &DraftBundle) -> AddedBundle {
    let header = draft.header.encode();
    let trailer_bytes = (header.len() + 64 + 4 + 8) as u64;
    let signature = draft.signer.sign(&header_signing_input(&header)).to_bytes();
    AddedBundle {
        id: draft.id,
        bytes: draft.header.body_bytes.wrapping_add(trailer_bytes) + draft.extra_bytes,
        header,
        signature,
        holders: draft.holders.iter().copied().map(NodeId::new).collect(),
        in_bucket: draft.in_bucket,
        carried: Vec::new(),
    }
}

pub(crate) fn proved(source: &str) -> Proof {
    Proof { source: source.to_owned(), state: ProofState::Proved }
}

pub(crate) fn unproved(source: &str) -> Proof {
    let reason = "nobody looked".to_owned();
    Proof { source: source.to_owned(), state: ProofState::Unproved { reason } }
}
