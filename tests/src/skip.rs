//! Tests that cannot run everywhere say so, and on a machine where they must run they fail
//! instead: `STRONGROOM_E2E=required`. The conditions stand here, so that the last test can list
//! what was not shown.

use std::io::Write;
use std::path::PathBuf;

use crate::binary::workspace;
use crate::netns::Net;
use crate::tmpfs::Tmpfs;

/// Real manifests, kept beside the repository.
#[must_use]
pub fn kube_prometheus() -> Option<PathBuf> {
    let path = workspace().parent()?.join("shared/data/kube-prometheus");
    path.is_dir().then_some(path)
}

/// What some tests need beyond a Linux machine, each there or in words why not.
pub fn conditions() -> [Result<(), String>; 5] {
    let here = tempfile::tempdir().expect("a directory can be made");
    [
        kube_prometheus().map(drop).ok_or_else(|| {
            "story_once_on_kube_prometheus: ../shared/data/kube-prometheus is missing; it ran on \
             deploy/examples"
                .to_owned()
        }),
        Tmpfs::mount(&here.path().join("probe"), 1).map(drop).ok_or_else(|| {
            "bad_input_no_space_*: mounting a tmpfs is not permitted to this user".to_owned()
        }),
        Net::make(1).map(drop).ok_or_else(|| {
            "hosts_three_*: network namespaces are not permitted to this user".to_owned()
        }),
        systemd_analyze().map_err(|why| format!("units_are_accepted_*: {why}")),
        crate::kube::available().map_err(|why| format!("kubernetes_*: {why}")),
    ]
}

/// Whether `systemd-analyze` is here, which checks unit files without running systemd.
///
/// # Errors
/// In words why not.
pub fn systemd_analyze() -> Result<(), String> {
    let found = std::process::Command::new("systemd-analyze").arg("--version").output();
    match found {
        Ok(done) if done.status.success() => Ok(()),
        Ok(_) | Err(_) => Err("systemd-analyze is missing; install the package systemd".to_owned()),
    }
}

/// Notes that `test` does not show what it should, and why.
///
/// # Panics
/// When the environment says that everything must run.
pub fn skip(test: &str, why: &str) {
    assert!(
        std::env::var_os("STRONGROOM_E2E").is_none_or(|value| value != "required"),
        "{test} cannot run: {why}, and STRONGROOM_E2E=required"
    );
    say(&format!("skipped: {test}: {why}"));
}

/// A line for whoever watches the tests, not caught by the test runner.
pub fn say(line: &str) {
    // Nobody watches: nothing is lost.
    let _ = writeln!(std::io::stderr(), "{line}");
}
