//! 10,000 files of 1 to 4 KiB: first backup, unchanged, 1 % changed, restore, stored bytes. Ours
//! is acknowledged when two of three copies are fsynced; restic writes one and fsyncs its packs.

use std::path::Path;

use anyhow::Result;

use crate::backups::{alternate, beside_restic, bytes, find_restic, report_all};
use crate::data;
use crate::figure::{Report, Runs};
use crate::files::require_equal;
use crate::memory::Memory;
use crate::process::Finished;
use crate::progress::say;
use crate::strongroom::{Fleet, Program};

const RUNS: usize = 5;

#[derive(Default)]
struct Results {
    first: Runs,
    unchanged: Runs,
    one_percent: Runs,
    restore: Runs,
    stored_first: Runs,
    stored_all: Runs,
}

/// Measures and reports.
pub(crate) fn measure(
    program: &Program,
    work: &Path,
    report: &mut Report,
    memory: &mut Memory,
) -> Result<()> {
    let restic = find_restic()?;
    let directory = work.join("small-files");
    let source = directory.join("source");
    data::make_small_files(&source)?;
    let mut fleet = Fleet::start(program, &directory.join("fleet"))?;
    let mut results = Results::default();
    for run in 0..RUNS {
        say(&format!("small files, run {} of {RUNS}", run + 1));
        // A cluster and a repository of their own: every first backup is a first one.
        let agent = fleet.enrol(&format!("small-{run}"), &source)?;
        let peer_directory = directory.join(format!("restic-{run}"));
        let repository = restic.as_ref().map(|restic| restic.init(&peer_directory)).transpose()?;
        let repository = repository.as_ref();
        let stored_before = fleet.bytes_of_one_copy()?;
        let stored_by = |fleet: &mut Fleet, runs: &mut Runs| -> Result<()> {
            runs.ours.push(bytes(fleet.bytes_of_one_copy()? - stored_before));
            if let Some(repository) = repository {
                runs.peer.push(bytes(repository.bytes()?));
            }
            Ok(())
        };
        let back_up = |fleet: &Fleet, runs: &mut Runs| {
            let Runs { ours, peer } = runs;
            alternate(
                run,
                &source,
                || push(ours, fleet.backup(&agent)),
                repository.map(|repository| || push(peer, repository.backup(&source))),
            )
        };
        back_up(&fleet, &mut results.first)?;
        stored_by(&mut fleet, &mut results.stored_first)?;
        back_up(&fleet, &mut results.unchanged)?;
        data::change_one_percent(&source, run as u64)?;
        back_up(&fleet, &mut results.one_percent)?;
        stored_by(&mut fleet, &mut results.stored_all)?;

        let (ours, theirs) = (directory.join("restored-ours"), directory.join("restored-restic"));
        let Runs { ours: our_times, peer: their_times } = &mut results.restore;
        alternate(
            run,
            &source,
            || push(our_times, fleet.restore(&agent, &ours)),
            repository.map(|repository| || push(their_times, repository.restore(&theirs))),
        )?;
        require_equal(&source, &ours)?;
        std::fs::remove_dir_all(&ours)?;
        if repository.is_some() {
            require_equal(&source, &theirs)?;
            std::fs::remove_dir_all(&theirs)?;
        }
        agent.stop(memory)?;
    }
    fleet.stop(memory)?;
    std::fs::remove_dir_all(&directory)?;
    report_results(report, &results)
}

fn push(times: &mut Vec<f64>, finished: Result<Finished>) -> Result<()> {
    times.push(finished?.wall.as_secs_f64());
    Ok(())
}

fn report_results(report: &mut Report, results: &Results) -> Result<()> {
    const STATE: &str = "wall time of the command; source in the page cache, nothing dirty; our \
                         agent runs, restic has its default cache";
    report_all(
        report,
        &[
            (beside_restic("small_files_first_backup", "s", Some(2.0), STATE), &results.first),
            (
                beside_restic("small_files_unchanged_backup", "s", Some(2.0), STATE),
                &results.unchanged,
            ),
            (
                beside_restic("small_files_one_percent_backup", "s", Some(2.0), STATE),
                &results.one_percent,
            ),
            (
                beside_restic(
                    "small_files_restore",
                    "s",
                    None,
                    "into an empty directory; ours also syncs the file system and compares every \
                     file with the manifest, restic does neither",
                ),
                &results.restore,
            ),
            (
                beside_restic(
                    "small_files_stored_first",
                    "bytes",
                    Some(1.0),
                    "one copy after the first backup: bundle files of one coordinator; restic's \
                     whole repository, format 2, compressing",
                ),
                &results.stored_first,
            ),
            (
                beside_restic(
                    "small_files_stored_after_one_percent",
                    "bytes",
                    Some(1.0),
                    "one copy after the first, the unchanged and the 1 % backup",
                ),
                &results.stored_all,
            ),
        ],
    )
}
