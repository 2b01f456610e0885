//! Agents and operators come in by tokens, their certificates renew themselves while they run, and
//! what is revoked ends at once, on open connections too.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use proto::ApiError;
use proto::authority::{PrivateKey, certificate_digest, certificates_of};
use proto::tls::{ClientTls, TlsFiles};
use proto::v1;
use proto::v1::enrolment_client::EnrolmentClient;
use proto::v1::join_client::JoinClient;
use proto_types::env::{Clock, Random, SystemClock, SystemRandom};
use proto_types::{Code, FleetId, enrol_token_hash};
use serde_json::Value;
use tests::binary::strongroom;
use tests::cli::{Cli, Done, forget_settings};
use tests::client::assert_refused;
use tests::logs::Log;
use tests::process::Process;
use tests::wait::{until, until_so};
use tests::{Answer, Founded, Host, Party, Runbook};
use tonic::Status;
use tonic_prost::ProstCodec;

const REFUSED: &str = "the token is not valid: ask an admin for another one";

fn loopback(count: u64) -> impl FnOnce(&Path) -> Vec<Host> {
    move |root| (1..=count).map(|number| Host::on_loopback(root, number)).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// A cluster's agent as `agent enroll` makes it.
struct Enrolled {
    directory: PathBuf,
    process: Option<Process>,
}

impl Enrolled {
    fn in_directory(fleet: &Founded, name: &str) -> Self {
        Self { directory: fleet.directory().join(name), process: None }
    }

    async fn enroll(&self, token: &str, more: &[&str]) -> Done {
        let arguments = ["agent", "enroll", token, "--dir", text(&self.directory)];
        Cli::alone().run(&[&arguments[..], more].concat()).await
    }

    fn tls(&self) -> TlsFiles {
        let at = |name: &str| self.directory.join("tls").join(name);
        TlsFiles { ca: at("ca.pem"), certificate: at("agent.pem"), key: at("agent.key") }
    }

    fn log(&self) -> Log {
        Log::at(&self.directory.join("log.json"))
    }

    /// Says what is backed up, as the config asks for, and starts it.
    async fn start(&mut self) {
        let config = self.directory.join("agent.toml");
        let mut said = std::fs::read_to_string(&config).expect("agent.toml");
        if !said.contains("\n[[sources]]") {
            let source = self.directory.with_extension("source");
            std::fs::create_dir_all(&source).expect("a source");
            std::fs::write(source.join("file"), "content").expect("a file");
            said += &format!("\n[[sources]]\nkind = \"directory\"\npath = {:?}\n", text(&source));
            std::fs::write(&config, said).expect("agent.toml");
        }
        let mut command = Command::new(strongroom());
        command.args(["--log", "json", "agent", "run", "--stop-with-stdin", "--config"]);
        command.arg(&config);
        forget_settings(&mut command);
        self.process =
            Some(Process::start("agent", &mut command, &self.directory.join("log.json")));
        let socket = self.directory.join("state/agent.sock");
        until("the agent's socket answers", async || {
            std::os::unix::net::UnixStream::connect(&socket).ok().map(drop)
        })
        .await;
    }

    async fn backup(&self) -> Done {
        let socket = self.directory.join("state/agent.sock");
        until("the agent takes a backup", async || {
            let done = Cli::alone().run(&["backup", "now", "--socket", text(&socket)]).await;
            let is_busy = done.exit != 0 && done.error().0 == "BUSY";
            (!is_busy).then_some(done)
        })
        .await
    }
}

/// The text of a new token.
async fn cluster_token(fleet: &Founded, more: &[&str]) -> String {
    let made = fleet.json(0, &[&["cluster", "enroll"][..], more].concat()).await;
    made["token"].as_str().expect("a token").to_owned()
}

/// Somebody who has only what a token pins, and asks by hand.
struct Stranger {
    id: FleetId,
    party: Party,
    address: String,
}

impl Stranger {
    fn of(fleet: &Founded) -> Self {
        let admin = fleet.admin().load().expect("the operator's files");
        let id = admin.identity().fleet;
        let root = certificates_of(&std::fs::read(fleet.admin().ca).expect("ca")).expect("a root");
        let tls = ClientTls::pinned(certificate_digest(&root[0]), id).expect("a client");
        let party = Party::with_tls(tls);
        Self { id, party, address: fleet.hosts[0].address().to_owned() }
    }

    async fn ask(&self, secret: [u8; 32], key: &PrivateKey) -> Result<v1::EnrolResponse, ApiError> {
        let request = v1::EnrolRequest {
            fleet_id: self.id.as_bytes().to_vec().into(),
            secret: secret.to_vec().into(),
            request: key.request().expect("a request").into(),
            signing_key: vec![5; 32].into(),
            ..Default::default()
        };
        JoinClient::new(self.party.channel(&self.address)).enrol(request).await.answer()
    }
}

fn secret() -> [u8; 32] {
    let mut secret = [0; 32];
    SystemRandom.fill(&mut secret);
    secret
}

fn refusals<'a>(entries: &'a Value, act: &str) -> Vec<&'a Value> {
    let entries = entries.as_array().expect("a list");
    entries.iter().filter(|e| e["act"] == act && e["outcome"] == "refused").collect()
}

#[tokio::test]
async fn enroll_makes_an_agent_that_backs_up_and_each_token_is_good_once() {
    let fleet = Founded::found(loopback(1)).await;
    let token = cluster_token(&fleet, &["harbour", "--label", "env=prod"]).await;
    assert!(fleet.json(0, &["cluster", "list"]).await.as_array().expect("a list").is_empty());
    let mut agent = Enrolled::in_directory(&fleet, "harbour");
    let cut = agent.enroll(&token[..token.len() - 1], &[]).await;
    cut.assert_refused("a cut token", Code::InvalidArgument, &["cut short or mistyped"]);
    let enrolled = agent.enroll(&token, &[]).await.success().json();
    assert_eq!((&enrolled["cluster"], &enrolled["again"]), (&"harbour".into(), &false.into()));
    for entry in walkdir::WalkDir::new(&agent.directory) {
        let entry = entry.expect("readable");
        let mode = entry.metadata().expect("readable").permissions().mode() & 0o777;
        let expected = if entry.file_type().is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{}", entry.path().display());
    }
    let listed = fleet.json(0, &["cluster", "list"]).await;
    assert_eq!(listed[0]["labels"]["env"], "prod");
    assert_eq!(listed[0]["signing_key_fingerprint"], enrolled["signing_key_fingerprint"]);
    agent.start().await;
    let point = agent.backup().await.success().json();
    assert_eq!((&point["cluster"], &point["sequence"]), (&"harbour".into(), &1.into()));

    // Used, guessed, replayed and late: one and the same word.
    let other = Enrolled::in_directory(&fleet, "other");
    let used = other.enroll(&token, &[]).await;
    used.assert_refused("a used token", Code::PermissionDenied, &[REFUSED]);
    assert!(!other.directory.join("agent.toml").exists());
    let stranger = Stranger::of(&fleet);
    let (key, another) = (PrivateKey::generate(), PrivateKey::generate());
    let (key, another) = (key.expect("a key"), another.expect("a key"));
    let guessed = stranger.ask(secret(), &key).await;
    assert_refused("a guessed token", guessed, Code::PermissionDenied, &[REFUSED]);
    let operator = Party::with(&fleet.admin());
    let make = async |secret: &[u8; 32], name: &str, ttl_ms| {
        let request = v1::CreateEnrolTokenRequest {
            write_id: Some(operator.write_id()),
            token_hash: enrol_token_hash(stranger.id, secret).to_vec().into(),
            cluster: name.to_owned(),
            count: 1,
            ttl_ms,
            ..Default::default()
        };
        let mut client = EnrolmentClient::new(operator.channel(&stranger.address));
        client.create_enrol_token(request).await.answer().expect("made");
    };
    let known = secret();
    make(&known, "quay", 60_000).await;
    let first = stranger.ask(known, &key).await.expect("enrolled");
    let again = stranger.ask(known, &key).await.expect("enrolled");
    assert_eq!((&first.name, &first.cluster_id), (&"quay".to_owned(), &again.cluster_id));
    let replayed = stranger.ask(known, &another).await;
    assert_refused("a replayed token", replayed, Code::PermissionDenied, &[REFUSED]);
    let late = secret();
    make(&late, "late", 1000).await;
    until_so("the token is over", async || tokens(&fleet).await == 0).await;
    let refused = stranger.ask(late, &key).await;
    assert_refused("a late token", refused, Code::PermissionDenied, &[REFUSED]);
    // All of it is in the log: who used which token, and what was refused.
    until_so("refusals are recorded", async || {
        let entries = fleet.json(0, &["audit", "list"]).await;
        let done = entries.as_array().expect("a list");
        let accepted =
            |act: &str| done.iter().any(|e| e["act"] == act && e["outcome"] == "accepted");
        let kinds: std::collections::BTreeSet<String> =
            refusals(&entries, "enrol").iter().map(|entry| entry["actor"].to_string()).collect();
        // The used, the replayed, the late one, and all guesses as one.
        accepted("create-enrol-token") && accepted("enrol") && kinds.len() == 4
    })
    .await;
}

async fn tokens(fleet: &Founded) -> usize {
    let operator = Party::with(&fleet.admin());
    let mut client = EnrolmentClient::new(operator.channel(fleet.hosts[0].address()));
    let request = v1::ListEnrolmentsRequest { stale: false };
    client.list_enrolments(request).await.answer().expect("listed").tokens.len()
}

#[tokio::test]
async fn enroll_notices_a_coordinator_with_a_recovery_key_of_its_own() {
    let mut fleet = Founded::found(loopback(1)).await;
    let token = cluster_token(&fleet, &["harbour"]).await;
    let strange = fleet.directory().join("strange");
    let made = Cli::alone().run(&["key", "init", "--out", text(&strange)]).await;
    let _ = made.success();
    let strange = strange.join("recovery.pub");
    let arguments = ["cluster", "enroll", "quay", "--recovery-key", text(&strange)];
    let refused = fleet.operate(0, &arguments).await;
    refused.assert_refused("another recovery key", Code::WrongKey, &["do not trust"]);
    // The same the other way round: the coordinator offers one of its own.
    assert!(fleet.hosts[0].stop().await.success());
    let config = fleet.hosts[0].directory().join("coordinator.toml");
    let said = std::fs::read_to_string(&config).expect("coordinator.toml");
    let at = said.find("recovery_hpke = \"").expect("a key") + "recovery_hpke = \"".len();
    let forged = format!("{}{}{}", &said[..at], "ab".repeat(32), &said[at + 64..]);
    std::fs::write(&config, forged).expect("coordinator.toml");
    fleet.hosts[0].start();
    fleet.serves().await;
    let agent = Enrolled::in_directory(&fleet, "harbour");
    let refused = agent.enroll(&token, &[]).await;
    let parts = ["another recovery key than the token pins", "do not trust"];
    refused.assert_refused("a recovery key of its own", Code::Unauthenticated, &parts);
    assert!(!agent.directory.join("agent.toml").exists());
    // The token is used up by this key, and good for it once the coordinator is itself again.
    assert!(fleet.hosts[0].stop().await.success());
    std::fs::write(&config, said).expect("coordinator.toml");
    fleet.hosts[0].start();
    fleet.serves().await;
    let _ = agent.enroll(&token, &[]).await.success();
}

async fn enroll_operator(fleet: &Founded, name: &str, role: &str, more: &[&str]) -> PathBuf {
    let arguments = ["operator", "add", name, "--role", role];
    let made = fleet.json(0, &[&arguments[..], more].concat()).await;
    let token = made["token"].as_str().expect("a token");
    let directory = fleet.directory().join(format!("operator-{name}"));
    let done = Cli::alone().run(&["operator", "enroll", token, "--dir", text(&directory)]).await;
    assert_eq!(done.success().json()["role"], role);
    directory
}

fn operator_tls(directory: &Path) -> TlsFiles {
    let at = |name: &str| directory.join(name);
    TlsFiles { ca: at("ca.pem"), certificate: at("operator.pem"), key: at("operator.key") }
}

async fn operate(directory: &Path, arguments: &[&str]) -> Done {
    let mut all = vec!["--operator-dir", text(directory)];
    all.extend(arguments);
    Cli::alone().run(&all).await
}

/// A stream that never ends by itself: who watches is told of every change.
async fn watch(party: &Party, address: &str) -> tonic::Streaming<()> {
    let mut client = tonic::client::Grpc::new(party.channel(address));
    client.ready().await.expect("it connects");
    let path = "/grpc.health.v1.Health/Watch".parse().expect("a path");
    let codec = ProstCodec::<(), ()>::default();
    let watching = client.server_streaming(tonic::Request::new(()), path, codec).await;
    let mut stream = watching.expect("watches").into_inner();
    assert!(stream.message().await.expect("a message").is_some());
    stream
}

async fn ended(mut stream: tonic::Streaming<()>) -> Status {
    let waiting = tokio::time::timeout(Duration::from_secs(10), stream.message()).await;
    waiting.expect("it ends within seconds").expect_err("it is cut off")
}

#[tokio::test]
async fn revoke_ends_open_streams_and_every_new_request() {
    let mut fleet = Founded::found(loopback(1)).await;
    let address = fleet.hosts[0].address().to_owned();
    let bob = enroll_operator(&fleet, "bob", "admin", &[]).await;
    let ann = enroll_operator(&fleet, "ann", "viewer", &[]).await;
    let (of_bob, of_ann) = (Party::with(&operator_tls(&bob)), Party::with(&operator_tls(&ann)));
    let (cut, stays) = (watch(&of_bob, &address).await, watch(&of_ann, &address).await);
    let own = operate(&bob, &["operator", "revoke", "bob"]).await;
    own.assert_refused("oneself", Code::Conflict, &["have another admin do it"]);
    let refused = operate(&ann, &["operator", "revoke", "bob"]).await;
    refused.assert_refused("a viewer", Code::PermissionDenied, &["role admin"]);
    let done = fleet.json(0, &["operator", "revoke", "bob"]).await;
    assert_eq!((&done["revoked"], &done["was_known"]), (&true.into(), &true.into()));
    let status = ended(cut).await;
    assert_eq!(ApiError::from(status).code(), Code::Unauthenticated);
    let refused = operate(&bob, &["status"]).await;
    refused.assert_refused("after it", Code::Unauthenticated, &["revoked or replaced"]);
    // The connection that was open is let nowhere either.
    let refused = of_bob.fleet(&address).get_status(v1::GetStatusRequest { stale: true }).await;
    assert_refused("stale too", refused.answer(), Code::Unauthenticated, &["revoked"]);
    let _ = operate(&ann, &["status"]).await.success();
    drop(stays);

    // An agent in the middle of an upload.
    let token = cluster_token(&fleet, &["harbour"]).await;
    let mut agent = Enrolled::in_directory(&fleet, "harbour");
    let _ = agent.enroll(&token, &[]).await.success();
    agent.start().await;
    let _ = agent.backup().await.success();
    let of_agent = Party::with(&agent.tls());
    let uploading = upload_and_hold(&of_agent, &address);
    tokio::pin!(uploading);
    let held = tokio::time::timeout(Duration::from_millis(300), &mut uploading).await;
    assert!(held.is_err(), "it waits for more: {held:?}");
    let _ = fleet.json(0, &["cluster", "revoke", "harbour"]).await;
    let ended = tokio::time::timeout(Duration::from_secs(10), &mut uploading).await;
    assert_eq!(ended.expect("within seconds").expect_err("cut off").code(), Code::Unauthenticated);
    let refused = agent.backup().await;
    assert_ne!(refused.exit, 0, "{refused:?}");
    let listed = fleet.json(0, &["audit", "list"]).await;
    let acts = listed.as_array().expect("a list");
    assert_eq!(
        acts.iter().filter(|e| e["act"] == "revoke" && e["outcome"] == "accepted").count(),
        2
    );
    // A new token brings it back, with its id and its points.
    drop(agent.process.take());
    let token = cluster_token(&fleet, &["harbour", "--again"]).await;
    let again = agent.enroll(&token, &[]).await.success().json();
    assert_eq!(again["again"], true);
    agent.start().await;
    let point = agent.backup().await.success().json();
    assert_eq!(point["sequence"], 2, "{point}");
    // It survives the coordinator: a revocation is state.
    assert!(fleet.hosts[0].stop().await.success());
    fleet.hosts[0].start();
    fleet.serves().await;
    let refused = operate(&bob, &["status"]).await;
    refused.assert_refused("after a restart", Code::Unauthenticated, &["revoked or replaced"]);
}

/// An upload whose first word never comes.
async fn upload_and_hold(agent: &Party, address: &str) -> Result<(), ApiError> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<v1::UploadBundleRequest>(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let done = agent.backup(address).upload_bundle(stream).await.answer().map(drop);
    drop(sender);
    done
}

#[tokio::test]
async fn enroll_by_a_list_makes_each_token_once() {
    let fleet = Founded::found(loopback(1)).await;
    let list = fleet.directory().join("clusters.yaml");
    let said = "clusters:\n- name: harbour\n  labels: {env: prod}\n- name: quay\n";
    std::fs::write(&list, said).expect("written");
    let out = fleet.directory().join("tokens");
    let arguments = ["cluster", "enroll", "--file", text(&list), "--out", text(&out)];
    let states = async || {
        let made = fleet.json(0, &arguments).await;
        let views = made.as_array().expect("a list").clone();
        views.iter().map(|v| v["state"].as_str().expect("a word").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(states().await, ["new", "new"]);
    let token = std::fs::read_to_string(out.join("harbour.token")).expect("a token");
    assert_eq!(states().await, ["open", "open"]);
    let agent = Enrolled::in_directory(&fleet, "harbour");
    let _ = agent.enroll(&token, &[]).await.success();
    assert_eq!(states().await, ["enrolled", "open"]);
    assert_eq!(fleet.json(0, &["cluster", "list"]).await[0]["labels"]["env"], "prod");
    std::fs::write(out.join("quay.token"), &token).expect("written");
    assert_eq!(states().await, ["enrolled", "new"], "a token that is no good is replaced");
}

#[tokio::test]
async fn enroll_for_many_waits_for_approval_and_is_counted() {
    let fleet = Founded::found(loopback(1)).await;
    let arguments = ["cluster", "token", "create", "--count", "2", "--label", "env=edge"];
    let made = fleet.json(0, &[&arguments[..], &["--expires", "7d"]].concat()).await;
    let token = made["token"].as_str().expect("a token").to_owned();
    let agents = ["north", "south", "west"].map(|name| Enrolled::in_directory(&fleet, name));
    let unnamed = agents[0].enroll(&token, &[]).await;
    unnamed.assert_refused("without a name", Code::InvalidArgument, &["--name"]);
    for (agent, name) in agents.iter().zip(["north", "south"]) {
        let waits = agent.enroll(&token, &["--name", name, "--wait", "1s"]).await;
        waits.assert_refused("nobody approved", Code::Unavailable, &["cluster approve"]);
    }
    let third = agents[2].enroll(&token, &["--name", "west", "--wait", "1s"]).await;
    third.assert_refused("the third of two", Code::PermissionDenied, &[REFUSED]);
    let waiting = fleet.json(0, &["cluster", "pending"]).await;
    assert_eq!(waiting.as_array().expect("a list").len(), 2, "{waiting}");
    let _ = fleet.json(0, &["cluster", "approve", "north"]).await;
    let id = waiting.as_array().expect("a list").iter().find(|w| w["name"] == "south");
    let id = id.expect("south")["cluster_id"].as_str().expect("an id");
    let _ = fleet.json(0, &["cluster", "reject", id]).await;
    let enrolled = agents[0].enroll(&token, &["--name", "north"]).await.success().json();
    assert_eq!(enrolled["cluster"], "north");
    let rejected = agents[1].enroll(&token, &["--name", "south"]).await;
    rejected.assert_refused("a rejected one", Code::PermissionDenied, &[REFUSED]);
    let listed = fleet.json(0, &["cluster", "list"]).await;
    assert_eq!(listed.as_array().expect("a list").len(), 1);
    assert_eq!(listed[0]["labels"]["env"], "edge");
}

/// Lives of some seconds: whoever runs must have renewed, or would be let in nowhere.
#[tokio::test]
async fn renewal_keeps_agent_coordinator_and_operator_in_without_a_restart() {
    let mut fleet = Founded::found(loopback(2)).await;
    assert!(fleet.hosts[0].stop().await.success());
    let config = fleet.hosts[0].directory().join("coordinator.toml");
    let said = std::fs::read_to_string(&config).expect("coordinator.toml");
    let lives = "\n[certificates]\nagent_seconds = 9\noperator_seconds = 9\n\
                 coordinator_seconds = 9\n";
    std::fs::write(&config, said + lives).expect("coordinator.toml");
    fleet.hosts[0].start();
    fleet.serves().await;
    let token = cluster_token(&fleet, &["harbour"]).await;
    let mut agent = Enrolled::in_directory(&fleet, "harbour");
    let _ = agent.enroll(&token, &[]).await.success();
    agent.start().await;
    let token = fleet.token(1, &[]).await;
    let _ = fleet.join(1, &token).await.success();
    fleet.hosts[1].start();
    let ann = enroll_operator(&fleet, "ann", "viewer", &[]).await;
    let node = fleet.hosts[1].directory().join("tls/node.pem");
    let files = [agent.tls().certificate, node, operator_tls(&ann).certificate];
    let first = files.clone().map(|path| std::fs::read(path).expect("a certificate"));
    let ends = first.clone().map(|pem| {
        let leaf = certificates_of(&pem).expect("certificates").remove(0);
        proto::authority::Facts::of(&leaf).expect("facts").ends
    });
    let last = *ends.iter().max().expect("three");
    until_so("all first certificates have ended", async || {
        // Using it is what renews an operator's.
        let _ = operate(&ann, &["status"]).await.success();
        SystemClock.now() > last
    })
    .await;
    for (path, first) in files.iter().zip(&first) {
        assert_ne!(&std::fs::read(path).expect("a certificate"), first, "{}", path.display());
    }
    let _ = agent.log().wait_for("certificate_renewed", |_| true).await;
    let _ = fleet.hosts[1].log().wait_for("certificate_renewed", |_| true).await;
    let _ = agent.backup().await.success();
    until_so("the second coordinator is reached", async || {
        let nodes = fleet.json(0, &["node", "list"]).await;
        nodes["nodes"].as_array().expect("nodes").iter().all(|node| node["reachable"] == true)
    })
    .await;
    let listed = fleet.json(0, &["operator", "list"]).await;
    assert_eq!(listed[0]["name"], "ann", "{listed}");
    let renewed = fleet.json(0, &["audit", "list"]).await;
    let renewed =
        renewed.as_array().expect("a list").iter().filter(|e| e["act"] == "renew-certificate");
    let actors: std::collections::BTreeSet<String> =
        renewed.map(|entry| entry["actor"]["kind"].to_string()).collect();
    assert_eq!(actors.len(), 3, "{actors:?}");
}

/// A host's certificates, made anew so that they end in a moment.
fn nearly_ended(fleet: &Founded, files: &TlsFiles) {
    use proto::authority::{Intermediate, Term};
    let host = &fleet.hosts[0];
    let authority = Intermediate::from_pem(
        host.text("tls/authority.pem").as_bytes(),
        &host.text("tls/authority.key"),
    );
    let identity = files.load().expect("certificates").identity().clone();
    let key = PrivateKey::generate().expect("a key");
    let term = Term { generation: 0, life_ms: 1000 };
    let now = SystemClock.now();
    let certified = authority.and_then(|a| a.certify(&identity, &key, &term, now, &SystemRandom));
    std::fs::write(&files.certificate, certified.expect("certified").chain).expect("written");
    std::fs::write(&files.key, key.to_pem().as_bytes()).expect("written");
}

#[tokio::test]
async fn certificates_that_ended_come_back_by_the_page() {
    let mut fleet = Founded::found(loopback(1)).await;
    let token = cluster_token(&fleet, &["harbour"]).await;
    let mut agent = Enrolled::in_directory(&fleet, "harbour");
    let _ = agent.enroll(&token, &[]).await.success();
    agent.start().await;
    let _ = agent.backup().await.success();
    drop(agent.process.take());
    let ann = enroll_operator(&fleet, "ann", "viewer", &[]).await;
    assert!(fleet.hosts[0].stop().await.success());

    let directory = fleet.hosts[0].directory().to_owned();
    let at = |name: &str| directory.join("tls").join(name);
    let node = TlsFiles { ca: at("ca.pem"), certificate: at("node.pem"), key: at("node.key") };
    let all = [node, fleet.admin(), agent.tls(), operator_tls(&ann)];
    for files in &all {
        nearly_ended(&fleet, files);
    }
    let ends = |files: &TlsFiles| files.load().expect("certificates").facts().ends;
    let last = all.iter().map(ends).max().expect("four");
    until_so("they have ended", async || SystemClock.now() > last).await;

    let host = fleet.directory().join("runbook");
    std::fs::create_dir_all(&host).expect("a directory");
    std::os::unix::fs::symlink(&directory, host.join("etc")).expect("a link");
    let mut page = Runbook::for_new_hosts(&host, "certificates-ended.md");
    let operator = fleet.operator();
    let variables = [("OPERATOR", text(&operator)), ("NAME", "ann"), ("CLUSTER", "harbour")];
    page.run_in(&host, &variables).await;
    until_so("the fleet serves", async || operate(&operator, &["status"]).await.exit == 0).await;
    let seen = page.run_in(&host, &variables).await;
    assert!(seen.contains("coordinator-1"), "{seen}");
    let token_of = |printed: &str| {
        let word = printed.split_whitespace().find(|word| word.starts_with("strongroom-enroll-"));
        word.expect("a token").to_owned()
    };
    let token = token_of(&page.run_in(&host, &variables).await);
    let enrolled = ["operator", "enroll", &token, "--dir", text(&ann)];
    assert_eq!(Cli::alone().run(&enrolled).await.success().json()["again"], true);
    let _ = operate(&ann, &["status"]).await.success();
    let token = token_of(&page.run_in(&host, &variables).await);
    page.finish();
    let again = agent.enroll(&token, &[]).await.success().json();
    assert_eq!(again["again"], true);
    agent.start().await;
    assert_eq!(agent.backup().await.success().json()["sequence"], 2);

    // The authority too: by the recovery key, from the state when the founder's file is gone.
    let stopped = Cli::alone();
    let seed = fleet.directory().join("keys/recovery.key");
    let config = directory.join("coordinator.toml");
    let renew = ["fleet", "renew", "--config", text(&config), "--recovery-key", text(&seed)];
    let before = fleet.hosts[0].text("tls/authority.pem");
    let renewed = stopped.run(&renew).await.success().json();
    assert_eq!(renewed["authority_renewed"], true);
    assert_ne!(fleet.hosts[0].text("tls/authority.pem"), before);
    std::fs::remove_file(at("authority.sealed")).expect("removed");
    stopped.run(&renew).await.assert_refused("while it runs", Code::Busy, &["in use"]);
    drop(page);
    let _ = stopped.run(&renew).await.success();
    fleet.hosts[0].start();
    fleet.serves().await;
    let done = until("the agent is let in again", async || {
        let done = agent.backup().await;
        (done.exit == 0).then_some(done)
    })
    .await;
    assert_eq!(done.json()["sequence"], 3);
}

#[tokio::test]
async fn sabotage_of_one_admin_waits_for_another_and_is_cancelled() {
    let fleet = Founded::found(loopback(1)).await;
    let token = cluster_token(&fleet, &["harbour"]).await;
    let agent = Enrolled::in_directory(&fleet, "harbour");
    let _ = agent.enroll(&token, &[]).await.success();
    let bob = enroll_operator(&fleet, "bob", "admin", &[]).await;
    let ann = enroll_operator(&fleet, "ann", "operator", &[]).await;
    let refused = operate(&ann, &["cluster", "delete", "harbour"]).await;
    refused.assert_refused("no admin", Code::PermissionDenied, &["role admin"]);
    let asked = fleet.json(0, &["cluster", "delete", "harbour"]).await;
    let act = asked["act"].as_u64().expect("a number").to_string();
    let own = fleet.operate(0, &["pending", "approve", &act]).await;
    own.assert_refused("the same admin", Code::PermissionDenied, &["another admin"]);
    let approved = operate(&bob, &["pending", "approve", &act]).await.success().json();
    assert!(approved["due"].is_string(), "{approved}");
    let listed = operate(&ann, &["pending", "list"]).await.success().json();
    assert_eq!(listed["delay_ms"], 72 * 3_600_000);
    let waits = &listed["acts"][0];
    let said = [&waits["what"], &waits["cluster"], &waits["requested_by"], &waits["approved_by"]];
    assert_eq!(said, ["delete-cluster", "harbour", "admin", "bob"]);
    let findings = fleet.json(0, &["finding", "list"]).await;
    let findings = findings.as_array().expect("a list").clone();
    assert!(findings.iter().any(|f| f["kind"] == "act-waits" && f["cluster"] == "harbour"));
    let cancelled = fleet.json(0, &["pending", "cancel", &act]).await;
    assert_eq!(cancelled["approved"], false);
    let listed = fleet.json(0, &["pending", "list"]).await;
    assert_eq!(listed["acts"].as_array().map(Vec::len), Some(0));
    assert_eq!(fleet.json(0, &["cluster", "list"]).await[0]["name"], "harbour");
    // A shorter wait is such an act itself; a longer one is there at once.
    let shorter = fleet.json(0, &["pending", "delay", "1h"]).await;
    assert!(shorter["act"].is_u64(), "{shorter}");
    let _ = fleet.json(0, &["pending", "delay", "4d", "--floor"]).await;
    let listed = fleet.json(0, &["pending", "list"]).await;
    assert_eq!((&listed["delay_ms"], &listed["floor"]), (&345_600_000.into(), &true.into()));
    let acts = fleet.json(0, &["audit", "list"]).await;
    let acts: std::collections::BTreeSet<String> = acts
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|entry| entry["act"].as_str().map(str::to_owned))
        .collect();
    for act in ["request-act", "approve-act", "cancel-act", "set-act-delay"] {
        assert!(acts.contains(act), "{act} in {acts:?}");
    }
}
