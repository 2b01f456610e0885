//! Durable state damaged or gone while the node was down: it refuses to start, names the file
//! and what to do, and never starts empty. The others go on without it.

use std::path::{Path, PathBuf};

use proto_types::Code;
use tests::cli::Problems;
use tests::sealed::Content;
use tests::{Cli, Fleet, RawCluster, Settings};

/// Files of a directory with this ending, the oldest first.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("cannot list {}: {error}", directory.display()))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    found.sort();
    found
}

/// Flips a bit in the middle of what is used of a file.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).expect("the file can be read");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("the file holds something");
    bytes[used / 2] ^= 0x40;
    if bytes[used / 2] == 0x40 {
        // It was a zero between two records; one of the bytes before it is not.
        let at = bytes[..used / 2].iter().rposition(|byte| *byte != 0).expect("a record");
        bytes[at] ^= 0x40;
    }
    std::fs::write(path, bytes).expect("the file can be written");
}

/// Keeps a data directory as it is, to be put back after each kind of damage.
struct Kept {
    data: PathBuf,
    copy: PathBuf,
}

impl Kept {
    fn of(data: &Path) -> Self {
        let copy = data.with_file_name("kept");
        copy_tree(data, &copy);
        Self { data: data.to_owned(), copy }
    }
    fn put_back(&self) {
        std::fs::remove_dir_all(&self.data).expect("removed");
        copy_tree(&self.copy, &self.data);
    }
}

fn copy_tree(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(done.expect("cp runs").success());
}

/// What a start of node 3 says that must fail.
async fn refused(fleet: &Fleet, problems: &mut Problems, what: &str, code: Code, parts: &[&str]) {
    let mut command = fleet.node(3).command();
    command.args(["--output", "json"]);
    let done = Cli::finish(command).await;
    problems.note(done.check_refused(what, code, parts));
}

#[tokio::test]
async fn bad_input_damaged_log_state_or_identity_refuses_to_start_and_names_the_file() {
    let settings =
        Settings { snapshot_every_entries: 15, snapshot_keep_entries: 1, ..Settings::default() };
    let mut fleet = Fleet::start_with(settings).await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    for round in 0..12 {
        let content = [Content::file("a", format!("{round}").as_bytes())];
        cluster.backup(&fleet.address(3), &content).await;
    }
    let snapshots = fleet.node(3).data().join("snapshots");
    tests::wait::until_so("node 3 has a snapshot", async || !files(&snapshots, "").is_empty())
        .await;
    assert!(fleet.node_mut(3).stop().await.success());
    let data = fleet.node(3).data().to_owned();
    let kept = Kept::of(&data);
    let log = data.join("log");
    let rejoin = "rejoin as a new node";
    let mut problems = Problems::default();

    // A byte of the log that was acknowledged.
    let segment = files(&log, ".wal").into_iter().chain(files(&log, ".log")).next_back();
    let segment = segment.unwrap_or_else(|| {
        files(&log, "").into_iter().find(|path| !path.ends_with("MARKER")).expect("a segment")
    });
    flip(&segment);
    let shown = segment.display().to_string();
    refused(
        &fleet,
        &mut problems,
        "a damaged log",
        Code::Damaged,
        &[&shown, "damaged at byte", rejoin],
    )
    .await;
    kept.put_back();

    // Cut short: what was acknowledged is gone.
    let used = std::fs::read(&segment).expect("read");
    let end = used.iter().rposition(|byte| *byte != 0).expect("used");
    std::fs::write(&segment, &used[..end / 2]).expect("written");
    refused(&fleet, &mut problems, "a log cut short", Code::Damaged, &[&shown, rejoin]).await;
    kept.put_back();

    // Gone: the segment, the marker, the whole log.
    std::fs::remove_file(&segment).expect("removed");
    refused(&fleet, &mut problems, "a segment gone", Code::Damaged, &[&shown, "missing", rejoin])
        .await;
    kept.put_back();
    let marker = log.join("MARKER");
    std::fs::remove_file(&marker).expect("removed");
    let shown = marker.display().to_string();
    refused(&fleet, &mut problems, "the marker gone", Code::Damaged, &[&shown, "missing", rejoin])
        .await;
    kept.put_back();
    std::fs::remove_dir_all(&log).expect("removed");
    let shown = log.display().to_string();
    refused(&fleet, &mut problems, "the log gone", Code::Damaged, &[&shown, rejoin]).await;
    assert!(!log.exists(), "nothing was begun anew");
    kept.put_back();

    // Every snapshot damaged, then gone: the log does not reach back to before them.
    for snapshot in files(&snapshots, "") {
        flip(&snapshot);
    }
    let shown = snapshots.display().to_string();
    refused(&fleet, &mut problems, "damaged state", Code::Damaged, &[&shown, "damaged", rejoin])
        .await;
    kept.put_back();
    std::fs::remove_dir_all(&snapshots).expect("removed");
    refused(&fleet, &mut problems, "state gone", Code::Damaged, &[&shown, rejoin]).await;
    kept.put_back();

    // Whose directory it is: unreadable, gone, somebody else's.
    let home = data.join("HOME");
    std::fs::write(&home, b"strongroom coordinator data directory\nversion 1\nnode").expect("");
    let shown = home.display().to_string();
    refused(&fleet, &mut problems, "a damaged identity", Code::Damaged, &[&shown, rejoin]).await;
    kept.put_back();
    std::fs::remove_file(&home).expect("removed");
    let shown = data.display().to_string();
    refused(&fleet, &mut problems, "identity gone", Code::Damaged, &[&shown, "HOME", rejoin]).await;
    kept.put_back();
    std::fs::remove_dir_all(&data).expect("removed");
    copy_tree(fleet.node(2).data(), &data);
    let parts = [&shown[..], "belongs to node 2", "coordinator is node 3"];
    refused(&fleet, &mut problems, "another node's data", Code::InvalidConfig, &parts).await;
    kept.put_back();

    // All of it gone, as after a lost disk: the others know this node, so it is not taken for new.
    std::fs::remove_dir_all(&data).expect("removed");
    for start in ["the first start of a wiped node", "the second start of a wiped node"] {
        let parts = ["node 3 is empty", "Correct data_dir", rejoin];
        refused(&fleet, &mut problems, start, Code::Damaged, &parts).await;
    }
    kept.put_back();

    // The ledger is only a ledger: gone or garbage, it is made anew from the bundles.
    std::fs::remove_dir_all(data.join("ledger")).expect("removed");
    fleet.start_node(3).await;
    fleet.caught_up(3).await;
    assert!(fleet.node_mut(3).stop().await.success());
    for file in files(&data.join("ledger"), "").into_iter().filter(|path| path.is_file()) {
        std::fs::write(file, b"garbage").expect("written");
    }
    fleet.start_node(3).await;
    fleet.caught_up(3).await;
    let status = fleet.status(1).await;
    let bundles: Vec<u64> = status.nodes.iter().map(|node| node.bundle_count).collect();
    assert_eq!(bundles, [48, 48, 48]);
    cluster.backup(&fleet.address(3), &[Content::file("a", b"and on")]).await;
    problems.assert_none();
}

#[tokio::test]
async fn bad_input_a_directory_or_port_in_use_is_named() {
    let mut fleet = Fleet::start().await;
    let address = fleet.address(1);
    let mut command = fleet.node(1).command();
    command.args(["--output", "json"]);
    let done = Cli::finish(command).await;
    // Its metrics address is taken first; with one of its own, the gRPC address.
    done.assert_refused("the same node twice", Code::AddressInUse, &["in use"]);
    let metrics = fleet.node(1).metrics_address();
    fleet.node(1).edit_config(&format!("metrics_listen = \"{metrics}\""), "");
    let mut command = fleet.node(1).command();
    command.args(["--output", "json"]);
    let done = Cli::finish(command).await;
    let parts = [&address[..], "in use by another program", "choose another address"];
    done.assert_refused("the same address twice", Code::AddressInUse, &parts);
    // With an address of its own, it finds the directory taken.
    let port = tests::ports::Port::reserve();
    fleet.node(1).edit_config(
        &format!("listen = \"{address}\""),
        &format!("listen = \"{}\"", port.address()),
    );
    let mut command = fleet.node(1).command();
    command.args(["--output", "json"]);
    let done = Cli::finish(command).await;
    let data = fleet.node(1).data().display().to_string();
    let parts = [&data[..], "in use by another process", "stop that coordinator"];
    done.assert_refused("the same directory twice", Code::Busy, &parts);
    // The running one noticed nothing.
    fleet.node_mut(1).require_running();
    fleet.status(1).await;
    fleet.assert_quiet(&[]);
}
