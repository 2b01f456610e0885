//! Every coordinator is lost: the page for it followed word by word, from a snapshot and three shares
//! of the recovery key to a fleet of two whose agent goes on.

use std::path::{Path, PathBuf};
use std::process::Command;

use proto::identity::Party as Who;
use proto_types::ClusterId;
use tests::binary::strongroom;
use tests::cli::forget_settings;
use tests::ports::Port;
use tests::process::Process;
use tests::tree::{Tree, assert_same};
use tests::{Cli, Founded, Host, Runbook, until};

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// An agent that was set up by hand.
struct Agent {
    directory: PathBuf,
    process: Option<Process>,
}

impl Agent {
    async fn set_up(fleet: &Founded, source: &Path) -> Self {
        let directory = fleet.directory().join("agent");
        let made = fleet.json(0, &["agent", "init", "--dir", text(&directory)]).await;
        let signing = made["signing_public_key"].as_str().expect("a key").to_owned();
        let registered =
            fleet.json(0, &["cluster", "register", "harbour", "--signing-key", &signing]).await;
        let id: ClusterId =
            registered["cluster_id"].as_str().expect("an id").parse().expect("an id");
        let tls = fleet.certify("agent", Who::Agent(id));
        // The root stays when the hosts are gone.
        let ca = directory.join("ca.pem");
        std::fs::copy(&tls.ca, &ca).expect("copied");
        let config = format!(
            "cluster = \"harbour\"\ncoordinators = [\"{}\"]\nstate_dir = \".\"\n\
             recovery_key = \"{}\"\n[tls]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n\
             [[sources]]\nkind = \"directory\"\npath = \"{}\"\nkeys = [\"keys/**\"]\n",
            fleet.hosts[0].address(),
            fleet.directory().join("keys/recovery.pub").display(),
            ca.display(),
            tls.certificate.display(),
            tls.key.display(),
            source.display(),
        );
        std::fs::write(directory.join("agent.toml"), config).expect("written");
        Self { directory, process: None }
    }

    async fn start(&mut self) {
        let mut command = Command::new(strongroom());
        command
            .args(["--log", "json", "agent", "run", "--stop-with-stdin", "--config"])
            .arg(self.directory.join("agent.toml"));
        forget_settings(&mut command);
        let log = self.directory.join("log.json");
        let mut process = Process::start("agent", &mut command, &log);
        let socket = self.directory.join("agent.sock");
        until("the agent's socket answers", async || {
            assert!(process.ended().is_none(), "{}", tests::logs::Log::at(&log).tail());
            std::os::unix::net::UnixStream::connect(&socket).ok().map(drop)
        })
        .await;
        self.process = Some(process);
    }

    async fn backup(&self) -> u64 {
        let config = self.directory.join("agent.toml");
        let done = until("the agent takes a backup", async || {
            let done = Cli::alone().run(&["backup", "now", "--config", text(&config)]).await;
            let is_busy = done.exit != 0 && done.error().0 == "BUSY";
            (!is_busy).then_some(done)
        })
        .await;
        done.success().json()["sequence"].as_u64().expect("a number")
    }
}

#[tokio::test]
async fn operations_all_lost_is_followed_word_by_word() {
    let one = |root: &Path| vec![Host::on_loopback(root, 1)];
    let mut fleet = Founded::found(one).await;
    let source = fleet.directory().join("source");
    std::fs::create_dir_all(source.join("keys")).expect("made");
    std::fs::write(source.join("keys/unseal"), "not for everybody").expect("made");
    std::fs::write(source.join("app.yaml"), "replicas: 3\n").expect("made");
    let mut agent = Agent::set_up(&fleet, &source).await;
    agent.start().await;
    assert_eq!(agent.backup().await, 1);
    let first = Tree::read(&source);
    let snapshot = fleet.directory().join("fleet.snapshot");
    fleet.json(0, &["snapshot", "save", text(&snapshot), "--include-bundles"]).await;
    fleet.hosts[0].kill();
    std::fs::remove_dir_all(fleet.hosts[0].directory()).expect("the host is gone");

    let key = fleet.directory().join("keys/recovery.key");
    let share = |number| fleet.directory().join(format!("keys/share-{number}-of-5.txt"));
    let [one, four, five] = [1, 4, 5].map(share);
    let mut page = Runbook::for_new_hosts(&fleet.directory().join("runbook"), "all-lost.md");
    let (ports, hosts) = (
        [Port::reserve(), Port::reserve()],
        ["new-1", "new-2"].map(|name| fleet.directory().join(name)),
    );
    let addresses = ports.each_ref().map(Port::address);
    let variables = [
        ("SNAPSHOT", text(&snapshot)),
        ("SHARE_1", text(&five)),
        ("SHARE_2", text(&one)),
        ("SHARE_3", text(&four)),
        ("ADDRESS", &addresses[0]),
    ];
    assert!(page.run_in(&hosts[0], &variables).await.contains("good"));
    page.run_in(&hosts[0], &variables).await;
    let restored = page.run_in(&hosts[0], &variables).await;
    assert!(restored.contains("generation 1") && restored.contains("all there"), "{restored}");

    let new = [("NEW", "coordinator-b"), ("NEW_ADDRESS", &*addresses[1])];
    let printed = page.run_in(&hosts[0], &new).await;
    let token = printed
        .split_whitespace()
        .max_by_key(|word| word.len())
        .expect("the token is the longest word")
        .to_owned();
    page.run_in(&hosts[1], &[("TOKEN", &token), ("ADDRESS", &addresses[1])]).await;
    page.run_in(&hosts[0], &new).await;
    let seen = page.run_in(&hosts[0], &[]).await;
    for part in ["coordinator-b", "harbour", "restored"] {
        assert!(seen.contains(part), "{part} in {seen}");
    }
    page.finish();

    // The agent gets the new address, and goes on.
    drop(agent.process.take());
    let config = agent.directory.join("agent.toml");
    let changed = std::fs::read_to_string(&config).expect("read");
    let changed = changed.replace(fleet.hosts[0].address(), &addresses[0]);
    std::fs::write(&config, changed).expect("written");
    agent.start().await;
    assert_eq!(agent.backup().await, 1_000_001);
    let out = fleet.directory().join("restored");
    let operator = hosts[0].join("etc/operator");
    let arguments = [
        "--operator-dir",
        text(&operator),
        "restore",
        "--point",
        "harbour@1",
        "--to",
        text(&out),
        "--recovery-key",
        text(&key),
    ];
    Cli::alone().run(&arguments).await.success().json();
    assert_same(&first, &Tree::read(&out));
}
