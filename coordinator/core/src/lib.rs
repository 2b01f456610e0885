//! The replicated state of a fleet and its pure rules. Every coordinator applies the same log
//! entries to the same state and gets the same outcomes (invariant R1): there is no I/O, no clock
//! and no randomness here, and nothing that knows of Raft, gRPC or files.
//!
//! The way in is [`apply`]: a [`Request`] (a [`Command`] with the leader's time and the sender's
//! session) and the [`LogContext`] give an [`Outcome`] and [`Event`]s for the shell to act on. The
//! way out are the queries on [`State`]. [`codec`] holds the versioned bytes of both.

mod apply;
mod audit;
mod authority;
mod bucket;
mod clusters;
pub mod codec;
mod command;
mod commit;
mod delayed;
mod dropped;
mod enrolment;
mod findings;
mod fleet;
mod holders;
mod joining;
mod keys;
mod leases;
mod levels;
pub mod limits;
mod members;
mod moves;
mod outcome;
mod query;
mod recover;
mod refusal;
mod removal;
mod restore;
mod rows;
mod sessions;
mod snapshots;
mod state;
mod time;
mod uploads;
mod voters;

pub use apply::apply;
pub use audit::{
    Act, Actor, AuditEntry, AuditHead, AuditLog, ChainError, OperatorRole, Segment, Sender,
    Subject, When,
};
pub use command::{
    AbandonRestore, AcquireEpoch, AddNode, AddedBundle, AnnounceObject, BeginChange, BeginRestore,
    ChangedContent, ClearFinding, Command, CommitPoint, ConfirmTime, Content, CreateJoinToken,
    EndReadLease, EndUpload, ExpireLeases, ExpireSessions, FinishRestore, FreezeTime, InitFleet,
    LogContext, MoveNode, OfChange, OpenReadLease, OpenUpload, RaiseFinding, RaiseLevel, RecordAct,
    RecordHolders, RecordObjects, RecordSnapshot, RecoverByForce, RedeemJoinToken, RegisterCluster,
    RemoveNode, RenewLease, Request, RestorePiece, SealSnapshot, SetAuthority, SetBundleHome,
    UploadEnd,
};
pub use delayed::{
    ActDelay, DecideAct, DelayedAct, DelayedRow, PerformAct, RequestAct, SetActDelay,
};
pub use dropped::{BundlePrefix, Dropped};
pub use enrolment::{
    CreateEnrolToken, DecideEnrolment, EnrolGrant, EnrolToken, Enrolled, Enrolment, PartyId,
    PartyRow, PendingEnrolment, RecordCertificate, RedeemEnrolToken, RevokeParty,
};
pub use keys::{
    ATTEST_MS, ApproveLineage, Attest, AttestShare, Attested, BeginLineage, FormerKey, KeyOrders,
    KeysCommand, LINEAGE_UNAPPROVED, Lineage, OrderKeys, RecordKeys, ReplaceWraps, RotateRecovery,
    SHARES_NOT_ATTESTED,
};
pub use outcome::{Applied, Event, LeaseEnd, Outcome};
pub use query::{ClusterStatus, MissingBundle, UnderReplicated};
pub use recover::FINDING_RECOVERED;
pub use refusal::{
    Field, HeaderField, HeaderProblem, KeysProblem, Limit, Refusal, RestoreProblem, Role,
};
pub use rows::{
    Authority, BundleFacts, BundleHome, BundleRow, Change, Cluster, Finding, FindingKey, Fleet,
    Freeze, Head, Home, Instance, JoinToken, Jump, NodeRow, NodeState, ObjectRow, PointRow, Proof,
    ProofState, ReadLease, ReadPurpose, Recovery, RecoveryPublicKey, Redeemed, Restore, Scope,
    Session, Severity, SnapshotRow, UploadLease,
};
pub use state::State;
pub use time::CLOCK_JUMPED;
pub use voters::{Voters, majority};
