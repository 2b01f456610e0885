//! The leader's rounds: asks every member, takes note, and acts on what the pure parts decide. Every
//! act is a log entry or a transfer; whoever leads next begins anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coordinator_core::{
    ClearFinding, Command, FindingKey, FreezeTime, RaiseFinding, RaiseLevel, Scope, Severity,
};
use proto::env::Env;
use proto::{ApiError, v1};
use proto_types::{Level, LogTime, NodeId};

use super::hot::{self, Voter};
use super::lasting::Lasting;
use super::log_clock::{self, Verdict};
use super::{Answer, HEARD_MS};
use crate::peers::Peers;
use crate::raft::{Published, RaftNode};
use crate::service::core_request;
use crate::telemetry;

/// Between two rounds.
const EVERY_MS: u64 = 1000;
/// Between two looks at whether this node leads: the first round of a leader is not to wait.
const LOOK: Duration = Duration::from_millis(50);
/// Who has not answered in this time is asked again in the next round.
const DEADLINE: Duration = Duration::from_millis(800);

/// A clock that is this far from log time is a finding,
const SKEW_MS: u64 = 10_000;
/// once it has been for this long, and no more when it was not for as long.
const SKEW_LASTS_MS: u64 = 10_000;

const CLOCK_SKEWED: &str = "clock-skewed";
const CLOCK_BEHIND: &str = "clock-behind";
const DISK_SLOW: &str = "disk-slow";

/// Holds the roll call as often as this node leads, until dropped.
pub(crate) async fn hold(env: &Env, raft: &RaftNode, peers: &Peers) {
    let mut caller = Caller {
        env,
        raft,
        peers,
        skewed: Lasting::default(),
        slow: Lasting::default(),
        moved_ms: None,
    };
    let mut last_ms = None;
    let mut was_leader = false;
    loop {
        let now_ms = env.clock.elapsed_millis();
        let status = raft.status();
        if status.is_leader {
            let is_due = last_ms.is_none_or(|last| now_ms >= EVERY_MS.saturating_add(last));
            if is_due || !was_leader {
                last_ms = Some(now_ms);
                caller.round(!was_leader).await;
            }
        } else if was_leader {
            telemetry::leads_no_more(raft.membership().members.keys().copied());
        }
        was_leader = status.is_leader;
        tokio::time::sleep(LOOK).await;
    }
}

struct Caller<'a> {
    env: &'a Env,
    raft: &'a RaftNode,
    peers: &'a Peers,
    skewed: Lasting,
    slow: Lasting,
    /// When this node last gave leadership away for its slow disk.
    moved_ms: Option<u64>,
}

impl Caller<'_> {
    async fn round(&mut self, is_first: bool) {
        if is_first {
            self.skewed = Lasting::default();
            self.slow = Lasting::default();
        }
        let members: BTreeSet<NodeId> = self.raft.membership().members.into_keys().collect();
        self.ask(&members).await;
        let view = self.raft.local();
        let roll = self.raft.roll();
        let state = &view.state;
        let verdict =
            roll.judge(&self.raft.membership().voters, state.log_time(), state.time_is_frozen());
        roll.rounds.send_modify(|rounds| *rounds += 1);
        telemetry::leads(&self.raft.leader_figures(), &self.clock_offsets());
        // Each may fail when leadership ends meanwhile: the next leader does it.
        for acted in [
            self.level(&view, &members).await,
            self.time(&view, verdict).await,
            self.skews(&view).await,
            self.disks(&view).await,
        ] {
            if let Err(error) = acted {
                tracing::debug!(%error, "a part of the roll call was not acted on; it will be");
            }
        }
    }

    async fn ask(&self, members: &BTreeSet<NodeId>) {
        let roll = self.raft.roll();
        let log_time = roll.log_clock().now(self.env.clock.elapsed_millis());
        let request = v1::GetNodeStatusRequest {
            log_time_ms: log_time.map_or(0, LogTime::as_millis),
            brief: true,
        };
        let others = members.iter().filter(|node| **node != self.raft.this());
        let asked = others.filter_map(|node| Some((*node, self.peers.get(*node)?))).map(
            async |(node, mut peer)| {
                let answer = tokio::time::timeout(DEADLINE, peer.get_node_status(request)).await;
                let at_ms = self.env.clock.elapsed_millis();
                match answer {
                    Ok(Ok(status)) => Some((node, Answer::of(&status.into_inner(), at_ms))),
                    Ok(Err(_)) | Err(_) => None,
                }
            },
        );
        let answers = futures::future::join_all(asked).await;
        let mut own = v1::GetNodeStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        };
        roll.tell(self.raft.local().state.level(), &mut own);
        let own = Answer::of(&own, self.env.clock.elapsed_millis());
        let mut heard = roll.heard();
        heard.retain(|node, _| members.contains(node));
        heard.extend(answers.into_iter().flatten().chain([(self.raft.this(), own)]));
    }

    async fn propose(&self, command: Command) -> Result<(), ApiError> {
        let (outcome, _) = self.raft.propose_here(core_request(None, command)).await?;
        match outcome.refusal() {
            None => Ok(()),
            Some(refusal) => Err(ApiError::new(refusal.code(), refusal.to_string())),
        }
    }

    /// Raises a finding that does not stand yet, or clears one that does.
    async fn finding(
        &self,
        view: &Published,
        stands: Option<RaiseFinding>,
        key: FindingKey,
    ) -> Result<(), ApiError> {
        let is_there = view.state.findings_of(key.scope).any(|(found, _)| *found == key);
        match stands {
            Some(finding) if !is_there => self.propose(Command::RaiseFinding(finding)).await,
            None if is_there => self.propose(Command::ClearFinding(ClearFinding { key })).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn level(&self, view: &Published, members: &BTreeSet<NodeId>) -> Result<(), ApiError> {
        let active = view.state.level();
        let wanted = Level::new(active.get().saturating_add(1));
        if wanted > self.raft.roll().levels().max {
            return Ok(());
        }
        match self.raft.roll().supported(members, wanted) {
            Ok(to) => {
                self.propose(Command::RaiseLevel(RaiseLevel { to })).await?;
                tracing::info!(event = "level_raised", from = active.get(), to = to.get());
                Ok(())
            }
            Err(held_back) => {
                tracing::debug!(?held_back, "the level stays {active}");
                Ok(())
            }
        }
    }

    async fn time(&self, view: &Published, verdict: Verdict) -> Result<(), ApiError> {
        let state = &view.state;
        if let Some(freeze) = state.freeze() {
            let finding = freeze.raise();
            let key = finding.key.clone();
            return self.finding(view, Some(finding), key).await;
        }
        if state.fleet().is_none() {
            return Ok(());
        }
        match verdict {
            Verdict::Jumped(jump) => {
                if !state.can_freeze_time() {
                    return Ok(());
                }
                tracing::error!(
                    event = "clock_jumped",
                    by_ms = jump.by_ms,
                    elapsed_known = jump.elapsed_known,
                    "{}",
                    jump.message()
                );
                self.propose(Command::FreezeTime(FreezeTime { jump })).await
            }
            Verdict::Median { behind_ms } => {
                let key = fleet_key(CLOCK_BEHIND);
                let is_behind = behind_ms > log_clock::JUMP_MS;
                let finding = is_behind.then(|| behind(key.clone(), behind_ms));
                // It stands until the clocks are there, and not only until they are near.
                if is_behind || behind_ms == 0 {
                    self.finding(view, finding, key).await?;
                }
                Ok(())
            }
            Verdict::TooFew | Verdict::Frozen => Ok(()),
        }
    }

    /// Milliseconds of every node's clock after log time.
    fn clock_offsets(&self) -> BTreeMap<NodeId, i64> {
        let roll = self.raft.roll();
        let now_ms = self.env.clock.elapsed_millis();
        let Some(time) = roll.log_clock().now(now_ms) else { return BTreeMap::new() };
        let heard = roll.clocks();
        let recent = heard.iter().filter(|h| h.at_ms.saturating_add(HEARD_MS) >= now_ms);
        recent.map(|h| (h.node, log_clock::difference(h.at(now_ms), time))).collect()
    }

    async fn skews(&mut self, view: &Published) -> Result<(), ApiError> {
        if view.state.fleet().is_none() || view.state.time_is_frozen() {
            return Ok(());
        }
        let now_ms = self.env.clock.elapsed_millis();
        for (node, offset) in self.clock_offsets() {
            let is_off = offset.unsigned_abs() > SKEW_MS;
            let Some(is_off) = self.skewed.note(node, is_off, now_ms, SKEW_LASTS_MS) else {
                continue;
            };
            let key = node_key(node, CLOCK_SKEWED);
            let finding = is_off.then(|| skewed(key.clone(), node, offset));
            self.finding(view, finding, key).await?;
        }
        Ok(())
    }

    async fn disks(&mut self, view: &Published) -> Result<(), ApiError> {
        let now_ms = self.env.clock.elapsed_millis();
        let this = self.raft.this();
        let Some(voting) = self.raft.membership().voters.settled().cloned() else {
            return Ok(());
        };
        if view.state.fleet().is_none() {
            return Ok(());
        }
        let voters: BTreeMap<NodeId, Voter> = {
            let heard = self.raft.roll().heard();
            let of = |node: &NodeId| {
                let answer = heard.get(node).filter(|a| a.at_ms + HEARD_MS >= now_ms);
                let syncs = answer.map(|answer| answer.syncs).unwrap_or_default();
                Voter { syncs, is_ready: self.raft.is_ready(*node) }
            };
            voting.iter().map(|node| (*node, of(node))).collect()
        };
        let mut leader_is_slow = false;
        for node in &voting {
            let Some(is_slow) = hot::is_slow(*node, &voters) else {
                self.slow.forget(*node);
                continue;
            };
            let Some(is_slow) = self.slow.note(*node, is_slow, now_ms, hot::LASTS_MS) else {
                continue;
            };
            leader_is_slow |= is_slow && *node == this;
            let key = node_key(*node, DISK_SLOW);
            let finding = is_slow.then(|| slow(key.clone(), *node, &voters));
            self.finding(view, finding, key).await?;
        }
        let may_move =
            self.moved_ms.is_none_or(|at| now_ms >= at.saturating_add(hot::MOVE_EVERY_MS));
        if leader_is_slow
            && may_move
            && view.state.change().is_none()
            && let Some(target) = hot::better(this, &voters)
        {
            self.moved_ms = Some(now_ms);
            tracing::warn!(
                event = "leadership_leaves_slow_disk",
                target_node = target.get(),
                own_median_micros = voters[&this].syncs.median_micros,
                target_median_micros = voters[&target].syncs.median_micros,
                "this node's disk is slow: leadership goes to another"
            );
            self.raft.hand_over_to(target).await?;
        }
        Ok(())
    }
}

fn fleet_key(kind: &str) -> FindingKey {
    FindingKey { scope: Scope::Fleet, kind: kind.to_owned(), subject: String::new() }
}

fn node_key(node: NodeId, kind: &str) -> FindingKey {
    FindingKey { scope: Scope::Node(node), kind: kind.to_owned(), subject: String::new() }
}

fn behind(key: FindingKey, behind_ms: u64) -> RaiseFinding {
    RaiseFinding {
        key,
        severity: Severity::Warning,
        message: format!(
            "the voters' clocks are {} minutes before log time, which stands still until they have \
             caught up: new recovery points get no later time, and nothing ends by time",
            behind_ms / 60_000
        ),
        remedy: "compare the coordinators' clocks with the real time; if they were ahead once and \
                 are right now, nothing needs to be done but to wait"
            .to_owned(),
    }
}

fn skewed(key: FindingKey, node: NodeId, offset_ms: i64) -> RaiseFinding {
    let way = if offset_ms < 0 { "behind" } else { "ahead of" };
    RaiseFinding {
        key,
        severity: Severity::Warning,
        message: format!(
            "the clock of node {node} is {} seconds {way} log time; it has no effect while the \
             clocks of most voters are right",
            offset_ms.unsigned_abs() / 1000
        ),
        remedy: "correct its clock, and let it follow a time server; this finding ends by itself"
            .to_owned(),
    }
}

fn slow(key: FindingKey, node: NodeId, voters: &BTreeMap<NodeId, Voter>) -> RaiseFinding {
    let syncs = voters.get(&node).map(|voter| voter.syncs).unwrap_or_default();
    RaiseFinding {
        key,
        severity: Severity::Warning,
        message: format!(
            "the disk of node {node} takes {} ms for a sync of the log (median of the last seconds), \
             many times what another voter's takes; where it led, leadership moves on by itself",
            syncs.median_micros / 1000
        ),
        remedy: "look at what else uses the disk, and at its health; this finding ends by itself"
            .to_owned(),
    }
}
