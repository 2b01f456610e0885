//! Why a command was refused. A refusal is an outcome, never an error of the state machine
//! (invariant R3): every node comes to the same one and the log goes on.

use std::fmt;

use crate::dropped::BundlePrefix;
use proto_types::{
    BundleId, ClusterId, Code, DekId, Epoch, FleetId, LeaseId, Level, LogIndex, NodeId, Sequence,
    SessionId,
};

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing works before `InitFleet`.
    #[error("there is no fleet yet: create it first")]
    FleetMissing,
    /// The fleet is there already, and another one.
    #[error(
        "this log already belongs to fleet {name} ({fleet}): start a new fleet on empty data directories"
    )]
    FleetExists {
        /// The fleet that is there.
        fleet: FleetId,
        /// Its name.
        name: String,
    },
    /// A field of the command breaks its rule.
    #[error("the {field} is not valid: {}", field.rule())]
    InvalidField {
        /// Which.
        field: Field,
    },
    /// A bound is reached.
    #[error("{limit} would be {have}, the limit is {max}: {}", limit.remedy())]
    LimitReached {
        /// Which.
        limit: Limit,
        /// How many it would be.
        have: u64,
        /// How many it may be.
        max: u64,
    },
    /// The cluster id is taken by a cluster with other properties.
    #[error("cluster id {cluster} is already registered with other properties: draw a new id")]
    ClusterExists {
        /// The id.
        cluster: ClusterId,
    },
    /// The name is taken.
    #[error("the name {name} already belongs to cluster {cluster}: choose another name")]
    ClusterNameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        cluster: ClusterId,
    },
    /// The Kubernetes cluster is registered already.
    #[error(
        "the Kubernetes cluster with kube-system uid {uid} is already registered as {cluster}: use that one"
    )]
    KubeSystemUidTaken {
        /// The UID.
        uid: String,
        /// As which cluster.
        cluster: ClusterId,
    },
    /// No such cluster.
    #[error("cluster {cluster} is not registered: register it, or check the id")]
    ClusterUnknown {
        /// The id.
        cluster: ClusterId,
    },
    /// No such recovery point.
    #[error("cluster {cluster} has no recovery point {sequence}: list its points and choose one")]
    PointUnknown {
        /// Whose.
        cluster: ClusterId,
        /// Which.
        sequence: Sequence,
    },
    /// Another agent is active (E1), or this one never acquired an epoch.
    #[error(
        "epoch {offered} of cluster {cluster} is not the current one ({current}): another agent is \
         active, stop one of them or acquire a new epoch"
    )]
    StaleEpoch {
        /// Whose.
        cluster: ClusterId,
        /// The epoch in the command.
        offered: Epoch,
        /// The epoch that may commit.
        current: Epoch,
    },
    /// The point does not follow the cluster's head.
    #[error(
        "point {offered} of cluster {cluster} does not follow its head, which is {head}: refetch \
         the head and collect again"
    )]
    StaleHead {
        /// Whose.
        cluster: ClusterId,
        /// The new point that was offered.
        offered: Sequence,
        /// The head.
        head: Sequence,
    },
    /// The parent that was named is the head's number, but not its manifest.
    #[error(
        "the parent of the new point of cluster {cluster} has another manifest than its head \
         {head}: refetch the head, and find out who served the other one"
    )]
    ParentManifestDiffers {
        /// Whose.
        cluster: ClusterId,
        /// The head.
        head: Sequence,
    },
    /// The lease is over or never was.
    #[error("lease {lease} is over or never was: open a new one and start again")]
    LeaseGone {
        /// The lease.
        lease: LeaseId,
    },
    /// The lease id is taken.
    #[error("lease {lease} exists already for something else: draw a new id")]
    LeaseExists {
        /// The lease.
        lease: LeaseId,
    },
    /// The lease belongs to another upload.
    #[error(
        "lease {lease} was not opened for this cluster, epoch and parent: open one for this upload"
    )]
    LeaseOfAnother {
        /// The lease.
        lease: LeaseId,
    },
    /// A commit of new content without an upload lease.
    #[error("a point with new content needs its upload lease: open an upload first")]
    LeaseRequired,
    /// A commit that carries its bundles, where they cannot come by the log now.
    #[error(
        "the voters are being changed, or bundles belong into the bucket: upload this point's bundles \
         first, then commit them"
    )]
    UploadFirst,
    /// The session's result is not kept any more, so that nobody can tell if it is a repeat.
    #[error(
        "request {number} of session {session} is older than the results that are kept, or the \
         session has expired: look whether it was done, then go on in a new session"
    )]
    SessionExpired {
        /// The session.
        session: SessionId,
        /// The request's number.
        number: u64,
    },
    /// A statement that nothing changed, where there is nothing before.
    #[error(
        "the first point of cluster {cluster} cannot be an unchanged one: send a full manifest"
    )]
    FirstPointUnchanged {
        /// Whose.
        cluster: ClusterId,
    },
    /// The signature of an unchanged point does not fit (K3).
    #[error(
        "the statement for point {sequence} of cluster {cluster} is not signed by its key over the \
         head's manifest: sign it anew with the cluster's signing key"
    )]
    BadStatement {
        /// Whose.
        cluster: ClusterId,
        /// Which.
        sequence: Sequence,
    },
    /// A header that cannot be read or is not signed by the cluster (K3).
    #[error("the header of bundle {bundle} is not acceptable: {problem}")]
    HeaderRefused {
        /// The bundle.
        bundle: BundleId,
        /// What is wrong.
        problem: HeaderProblem,
    },
    /// A signed header that says something else than the commit (K3).
    #[error(
        "the header of bundle {bundle} names another {field} than this commit requires: seal the \
         bundle anew for this point"
    )]
    HeaderMismatch {
        /// The bundle.
        bundle: BundleId,
        /// Which field.
        field: HeaderField,
    },
    /// A bundle is named twice, or is kept already.
    #[error("bundle {bundle} is already there: name each added and dropped bundle once")]
    BundleRepeated {
        /// The bundle.
        bundle: BundleId,
    },
    /// A dropped bundle that the parent does not need.
    #[error(
        "the bundle that begins with {prefix} cannot be dropped: the parent point needs none, or \
         more than one, of that beginning"
    )]
    DroppedUnknown {
        /// How its id begins.
        prefix: BundlePrefix,
    },
    /// A bundle of the point that is neither added nor inherited.
    #[error("the point lacks its {role} {bundle}: upload it, or do not drop it")]
    RoleMissing {
        /// What it is for.
        role: Role,
        /// The bundle; zero when none was named.
        bundle: BundleId,
    },
    /// A bundle in a role that it cannot play.
    #[error("bundle {bundle} cannot be the point's {role}: {}", role.rule())]
    RoleWrong {
        /// What it should be for.
        role: Role,
        /// The bundle.
        bundle: BundleId,
    },
    /// A manifest, key bundle or wraps that nothing in the point refers to.
    #[error("bundle {bundle} is of no use in the point: drop it")]
    Surplus {
        /// The bundle.
        bundle: BundleId,
    },
    /// The key bundle lacks keys (B4).
    #[error(
        "key bundle {key_bundle} lacks {missing} keys that the point's bundles are sealed under, \
         the first is {first}: seal a key bundle with all keys and commit it with them"
    )]
    KeysMissing {
        /// The key bundle.
        key_bundle: BundleId,
        /// How many it lacks.
        missing: u64,
        /// One of them.
        first: DekId,
    },
    /// A needed bundle is not on a majority (B1).
    #[error(
        "bundle {bundle} is durable on {have} of the {need} voters that make a majority: upload it \
         again, or wait for its repair"
    )]
    BundleNotDurable {
        /// The bundle.
        bundle: BundleId,
        /// Voters that have it.
        have: u64,
        /// Voters that must have it.
        need: u64,
    },
    /// No such coordinator was admitted.
    #[error("node {node} is not known: add it first, or check the id with `strongroom node list`")]
    NodeUnknown {
        /// The node.
        node: NodeId,
    },
    /// A removed coordinator does not come back.
    #[error(
        "node {node} was removed from the fleet, and its id is not used again: add it as a new node"
    )]
    NodeWasRemoved {
        /// The node.
        node: NodeId,
    },
    /// The name is taken.
    #[error("the name {name} already belongs to node {node}: choose another name")]
    NodeNameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        node: NodeId,
    },
    /// A voter cannot be taken away just so.
    #[error("node {node} votes, or is about to: remove it with `strongroom node remove` first")]
    NodeVotes {
        /// The node.
        node: NodeId,
    },
    /// Another change of voters is not over.
    #[error(
        "a change of voters is under way, and there is one at a time: wait until `strongroom node \
         list` shows that it is over"
    )]
    ChangeUnderWay,
    /// More than one voter at once, or none left.
    #[error("voters change by one node at a time, and one always stays")]
    ChangeNotOneStep,
    /// There is nothing to seal or to end.
    #[error("no such change of voters is under way: begin one first")]
    NoChange,
    /// A snapshot that this fleet cannot take.
    #[error("the snapshot cannot be restored: {problem}; {}", problem.remedy())]
    RestoreRefused {
        /// Why.
        problem: RestoreProblem,
    },
    /// Another snapshot is being restored.
    #[error(
        "another snapshot is being restored ({restore}): let it end, or give it up with `strongroom \
         snapshot restore --abandon`"
    )]
    RestoreUnderWay {
        /// Its name.
        restore: LeaseId,
    },
    /// The fleet was restored since the agent's session began.
    #[error(
        "the fleet was restored from a snapshot, and the sessions of cluster {cluster} ended with \
         it: open a new one"
    )]
    SessionEnded {
        /// Whose.
        cluster: ClusterId,
    },
    /// A forced recovery of a node that does not vote alone.
    #[error(
        "node {node} is not the only voter, so nothing is recovered by force: remove nodes with \
         `strongroom node remove`"
    )]
    NotTheOnlyVoter {
        /// The node.
        node: NodeId,
    },
    /// The address is taken.
    #[error(
        "the address {address} already belongs to node {node}: choose another, or move that one first"
    )]
    NodeAddressTaken {
        /// The address.
        address: String,
        /// Whose it is.
        node: NodeId,
    },
    /// Not every bundle is where they are to be.
    #[error(
        "not every bundle is there yet, {missing} are not: wait, and look at `strongroom fleet \
         bundles status`"
    )]
    HomeNotReady {
        /// How many.
        missing: u64,
    },
    /// The move that was meant is not the one under way.
    #[error(
        "the bundles' home was changed meanwhile: look at `strongroom fleet bundles status` again"
    )]
    HomeChanged,
    /// Nothing goes to a bucket.
    #[error("bundles are kept on the coordinators' disks: send them there")]
    BundlesOnDisks,
    /// An object that nobody announced.
    #[error("bundle {bundle} was not announced for the bucket by this upload: upload it again")]
    ObjectUnknown {
        /// The bundle.
        bundle: BundleId,
    },
    /// A token that is used, over, or never was: nobody is told which.
    #[error("the join token is not valid: make a new one with `strongroom node token`")]
    JoinTokenRefused,
    /// The fleet has another certificate authority.
    #[error("the fleet has another certificate authority already: found a new fleet for a new one")]
    AuthorityExists,
    /// Certificates of this fleet come from elsewhere.
    #[error(
        "the fleet has no certificate authority of its own: give coordinators their certificates by \
         hand and admit them with `strongroom node add`"
    )]
    AuthorityMissing,
    /// A coordinator with an older program could not apply it.
    #[error(
        "this needs level {needed}, the fleet's is {active}: upgrade every coordinator, \
         `strongroom status` shows who holds it back"
    )]
    LevelTooLow {
        /// What it needs.
        needed: Level,
        /// What the fleet has.
        active: Level,
    },
    /// Nothing ends by time.
    #[error(
        "time is frozen since the clocks jumped: correct the clocks that are wrong, then \
         `strongroom fleet confirm-time`"
    )]
    TimeFrozen,
    /// A command about keys.
    #[error("{problem}: {}", problem.remedy())]
    KeysRefused {
        /// Why.
        problem: KeysProblem,
    },
    /// The enrolment token is unknown, over, used up or withdrawn, which nobody is told apart.
    #[error("the token is not valid: ask an admin for another one")]
    EnrolTokenRefused,
    /// The cluster is known by another signing key.
    #[error(
        "cluster {cluster} signs with another key: enrol with the directory that holds its keys, \
         `strongroom key recover` brings them back"
    )]
    SigningKeyDiffers {
        /// The cluster.
        cluster: ClusterId,
    },
    /// The certificate was revoked, or another one has taken its place.
    #[error("the certificate was revoked or replaced: enrol again with a new token")]
    CertificateVoid,
    /// Nobody revokes what he acts with.
    #[error("nobody revokes his own certificate: have another admin do it")]
    OwnCertificate,
    /// Somebody of that name is enrolled.
    #[error("{name} is enrolled already: say --again to replace what it has")]
    AlreadyEnrolled {
        /// The name.
        name: String,
    },
    /// Nobody of that name is enrolled.
    #[error("nobody called {name} is enrolled: leave --again out, or correct the name")]
    NotEnrolled {
        /// The name.
        name: String,
    },
    /// No agent waits under this id.
    #[error("no agent waits as {cluster}: `strongroom cluster pending` lists those that do")]
    NobodyWaits {
        /// The id.
        cluster: ClusterId,
    },
    /// No act of this number waits.
    #[error("no act {act} waits: `strongroom pending list` shows those that do")]
    ActUnknown {
        /// Its number.
        act: LogIndex,
    },
    /// One admin alone cannot do this.
    #[error("this takes an admin, and another one to approve it: have another admin do that")]
    SecondAdminNeeded,
    /// The act has to wait longer.
    #[error("act {act} is not due: it needs another admin's approval, and then waits")]
    ActNotDue {
        /// Its number.
        act: LogIndex,
    },
    /// Something that would go is in use.
    #[error("act {act} waits, somebody reads what it would delete: it is tried again by itself")]
    ActBlocked {
        /// Its number.
        act: LogIndex,
    },
}

impl Refusal {
    /// Whether it is about the request's session, so that the command was not looked at.
    pub(crate) const fn is_of_session(&self) -> bool {
        matches!(
            self,
            Self::SessionExpired { .. }
                | Self::LimitReached { limit: Limit::Sessions, .. }
                | Self::InvalidField { field: Field::RequestNumber }
        )
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::FleetMissing => Code::Unavailable,
            Self::FleetExists { .. } => Code::WrongFleet,
            Self::InvalidField { .. }
            | Self::FirstPointUnchanged { .. }
            | Self::LeaseRequired
            | Self::BundleRepeated { .. }
            | Self::DroppedUnknown { .. }
            | Self::Surplus { .. } => Code::InvalidArgument,
            Self::UploadFirst => Code::UploadFirst,
            Self::LimitReached { limit, .. } => limit.code(),
            Self::ClusterExists { .. }
            | Self::ClusterNameTaken { .. }
            | Self::KubeSystemUidTaken { .. }
            | Self::LeaseExists { .. } => Code::AlreadyExists,
            Self::ClusterUnknown { .. } => Code::ClusterNotFound,
            Self::PointUnknown { .. } => Code::PointNotFound,
            Self::StaleEpoch { .. } => Code::StaleEpoch,
            Self::StaleHead { .. } => Code::StaleHead,
            Self::ParentManifestDiffers { .. } => Code::StaleHead,
            Self::LeaseGone { .. } | Self::LeaseOfAnother { .. } => Code::LeaseGone,
            Self::SessionExpired { .. } => Code::SessionExpired,
            Self::BadStatement { .. } => Code::BadSignature,
            Self::HeaderRefused { problem, .. } => problem.code(),
            Self::HeaderMismatch { field, .. } => field.code(),
            Self::RoleMissing { role, .. } | Self::RoleWrong { role, .. } => role.code(),
            Self::KeysMissing { .. } => Code::KeyBundleIncomplete,
            Self::BundleNotDurable { .. } => Code::BundleNotDurable,
            Self::NodeUnknown { .. } | Self::ChangeNotOneStep => Code::InvalidArgument,
            Self::NodeNameTaken { .. } | Self::NodeAddressTaken { .. } => Code::AlreadyExists,
            Self::NodeWasRemoved { .. }
            | Self::NodeVotes { .. }
            | Self::ChangeUnderWay
            | Self::AuthorityExists
            | Self::AuthorityMissing
            | Self::NoChange
            | Self::RestoreUnderWay { .. }
            | Self::HomeNotReady { .. }
            | Self::HomeChanged
            | Self::BundlesOnDisks => Code::Conflict,
            Self::RestoreRefused { problem } => problem.code(),
            Self::SessionEnded { .. } => Code::SessionExpired,
            Self::NotTheOnlyVoter { .. } => Code::Conflict,
            Self::ObjectUnknown { .. } => Code::BundleNotDurable,
            Self::JoinTokenRefused => Code::PermissionDenied,
            Self::LevelTooLow { .. } => Code::LevelTooLow,
            Self::TimeFrozen => Code::TimeFrozen,
            Self::KeysRefused { problem } => problem.code(),
            Self::EnrolTokenRefused => Code::PermissionDenied,
            Self::SigningKeyDiffers { .. } => Code::WrongKey,
            Self::CertificateVoid => Code::Unauthenticated,
            Self::OwnCertificate | Self::ActNotDue { .. } | Self::ActBlocked { .. } => {
                Code::Conflict
            }
            Self::SecondAdminNeeded => Code::PermissionDenied,
            Self::AlreadyEnrolled { .. } => Code::AlreadyExists,
            Self::NotEnrolled { .. } | Self::NobodyWaits { .. } | Self::ActUnknown { .. } => {
                Code::NothingMatches
            }
        }
    }
}

/// Numbered words, so that the codec and the texts cannot drift apart. Numbers are never reused.
macro_rules! words {
    (
        $(#[$doc:meta])* $name:ident {
            $( $(#[$vdoc:meta])* $variant:ident = $tag:literal, $text:literal, $rule:literal, $code:ident; )*
        }
        second $second:ident: $(#[$sdoc:meta])*
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[$vdoc])* $variant, )* }

        impl $name {
            /// All of them, for tests and documentation.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];
            /// The number in encoded outcomes.
            #[must_use]
            pub(crate) const fn to_tag(self) -> u32 {
                match self { $( Self::$variant => $tag, )* }
            }
            /// The word of a number.
            #[must_use]
            pub(crate) const fn from_tag(tag: u32) -> Option<Self> {
                match tag { $( $tag => Some(Self::$variant), )* _ => None }
            }
            $(#[$sdoc])*
            #[must_use]
            pub const fn $second(self) -> &'static str {
                match self { $( Self::$variant => $rule, )* }
            }
            /// The stable code of a refusal for this.
            #[must_use]
            pub const fn code(self) -> Code {
                match self { $( Self::$variant => Code::$code, )* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $( Self::$variant => $text, )* })
            }
        }
    };
}

words! {
    /// Fields of commands that have a rule of their own.
    Field {
        /// Of a fleet.
        FleetName = 1, "fleet's name", "use 1 to 63 lower-case letters, digits and hyphens", InvalidArgument;
        /// Of a cluster.
        ClusterName = 2, "cluster's name", "use 1 to 63 lower-case letters, digits and hyphens", InvalidArgument;
        /// Labels of a cluster.
        Labels = 3, "set of labels", "use at most 32 labels with non-empty keys, 2048 bytes in all", InvalidArgument;
        /// UID of a namespace.
        KubeSystemUid = 4, "kube-system uid", "use 1 to 64 letters, digits and hyphens", InvalidArgument;
        /// Public key of a cluster or fleet.
        PublicKey = 5, "public key", "it is all zeros: send the real one", InvalidArgument;
        /// Time to live of a lease.
        Ttl = 6, "lease's time to live", "use 1 ms to a day for an upload, to a week for a read", InvalidArgument;
        /// Number of a request in its session.
        RequestNumber = 7, "request's number in its session", "count from 1", InvalidArgument;
        /// Number of a point.
        Sequence = 8, "point's number", "count from 1", InvalidArgument;
        /// Proofs of a point.
        Proofs = 9, "list of proofs", "name each source once, with 1 to 32 lower-case letters, digits and hyphens, and a reason of at most 200 bytes", InvalidArgument;
        /// Holders of a bundle, or of several.
        Holders = 10, "list of holders", "name a node or bundle once, as present or absent", InvalidArgument;
        /// Kind of a finding.
        FindingKind = 11, "finding's kind", "use 1 to 64 lower-case letters, digits and hyphens", InvalidArgument;
        /// Subject of a finding.
        FindingSubject = 12, "finding's subject", "use at most 256 bytes without control characters", InvalidArgument;
        /// Message or remedy of a finding.
        FindingText = 13, "finding's text", "use 1 to 1024 bytes for message and remedy each", InvalidArgument;
        /// Size of a bundle.
        BundleSize = 14, "bundle's size", "send the length of the stored file", InvalidArgument;
        /// Of a coordinator.
        NodeName = 15, "coordinator's name", "use 1 to 63 lower-case letters, digits and hyphens", InvalidArgument;
        /// Of a coordinator.
        NodeAddress = 16, "coordinator's address", "write host:port, as others reach it", InvalidArgument;
        /// Of a restored state.
        RestoreSize = 24, "size of the restored state", "use 1 byte to 4 GiB", InvalidArgument;
        /// Of a restored state.
        RestorePiece = 25, "piece of the restored state", "send pieces of 1 to 12288 bytes in order, and no more than announced", InvalidArgument;
        /// Record of a snapshot.
        Snapshot = 32, "record of the snapshot", "name target, name and either a digest or a problem, within their lengths", InvalidArgument;
        /// Certificate or sealed key of the fleet's root.
        Authority = 40, "fleet's certificate authority", "send the certificate and sealed key that `fleet init` made", InvalidArgument;
        /// Time to live of a join token.
        JoinTtl = 41, "token's time to live", "use a second to a day", InvalidArgument;
        /// Bytes of a bundle in a commit.
        Carried = 70, "bundle that the commit carries", "send the file whose digest and length it names, carry all bundles of a point or none, and name no lease or holder beside it", InvalidArgument;
        /// An act to record.
        Act = 48, "act to be recorded", "name who did it, a word of lower-case letters and hyphens, and a code where it was refused", InvalidArgument;
        /// Which key an operator wants changed, or an agent changed.
        KeyOrder = 59, "order for keys", "name the KEK or the data key, and no order that was never given", InvalidArgument;
        /// Number of a share, of how many.
        Share = 60, "share's number, threshold or total", "send what the share itself says", InvalidArgument;
        /// Time to live of an enrolment token.
        EnrolTtl = 49, "token's time to live", "use a second to 92 days", InvalidArgument;
        /// Of an operator.
        OperatorName = 50, "operator's name", "use 1 to 63 lower-case letters, digits and hyphens", InvalidArgument;
        /// Agents that a token may enrol.
        EnrolCount = 51, "number of agents the token is for", "use 1 to 10000, and 1 where it names one party", InvalidArgument;
        /// How long acts wait that need a second admin.
        ActDelay = 52, "wait of such acts", "use what it is to 92 days, or ask for a shorter one, of a day at least where the fleet asked for that", InvalidArgument;
    }
    second rule: /** What a valid one looks like. */
}

words! {
    /// Bounds on how much there may be.
    Limit {
        /// Upload leases of a cluster.
        Uploads = 1, "the number of open uploads of the cluster", "end one, or wait until they expire", ResourceExhausted;
        /// Read leases of a cluster.
        Reads = 2, "the number of open reads of the cluster", "end one, or wait until they expire", ResourceExhausted;
        /// Sessions.
        Sessions = 3, "the number of client sessions", "reuse sessions, or wait until some expire", ResourceExhausted;
        /// Config bundles that a point needs.
        ConfigBundles = 4, "the number of config bundles the point needs", "repack with a full manifest", TooLarge;
        /// Bundles added by a commit.
        Added = 5, "the number of bundles the commit adds", "seal fewer, larger bundles", TooLarge;
        /// Bundles dropped by a commit.
        Dropped = 6, "the number of bundles the commit drops", "drop the rest with the next point", TooLarge;
        /// Bytes of a commit.
        CommitBytes = 7, "the size of the commit in bytes", "drop fewer bundles at once", TooLarge;
        /// Sources of a point.
        Proofs = 8, "the number of sources of the point", "use fewer sources", TooLarge;
        /// Holders named for a bundle.
        Holders = 9, "the number of holders of a bundle", "name voters only", TooLarge;
        /// Bundles in a report of holders.
        RecordedHolders = 10, "the number of bundles in one report", "send several reports", TooLarge;
        /// Leases or sessions in an expiry.
        Expired = 11, "the number of ids in one expiry", "send several commands", TooLarge;
        /// Findings of one scope.
        Findings = 12, "the number of findings of one scope", "clear some first", LimitReached;
        /// Nodes of the fleet.
        Nodes = 13, "the number of coordinators", "remove one first", LimitReached;
        /// Coordinators that a restored snapshot names.
        RestoreNodes = 22, "the number of coordinators in the snapshot", "nobody has so many: check the snapshot", TooLarge;
        /// Voters.
        Voters = 14, "the number of voters", "more of them make every write slower and little safer", LimitReached;
        /// Objects of one upload.
        Objects = 23, "the number of objects the upload announces", "begin a new upload", TooLarge;
        /// Bytes of the bundles that a commit carries.
        Carried = 70, "the size of the bundles the commit carries in bytes", "upload them first", TooLarge;
        /// Join tokens.
        JoinTokens = 40, "the number of join tokens", "wait until some are over", LimitReached;
        /// Enrolment tokens.
        EnrolTokens = 49, "the number of enrolment tokens", "wait until some are over", LimitReached;
        /// Agents that wait for approval.
        Waiting = 50, "the number of agents that wait for approval", "approve or reject some first", LimitReached;
        /// Acts that wait.
        ActsWaiting = 51, "the number of acts that wait", "cancel some first", LimitReached;
    }
    second remedy: /** What to do about it. */
}

words! {
    /// Why a snapshot cannot be restored.
    RestoreProblem {
        /// The fleet has clusters.
        NotEmpty = 1, "this fleet has clusters already, and nothing is ever overwritten", "restore into an empty fleet", Conflict;
        /// Of another fleet.
        OtherFleet = 2, "it is of another fleet, and what it holds is sealed for that one", "begin the coordinators with `strongroom fleet init --from-snapshot`", WrongFleet;
        /// The fleet has another name.
        OtherName = 3, "its fleet has another name than this one", "check that it is the right snapshot, then say --force", WrongFleet;
        /// Not all of it came.
        Incomplete = 4, "not all of its state has arrived", "send the rest", InvalidArgument;
        /// Its bytes are not those announced, or no state.
        Damaged = 5, "its state is damaged", "use another copy", Damaged;
        /// Of a newer program.
        Newer = 6, "its state was written by a newer program", "upgrade the coordinators first", UnsupportedVersion;
        /// Sealed to another key.
        OtherRecoveryKey = 7, "its fleet has another recovery key than this one", "begin the coordinators with the snapshot's recovery key", WrongFleet;
        /// Its agents and operators have certificates of another root.
        OtherAuthority = 8, "its agents and operators trust another certificate authority than this fleet's", "begin the coordinators with `strongroom fleet init --from-snapshot`", WrongFleet;
    }
    second remedy: /** What to do about it. */
}

words! {
    /// Why a command about keys was refused.
    KeysProblem {
        /// One at a time.
        RotationUnderWay = 1, "the recovery key before this one is still in use", "finish that rotation first, `strongroom key status` shows what is left", Conflict;
        /// Anybody could offer a key.
        NotSignedByFormer = 2, "the new recovery key is not signed by the fleet's", "rotate with the shares of the fleet's recovery key", BadSignature;
        /// Somebody reads one of the points.
        WrapsInUse = 3, "a restore or an export reads a point with these wraps", "try again when it has ended", Busy;
        /// No such key bundle.
        WrapsUnknown = 4, "no point of the cluster has this key bundle", "ask again which are left", InvalidArgument;
        /// Not everything is renewed.
        WrapsLeft = 5, "key bundles are still sealed to the recovery key before", "renew them first, `strongroom key status` shows whose", Conflict;
        /// Another lineage was begun meanwhile.
        LineageNotNext = 6, "the lineage is not the next one", "open a new session and look where the cluster stands", StaleHead;
        /// The agent does not hold the key.
        LineageNotSigned = 7, "the lineage is not signed by its key", "sign it with the key that it names", BadSignature;
        /// Not the key that waits.
        OtherSigningKey = 8, "the cluster signs with another key than the one named", "compare the fingerprint with what the agent prints", WrongKey;
        /// Of another recovery key.
        OtherRecoveryKey = 9, "the share is of another recovery key than the fleet's", "give a share and the recovery.pub of the fleet's key", WrongKey;
        /// More than anybody needs.
        TooMany = 10, "there are too many of these already", "nobody has so many: look into it", LimitReached;
    }
    second remedy: /** What to do about it. */
}

words! {
    /// Why a header cannot be accepted at all.
    HeaderProblem {
        /// It cannot be read.
        Malformed = 1, "it cannot be read, seal the bundle anew", "malformed", Damaged;
        /// It is newer than the coordinators.
        Unsupported = 2, "its format or suite is newer than these coordinators, upgrade them first", "unsupported", UnsupportedVersion;
        /// The signature does not fit.
        BadSignature = 3, "its signature does not fit, sign it with the cluster's signing key", "bad_signature", BadSignature;
        /// Somebody else signed.
        WrongSigner = 4, "it is signed by another key than the cluster's registered one", "wrong_signer", BadSignature;
    }
    second as_str: /** The word for programs. */
}

words! {
    /// Fields of a signed header that a commit compares.
    HeaderField {
        /// The fleet it was sealed for.
        Fleet = 1, "fleet", "fleet", WrongFleet;
        /// The cluster it was sealed for.
        Cluster = 2, "cluster", "cluster", WrongCluster;
        /// The lineage of keys.
        Lineage = 3, "lineage", "lineage", StaleHead;
        /// The point it was sealed for.
        Sequence = 4, "sequence", "sequence", StaleHead;
        /// The agent's epoch.
        Epoch = 5, "epoch", "epoch", StaleEpoch;
        /// Length of the file.
        Bytes = 6, "length", "bytes", DigestMismatch;
        /// The manifest or key bundle before, or the key bundle that wraps open.
        Predecessor = 7, "predecessor", "predecessor", Rollback;
        /// The recovery key it is sealed to.
        RecoveryKey = 8, "recovery key", "recovery_key", WrongKey;
    }
    second as_str: /** The word for programs. */
}

words! {
    /// What a bundle is for in a point.
    Role {
        /// The manifest.
        Manifest = 1, "manifest", "it must be a manifest added by this commit", InvalidArgument;
        /// The full manifest under a delta.
        Base = 2, "base manifest", "it must be a full manifest of this cluster that the point needs", InvalidArgument;
        /// The key bundle.
        KeyBundle = 3, "key bundle", "it must be a key bundle of this cluster", KeyBundleIncomplete;
        /// The wraps.
        Wraps = 4, "wraps", "they must be wraps of the point's key bundle", KeyBundleIncomplete;
    }
    second rule: /** What a bundle in this role must be. */
}
