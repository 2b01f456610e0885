//! The data directory under power cuts and lies, while it is made and when it is opened.

use proto_types::{Code, Level};
use storage::disk::sim::{Loss, SimDisk};
use storage::home::DataDir;

use crate::crash::{Scenario, Site, at_every_operation, every_sync_matters};
use crate::world::{HOME, Step, handed_in, home, home_path, identity, open_log, reopen};

/// Made by one process, opened by the next one, which at once acknowledges a vote.
struct HomeStory;

#[derive(Default)]
struct Acknowledged {
    is_made: bool,
    has_voted: bool,
}

impl Scenario for HomeStory {
    type Acknowledged = Acknowledged;

    fn run(&self, disk: &SimDisk, acknowledged: &mut Acknowledged) -> Result<(), String> {
        let made = DataDir::create(handed_in(disk), home_path(), identity());
        acknowledged.is_made = made.is_ok();
        drop(made.map_err(|e| e.to_string())?);
        disk.crash(Loss::Nothing);
        let dir = home(disk).map_err(|e| e.to_string())?;
        let mut log = open_log(&dir).map_err(|e| e.to_string())?;
        Step::Vote(1).perform(&mut log, &Default::default())?;
        acknowledged.has_voted = true;
        Ok(())
    }

    fn check(&self, disk: &SimDisk, acknowledged: &Acknowledged) -> Result<(), String> {
        let is_there = DataDir::is_initialised(disk, home_path()).map_err(|e| e.to_string())?;
        if acknowledged.is_made && !is_there {
            return Err(format!("{HOME} is gone"));
        }
        let found = reopen(disk)?;
        if acknowledged.has_voted && found.vote.is_none() {
            return Err("the vote is gone".to_owned());
        }
        Ok(())
    }
}

/// Of the syncs of a home that is made: /, HOME's content, /home, /home again with its parts, three
/// of the log's, HOME's content, /home; then one of /home whenever it is opened.
pub(crate) fn home_site(number: usize) -> Site {
    match number {
        0 | 1 | 7 | 8 => Site::Always,
        2 | 3 => Site::Excused(
            "keeps a file system from persisting names in another order: HOME `initialising`, the \
             parts, HOME `ready`; the simulated one persists a directory's names together",
        ),
        _ => Site::Excused(
            "matters after a kill while the home is made: \
             home_a_process_killed_before_the_last_sync_does_not_cost_what_the_next_acknowledged",
        ),
    }
}

#[test]
fn home_survives_a_power_cut_at_every_operation() {
    at_every_operation(&HomeStory);
}

#[test]
fn home_every_sync_is_missed_when_left_out() {
    every_sync_matters(&HomeStory, |sync, number| {
        if sync.path.starts_with("/home/log") {
            return Site::Excused("the log has a suite of its own");
        }
        home_site(number)
    });
}

/// Raised by a program of level 2. Whatever happened, that program opens it again; one of level 1
/// does exactly when the level is not above it, and never when the raise was acknowledged.
struct RaiseStory;

impl Scenario for RaiseStory {
    type Acknowledged = bool;

    fn run(&self, disk: &SimDisk, raised: &mut bool) -> Result<(), String> {
        let dir = home(disk).map_err(|e| e.to_string())?;
        dir.raise_level(Level::new(2)).map_err(|e| e.to_string())?;
        *raised = true;
        Ok(())
    }

    fn check(&self, disk: &SimDisk, raised: &bool) -> Result<(), String> {
        let older =
            DataDir::open_or_create_at(handed_in(disk), home_path(), identity(), Level::new(1));
        let level = home_after(older.map(|dir| dir.level()), disk)?;
        if *raised && level != Level::new(2) {
            return Err(format!("the level fell back to {level}"));
        }
        Ok(())
    }
}

/// The directory's level as the newer program finds it, which the older one has to respect.
fn home_after(
    older: Result<Level, storage::home::HomeError>,
    disk: &SimDisk,
) -> Result<Level, String> {
    let level = home(disk).map_err(|e| e.to_string())?.level();
    match older {
        Ok(_) if level == Level::new(1) => Ok(level),
        Err(error) if level == Level::new(2) && error.code() == Code::UnsupportedVersion => {
            Ok(level)
        }
        other => Err(format!("level {level}, and an older program: {other:?}")),
    }
}

#[test]
fn home_raised_survives_a_power_cut_at_every_operation() {
    at_every_operation(&RaiseStory);
}

#[test]
fn home_a_process_killed_before_the_last_sync_does_not_cost_what_the_next_acknowledged() {
    // Counts the operations of making it, then kills the process before the very last: the
    // directory sync that makes `ready` durable. The next process sees `ready` all the same.
    let measured = SimDisk::new();
    drop(home(&measured).unwrap());
    let last = measured.operations();

    let disk = SimDisk::new();
    disk.fail_from(last);
    DataDir::create(handed_in(&disk), home_path(), identity()).unwrap_err();
    disk.crash(Loss::Nothing);
    assert!(DataDir::is_initialised(&disk, home_path()).unwrap(), "`ready` is visible");

    let dir = home(&disk).unwrap();
    let mut log = open_log(&dir).unwrap();
    Step::Vote(5).perform(&mut log, &Default::default()).unwrap();
    drop((log, dir));
    disk.crash(Loss::Unsynced);
    assert_eq!(reopen(&disk).unwrap().vote.unwrap().leader_id.term, 5);
}
