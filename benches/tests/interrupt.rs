//! An interrupted measurement leaves no process and no directory behind.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Ended at the end of the test, whatever that is.
struct Benches(Child);

impl Drop for Benches {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::yield_now();
    }
}

/// A program to measure that writes down its process id and never ends.
fn sleeper(directory: &Path) -> (PathBuf, PathBuf) {
    let (program, pid) = (directory.join("sleeper"), directory.join("pid"));
    let script =
        format!("#!/bin/sh\necho $$ > {0}.new && mv {0}.new {0}\nexec sleep 1000\n", pid.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    (program, pid)
}

#[test]
fn interrupt_leaves_no_process_and_no_directory() {
    let directory = tempfile::tempdir().unwrap();
    let (program, pid_file) = sleeper(directory.path());
    let work = directory.path().join("work");
    let mut benches = Benches(
        Command::new(env!("CARGO_BIN_EXE_benches"))
            .args(["peers", "--only", "failover", "--strongroom"])
            .arg(&program)
            .arg("--dir")
            .arg(&work)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let pid = wait_for("the start", || std::fs::read_to_string(&pid_file).ok());
    let child = PathBuf::from(format!("/proc/{}", pid.trim()));
    assert!(child.exists());
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 1);

    kill_process(Pid::from_child(&benches.0), Signal::TERM).unwrap();
    let status = wait_for("the end", || benches.0.try_wait().unwrap());
    assert!(!status.success());
    assert!(!child.exists());
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0);
    let said = std::io::read_to_string(benches.0.stderr.take().unwrap()).unwrap();
    assert!(said.contains("interrupted"), "{said}");
}
