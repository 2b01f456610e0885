//! Bundles in a bucket, over a real S3 server: the store by itself, and a fleet that moves its
//! bundles there and back while it works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::identity::Role;
use proto::v1;
use proto_types::{BundleId, Code, LogIndex};
use serde_json::Value;
use storage::bucket::{Bucket, BucketSettings, PART_BYTES};
use storage::bundles::{BucketBundleStore, BundleStore, conformance};
use tests::raw::read_bundle;
use tests::s3::Mood;
use tests::sealed::Content;
use tests::wait::{until_in, until_so};
use tests::{Fleet, RawCluster, S3, Settings, until};

use crate::restart::{bundles_of, noise};

/// A fleet whose coordinators know a bucket of this server.
async fn fleet_with(s3: &S3) -> Fleet {
    let mut fleet = Fleet::prepare(Settings::default()).await;
    for id in tests::fleet::NODES {
        let section = format!("[bucket]\n{}[limits]", s3.config("url", "bundles"));
        fleet.node(id).edit_config("[limits]", &section);
    }
    fleet.start_all();
    fleet.ready().await;
    fleet
}

/// What `fleet bundles status` says once it is so.
async fn moved(fleet: &Fleet, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    until_in(Duration::from_secs(180), what, async || {
        let status = fleet.admin_cli().json(&["fleet", "bundles", "status"]).await;
        is_so(&status).then_some(status)
    })
    .await
}

fn is_settled(status: &Value, home: &str) -> bool {
    status["home"] == home && status["settled"] == true && status["objects_to_delete"] == 0
}

/// Every bundle of these points, from every node that runs.
async fn assert_readable(fleet: &Fleet, points: &[v1::Point]) {
    let viewer = fleet.operator(Role::Viewer);
    for node in fleet.running() {
        for point in points {
            for id in bundles_of(point) {
                let bytes = read_bundle(&viewer, &fleet.address(node), id).await;
                let bytes = bytes.unwrap_or_else(|e| panic!("node {node}: {}: {e}", e.code()));
                assert_eq!(BundleId::of(&bytes), id);
            }
        }
    }
}

fn files_on_disks(fleet: &Fleet) -> usize {
    fleet.running().into_iter().map(|node| fleet.node(node).bundle_files().len()).sum()
}

/// Objects that are bundles.
fn objects(s3: &S3) -> Vec<String> {
    let all = s3.objects("bundles").into_iter().map(|(name, _)| name);
    all.filter(|name| name != "strongroom.json").collect()
}

#[test]
fn bucket_store_conforms_on_a_real_s3_server() {
    proto::tls::install_crypto_provider();
    let directory = tempfile::tempdir().expect("a directory");
    let s3 = S3::start(directory.path());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let text = std::fs::read_to_string(s3.credentials()).expect("readable");
    let settings = |prefix: &str| BucketSettings {
        url: s3.url(prefix),
        endpoint: Some(s3.endpoint()),
        region: Some("local".to_owned()),
        allow_http: true,
        ca_pem: None,
        options: BucketSettings::read_options(&text).expect("credentials"),
    };
    let next = std::cell::Cell::new(0);
    let store = || {
        next.set(next.get() + 1);
        let bucket = Bucket::open(&settings(&format!("c{}", next.get())), runtime.handle().clone());
        BucketBundleStore::new(bucket.expect("settings that make sense"), LogIndex::new(3))
    };
    conformance::run(store);

    // Long ones go in parts, and what rots is noticed.
    let store = store();
    let content: Vec<u8> = noise(PART_BYTES * 2 + 4321, 5);
    let id = BundleId::of(&content);
    store.begin(&id, content.len() as u64).expect("begin");
    for (at, piece) in content.chunks(1 << 20).enumerate() {
        store.write(&id, (at as u64) << 20, piece).expect("write");
    }
    assert_eq!(store.size(&id).expect("size"), None);
    store.finish(&id, content.len() as u64).expect("finish");
    assert!(store.read(&id).expect("read") == content);
    let (_, path) = s3.objects(&format!("c{}", next.get())).pop().expect("one object");
    let mut rotten = content;
    rotten[PART_BYTES + 9] ^= 4;
    std::fs::write(path, rotten).expect("write");
    assert_eq!(store.verify(&id).expect_err("damaged").code(), Code::Damaged);

    // Who is not let in hears it, without the secret.
    let mut wrong = settings("c1");
    wrong.options.insert("AWS_SECRET_ACCESS_KEY".to_owned(), "another".to_owned());
    let bucket = Bucket::open(&wrong, runtime.handle().clone()).expect("settings");
    let error = bucket.size("x").expect_err("refused").to_string();
    assert!(error.contains("s3://vault/c1") && !error.contains("another"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bucket_a_fleet_moves_there_and_back_under_backups_and_leader_kills() {
    let directory = tempfile::tempdir().expect("a directory");
    let s3 = S3::start(directory.path());
    let mut fleet = fleet_with(&s3).await;
    let mut points = vec![];
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    for seed in 0..6 {
        let contents = [Content::file("a", &noise(60_000, seed))];
        points.push(harbour.backup(&fleet.address(1), &contents).await);
    }
    // Somebody backs up all the time, through whichever node answers.
    let addresses = fleet.addresses();
    let enough = Arc::new(AtomicBool::new(false));
    let stop = enough.clone();
    let writer = tokio::spawn(async move {
        let mut points = vec![];
        for turn in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let content = noise(30_000, 100 + turn);
            let address = &addresses[usize::try_from(turn).unwrap_or(0) % addresses.len()];
            match harbour.try_backup(address, &[Content::file("a", &content)]).await {
                Ok(point) => points.push(point),
                Err(error) => {
                    // A kill may leave the agent behind the head it committed.
                    let is_over = error.is_retryable()
                        || matches!(error.code(), Code::StaleHead | Code::BundleNotDurable);
                    assert!(is_over, "backup refused: {}: {error}", error.code());
                    let _ = harbour.open_session(address).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        (harbour, points)
    });

    let begun = fleet.admin_cli().json(&["fleet", "bundles", "--to", "bucket"]).await;
    assert_eq!(begun["home"], "bucket", "{begun}");
    // In the middle, the leader dies; the next one goes on.
    until_so("some bundles are there", async || objects(&s3).len() > 2).await;
    let leader = fleet.leader().await;
    fleet.node_mut(leader).kill();
    let there = moved(&fleet, "all bundles are in the bucket", |s| is_settled(s, "bucket")).await;
    assert_eq!(there["bundles"], there["in_bucket"], "{there}");
    fleet.start_node(leader).await;
    until_so("the copies on disks are gone", async || files_on_disks(&fleet) == 0).await;
    assert_readable(&fleet, &points).await;
    assert_eq!(fleet.status(1).await.nodes.iter().map(|n| n.missing_bundles).sum::<u64>(), 0);

    let begun = fleet.admin_cli().json(&["fleet", "bundles", "--to", "disks"]).await;
    assert_eq!((&begun["home"], &begun["settled"]), (&"disks".into(), &false.into()));
    let leader = fleet.leader().await;
    fleet.node_mut(leader).kill();
    moved(&fleet, "all bundles are on disks again", |s| is_settled(s, "disks")).await;
    fleet.start_node(leader).await;
    enough.store(true, Ordering::Relaxed);
    let (mut harbour, written) = writer.await.expect("no backup failed");
    assert!(written.len() > 5, "{} backups under way", written.len());
    points.extend(written);
    // What uploads that the kills cut off left there goes when the next point is committed.
    until_so("the agent knows its head", async || {
        harbour.open_session(&fleet.address(1)).await.is_ok()
    })
    .await;
    points.push(harbour.backup(&fleet.address(1), &[Content::file("a", b"the last")]).await);
    until_so("no object is left", async || objects(&s3).is_empty()).await;
    // Without the bucket, everything is there.
    s3.set(Mood::Down);
    assert_readable(&fleet, &points).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn invariant_b2_what_ended_uploads_left_in_the_bucket_is_deleted_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let s3 = S3::start(directory.path());
    let fleet = fleet_with(&s3).await;
    fleet.admin_cli().json(&["fleet", "bundles", "--to", "bucket"]).await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    let address = fleet.address(2);
    // Uploaded whole and never committed; the same content again under another lease is committed.
    let files = harbour.seal(&[Content::file("a", &noise(90_000, 1))]);
    let first = harbour.open_upload(&address).await.expect("an upload opens");
    for sealed in files.all() {
        harbour.upload(&address, &first, sealed).await.expect("uploaded");
    }
    let given_up = objects(&s3);
    assert_eq!(given_up.len(), files.all().len());
    let second = harbour.open_upload(&address).await.expect("an upload opens");
    for sealed in files.all() {
        harbour.upload(&address, &second, sealed).await.expect("uploaded");
    }
    let end = v1::EndUploadRequest {
        write_id: Some(harbour.party.write_id()),
        lease_id: first.id.clone(),
        failed: true,
    };
    harbour.party.backup(&address).end_upload(end).await.expect("ended");
    until_so("the first upload's objects are gone", async || {
        let left = objects(&s3);
        !given_up.iter().any(|name| left.contains(name))
    })
    .await;
    let request = harbour.commit_request(&second, harbour.changed(&files));
    let point = harbour.commit(&address, request).await.expect("the second is whole");
    assert_eq!(objects(&s3).len(), files.all().len());
    assert_readable(&fleet, &[point]).await;
    assert_eq!(files_on_disks(&fleet), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bucket_that_is_away_refuses_in_words_and_works_again_by_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let s3 = S3::start(directory.path());
    let fleet = fleet_with(&s3).await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    // Of another fleet, until somebody looks.
    s3.put(
        "bundles/strongroom.json",
        br#"{"format":"strongroom bucket","version":1,"fleet":"000102030405060708090a0b0c0d0e0f"}"#,
    );
    let refused = fleet.admin_cli().run(&["fleet", "bundles", "--to", "bucket"]).await;
    refused.assert_refused("another fleet's", Code::WrongFleet, &["prefix of its own"]);
    std::fs::remove_file(&s3.objects("bundles")[0].1).expect("removed");
    fleet.admin_cli().json(&["fleet", "bundles", "--to", "bucket"]).await;
    let point = harbour.backup(&fleet.address(1), &[Content::file("a", b"before")]).await;

    s3.set(Mood::Down);
    let files = harbour.seal(&[Content::file("a", b"while it is away")]);
    let lease = harbour.open_upload(&fleet.address(1)).await.expect("an upload opens");
    let [sealed, ..] = files.all();
    let address = fleet.address(1);
    let trying = harbour.upload(&address, &lease, sealed);
    // The coordinator tries for a while by itself.
    let refused = tokio::time::timeout(Duration::from_secs(1), trying).await;
    assert!(!matches!(refused, Ok(Ok(_))), "nothing was acknowledged");
    s3.set(Mood::Good);
    harbour.backup(&fleet.address(1), &[Content::file("a", b"after")]).await;
    assert_readable(&fleet, &[point]).await;

    for node in fleet.running() {
        let log = fleet.directory().join(format!("coordinator-{node}/log.json"));
        let log = std::fs::read_to_string(log).expect("a log");
        assert!(!log.contains(S3::secret()), "node {node} printed the secret");
    }
    drop(fleet);
    let plain = Fleet::start().await;
    let refused = plain.admin_cli().run(&["fleet", "bundles", "--to", "bucket"]).await;
    refused.assert_refused("no bucket", Code::InvalidConfig, &["[bucket]"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bucket_object_that_rots_is_a_finding_and_named_as_lost() {
    let directory = tempfile::tempdir().expect("a directory");
    let s3 = S3::start(directory.path());
    let fleet = fleet_with(&s3).await;
    let mut harbour = RawCluster::register(&fleet, "harbour").await;
    fleet.admin_cli().json(&["fleet", "bundles", "--to", "bucket"]).await;
    moved(&fleet, "settled", |s| is_settled(s, "bucket")).await;
    let contents = [Content::file("a", &noise(50_000, 1))];
    let point = harbour.backup(&fleet.address(1), &contents).await;
    let second = harbour.backup(&fleet.address(1), &[Content::file("b", b"the second")]).await;
    let bundles = &fleet.admin_cli().json(&["fleet", "bundles", "status"]).await["bundles"];
    let scrubbed = fleet.admin_cli().json(&["node", "scrub", "--node", "2"]).await;
    assert_eq!((&scrubbed[0]["checked"], &scrubbed[0]["damaged"]), (bundles, &0.into()));
    let rot = |id: BundleId| {
        let of = |(name, _): &(String, _)| name.contains(&id.to_string());
        let (_, path) = s3.objects("bundles").into_iter().find(of).expect("there");
        let mut bytes = std::fs::read(&path).expect("readable");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).expect("writable");
    };
    // A scrub reads every object again, whatever was read a moment ago.
    let rotten = bundles_of(&second).into_iter().find(|id| !bundles_of(&point).contains(id));
    let rotten = rotten.expect("a bundle of its own");
    rot(rotten);
    let found = fleet.admin_cli().run(&["node", "scrub", "--node", "2"]).await;
    let found = found.json();
    assert_eq!((&found[0]["checked"], &found[0]["damaged"]), (bundles, &1.into()));
    assert_eq!(found[0]["unrepaired"], serde_json::json!([rotten.to_string()]));
    let id = bundles_of(&point)[0];
    let of = |name: &str| name.contains(&id.to_string());
    rot(id);
    // Through a node that has not read it yet.
    let viewer = fleet.operator(Role::Viewer);
    let refused = read_bundle(&viewer, &fleet.address(3), id).await.expect_err("it is damaged");
    assert_eq!(refused.code(), Code::BundleNotFound, "{refused}");
    let status = until("a finding says so", async || {
        let status = fleet.status(1).await;
        let is_told = status.findings.iter().any(|finding| finding.kind == "bundles-absent");
        is_told.then_some(status)
    })
    .await;
    assert!(status.findings.iter().all(|finding| !finding.remedy.is_empty()));
    let aside = s3.objects("bundles/quarantine");
    assert!(aside.iter().any(|(name, _)| of(name)), "{aside:?}");
}
