//! The systemd units: well formed, and as closed as they say.

use std::path::PathBuf;
use std::process::Command;

use tests::binary::{strongroom, workspace};
use tests::skip::{skip, systemd_analyze};

/// Exposure that `systemd-analyze security` may find at most, in tenths; 0 is closed, 100 open.
const EXPOSURE: [(&str, u32); 2] = [("strongroom-coordinator", 15), ("strongroom-agent", 20)];

fn unit(name: &str) -> PathBuf {
    workspace().join("deploy/systemd").join(format!("{name}.service"))
}

#[test]
fn units_are_accepted_by_systemd_and_closed() {
    if let Err(why) = systemd_analyze() {
        skip("units_are_accepted_*", &why);
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    for (name, exposure) in EXPOSURE {
        // The binary is not installed here.
        let text = std::fs::read_to_string(unit(name)).expect("the unit");
        let binary = strongroom();
        let text = text.replace("/usr/bin/strongroom", binary.to_str().expect("UTF-8"));
        let path = directory.path().join(format!("{name}.service"));
        std::fs::write(&path, text).expect("a file");
        let threshold = format!("--threshold={exposure}");
        for arguments in [&["verify", "--man=no"][..], &["security", "--offline=true", &threshold]]
        {
            let done = Command::new("systemd-analyze")
                .args(arguments)
                .arg(&path)
                .output()
                .expect("systemd-analyze runs");
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{name}: {arguments:?}: {said}");
            // What verify does not know it only mentions.
            assert_eq!(said, "", "{name}: {arguments:?}");
        }
    }
}

/// What operators rely on, whatever systemd thinks of the rest.
#[test]
fn units_restart_within_limits_and_leave_time_to_hand_over() {
    for (name, _) in EXPOSURE {
        let text = std::fs::read_to_string(unit(name)).expect("the unit");
        for line in [
            "Restart=on-failure",
            "RestartPreventExitStatus=2 4 6 7",
            "StartLimitBurst=5",
            "KillSignal=SIGTERM",
            // Handing over, draining for five seconds and closing the books.
            "TimeoutStopSec=60",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "StateDirectoryMode=0700",
            "LimitCORE=0",
        ] {
            assert!(text.lines().any(|found| found == line), "{name} lacks {line}");
        }
        let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a start");
        let arguments: Vec<&str> = start.split_whitespace().skip(1).collect();
        let known =
            Command::new(strongroom()).args(arguments).arg("--help").output().expect("it runs");
        assert!(known.status.success(), "{start}: {}", String::from_utf8_lossy(&known.stderr));
    }
}
