//! A fleet is founded on its first host, and others join it with one-time tokens.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bundle::open_authority;
use prost::Message;
use proto::authority::{PrivateKey, certificate_digest, certificates_of};
use proto::tls::ClientTls;
use proto::v1;
use proto::v1::join_client::JoinClient;
use proto_types::env::{Random, SystemRandom};
use proto_types::{Code, FleetId, join_token_hash};
use tests::client::assert_refused;
use tests::wait::until_so;
use tests::{Answer, Cli, Fleet, Founded, Host, Party};

/// Hosts on loopback.
fn loopback(count: u64) -> impl FnOnce(&Path) -> Vec<Host> {
    move |root| (1..=count).map(|number| Host::on_loopback(root, number)).collect()
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(directory)
        .into_iter()
        .map(|entry| entry.expect("readable").into_path())
        .filter(|path| path.is_file())
        .collect()
}

fn holds(path: &Path, wanted: &[u8]) -> bool {
    let bytes = std::fs::read(path).expect("readable");
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[tokio::test]
async fn fleet_init_founds_a_fleet_that_runs_and_keeps_its_root_sealed() {
    let mut fleet = Founded::found(loopback(1)).await;
    let host = fleet.hosts[0].directory().to_owned();
    for entry in walkdir::WalkDir::new(&host) {
        let entry = entry.expect("readable");
        let (path, mode) = (entry.path(), entry.metadata().expect("readable").permissions().mode());
        let expected = if entry.file_type().is_dir() { 0o700 } else { 0o600 };
        // What the coordinator makes is its own business.
        if !path.starts_with(host.join("data")) {
            assert_eq!(mode & 0o777, expected, "{}", path.display());
        }
    }
    // A second one in its place is refused, and changes nothing.
    let before = fleet.hosts[0].text("coordinator.toml");
    fleet.init(&[]).await.assert_refused("twice", Code::AlreadyExists, &["not empty", "choose"]);
    assert_eq!(fleet.hosts[0].text("coordinator.toml"), before);

    // The root's key is sealed to the recovery key, in the file and in the fleet's state.
    let admin = fleet.admin().load().expect("the operator's files");
    let root = certificates_of(fleet.hosts[0].text("tls/ca.pem").as_bytes()).expect("a root");
    let sealed = std::fs::read(host.join("tls/authority.sealed")).expect("the sealed key");
    let id = admin.identity().fleet;
    let key = open_authority(&sealed, id, &root[0], &fleet.recovery).expect("opens");
    PrivateKey::from_der(&key).expect("a private key");
    let log = host.join("data");
    until_so("the sealed key is in the log", async || {
        files_below(&log).iter().any(|path| holds(path, &sealed))
    })
    .await;
    // It is what brings the authority back: the file is not needed any more.
    std::fs::remove_file(host.join("tls/authority.sealed")).expect("removed");
    assert!(fleet.hosts[0].stop().await.success());
    fleet.hosts[0].start();
    fleet.serves().await;
    let made = fleet.json(0, &["node", "token", "two", "--address", "two.example:7401"]).await;
    assert!(made["token"].as_str().is_some_and(|token| token.starts_with("strongroom-join-")));
    // Nowhere is the root's key in clear, and the coordinators' key only where it belongs.
    let authority = PrivateKey::from_pem(&fleet.hosts[0].text("tls/authority.key")).expect("a key");
    let root = PrivateKey::from_der(&key).expect("a private key");
    for path in files_below(fleet.directory()) {
        for (whose, key) in [("root", &root), ("authority", &authority)] {
            let pem = key.to_pem();
            let line = pem.lines().nth(1).expect("a line of base64");
            // Behind the document's head, which all such keys share.
            let secret = &key.as_der()[36..68];
            if whose == "authority" && path.ends_with("tls/authority.key") {
                continue;
            }
            let bare = holds(&path, secret) || holds(&path, line.as_bytes());
            assert!(!bare, "the {whose} key is in {}", path.display());
        }
    }
}

#[tokio::test]
async fn fleet_init_bad_input_is_refused_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (public, secret) = (at("keys/recovery.pub"), at("keys/recovery.key"));
    let made = ["key", "init", "--out", &at("keys"), "--seed-file", &secret];
    let _ = Cli::alone().run(&made).await.success();
    let there = at("there");
    std::fs::create_dir(&there).expect("made");
    std::fs::write(directory.path().join("there/file"), "somebody's").expect("made");
    for (what, change, code, parts) in [
        ("the secret key", ["--recovery-key", &secret], Code::WrongKey, &["public"][..]),
        ("no key", ["--recovery-key", &at("nothing")], Code::KeyMissing, &["nothing"]),
        ("a bad name", ["--name", "No!"], Code::InvalidArgument, &["--name"]),
        ("no address", ["--listen", "nowhere"], Code::InvalidArgument, &["HOST:PORT"]),
        ("everywhere", ["--listen", "0.0.0.0:7401"], Code::InvalidArgument, &["--advertise"]),
        ("no port", ["--advertise", "one.example"], Code::InvalidArgument, &["HOST:PORT"]),
        ("in use", ["--dir", &there], Code::AlreadyExists, &["file", "choose another"]),
    ] {
        let mut arguments = vec!["fleet", "init"];
        let usual = [
            ["--recovery-key", &public],
            ["--name", "home"],
            ["--listen", "10.0.0.1:7401"],
            ["--dir", &at("new")],
        ];
        let usual = usual.iter().filter(|pair| pair[0] != change[0]).flatten();
        arguments.extend(usual.map(AsRef::as_ref).chain(change));
        let done = Cli::alone().run(&arguments).await;
        done.assert_refused(what, code, parts);
        let mut left: Vec<_> = std::fs::read_dir(directory.path())
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["keys", "there"], "{what}");
    }
    assert_eq!(files_below(&directory.path().join("there")).len(), 1);
}

#[tokio::test]
async fn join_by_token_makes_a_fleet_of_three_and_each_token_is_good_once() {
    let mut fleet = Founded::found(loopback(4)).await;
    fleet.join_and_vote(1).await;
    // As in a container: what it needs by environment and files, joined and run by one command that
    // may be given again and again.
    let token = fleet.token(2, &[]).await;
    let path = fleet.directory().join("token");
    std::fs::write(&path, format!("{token}\n")).expect("a file");
    let directory = fleet.hosts[2].directory().to_owned();
    for round in 0..2 {
        let mut command = fleet.hosts[2].command(&["--log", "json", "--log-level", "info"]);
        command.args(["coordinator", "join", "--run", "--stop-with-stdin"]);
        command.env("STRONGROOM_JOIN_TOKEN_FILE", &path);
        command.env("STRONGROOM_JOIN_DIR", &directory);
        command.env("STRONGROOM_JOIN_LISTEN", fleet.hosts[2].address());
        fleet.hosts[2].start_by(command);
        let log = fleet.hosts[2].log();
        let again = if round == 0 { "false" } else { "true" };
        let joined = log.wait_for("joined", |event| event.field("already") == again).await;
        assert_eq!(joined.field("node"), "3");
        if round == 0 {
            let done = fleet.json(0, &["node", "promote", "coordinator-3"]).await;
            assert_eq!(done["done"], true, "{done}");
            fleet.hosts[2].kill();
        }
    }
    until_so("all three are there", async || {
        let nodes = fleet.json(0, &["node", "list"]).await;
        let nodes = nodes["nodes"].as_array().expect("nodes").clone();
        nodes.len() == 3
            && nodes.iter().all(|node| node["voter"] == true && node["reachable"] == true)
    })
    .await;
    // The first may go: two of three decide, and both can let others join.
    fleet.hosts[0].kill();
    let registered = until_registered(&fleet).await;
    assert_eq!(registered, "harbour");
    used_guessed_and_late_tokens(&mut fleet, &token).await;
}

async fn until_registered(fleet: &Founded) -> String {
    let key = hex::encode([7; 32]);
    let arguments = ["cluster", "register", "harbour", "--signing-key", &key];
    let done = fleet.json(1, &arguments).await;
    done["name"].as_str().expect("a name").to_owned()
}

/// All of them get one and the same word; nobody learns which.
async fn used_guessed_and_late_tokens(fleet: &mut Founded, used: &str) {
    let word = "the join token is not valid: make a new one with `strongroom node token`";
    let done = fleet.join(3, used).await;
    done.assert_refused("a used token", Code::PermissionDenied, &[word]);
    // Nothing is left that would look like a coordinator, and the next try is free to succeed.
    assert!(!fleet.hosts[3].directory().join("coordinator.toml").exists());

    let admin = fleet.admin().load().expect("the operator's files");
    let id = admin.identity().fleet;
    let root = certificates_of(&std::fs::read(fleet.admin().ca).expect("ca")).expect("a root");
    let tls = ClientTls::pinned(certificate_digest(&root[0]), id).expect("a client");
    let newcomer = Party::with_tls(tls);
    let address = fleet.hosts[1].address().to_owned();
    let ask = |fleet: FleetId, secret: [u8; 32], request: Vec<u8>, at: &str| {
        let mut client = JoinClient::new(newcomer.channel(&address));
        let request = v1::JoinFleetRequest {
            fleet_id: fleet.as_bytes().to_vec().into(),
            secret: secret.to_vec().into(),
            request: request.into(),
            address: at.to_owned(),
        };
        async move { client.join_fleet(request).await.answer() }
    };
    let key = PrivateKey::generate().expect("a key");
    let request = key.request().expect("a request");
    let mut secret = [0; 32];
    SystemRandom.fill(&mut secret);
    let guessed = ask(id, secret, request.clone(), "").await;
    assert_refused("a guessed token", guessed, Code::PermissionDenied, &[word]);

    // One made by hand, so that its secret is known.
    let operator = Party::with(&fleet.admin());
    let make = |secret: &[u8; 32], name: &str, ttl_ms| v1::CreateJoinTokenRequest {
        write_id: Some(operator.write_id()),
        token_hash: join_token_hash(id, secret).to_vec().into(),
        name: name.to_owned(),
        address: format!("{name}.example:7401"),
        ttl_ms,
    };
    let made = operator.fleet(&address).create_join_token(make(&secret, "four", 60_000)).await;
    assert!(made.answer().is_ok());
    let strange = FleetId::random(&SystemRandom);
    let refused = ask(strange, secret, request.clone(), "").await;
    let parts = [&strange.short()[..], &id.short(), "make a token for this fleet"];
    assert_refused("another fleet's", refused, Code::WrongFleet, &parts);
    let elsewhere = ask(id, secret, request.clone(), "elsewhere:1").await;
    let parts = ["four.example:7401", "elsewhere:1"];
    assert_refused("another address", elsewhere, Code::InvalidArgument, &parts);
    let forged = ask(id, secret, b"nothing".to_vec(), "").await;
    assert_refused("no request", forged, Code::InvalidArgument, &["certificate request"]);
    // None of these has used it up.
    let first = ask(id, secret, request.clone(), "").await.expect("joined");
    assert_eq!((first.node_id, first.name.as_str(), first.members.len()), (4, "four", 3));
    // The answer was lost: the same key gets the same id, another key nothing.
    let again = ask(id, secret, request, "four.example:7401").await.expect("joined");
    assert_eq!(again.node_id, 4);
    let other = PrivateKey::generate().and_then(|key| key.request()).expect("a request");
    let refused = ask(id, secret, other, "").await;
    assert_refused("another key", refused, Code::PermissionDenied, &[word]);

    // A late one; asked with a wrong address, so that only time changes the answer.
    SystemRandom.fill(&mut secret);
    let made = operator.fleet(&address).create_join_token(make(&secret, "five", 700)).await;
    assert!(made.answer().is_ok());
    let request = key.request().expect("a request");
    until_so("the token is over", async || {
        let refused = ask(id, secret, request.clone(), "elsewhere:1").await.expect_err("refused");
        refused.code() == Code::PermissionDenied && refused.message().contains(word)
    })
    .await;
    // Names and addresses of those who are there make no token.
    for (arguments, parts) in [
        (["coordinator-2", "--address", "new:1"], ["name", "node 2"]),
        (["new", "--address", &address], ["address", "node 2"]),
    ] {
        let done = fleet.operate(1, &[&["node", "token"][..], &arguments].concat()).await;
        done.assert_refused("a taken one", Code::AlreadyExists, &parts);
    }
}

#[tokio::test]
async fn join_refuses_a_coordinator_that_is_not_of_the_tokens_fleet() {
    let mut fleet = Founded::found(loopback(2)).await;
    let token = fleet.token(1, &[]).await;
    // Another fleet at the same address, as after a mistake, or by somebody who wants to be it.
    fleet.hosts[0].kill();
    std::fs::remove_dir_all(fleet.hosts[0].directory()).expect("removed");
    let _ = fleet.init(&[]).await.success();
    fleet.hosts[0].start();
    fleet.serves().await;
    let done = fleet.join(1, &token).await;
    done.assert_refused("an impostor", Code::WrongFleet, &["another fleet", "look who listens"]);
    let done = fleet.join(1, &token[..token.len() - 1]).await;
    done.assert_refused("a cut token", Code::InvalidArgument, &["cut short or mistyped"]);
    // A directory that belongs to a coordinator of another fleet.
    let mine = fleet.token(1, &[]).await;
    let _ = fleet.join(1, &mine).await.success();
    let done = fleet.join(1, &token).await;
    done.assert_refused("another fleet's home", Code::WrongFleet, &["another directory"]);
    let again = fleet.join(1, &mine).await.success().json();
    assert_eq!((&again["already"], &again["node_id"]), (&true.into(), &2.into()));
}

/// Everything but joining asks for a certificate, whatever is added to the schema.
#[tokio::test]
async fn join_is_all_that_answers_without_a_certificate() {
    let fleet = Fleet::start().await;
    let nobody = Party::without_certificate(&fleet.pki.ca(), fleet.id);
    let channel = nobody.channel(&fleet.address(1));
    let schema = prost_types::FileDescriptorSet::decode(v1::DESCRIPTOR_SET).expect("the schema");
    let mut asked = Vec::new();
    for file in schema.file {
        for service in file.service {
            for method in &service.method {
                let package = file.package.clone().unwrap_or_default();
                asked.push(format!("/{package}.{}/{}", service.name(), method.name()));
            }
        }
    }
    asked.push("/grpc.health.v1.Health/Check".to_owned());
    asked.push("/grpc.health.v1.Health/Watch".to_owned());
    asked.push("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned());
    assert!(asked.len() > 40, "{asked:?}");
    for method in asked {
        // Not served by coordinators.
        if method.starts_with("/strongroom.v1.LocalAgent/") {
            continue;
        }
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.expect("it connects");
        let path = method.parse().expect("a path");
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let answer = client.unary(tonic::Request::new(()), path, codec).await;
        let refused = answer.answer().expect_err(&method);
        if method.starts_with("/strongroom.v1.Join/") {
            // This fleet has its certificates from elsewhere, and says so.
            assert_eq!(refused.code(), Code::Unavailable, "{method}: {refused}");
        } else {
            let code = (refused.code(), refused.message().contains("give certificate and key"));
            assert_eq!(code, (Code::Unauthenticated, true), "{method}: {refused}");
        }
    }
    // No token where there is no authority to certify with.
    let done = fleet.admin_cli().run(&["node", "token", "four", "--address", "four:7401"]).await;
    done.assert_refused("a token", Code::Conflict, &["no certificate authority", "node add"]);
    fleet.assert_quiet(&[]);
}
