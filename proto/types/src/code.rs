//! The stable error codes. One per kind of failure a person or program can act on; printed with
//! every error, carried over gRPC as `ErrorInfo.reason`, never renamed.

use std::fmt;
use std::str::FromStr;

macro_rules! codes {
    ($( $(#[$doc:meta])* $variant:ident = $text:literal, retry $retry:literal, exit $exit:literal; )*) => {
        /// What went wrong, as a stable word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $( $(#[$doc])* $variant, )* }

        impl Code {
            /// All codes, for documentation and tests.
            pub const ALL: &'static [Code] = &[ $( Code::$variant, )* ];
            /// The stable text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Code::$variant => $text, )* }
            }
            /// Whether the same request may succeed later without anybody changing anything.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $( Code::$variant => $retry, )* }
            }
            /// The exit code of the command line program.
            #[must_use]
            pub const fn exit_code(self) -> u8 {
                match self { $( Code::$variant => $exit, )* }
            }
        }
        impl FromStr for Code {
            type Err = ();
            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $( $text => Ok(Code::$variant), )* _ => Err(()) }
            }
        }
    };
}

// Exit codes: 1 internal, 2 usage or config, 3 not reachable or busy (try again), 4 refused,
// 5 not found, 6 damaged or not proved, 7 wrong key, 8 conflict at the target, 9 out of resources.
codes! {
    /// A bug, or a state nobody foresaw.
    Internal = "INTERNAL", retry false, exit 1;
    /// The request or a command line argument makes no sense.
    InvalidArgument = "INVALID_ARGUMENT", retry false, exit 2;
    /// A config file is wrong.
    InvalidConfig = "INVALID_CONFIG", retry false, exit 2;
    /// A file or directory of this machine could not be read or written.
    LocalIo = "LOCAL_IO", retry false, exit 1;
    /// No coordinator answered, or the fleet has no leader.
    Unavailable = "UNAVAILABLE", retry true, exit 3;
    /// The answer did not come in time; a write may or may not have happened.
    DeadlineExceeded = "DEADLINE_EXCEEDED", retry true, exit 3;
    /// Somebody else works on the same thing.
    Busy = "BUSY", retry true, exit 3;
    /// The address is taken by another program.
    AddressInUse = "ADDRESS_IN_USE", retry false, exit 3;
    /// No certificate, or one this fleet does not know.
    Unauthenticated = "UNAUTHENTICATED", retry false, exit 4;
    /// The certificate does not allow this.
    PermissionDenied = "PERMISSION_DENIED", retry false, exit 4;
    /// The other side belongs to another fleet.
    WrongFleet = "WRONG_FLEET", retry false, exit 4;
    /// A newer agent of the same cluster is active.
    StaleEpoch = "STALE_EPOCH", retry false, exit 4;
    /// The point does not follow the cluster's head.
    StaleHead = "STALE_HEAD", retry false, exit 4;
    /// The lease is over or never was.
    LeaseGone = "LEASE_GONE", retry false, exit 4;
    /// A session repeated a request older than the results that are kept.
    SessionExpired = "SESSION_EXPIRED", retry false, exit 4;
    /// The commit has no key bundle, or one that lacks a key its bundles are sealed under.
    KeyBundleIncomplete = "KEY_BUNDLE_INCOMPLETE", retry false, exit 4;
    /// A bundle the commit needs is not durable on a majority.
    BundleNotDurable = "BUNDLE_NOT_DURABLE", retry true, exit 4;
    /// The fleet's active level is too low for this: a coordinator has an older program.
    LevelTooLow = "LEVEL_TOO_LOW", retry false, exit 4;
    /// The clocks jumped, and what ends by time waits until an admin confirms it.
    TimeFrozen = "TIME_FROZEN", retry false, exit 4;
    /// The bytes do not have the digest they were announced with.
    DigestMismatch = "DIGEST_MISMATCH", retry false, exit 6;
    /// The request is larger than the limit.
    TooLarge = "TOO_LARGE", retry false, exit 4;
    /// There is already something of that name.
    AlreadyExists = "ALREADY_EXISTS", retry false, exit 4;
    /// No such cluster.
    ClusterNotFound = "CLUSTER_NOT_FOUND", retry false, exit 5;
    /// No such recovery point.
    PointNotFound = "POINT_NOT_FOUND", retry false, exit 5;
    /// No copy of the bundle was found.
    BundleNotFound = "BUNDLE_NOT_FOUND", retry true, exit 5;
    /// Nothing matches the patterns.
    NothingMatches = "NOTHING_MATCHES", retry false, exit 5;
    /// Stored bytes are not what they should be.
    Damaged = "DAMAGED", retry false, exit 6;
    /// The format or protocol is newer than this program.
    UnsupportedVersion = "UNSUPPORTED_VERSION", retry false, exit 6;
    /// A signature is missing, or of another key than the cluster's.
    BadSignature = "BAD_SIGNATURE", retry false, exit 6;
    /// The thing belongs to another cluster.
    WrongCluster = "WRONG_CLUSTER", retry false, exit 6;
    /// An older state was offered as the newest.
    Rollback = "ROLLBACK", retry false, exit 6;
    /// What was restored or opened does not equal the manifest.
    NotEqual = "NOT_EQUAL", retry false, exit 6;
    /// The key is not the one this was sealed to.
    WrongKey = "WRONG_KEY", retry false, exit 7;
    /// The key file is missing.
    KeyMissing = "KEY_MISSING", retry false, exit 7;
    /// The key file does not hold a whole key.
    KeyTooShort = "KEY_TOO_SHORT", retry false, exit 7;
    /// The target already holds something and the policy says fail.
    Conflict = "CONFLICT", retry false, exit 8;
    /// A point's bundles cannot come in its commit now: agents upload them before it.
    UploadFirst = "UPLOAD_FIRST", retry false, exit 8;
    /// The disk reserve is reached.
    NoSpace = "NO_SPACE", retry true, exit 9;
    /// A limit on simultaneous work is reached.
    ResourceExhausted = "RESOURCE_EXHAUSTED", retry true, exit 9;
    /// A limit is reached that time does not lift.
    LimitReached = "LIMIT_REACHED", retry false, exit 9;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn codes_are_distinct_and_parse_back() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
        }
        assert!("NO_SUCH_CODE".parse::<Code>().is_err());
    }
}
