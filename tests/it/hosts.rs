//! A fleet on three hosts, as far as one machine has three: each coordinator in a network namespace
//! of its own, with an address of its own, and the agent in a fourth.

use std::path::Path;

use proto::identity::Party as Who;
use tests::agent::text;
use tests::cli::{Cli, Done};
use tests::netns::Net;
use tests::process::Process;
use tests::skip::skip;
use tests::wait::until_so;
use tests::{Founded, Host, until};

const AGENT: u8 = 4;

fn host(net: &Net, root: &Path, number: u8) -> Host {
    let address = format!("{}:7401", Net::ip_of(number));
    Host::in_namespace(root, u64::from(number), &net.host(number), &address)
}

/// An agent's directory and process, on the fourth host.
struct Agent {
    host: Host,
    _process: Process,
}

impl Agent {
    async fn start(fleet: &Founded, host: Host, source: &Path) -> Self {
        let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let directory = path(host.directory());
        let made = host.run(&["agent", "init", "--dir", &directory]).await.success().json();
        let signing = text(&made, "signing_public_key");
        let arguments = ["cluster", "register", "harbour", "--signing-key", &signing];
        let registered = fleet.json(0, &arguments).await;
        let id = text(&registered, "cluster_id").parse().expect("an id");
        let tls = fleet.certify("agent", Who::Agent(id));
        let addresses: Vec<_> = fleet.hosts.iter().map(Host::address).collect();
        let config = format!(
            "cluster = \"harbour\"\ncoordinators = {addresses:?}\nstate_dir = \".\"\n\
             recovery_key = \"{}\"\n[tls]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n\
             [[sources]]\nkind = \"directory\"\npath = \"{}\"\n",
            fleet.directory().join("keys/recovery.pub").display(),
            tls.ca.display(),
            tls.certificate.display(),
            tls.key.display(),
            source.display(),
        );
        std::fs::write(host.directory().join("agent.toml"), config).expect("a file");
        let mut command = host.command(&["--log", "json", "agent", "run", "--stop-with-stdin"]);
        command.arg("--config").arg(host.directory().join("agent.toml"));
        let log = host.directory().join("log.json");
        Self { _process: Process::start("agent", &mut command, &log), host }
    }

    async fn run(&self, arguments: &[&str]) -> Done {
        let mut command = self.host.command(arguments);
        command.arg("--config").arg(self.host.directory().join("agent.toml"));
        Cli::finish(command).await
    }

    /// Backs up, through whatever is the matter with the fleet; the number of the point.
    async fn backup(&self) -> u64 {
        let done = until("a backup", async || {
            let done = self.run(&["backup", "now"]).await;
            // Not started yet, or between two leaders.
            (done.exit != 3).then_some(done)
        })
        .await;
        done.success().json()["sequence"].as_u64().expect("a number")
    }
}

#[tokio::test]
async fn hosts_three_with_addresses_of_their_own_and_one_cut_off() {
    let Some(net) = Net::make(AGENT) else {
        skip("hosts_three_*", "network namespaces are not permitted to this user");
        return;
    };
    let mut fleet =
        Founded::found(|root| (1..=3).map(|number| host(&net, root, number)).collect()).await;
    fleet.join_and_vote(1).await;
    fleet.join_and_vote(2).await;
    let source = fleet.directory().join("source");
    std::fs::create_dir(&source).expect("made");
    std::fs::write(source.join("a"), "before").expect("written");
    let agent = Agent::start(&fleet, host(&net, fleet.directory(), AGENT), &source).await;
    assert_eq!(agent.backup().await, 1);

    // The leader is cut off: it is there, and nobody hears of it.
    let nodes = fleet.json(0, &["node", "list"]).await["nodes"].clone();
    let nodes = nodes.as_array().expect("nodes");
    let leader = nodes.iter().position(|node| node["leader"] == true).expect("a leader");
    let cut = u8::try_from(leader + 1).expect("three");
    net.cut(cut);
    let other = (leader + 1) % 3;
    std::fs::write(source.join("a"), "after").expect("written");
    assert_eq!(agent.backup().await, 2);
    let status = fleet.json(other, &["status"]).await;
    assert_ne!(status["leader_id"], u64::from(cut), "{status}");
    let node = &status["nodes"][leader];
    assert_eq!((&node["node_id"], &node["reachable"]), (&u64::from(cut).into(), &false.into()));

    net.mend(cut);
    until_so("the one that was cut off has everything", async || {
        let done = fleet.operate(other, &["node", "list"]).await;
        if done.exit != 0 {
            return false;
        }
        let node = done.json()["nodes"][leader].clone();
        node["reachable"] == true && node["missing_bundles"] == 0 && node["lag"] == 0
    })
    .await;
    // With another one gone it is needed.
    fleet.hosts[other].kill();
    let to = fleet.directory().join("restored");
    let key = agent.host.directory().join("kek.key");
    let arguments = ["restore", "--cluster", "harbour", "--to"];
    let mut command = fleet.hosts[leader].command(&["--operator-dir"]);
    command.arg(fleet.operator()).args(arguments).arg(&to).arg("--kek").arg(key);
    let _ = Cli::finish(command).await.success();
    assert_eq!(std::fs::read_to_string(to.join("a")).expect("restored"), "after");
}
