//! The harness of the crash suites. A scenario does something over a disk and notes what was
//! acknowledged; the harness cuts the power at every operation and asks whether it all is there,
//! then lets the disk lie about one sync after the other and demands that somebody notices.

use std::collections::BTreeMap;

use storage::disk::sim::{Loss, SimDisk, SyncCall};

/// Something that is done over a disk, and what must be true of the disk afterwards.
pub(crate) trait Scenario {
    /// What was acknowledged.
    type Acknowledged: Default;

    /// Does it all, from an empty disk. `Err` when the disk refused, which ends the run.
    fn run(&self, disk: &SimDisk, acknowledged: &mut Self::Acknowledged) -> Result<(), String>;

    /// Opens everything again after a crash and compares. `Err` says what is not as it must be.
    fn check(&self, disk: &SimDisk, acknowledged: &Self::Acknowledged) -> Result<(), String>;
}

/// What a crash may leave of unsynced writes.
pub(crate) const LOSSES: [Loss; 8] = [
    Loss::Nothing,
    Loss::Unsynced,
    Loss::TornLastWrite { kept_bytes: 0 },
    Loss::TornLastWrite { kept_bytes: 1 },
    Loss::TornLastWrite { kept_bytes: 8 },
    Loss::TornLastWrite { kept_bytes: 57 },
    Loss::TornLastWrite { kept_bytes: 100 },
    Loss::TornLastWrite { kept_bytes: usize::MAX },
];

/// Cuts the power before every operation of the scenario, and after its last.
pub(crate) fn at_every_operation<S: Scenario>(scenario: &S) {
    let operations = operations_of(scenario);
    assert!(operations > 10, "the scenario hardly touches the disk");
    for number in 1..=operations + 1 {
        for loss in LOSSES {
            if let Err(problem) = cut(scenario, number, loss, None) {
                panic!("power cut before operation {number} of {operations}, {loss:?}: {problem}");
            }
        }
    }
}

/// How much a sync is asked to matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Site {
    /// Whenever it is done.
    Always,
    /// In at least one of the places of the scenario that give this name.
    Once(&'static str),
    /// Not here: why.
    Excused(&'static str),
}

/// Lets the disk ignore one sync after the other, and demands that some power cut then loses
/// something that was acknowledged.
pub(crate) fn every_sync_matters<S: Scenario>(
    scenario: &S,
    site: impl Fn(&SyncCall, usize) -> Site,
) {
    let disk = SimDisk::new();
    scenario.run(&disk, &mut S::Acknowledged::default()).expect("the scenario works");
    let operations = disk.operations();
    let mut problems = String::new();
    let mut once: BTreeMap<&'static str, bool> = BTreeMap::new();
    for (number, sync) in disk.syncs().into_iter().enumerate() {
        let site = site(&sync, number);
        if matches!(site, Site::Excused(_)) {
            continue;
        }
        let is_noticed = (1..=operations + 1)
            .rev()
            .any(|cut_at| cut(scenario, cut_at, Loss::Unsynced, Some(number)).is_err());
        match site {
            Site::Always if !is_noticed => problems.push_str(&format!("\n#{number} {sync:?}")),
            Site::Once(name) => *once.entry(name).or_default() |= is_noticed,
            Site::Always | Site::Excused(_) => {}
        }
    }
    for (name, is_noticed) in once {
        if !is_noticed {
            problems.push_str(&format!("\nevery one of: {name}"));
        }
    }
    assert!(problems.is_empty(), "nobody misses these syncs:{problems}");
}

/// Cuts the power before one operation, with one sync ignored if asked, and checks.
pub(crate) fn cut<S: Scenario>(
    scenario: &S,
    number: u64,
    loss: Loss,
    ignored_sync: Option<usize>,
) -> Result<(), String> {
    let disk = SimDisk::new();
    disk.fail_from(number);
    if let Some(sync) = ignored_sync {
        disk.ignore_sync(sync);
    }
    let mut acknowledged = S::Acknowledged::default();
    // An error is the power cut, or the scenario itself finding out about the ignored sync.
    let ended = scenario.run(&disk, &mut acknowledged);
    if let Err(problem) = &ended
        && disk.operations() < number
    {
        return Err(problem.clone());
    }
    // Over now, whether it came or not; the check is done on an honest disk.
    disk.fail_from(u64::MAX);
    disk.ignore_sync(usize::MAX);
    disk.crash(loss);
    scenario.check(&disk, &acknowledged)
}

fn operations_of<S: Scenario>(scenario: &S) -> u64 {
    let disk = SimDisk::new();
    let mut acknowledged = S::Acknowledged::default();
    scenario.run(&disk, &mut acknowledged).expect("the scenario works");
    scenario.check(&disk.fork(), &acknowledged).expect("without a crash all is there");
    disk.operations()
}
