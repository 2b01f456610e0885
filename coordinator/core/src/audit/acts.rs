//! Which command is an act, under which word, and what it is about. The words stand in entries that
//! are kept for ever: none is ever renamed.

use proto_types::ClusterId;

use super::Subject;
use crate::command::{Command, SetBundleHome};
use crate::delayed::DelayedAct;
use crate::enrolment::{EnrolGrant, PartyId};
use crate::keys::KeysCommand;
use crate::outcome::Outcome;
use crate::rows::{BundleHome, FindingKey, ReadPurpose, Scope};
use crate::state::State;

/// How a command stands in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Act {
    /// The stable word.
    pub word: &'static str,
    /// When it is recorded.
    pub when: When,
}

/// When a command is recorded. A refused one is whenever somebody else than a coordinator sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Accepted too, whoever sent it.
    Always,
    /// Accepted too, unless a coordinator sent it by itself.
    ByOthers,
    /// The machine's own bookkeeping, or a part of an act that is recorded itself.
    Refused,
}

impl Command {
    /// How it stands in the audit log: whoever adds a command decides it here. `None` for the one that
    /// brings its own word.
    #[must_use]
    pub const fn act(&self) -> Option<Act> {
        use When::{Always, ByOthers, Refused};
        let (word, when) = match self {
            Self::RecordAct(_) => return None,
            Self::InitFleet(_) => ("init-fleet", Always),
            Self::RegisterCluster(_) => ("register-cluster", Always),
            Self::AcquireEpoch(_) => ("open-agent-session", Always),
            Self::OpenUpload(_) => ("open-upload", Refused),
            Self::RenewLease(_) => ("renew-lease", Refused),
            Self::EndUpload(_) => ("end-upload", Refused),
            Self::CommitPoint(_) => ("commit-point", Always),
            Self::OpenReadLease(_) => ("open-read-lease", Always),
            Self::EndReadLease(_) => ("end-read-lease", Refused),
            Self::ExpireLeases(_) => ("expire-leases", Refused),
            Self::ExpireSessions(_) => ("expire-sessions", Refused),
            Self::RecordHolders(_) => ("record-holders", Refused),
            Self::RaiseFinding(_) => ("raise-finding", Refused),
            // An agent takes back what it raised; a person takes away what somebody else may want to
            // know of.
            Self::ClearFinding(_) => ("clear-finding", ByOthers),
            Self::AddNode(_) => ("add-node", Always),
            Self::BeginChange(_) => ("change-voters", Always),
            Self::SealChange(_) => ("seal-voter-change", Refused),
            Self::EndChange(_) => ("end-voter-change", Always),
            Self::RemoveNode(_) => ("remove-node", Always),
            // What is read out is recorded before the first byte, and not at its end.
            Self::SealSnapshot(_) => ("seal-snapshot", Refused),
            Self::BeginRestore(_) => ("begin-restore", Always),
            Self::RestorePiece(_) => ("send-state", Refused),
            Self::FinishRestore(_) => ("finish-restore", Always),
            Self::AbandonRestore(_) => ("abandon-restore", Always),
            Self::RecoverByForce(_) => ("recover-by-force", Always),
            Self::MoveNode(_) => ("move-node", Always),
            Self::SetBundleHome(SetBundleHome::Begin { .. }) => ("set-bundle-home", Always),
            Self::SetBundleHome(SetBundleHome::Settle { .. }) => ("settle-bundle-home", Always),
            Self::AnnounceObject(_) => ("announce-object", Refused),
            Self::RecordObjects(_) => ("record-objects", Refused),
            // One that failed is tried again and again, and is a finding.
            Self::RecordSnapshot(command) if command.snapshot.is_good() => {
                ("save-scheduled-snapshot", Always)
            }
            Self::RecordSnapshot(_) => ("save-scheduled-snapshot", Refused),
            Self::SetAuthority(_) => ("set-authority", Always),
            Self::CreateJoinToken(_) => ("create-join-token", Always),
            Self::RedeemJoinToken(_) => ("redeem-join-token", Always),
            Self::RaiseLevel(_) => ("raise-level", Always),
            Self::FreezeTime(_) => ("freeze-time", Always),
            Self::ConfirmTime(_) => ("confirm-time", Always),
            Self::Keys(command) => match **command {
                KeysCommand::RotateRecovery(_) => ("rotate-recovery-key", Always),
                KeysCommand::ReplaceWraps(_) => ("replace-wraps", Always),
                KeysCommand::FinishRotation => ("finish-recovery-key-rotation", Always),
                KeysCommand::BeginLineage(_) => ("begin-key-lineage", Always),
                KeysCommand::ApproveLineage(_) => ("approve-key-lineage", Always),
                KeysCommand::OrderKeys(_) => ("order-key-rotation", Always),
                KeysCommand::RecordKeys(_) => ("record-key-rotation", Always),
                KeysCommand::AttestShare(_) => ("attest-share", Always),
            },
            Self::CreateEnrolToken(_) => ("create-enrol-token", Always),
            Self::RedeemEnrolToken(_) => ("enrol", Always),
            Self::RecordCertificate(_) => ("renew-certificate", Always),
            Self::RevokeParty(_) => ("revoke", Always),
            Self::DecideEnrolment(command) if command.approve => ("approve-enrolment", Always),
            Self::DecideEnrolment(_) => ("reject-enrolment", Always),
            Self::RequestAct(_) => ("request-act", Always),
            Self::DecideAct(command) if command.approve => ("approve-act", Always),
            Self::DecideAct(_) => ("cancel-act", Always),
            Self::PerformAct(_) => ("perform-act", Always),
            Self::SetActDelay(_) => ("set-act-delay", Always),
        };
        Some(Act { word, when })
    }
}

/// What a command is about. Only names that the fleet gives itself: never a path, never an item (K1).
pub(super) fn subject(state: &State, command: &Command, outcome: &Outcome) -> Subject {
    match command {
        Command::RecordAct(command) => command.subject.clone(),
        Command::InitFleet(command) => Subject::text(&command.name),
        Command::RegisterCluster(command) => {
            let cluster = match outcome {
                Outcome::ClusterRegistered { cluster } => Some(*cluster),
                _ => None,
            };
            Subject { cluster, ..Subject::text(&command.name) }
        }
        Command::AcquireEpoch(command) => {
            let subject = Subject::cluster(command.cluster);
            match outcome {
                Outcome::EpochAcquired { epoch, .. } => {
                    subject.with_text(&format!("epoch {epoch}"))
                }
                _ => subject,
            }
        }
        Command::OpenUpload(command) => Subject::cluster(command.cluster),
        Command::RenewLease(command) => of_cluster(state.lease_cluster(&command.lease)),
        Command::EndUpload(command) => of_cluster(state.lease_cluster(&command.lease)),
        Command::CommitPoint(command) => {
            Subject { sequence: Some(command.sequence), ..Subject::cluster(command.cluster) }
        }
        Command::OpenReadLease(command) => {
            let purpose = match command.purpose {
                ReadPurpose::Restore => "restore",
                ReadPurpose::Export => "export",
                ReadPurpose::Drill => "drill",
                ReadPurpose::Snapshot => "snapshot",
            };
            let sequence = Some(command.sequence);
            Subject { sequence, ..Subject::cluster(command.cluster) }.with_text(purpose)
        }
        Command::EndReadLease(command) => of_cluster(state.lease_cluster(&command.lease)),
        Command::RaiseFinding(command) => finding(&command.key),
        Command::ClearFinding(command) => match outcome {
            // Its subject was in the state; of one that was not there it is anybody's text.
            Outcome::FindingCleared { existed: true } if !command.key.subject.is_empty() => {
                let key = &command.key;
                finding(key).with_text(&format!("{} {}", key.kind, key.subject))
            }
            _ => finding(&command.key),
        },
        Command::AddNode(command) => added(outcome).with_text(&command.name),
        Command::BeginChange(command) => {
            let voters: Vec<String> = command.voters.iter().map(ToString::to_string).collect();
            let subject = Subject { node: command.remove, ..Subject::default() };
            subject.with_text(&format!("voters {}", voters.join(",")))
        }
        Command::EndChange(_) => match outcome {
            Outcome::ChangeEnded { done: true } => Subject::text("made"),
            _ => Subject::text("given up"),
        },
        Command::RemoveNode(command) => Subject::node(command.node),
        Command::BeginRestore(command) => {
            Subject::text(&format!("state {}", hex::encode(command.state_sha256)))
        }
        Command::FinishRestore(_) => match outcome {
            Outcome::Restored { generation } => Subject::text(&format!("generation {generation}")),
            _ => Subject::default(),
        },
        Command::RecoverByForce(command) => Subject::node(command.node),
        Command::MoveNode(command) => Subject::node(command.node).with_text(&command.address),
        Command::SetBundleHome(SetBundleHome::Begin { to }) => Subject::text(match to {
            BundleHome::Disks => "disks",
            BundleHome::Bucket => "bucket",
        }),
        Command::RecordSnapshot(command) => Subject::text(&command.snapshot.name),
        Command::CreateJoinToken(command) => {
            Subject::text(&format!("{} for {}", token(&command.token), command.name))
        }
        Command::RedeemJoinToken(command) => added(outcome).with_text(&token(&command.token)),
        Command::RaiseLevel(command) => Subject::text(&format!("level {}", command.to)),
        Command::FreezeTime(command) => {
            Subject::text(&format!("clocks off by {} ms", command.jump.by_ms))
        }
        Command::Keys(command) => keys(state, command),
        Command::CreateEnrolToken(command) => {
            let text = match &command.grant {
                EnrolGrant::Cluster { name, .. } => format!("cluster {name}"),
                EnrolGrant::Operator { name, role, .. } => format!("{} {name}", role.as_str()),
                EnrolGrant::Clusters { .. } => format!("{} clusters", command.count),
            };
            Subject::text(&format!("{} for {text}", token(&command.token)))
        }
        Command::RedeemEnrolToken(command) => {
            let cluster = match outcome {
                Outcome::Enrolled { cluster, .. } => *cluster,
                Outcome::EnrolmentPending { cluster } => Some(*cluster),
                _ => None,
            };
            of_cluster(cluster).with_text(&token(&command.token))
        }
        Command::RecordCertificate(command) => party(&command.party),
        Command::RevokeParty(command) => party(&command.party),
        Command::DecideEnrolment(command) => Subject::cluster(command.cluster),
        Command::RequestAct(command) => match &command.what {
            DelayedAct::DeleteCluster { cluster } => {
                Subject::cluster(*cluster).with_text("delete the cluster")
            }
            DelayedAct::ShortenDelay { delay_ms } => {
                Subject::text(&format!("wait {delay_ms} ms and no longer"))
            }
        },
        Command::DecideAct(command) => Subject::text(&format!("act {}", command.act)),
        Command::PerformAct(command) => Subject::text(&format!("act {}", command.act)),
        Command::SetActDelay(command) => Subject::text(&format!("wait {} ms", command.delay_ms)),
        Command::RecordHolders(_)
        | Command::RecordObjects(_)
        | Command::AnnounceObject(_)
        | Command::ExpireLeases(_)
        | Command::ExpireSessions(_)
        | Command::SealChange(_)
        | Command::SealSnapshot(_)
        | Command::RestorePiece(_)
        | Command::AbandonRestore(_)
        | Command::SetBundleHome(SetBundleHome::Settle { .. })
        | Command::SetAuthority(_)
        | Command::ConfirmTime(_) => Subject::default(),
    }
}

fn keys(state: &State, command: &KeysCommand) -> Subject {
    match command {
        KeysCommand::RotateRecovery(command) => {
            Subject::text(&format!("to {}", command.successor.fingerprint()))
        }
        KeysCommand::ReplaceWraps(command) => {
            let subject = Subject::cluster(command.cluster);
            subject.with_text(&format!("of key bundle {}", command.key_bundle.short()))
        }
        KeysCommand::FinishRotation => {
            let key = state.fleet().map(|fleet| fleet.recovery.fingerprint().to_string());
            Subject::text(&format!("to {}", key.unwrap_or_default()))
        }
        KeysCommand::BeginLineage(command) => Subject::cluster(command.cluster).with_text(
            &format!("lineage {} under {}", command.lineage, command.signing_key.fingerprint()),
        ),
        KeysCommand::ApproveLineage(command) => Subject::cluster(command.cluster)
            .with_text(&command.signing_key.fingerprint().to_string()),
        KeysCommand::OrderKeys(command) => {
            let which = match (command.kek, command.dek) {
                (true, true) => "kek and dek",
                (true, false) => "kek",
                (false, _) => "dek",
            };
            Subject::cluster(command.cluster).with_text(which)
        }
        KeysCommand::RecordKeys(command) => Subject::cluster(command.cluster)
            .with_text(&format!("kek order {}, dek order {}", command.kek, command.dek)),
        KeysCommand::AttestShare(command) => {
            Subject::text(&format!("share {} of set {}", command.index, hex::encode(command.set)))
        }
    }
}

fn of_cluster(cluster: Option<ClusterId>) -> Subject {
    Subject { cluster, ..Subject::default() }
}

fn added(outcome: &Outcome) -> Subject {
    match outcome {
        Outcome::NodeAdded { node } => Subject::node(*node),
        _ => Subject::default(),
    }
}

fn finding(key: &FindingKey) -> Subject {
    let of = match key.scope {
        Scope::Fleet => Subject::default(),
        Scope::Node(node) => Subject::node(node),
        Scope::Cluster(cluster) => Subject::cluster(cluster),
    };
    of.with_text(&key.kind)
}

fn party(party: &PartyId) -> Subject {
    match party {
        PartyId::Coordinator(node) => Subject::node(*node),
        PartyId::Agent(cluster) => Subject::cluster(*cluster),
        PartyId::Operator(name) => Subject::text(&format!("operator {name}")),
    }
}

/// Enough of a token's hash to tell tokens apart.
fn token(hash: &[u8; 32]) -> String {
    format!("token {}", hex::encode(&hash[..8]))
}
