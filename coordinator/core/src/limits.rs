//! Every bound that `apply` holds commands to. They keep a Raft entry under 4 KiB and the state
//! within the memory of a coordinator. Changing one changes what `apply` answers, so it needs a
//! new request version once a release is out.

/// Results kept per session; an older repeat is refused.
pub const SESSION_RESULTS_MAX: usize = 64;
/// A session unused for this long may be forgotten: far longer than any client retries a request.
pub const SESSION_IDLE_MS: u64 = 24 * 60 * 60 * 1000;
/// Sessions kept at one time. With a day of idle time this admits a new client every 1.3 seconds.
pub const SESSIONS_MAX: usize = 65_536;

/// Longest time an upload lease lives without a renewal: a day.
pub const UPLOAD_TTL_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// Longest time a read lease lives without a renewal: a week, for a person who restores slowly.
pub const READ_TTL_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;
/// Upload leases of one cluster at one time: one agent is active and uploads one point; the rest
/// are what crashed predecessors left to expire.
pub const UPLOADS_PER_CLUSTER_MAX: usize = 8;
/// Read leases of one cluster at one time.
pub const READS_PER_CLUSTER_MAX: usize = 64;

/// Config bundles that one point may need. Agents repack at 64; twice that leaves room.
pub const CONFIG_BUNDLES_MAX: usize = 128;
/// Bundles that one commit may add: one config bundle, manifest, key bundle and wraps, doubled.
pub const ADDED_MAX: usize = 8;
/// Bundles that one commit may drop: all that a point can need.
pub const DROPPED_MAX: usize = CONFIG_BUNDLES_MAX + 4;
/// Nodes that one commit may name as holders of a bundle.
pub const HOLDERS_MAX: usize = 16;
/// Sources of one point.
pub const PROOFS_MAX: usize = 16;
/// Bytes of a source's name.
pub const SOURCE_BYTES_MAX: usize = 32;
/// Bytes of the reason of one proof.
pub const REASON_BYTES_MAX: usize = 200;
/// Bytes of one commit as a log entry, by the estimate of `CommitPoint::entry_bytes`.
pub const COMMIT_BYTES_MAX: u64 = 4096;
pub use proto_types::CARRIED_BYTES_MAX;

/// Labels of one cluster.
pub const LABELS_MAX: usize = 32;
/// Bytes of all labels of one cluster, keys and values.
pub const LABEL_BYTES_MAX: usize = 2048;
/// Bytes of the UID of a `kube-system` namespace (36 as Kubernetes writes it).
pub const KUBE_SYSTEM_UID_BYTES_MAX: usize = 64;
/// Bytes of a fleet's name.
pub const FLEET_NAME_BYTES_MAX: usize = 63;

/// Bundle ids in one `RecordHolders`, present and absent together: 3.5 KiB of ids.
pub const RECORDED_HOLDERS_MAX: usize = 112;
/// Objects that one upload may announce: what its commit may add, twice.
pub const OBJECTS_PER_UPLOAD_MAX: usize = 2 * ADDED_MAX;
/// Bytes of a scheduled snapshot's target and name.
pub const SNAPSHOT_NAME_BYTES_MAX: usize = 512;
/// Bytes of why a scheduled snapshot failed.
pub const SNAPSHOT_PROBLEM_BYTES_MAX: usize = 600;
/// Leases or sessions in one expiry command: 2 KiB of ids.
pub const EXPIRED_MAX: usize = 128;

/// Coordinators admitted by `AddNode` at one time.
pub const NODES_MAX: usize = 32;
/// Coordinators that vote.
pub const VOTERS_MAX: usize = 15;
/// Bytes of a coordinator's address: a DNS name of 253 and a port.
pub const NODE_ADDRESS_BYTES_MAX: usize = 259;

/// Bytes of one piece of a state that is restored: with its tags under the limit of a log entry.
pub const RESTORE_PIECE_BYTES_MAX: usize = 12 << 10;
/// Bytes of an encoded state that is restored: some millions of points.
pub const RESTORE_BYTES_MAX: u64 = 4 << 30;
/// Coordinators that a restored snapshot names.
pub const RESTORE_NODES_MAX: usize = 256;
/// Bytes of the certificate of a fleet's root.
pub const AUTHORITY_CERTIFICATE_BYTES_MAX: usize = 2048;
/// Bytes of the sealed private key of a fleet's root.
pub const AUTHORITY_KEY_BYTES_MAX: usize = 1024;
/// Join tokens kept at one time, open or used: far more than coordinators join in an hour.
pub const JOIN_TOKENS_MAX: usize = 64;
/// Longest time a join token can be redeemed: a day.
pub const JOIN_TOKEN_TTL_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// Entries of one closed segment of the audit log. As many at most are state, some 200 bytes each.
pub const AUDIT_SEGMENT_ENTRIES: usize = 1024;
/// Bytes of one encoded entry of the audit log: its texts, twice.
pub const AUDIT_ENTRY_BYTES_MAX: usize = 1024;
/// Bytes of an act's word.
pub const AUDIT_WORD_BYTES_MAX: usize = 40;
/// Bytes of a refusal's code in the audit log.
pub const AUDIT_CODE_BYTES_MAX: usize = 40;
/// Bytes of the text in an act's subject: a finding's kind and most of its subject.
pub const AUDIT_TEXT_BYTES_MAX: usize = 200;
/// Refusals of one actor, act and code within this time are one entry.
pub const AUDIT_REFUSAL_MS: u64 = 60_000;
/// Kinds of refusals that are counted at one time; of one more, the oldest is written at once.
pub const AUDIT_PENDING_MAX: usize = 128;

/// Findings of one scope (a cluster, a node or the fleet).
pub const FINDINGS_PER_SCOPE_MAX: usize = 256;
/// Bytes of a finding's kind.
pub const FINDING_KIND_BYTES_MAX: usize = 64;
/// Bytes of a finding's subject.
pub const FINDING_SUBJECT_BYTES_MAX: usize = 256;
/// Bytes of a finding's message, and of its remedy.
pub const FINDING_TEXT_BYTES_MAX: usize = 1024;

/// Enrolment tokens kept at one time, open or used: a fleet enrols in batches of this many clusters.
pub const ENROL_TOKENS_MAX: usize = 4096;
/// Longest time an enrolment token can be redeemed: a quarter.
pub const ENROL_TOKEN_TTL_MS_MAX: u64 = 92 * 24 * 60 * 60 * 1000;
/// Agents that one token may enrol.
pub const ENROL_COUNT_MAX: u32 = 10_000;
/// Agents that wait for approval at one time, those that were rejected included.
pub const ENROLMENTS_WAITING_MAX: usize = 4096;
/// How long an approved agent may come for its certificate, where its token ends sooner: a week.
pub const ENROL_APPROVED_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// How long an act that needs a second admin waits where nobody says otherwise: three days.
pub const ACT_DELAY_MS: u64 = 72 * 60 * 60 * 1000;
/// The shortest wait in a fleet that asked for a floor: a day.
pub const ACT_DELAY_FLOOR_MS: u64 = 24 * 60 * 60 * 1000;
/// The longest wait: a quarter.
pub const ACT_DELAY_MS_MAX: u64 = 92 * 24 * 60 * 60 * 1000;
/// Acts that wait at one time.
pub const ACTS_WAITING_MAX: usize = 64;
