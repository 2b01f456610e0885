use std::time::{Duration, Instant};

use agent::AgentError;
use proto::channel::unix_channel;
use proto::v1;
use proto::v1::local_agent_client::LocalAgentClient;
use proto_types::Code;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::story::Story;
use crate::tree;

async fn until<T>(what: &str, mut fact: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = fact().await {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{what} did not come");
        tokio::task::yield_now().await;
    }
}

async fn connect(story: &Story) -> LocalAgentClient<Channel> {
    let socket = story.path("state/agent.sock");
    let channel = until("the socket", async || unix_channel(&socket).await.ok()).await;
    let mut client = LocalAgentClient::new(channel);
    until("the session", async || {
        let status = client.get_agent_status(v1::GetAgentStatusRequest {}).await.unwrap();
        (status.into_inner().epoch > 0).then_some(())
    })
    .await;
    client
}

fn start(
    story: &mut Story,
) -> (CancellationToken, tokio::task::JoinHandle<Result<(), AgentError>>) {
    story.engine = None;
    let stop = CancellationToken::new();
    let running = agent::run(story.config(), story.env.clone(), stop.clone());
    (stop, tokio::spawn(running))
}

fn code(status: tonic::Status) -> Code {
    proto::ApiError::from(status).code()
}

async fn last(
    mut stream: tonic::Streaming<v1::BackupProgress>,
) -> Result<(Vec<String>, v1::Point), tonic::Status> {
    let mut phases: Vec<String> = Vec::new();
    let mut point = None;
    while let Some(message) = stream.message().await? {
        if phases.last() != Some(&message.phase) {
            phases.push(message.phase);
        }
        point = message.point.or(point);
    }
    Ok((phases, point.expect("the last message has the point")))
}

#[tokio::test(flavor = "multi_thread")]
async fn local_backup_now_streams_progress_and_ends_with_the_point() {
    let mut story = Story::begin().await;
    tree::rich(&story.source());
    let (stop, running) = start(&mut story);
    let mut client = connect(&story).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(story.path("state/agent.sock")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let request = v1::BackupNowRequest { limit_bytes_per_second: 0, full: false };
    let stream = client.backup_now(request).await.unwrap().into_inner();
    let (phases, point) = last(stream).await.unwrap();
    assert_eq!(point.sequence, 1);
    assert_eq!(phases.first().map(String::as_str), Some("scanning"));
    assert_eq!(phases.last().map(String::as_str), Some("done"));
    let status = client.get_agent_status(v1::GetAgentStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.cluster_name.as_str(), status.epoch), ("prod-eu", 1));
    assert_eq!((status.head_sequence, status.state.as_str()), (1, "idle"));
    stop.cancel();
    running.await.unwrap().unwrap();
    assert!(!story.path("state/agent.sock").exists());
    // The lock is given up, so that it can start again.
    story.start_agent();
    assert_eq!(story.backup().await.sequence, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn local_one_backup_at_a_time_and_a_stop_interrupts_it() {
    let mut story = Story::begin().await;
    tree::write(&story.source(), "big", &tree::noise(1 << 20, 1));
    let (stop, running) = start(&mut story);
    let mut client = connect(&story).await;
    // So slow that it is still running when the second one asks.
    let slow = v1::BackupNowRequest { limit_bytes_per_second: 20_000, full: false };
    let stream = client.backup_now(slow).await.unwrap().into_inner();
    let again = client.backup_now(slow).await.unwrap_err();
    assert_eq!(code(again), Code::Busy);
    let mut watcher = client.clone();
    until("the backup", async || {
        let status = watcher.get_agent_status(v1::GetAgentStatusRequest {}).await.ok()?;
        (status.into_inner().state == "backing-up").then_some(())
    })
    .await;
    stop.cancel();
    let error = last(stream).await.unwrap_err();
    assert_eq!(code(error), Code::Unavailable);
    running.await.unwrap().unwrap();
    assert!(story.fleet.lock().points.is_empty(), "nothing was committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn local_errors_reach_whoever_asked_and_a_stale_epoch_stops_the_agent() {
    let mut story = Story::begin().await;
    let (_stop, running) = start(&mut story);
    let mut client = connect(&story).await;
    let request = v1::BackupNowRequest::default();
    last(client.backup_now(request).await.unwrap().into_inner()).await.unwrap();
    std::fs::rename(story.source(), story.path("gone")).unwrap();
    let error = last(client.backup_now(request).await.unwrap().into_inner()).await.unwrap_err();
    assert!(error.message().contains("cannot open the source directory"), "{error}");
    assert_eq!(code(error), Code::LocalIo);
    let out_of_reach = ("source-out-of-reach".to_owned(), "directory".to_owned());
    assert!(story.fleet.lock().findings.contains_key(&out_of_reach));
    std::fs::rename(story.path("gone"), story.source()).unwrap();
    let (_, point) = last(client.backup_now(request).await.unwrap().into_inner()).await.unwrap();
    assert_eq!(point.sequence, 2);
    assert!(story.fleet.lock().findings.is_empty());

    story.fleet.lock().epoch += 1;
    let error = last(client.backup_now(request).await.unwrap().into_inner()).await.unwrap_err();
    assert_eq!(code(error), Code::StaleEpoch);
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::StaleEpoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn local_the_agent_waits_for_a_fleet_that_is_out_of_reach() {
    let mut story = Story::begin().await;
    story.engine = None;
    let mut config = story.config();
    // A port that was free a moment ago: nobody listens.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    config.coordinators.insert(0, free.to_string());
    let stop = CancellationToken::new();
    let running = tokio::spawn(agent::run(config, story.env.clone(), stop.clone()));
    let mut client = connect(&story).await;
    let request = v1::BackupNowRequest::default();
    last(client.backup_now(request).await.unwrap().into_inner()).await.unwrap();
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn local_two_agents_in_one_directory_are_refused() {
    let mut story = Story::begin().await;
    let (stop, running) = start(&mut story);
    connect(&story).await;
    let second = agent::run(story.config(), story.env.clone(), CancellationToken::new());
    assert_eq!(second.await.unwrap_err().code(), Code::Busy);
    // The first one's socket still answers.
    connect(&story).await;
    stop.cancel();
    running.await.unwrap().unwrap();
}
