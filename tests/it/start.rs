//! Config files that make no sense, at process level: the message names file, line, key and what
//! to do, and the exit code is that of the stable code.

use proto::identity::{Party as Who, Role};
use proto_types::{Code, NodeId};
use tests::cli::Problems;
use tests::{Agent, Cli, Fleet, Settings};

/// A row: what, the text in the config, what stands there instead, what the message must contain.
type Row = (&'static str, &'static str, &'static str, &'static [&'static str]);

#[tokio::test]
async fn bad_input_a_coordinators_config_is_refused_with_place_and_remedy() {
    let fleet = Fleet::prepare(Settings::default()).await;
    let rows: &[Row] = &[
        (
            "an unknown key",
            "data_dir = \"data\"",
            "data_dir = \"data\"\ndata_dri = \"typo\"",
            &["line 4", "data_dri", "remove the key or correct its name"],
        ),
        (
            "an unknown key in a section",
            "heartbeat_ms = 100",
            "heartbeat_ms = 100\nheart = 1",
            &["heart", "remove the key or correct its name"],
        ),
        ("a missing key", "listen = \"127.0.0.1:", "#", &["listen", "add it"]),
        ("no TOML", "node_id = 1", "node_id = = 1", &["line 1"]),
        ("another type", "node_id = 1", "node_id = \"one\"", &["line 1", "expected"]),
        (
            "an id that is none",
            "recovery_hpke = \"",
            "recovery_hpke = \"zz",
            &["fleet.recovery_hpke", "64 hexadecimal digits", "recovery.pub"],
        ),
        (
            "timings that cannot be",
            "heartbeat_ms = 100",
            "heartbeat_ms = 200",
            &["heartbeat_ms 200", "at most half"],
        ),
        ("not among the members", "node_id = 1", "node_id = 9", &["node_id 9", "list every"]),
        ("a limit too low", "request_bytes_max = ", "request_bytes_max = 1#", &["raise it"]),
    ];
    let original = std::fs::read_to_string(fleet.node(1).config()).expect("read");
    let path = fleet.node(1).config().display().to_string();
    let mut problems = Problems::default();
    for (what, from, to, parts) in rows {
        fleet.node(1).edit_config(from, to);
        let mut command = fleet.node(1).command();
        command.args(["--output", "json"]);
        let done = Cli::finish(command).await;
        let parts: Vec<&str> = [&path[..]].into_iter().chain(parts.iter().copied()).collect();
        problems.note(done.check_refused(what, Code::InvalidConfig, &parts));
        std::fs::write(fleet.node(1).config(), &original).expect("written");
        assert!(!fleet.node(1).data().exists(), "{what}: nothing was begun");
    }
    problems.assert_none();
    // A config that is not there, a certificate of somebody else.
    let done = Cli::alone().run(&["coordinator", "run", "--config", "/nowhere/c.toml"]).await;
    done.assert_refused("no file", Code::InvalidConfig, &["/nowhere/c.toml", "give the path"]);
    let _ = fleet.pki.issue("node-1", Who::Coordinator(NodeId::new(2)));
    let mut command = fleet.node(1).command();
    command.args(["--output", "json"]);
    let done = Cli::finish(command).await;
    let parts = ["node-1.pem", "coordinator 2", "give each its own"];
    done.assert_refused("another node's certificate", Code::InvalidConfig, &parts);
    std::fs::remove_file(fleet.directory().join("pki/node-1.key")).expect("removed");
    let mut command = fleet.node(1).command();
    command.args(["--output", "json"]);
    let done = Cli::finish(command).await;
    done.assert_refused("no key", Code::Unauthenticated, &["node-1.key"]);
}

#[tokio::test]
async fn bad_input_an_agents_config_and_keys_are_refused_with_place_and_remedy() {
    let fleet = Fleet::start().await;
    let source = fleet.scratch("source");
    std::fs::write(source.join("a"), "b").expect("made");
    let mut agent = Agent::enrol(&fleet, "harbour", &source, &[]).await;
    assert_eq!(agent.backup().await, 1);
    agent.kill();
    let config = agent.config();
    let shown = config.display().to_string();
    let original = std::fs::read_to_string(&config).expect("read");
    let run = ["agent", "run", "--config", &shown];

    std::fs::write(&config, original.replace("state_dir", "state_dri")).expect("written");
    let done = agent.cli.run(&run).await;
    done.assert_refused("an unknown key", Code::InvalidConfig, &[&shown, "state_dri", ":3"]);
    std::fs::write(&config, &original).expect("written");

    // Another key in the KEK's place is a mistake, and nothing is made in its stead. One that is gone, cut or
    // damaged is made anew, and a person told: `key_life`.
    let kek = agent.kek();
    let whole = std::fs::read_to_string(&kek).expect("read");
    let other = std::fs::read(agent.directory().join("signing.key")).expect("read");
    std::fs::write(&kek, &other).expect("written");
    agent.cli.run(&run).await.assert_refused("another key", Code::WrongKey, &["kek.key"]);
    assert_eq!(std::fs::read(&kek).expect("read"), other, "it is left as it was");
    // A damaged signing key is a person's to look at.
    let signing = agent.directory().join("signing.key");
    let text = String::from_utf8(other.clone()).expect("text");
    std::fs::write(&kek, &whole).expect("written");
    std::fs::write(&signing, flip_last_digit(&text)).expect("written");
    agent.cli.run(&run).await.assert_refused("a damaged key", Code::Damaged, &["signing.key"]);
    std::fs::write(&signing, &other).expect("written");
    // A directory where no keys were ever made.
    let nowhere = fleet.scratch("nowhere");
    let elsewhere = format!("state_dir = {:?}", nowhere.display().to_string());
    std::fs::write(&config, original.replace("state_dir = \".\"", &elsewhere)).expect("written");
    agent.cli.run(&run).await.assert_refused(
        "no keys",
        Code::KeyMissing,
        &["kek.key", "agent init"],
    );
    std::fs::write(&config, &original).expect("written");

    // Init does not write over keys.
    let directory = agent.directory().display().to_string();
    let done = agent.cli.run(&["agent", "init", "--dir", &directory]).await;
    done.assert_refused("init over keys", Code::AlreadyExists, &["kek.key"]);

    // With the KEK put back it goes on where it was.
    std::fs::write(&kek, &whole).expect("written");
    agent.start().await;
    assert_eq!(agent.backup().await, 2);
    // A second agent of the same directory is refused while the first one runs.
    agent.cli.run(&run).await.assert_refused("a second agent", Code::Busy, &[&directory]);

    // The operator's directory.
    let empty = fleet.scratch("empty").display().to_string();
    let done = Cli::alone().run(&["--operator-dir", &empty, "status"]).await;
    done.assert_refused("no operator.toml", Code::InvalidConfig, &["operator.toml", "--operator"]);
    let admin = fleet.operator(Role::Admin);
    let odd = fleet.scratch("odd");
    let cli = Cli::for_fleet(&odd, &fleet.addresses(), admin.files());
    let path = odd.join("operator.toml");
    let text = std::fs::read_to_string(&path).expect("read").replace("[tls]", "colour = 1\n[tls]");
    std::fs::write(&path, text).expect("written");
    let shown = path.display().to_string();
    let parts = [&shown[..], "colour"];
    cli.run(&["status"]).await.assert_refused("an unknown key", Code::InvalidConfig, &parts);
}

/// The same key file with another last digit of its first key.
fn flip_last_digit(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let line = lines
        .iter_mut()
        .find(|line| !line.starts_with('#') && line.len() > 64 && line.contains(' '))
        .expect("a line with a key");
    let last = line.pop().expect("a digit");
    line.push(if last == '0' { '1' } else { '0' });
    lines.join("\n") + "\n"
}
