//! What the state knows of keys without holding one: the recovery keys that came before the fleet's
//! and who renewed what was sealed to them, the lineages that clusters began after a loss, which
//! keys an operator wants changed, and which holders showed their share.

mod lineage;
mod rotation;

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, Vector};
use proto_types::{BundleId, ClusterId, Epoch, KeyFingerprint, LeaseId, LogTime, SigningPublicKey};

use crate::apply::Context;
use crate::command::AddedBundle;
use crate::outcome::Outcome;
use crate::refusal::{Field, KeysProblem, Refusal};
use crate::rows::RecoveryPublicKey;
use crate::state::State;
use crate::{clusters, fleet};

pub(crate) use lineage::proofs;
pub(crate) use rotation::number_of;

/// Kind of the finding about a lineage that waits for an operator.
pub const LINEAGE_UNAPPROVED: &str = "key-lineage-unapproved";
/// Kind of the finding about holders who did not show their shares.
pub const SHARES_NOT_ATTESTED: &str = "recovery-shares-not-attested";
/// A share that was not shown for so long counts as lost: 180 days.
pub const ATTEST_MS: u64 = 180 * 24 * 60 * 60 * 1000;

/// Successions of the recovery key that a fleet keeps: more than one a year for ever.
const FORMER_MAX: usize = 256;
/// Shares whose holders are remembered: those of several sets.
const ATTESTS_MAX: usize = 1024;
/// Most shares of a set.
const SHARES_MAX: u8 = 64;

/// About keys. Each is a command of its own; together they are one in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysCommand {
    /// Lets another recovery key follow the fleet's. Agents and coordinators renew what is sealed to
    /// the one before; both open what they opened, until that is done.
    RotateRecovery(RotateRecovery),
    /// Puts wraps sealed to the fleet's recovery key in the place of older ones of the same key bundle.
    ReplaceWraps(Box<ReplaceWraps>),
    /// The rotation is over: nothing is sealed to a former key. Proposed by the leader.
    FinishRotation,
    /// A cluster's agent lost keys and begins anew.
    BeginLineage(BeginLineage),
    /// An operator says that a new signing key is the cluster's.
    ApproveLineage(ApproveLineage),
    /// An operator wants a cluster's KEK or data key changed.
    OrderKeys(OrderKeys),
    /// An agent says that it did.
    RecordKeys(RecordKeys),
    /// A holder showed a share.
    AttestShare(AttestShare),
}

impl KeysCommand {
    /// The command's name, for logs and metric labels.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RotateRecovery(_) => "rotate_recovery",
            Self::ReplaceWraps(_) => "replace_wraps",
            Self::FinishRotation => "finish_rotation",
            Self::BeginLineage(_) => "begin_lineage",
            Self::ApproveLineage(_) => "approve_lineage",
            Self::OrderKeys(_) => "order_keys",
            Self::RecordKeys(_) => "record_keys",
            Self::AttestShare(_) => "attest_share",
        }
    }
}

/// See [`KeysCommand::RotateRecovery`]. The same one again answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotateRecovery {
    /// The key that follows.
    pub successor: RecoveryPublicKey,
    /// Over the [`proto_types::RecoverySuccession`], by the fleet's recovery key.
    pub signature: [u8; 64],
    /// The root authority's key, sealed to the successor; empty in a fleet without one.
    pub sealed_root_key: Vec<u8>,
}

/// See [`KeysCommand::ReplaceWraps`]. Once done it answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplaceWraps {
    /// Whose.
    pub cluster: ClusterId,
    /// What they open.
    pub key_bundle: BundleId,
    /// The upload that brought the new file.
    pub lease: LeaseId,
    /// The new file, as in a commit.
    pub wraps: AddedBundle,
}

/// See [`KeysCommand::BeginLineage`]. The same one again answers the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeginLineage {
    /// The agent's cluster.
    pub cluster: ClusterId,
    /// The agent's epoch.
    pub epoch: Epoch,
    /// The cluster's lineage and one.
    pub lineage: u32,
    /// The key that signs from here on.
    pub signing_key: SigningPublicKey,
    /// Over the [`proto_types::LineageStatement`], by that key.
    pub signature: [u8; 64],
}

/// See [`KeysCommand::ApproveLineage`]. Once done it answers the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApproveLineage {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The key that was compared.
    pub signing_key: SigningPublicKey,
}

/// See [`KeysCommand::OrderKeys`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderKeys {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Its KEK.
    pub kek: bool,
    /// The key that new data is sealed under.
    pub dek: bool,
}

/// See [`KeysCommand::RecordKeys`]. Numbers only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordKeys {
    /// The agent's cluster.
    pub cluster: ClusterId,
    /// The agent's epoch.
    pub epoch: Epoch,
    /// The order for the KEK that was fulfilled last.
    pub kek: u64,
    /// The order for the data key that was fulfilled last.
    pub dek: u64,
}

/// See [`KeysCommand::AttestShare`]. The share itself never comes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttestShare {
    /// Which set.
    pub set: [u8; 5],
    /// Fingerprint of the recovery key that the set is of.
    pub key: KeyFingerprint,
    /// The share's number, from 1.
    pub index: u8,
    /// How many rebuild the key.
    pub threshold: u8,
    /// How many there are.
    pub total: u8,
}

/// A recovery key that another one followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerKey {
    /// Its public halves.
    pub key: RecoveryPublicKey,
    /// What it said of its successor: the next of these, or the fleet's.
    pub signature: [u8; 64],
    /// Log time of the succession.
    pub since: LogTime,
    /// Whether nothing is sealed to it any more.
    pub finished: bool,
}

/// When a share was shown last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attest {
    /// Log time.
    pub at: LogTime,
    /// How many rebuild the key.
    pub threshold: u8,
    /// How many shares its set has.
    pub total: u8,
}

/// What is wanted of a cluster's keys: numbers of orders, 0 before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyOrders {
    /// Orders for the KEK.
    pub kek: u64,
    /// Those that were fulfilled.
    pub kek_done: u64,
    /// Orders for the data key.
    pub dek: u64,
    /// Those that were fulfilled.
    pub dek_done: u64,
}

/// The signing keys of a cluster that began a lineage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// Signing keys before the one of the cluster, oldest first.
    pub former: Vec<SigningPublicKey>,
    /// Since when the cluster's key waits for an operator.
    pub unapproved: Option<LogTime>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct KeyBook {
    /// Oldest first.
    pub(crate) former: Vector<Arc<FormerKey>>,
    /// Of the fleet's recovery key, by set and index.
    pub(crate) attests: OrdMap<([u8; 5], u8), Attest>,
    pub(crate) orders: OrdMap<ClusterId, KeyOrders>,
    pub(crate) lineages: OrdMap<ClusterId, Arc<Lineage>>,
}

pub(crate) fn refused(problem: KeysProblem) -> Refusal {
    Refusal::KeysRefused { problem }
}

pub(crate) fn run(
    state: &mut State,
    context: &mut Context<'_>,
    command: &KeysCommand,
) -> Result<Outcome, Refusal> {
    fleet::require(state)?;
    match command {
        KeysCommand::RotateRecovery(command) => rotation::begin(state, context, command),
        KeysCommand::ReplaceWraps(command) => rotation::replace(state, context, command),
        KeysCommand::FinishRotation => rotation::finish(state),
        KeysCommand::BeginLineage(command) => lineage::begin(state, context, command),
        KeysCommand::ApproveLineage(command) => lineage::approve(state, context, *command),
        KeysCommand::OrderKeys(command) => order(state, *command),
        KeysCommand::RecordKeys(command) => record(state, *command),
        KeysCommand::AttestShare(command) => attest(state, context, *command),
    }
}

fn order(state: &mut State, command: OrderKeys) -> Result<Outcome, Refusal> {
    clusters::require(state, &command.cluster)?;
    if !command.kek && !command.dek {
        return Err(Refusal::InvalidField { field: Field::KeyOrder });
    }
    let mut orders = state.key_orders(&command.cluster);
    // One that is not fulfilled yet stands for this one, too.
    if command.kek && orders.kek == orders.kek_done {
        orders.kek += 1;
    }
    if command.dek && orders.dek == orders.dek_done {
        orders.dek += 1;
    }
    state.keys.orders.insert(command.cluster, orders);
    Ok(Outcome::KeysOrdered { kek: orders.kek, dek: orders.dek })
}

fn record(state: &mut State, command: RecordKeys) -> Result<Outcome, Refusal> {
    clusters::require_epoch(state, &command.cluster, command.epoch)?;
    let mut orders = state.key_orders(&command.cluster);
    if command.kek > orders.kek || command.dek > orders.dek {
        return Err(Refusal::InvalidField { field: Field::KeyOrder });
    }
    let before = orders;
    orders.kek_done = orders.kek_done.max(command.kek);
    orders.dek_done = orders.dek_done.max(command.dek);
    if orders != before {
        state.keys.orders.insert(command.cluster, orders);
    }
    Ok(Outcome::KeysNoted { new: orders != before })
}

fn attest(
    state: &mut State,
    context: &Context<'_>,
    command: AttestShare,
) -> Result<Outcome, Refusal> {
    let AttestShare { set, key, index, threshold, total } = command;
    if !(2..=total).contains(&threshold) || total > SHARES_MAX || !(1..=total).contains(&index) {
        return Err(Refusal::InvalidField { field: Field::Share });
    }
    if fleet::require(state)?.recovery.fingerprint() != key {
        return Err(refused(KeysProblem::OtherRecoveryKey));
    }
    let mut of_set = state.keys.attests.iter().filter(|((of, _), _)| *of == set);
    if of_set.any(|(_, known)| (known.threshold, known.total) != (threshold, total)) {
        return Err(Refusal::InvalidField { field: Field::Share });
    }
    let row = Attest { at: context.now, threshold, total };
    if state.keys.attests.len() >= ATTESTS_MAX && !state.keys.attests.contains_key(&(set, index)) {
        return Err(refused(KeysProblem::TooMany));
    }
    let new = state.keys.attests.insert((set, index), row).is_none();
    Ok(Outcome::KeysNoted { new })
}

/// How many holders showed their shares lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attested {
    /// In the last 180 days, of the set that most showed.
    pub holders: usize,
    /// How many rebuild the key; 0: no holder ever told.
    pub threshold: u8,
    /// Whether too few did, for 180 days since the key was made.
    pub is_overdue: bool,
}

impl State {
    /// What is wanted of a cluster's keys.
    #[must_use]
    pub fn key_orders(&self, cluster: &ClusterId) -> KeyOrders {
        self.keys.orders.get(cluster).copied().unwrap_or_default()
    }

    /// The recovery keys before the fleet's, oldest first.
    pub fn former_recovery_keys(&self) -> impl Iterator<Item = &FormerKey> {
        self.keys.former.iter().map(AsRef::as_ref)
    }

    /// The shares of the fleet's recovery key that were shown, by set and number.
    pub fn attests(&self) -> impl Iterator<Item = (&([u8; 5], u8), &Attest)> {
        self.keys.attests.iter()
    }

    /// The signing keys of a cluster that began a lineage.
    #[must_use]
    pub fn lineage_of(&self, cluster: &ClusterId) -> Option<&Lineage> {
        self.keys.lineages.get(cluster).map(AsRef::as_ref)
    }

    /// Whether enough holders showed their shares, as of `now`.
    #[must_use]
    pub fn attested(&self, now: LogTime) -> Attested {
        let made = self.keys.former.last().map(|former| former.since);
        let made = made.or_else(|| self.fleet().map(|fleet| fleet.created)).unwrap_or_default();
        let mut best = Attested { holders: 0, threshold: 0, is_overdue: false };
        let mut sets: BTreeMap<[u8; 5], (usize, u8)> = BTreeMap::new();
        for ((set, _), row) in &self.keys.attests {
            let of = sets.entry(*set).or_insert((0, row.threshold));
            of.0 += usize::from(now.millis_since(row.at) < ATTEST_MS);
        }
        // The set that is nearest to rebuilding the key.
        let key = |(holders, threshold): (usize, u8)| {
            (holders + usize::from(SHARES_MAX)).saturating_sub(usize::from(threshold))
        };
        if let Some((holders, threshold)) = sets.into_values().max_by_key(|of| key(*of)) {
            (best.holders, best.threshold) = (holders, threshold);
        }
        let enough = best.threshold > 0 && best.holders >= usize::from(best.threshold);
        best.is_overdue = !enough && now.millis_since(made) >= ATTEST_MS;
        best
    }
}
