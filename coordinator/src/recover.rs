//! Making the coordinator that is left the only voter, after a majority was lost for good. Looks
//! first, without changing a byte, so that a person can decide; then writes everything in one batch
//! to the log of the stopped node. Killed in between it is recovered or it is not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coordinator_core::{Command, RecordHolders, RecoverByForce, State, Voters, limits};
use proto::ApiError;
use proto::env::Env;
use proto_types::{BundleId, Code, LogIndex, LogTime, NodeId};
use storage::bundles::{BundleStore, FileBundleStore};
use storage::disk::{Disk, ReadOnlyDisk, RealDisk};
use storage::home::{DataDir, HomeIdentity};
use storage::log::LogOptions;
use storage::raft_log::{LogContents, RaftLogStore};
use storage::raft_types::LogId;
use storage::snapshots::SnapshotStore;
use storage::spawn::Driver;

use crate::config::{Config, Member};
use crate::keeper::chain;
use crate::peers::Peers;
use crate::raft::{Replayed, entries_of_one, replay};
use crate::server::load_tls;
use crate::wiped;

/// Most of what a disk turned out to hold, or not, that is recorded with the recovery. Whatever is
/// more is recorded once the node runs.
const HOLDERS_RECORDED_MAX: usize = 64;

/// What a forced recovery would do, and what it would cost.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The node that would be the only voter.
    pub node: NodeId,
    /// Itself, as the others know it.
    pub member: Member,
    /// All others that belong to the fleet; they would be removed.
    pub others: BTreeMap<NodeId, Member>,
    /// Those that vote now.
    pub voters: Voters,
    /// The last log entry here.
    pub last_index: LogIndex,
    /// Term of that entry.
    pub last_term: u64,
    /// Up to here the log is known to be committed; what follows would become so.
    pub committed_index: LogIndex,
    /// Log time of the last entry.
    pub log_time: LogTime,
    /// Recovery points in the state.
    pub points: u64,
    /// Needed bundles that this node does not hold.
    pub lost_bundles: u64,
    /// Recovery points that need one of them.
    pub lost_points: u64,
    /// Forced recoveries that the fleet went through already.
    pub recoveries: u64,
}

impl Plan {
    /// Whether there is nothing to do: this node is the only voter already.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.voters.settled() == Some(&BTreeSet::from([self.node])) && self.others.is_empty()
    }
}

/// Another coordinator that answers although it should be lost.
#[derive(Debug, Clone)]
pub struct Answering {
    /// Which.
    pub node: NodeId,
    /// The last entry of its log.
    pub last_index: u64,
    /// Its term.
    pub term: u64,
}

fn refusal(code: Code, error: &dyn std::error::Error) -> ApiError {
    ApiError::new(
        code,
        format!(
            "{}. Nothing is recovered by force from a directory that is not whole: take another \
             coordinator's, or export what this one holds with `strongroom backup export --offline`",
            chain(error)
        ),
    )
}

/// The parts of a directory that is whole, and what they amount to.
struct Looked {
    log: LogContents,
    last: LogId,
    plan: Plan,
    state: State,
    held: BTreeSet<BundleId>,
}

fn look(config: &Config, home: &DataDir, held: BTreeSet<BundleId>) -> Result<Looked, ApiError> {
    let this = config.node_id;
    let (snapshot, _) = SnapshotStore::look(home).map_err(|e| refusal(e.code(), &e))?;
    let log = LogContents::read(home).map_err(|e| refusal(e.code(), &e))?;
    let replayed = replay(snapshot.as_ref(), &log)?;
    let Replayed { state, last, committed, voters, mut members, has_gap, carried: _ } = replayed;
    if has_gap {
        return Err(ApiError::new(
            Code::Damaged,
            "no good snapshot reaches to where the log begins: the state cannot be rebuilt here",
        ));
    }
    let (Some(last), Some(member)) = (last, members.remove(&this)) else {
        return Err(ApiError::new(
            Code::Conflict,
            format!(
                "node {this} never took part in the fleet, as far as its directory says: there is \
                 nothing to recover from it"
            ),
        ));
    };
    if state.was_removed(this) {
        return Err(wiped::removed(this));
    }
    if state.fleet().is_none() {
        return Err(ApiError::new(
            Code::Conflict,
            "the fleet was never created: wipe the directories and start the coordinators anew",
        ));
    }
    // What is in the bucket is not on this disk and not lost either.
    let in_bucket = |id: &BundleId| state.bundle(id).is_some_and(|row| row.object.is_some());
    let is_lost = |id: &BundleId| !held.contains(id) && !in_bucket(id);
    let points: Vec<_> = state.clusters().flat_map(|cluster| state.points(&cluster.id)).collect();
    let lost_points = points.iter().filter(|p| p.needs.iter().any(is_lost)).count() as u64;
    let others = members.into_iter().filter(|(id, _)| !state.was_removed(*id)).collect();
    let plan = Plan {
        node: this,
        member,
        others,
        voters,
        last_index: LogIndex::new(last.index),
        last_term: last.leader_id.term,
        committed_index: committed,
        log_time: state.log_time(),
        points: points.len() as u64,
        lost_bundles: state.bundles().filter(|(id, _)| is_lost(id)).count() as u64,
        lost_points,
        recoveries: state.recovery_count(),
    };
    Ok(Looked { log, last, plan, state, held })
}

fn open_home(config: &Config, disk: Arc<dyn Disk>) -> Result<DataDir, ApiError> {
    let identity = HomeIdentity { fleet: config.fleet.id, node: config.node_id };
    DataDir::open(disk, &config.data_dir, identity)
        .map_err(|error| ApiError::new(error.code(), chain(&error)))
}

fn held(store: &FileBundleStore) -> Result<BTreeSet<BundleId>, ApiError> {
    let held = store.list().map_err(|error| refusal(error.code(), &error))?;
    Ok(held.into_iter().map(|bundle| bundle.id).collect())
}

async fn blocking<T: Send + 'static>(
    env: &Env,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = env.blocking("recover", work).await;
    done.map_err(|error| ApiError::new(Code::Internal, error.to_string()))?
}

/// Reads the node's directory, which must be whole, without changing a byte of it.
///
/// # Errors
/// `BUSY` while the coordinator runs; when the directory is damaged, of another node, or never
/// took part.
pub async fn examine(config: &Config, env: &Env) -> Result<Plan, ApiError> {
    let config = config.clone();
    blocking(env, move || {
        let home = open_home(&config, Arc::new(ReadOnlyDisk))?;
        let held = held(&FileBundleStore::look(&home))?;
        Ok(look(&config, &home, held)?.plan)
    })
    .await
}

/// Asks the others, as the config and the plan know them, whether they are truly gone.
///
/// # Errors
/// When the node's certificate cannot be used.
pub async fn answering(
    config: &Config,
    env: &Env,
    plan: &Plan,
) -> Result<Vec<Answering>, ApiError> {
    let tls = load_tls(config)?;
    let connect = Duration::from_millis(config.raft.election_timeout_min_ms);
    let peers = Peers::new(env, config.fleet.id, config.node_id, &config.members, &tls, connect)?;
    peers.say(config.upgrade.levels());
    peers.learn(&plan.others);
    let answers = wiped::ask(&peers).await.into_iter();
    Ok(answers
        .map(|(node, answer)| Answering {
            node,
            last_index: answer.last_log_index,
            term: answer.term,
        })
        .collect())
}

/// Whether those that answer could go on without any force.
#[must_use]
pub fn is_unneeded(plan: &Plan, answering: &[Answering]) -> bool {
    let mut there: BTreeSet<NodeId> = answering.iter().map(|other| other.node).collect();
    there.insert(plan.node);
    plan.voters.have_majority(&there)
}

/// Writes it: after this, the node starts as the only voter of the fleet. Gives the index of the
/// entry that says so.
///
/// # Errors
/// When the directory is not what was examined any more, is damaged, or the disk says no.
pub async fn force(config: &Config, env: &Env, expected: &Plan) -> Result<LogIndex, ApiError> {
    let (config, expected) = (config.clone(), expected.clone());
    let now = env.clock.now();
    let opening = move || {
        let home = open_home(&config, Arc::new(RealDisk))?;
        // Opened as the coordinator itself does, so that what it would refuse is refused here.
        let store = RaftLogStore::open(&home, LogOptions::default(), Driver::threads())
            .map_err(|error| refusal(error.code(), &error))?;
        SnapshotStore::open(&home, store.bounds()).map_err(|e| refusal(e.code(), &e))?;
        let held = held(&FileBundleStore::look(&home))?;
        let looked = look(&config, &home, held)?;
        if looked.plan.last_index != expected.last_index {
            return Err(ApiError::new(
                Code::Conflict,
                "the directory has changed since it was examined: begin again",
            ));
        }
        let plan = &looked.plan;
        let mut commands = holders(&looked);
        commands.push(Command::RecoverByForce(Box::new(RecoverByForce {
            node: plan.node,
            name: plan.member.name.clone(),
            address: plan.member.address.clone(),
            members: plan.others.keys().copied().chain([plan.node]).collect(),
            committed: plan.committed_index,
        })));
        let (node, last) = (plan.node, looked.last);
        let made = entries_of_one(node, &plan.member, last, &looked.log, now, commands)?;
        Ok((store, made))
    };
    let (store, (vote, entries)) = blocking(env, opening).await?;
    let index = entries.last().map_or(0, |entry| entry.log_id.index);
    let failed = |error: &dyn std::error::Error| {
        ApiError::new(
            Code::LocalIo,
            format!(
                "the log could not be written ({}): nothing is certain, so run it again",
                chain(error)
            ),
        )
    };
    store.append_whole(vote, entries).await.map_err(|error| failed(&error))?;
    store.close().await.map_err(|error| failed(&error))?;
    Ok(LogIndex::new(index))
}

/// What the disk holds that the state does not know, and the other way round.
fn holders(looked: &Looked) -> Vec<Command> {
    let this = looked.plan.node;
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    for (id, row) in looked.state.bundles() {
        match (looked.held.contains(id), row.holders.contains(&this)) {
            (true, false) => present.push(*id),
            (false, true) => absent.push(*id),
            _ => {}
        }
    }
    let half = limits::RECORDED_HOLDERS_MAX / 2;
    let rounds = present.len().max(absent.len()).div_ceil(half).min(HOLDERS_RECORDED_MAX);
    let part = |ids: &[BundleId], round: usize| {
        ids.iter().skip(round * half).take(half).copied().collect::<Vec<_>>()
    };
    (0..rounds)
        .map(|round| {
            Command::RecordHolders(RecordHolders {
                node: this,
                present: part(&present, round),
                absent: part(&absent, round),
                home: looked.state.home().changed,
            })
        })
        .collect()
}
