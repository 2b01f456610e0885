//! Keys and signatures at the door of the fleet (B4, E1, K3), and that nothing readable or any
//! key ever reaches a coordinator (K1).

use std::path::{Path, PathBuf};

use bundle::{Keyring, SigningKey};
use proto::identity::Role;
use proto::v1;
use proto_types::Code;
use proto_types::env::{Clock, SystemClock, SystemRandom};
use tests::client::assert_refused;
use tests::metrics::scrape;
use tests::raw::{Lease, read_bundle};
use tests::sealed::{Content, PointFiles, Sealed};
use tests::{Agent, Answer, Fleet, RawCluster, Runbook};

use crate::restart::bundles_of;

const A: fn() -> [Content; 1] = || [Content::file("a", b"something worth keeping")];

async fn upload_all(cluster: &RawCluster, address: &str, files: &[&Sealed]) -> Lease {
    let lease = cluster.open_upload(address).await.expect("a lease");
    for sealed in files {
        cluster.upload(address, &lease, sealed).await.expect("taken");
    }
    lease
}

async fn commit(
    cluster: &RawCluster,
    address: &str,
    lease: &Lease,
    changed: v1::ChangedPoint,
) -> Result<v1::CommitPointResponse, proto::ApiError> {
    let request = cluster.commit_request(lease, changed);
    cluster.party.backup(address).commit_point(request).await.answer()
}

async fn points(fleet: &Fleet) -> usize {
    let request = v1::ListPointsRequest::default();
    let mut catalog = fleet.operator(Role::Viewer).catalog(&fleet.address(1));
    catalog.list_points(request).await.answer().expect("a read").points.len()
}

fn without(files: &PointFiles, changed: &v1::ChangedPoint, kinds: &[&str]) -> v1::ChangedPoint {
    let gone: Vec<_> = files
        .all()
        .into_iter()
        .filter(|sealed| kinds.contains(&sealed.kind()))
        .map(Sealed::id_bytes)
        .collect();
    let mut changed = changed.clone();
    changed.added.retain(|id| !gone.contains(id));
    changed
}

#[tokio::test]
async fn invariant_b4_e1_k3_a_commit_lacking_keys_or_late_or_signed_by_a_stranger_is_refused() {
    let fleet = Fleet::start().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    let address = fleet.address(2);
    let files = cluster.seal(&A());
    let lease = upload_all(&cluster, &address, &files.all()).await;
    let whole = cluster.changed(&files);

    // B4: without the key bundle, without its wraps, without naming any.
    for kinds in [&["key"][..], &["wraps"], &["key", "wraps"]] {
        let refused = commit(&cluster, &address, &lease, without(&files, &whole, kinds)).await;
        assert_refused(
            &format!("without {kinds:?}"),
            refused,
            Code::KeyBundleIncomplete,
            &["lacks", "upload it"],
        );
    }
    let mut unnamed = without(&files, &whole, &["key", "wraps"]);
    (unnamed.key_bundle_id, unnamed.wraps_id) = Default::default();
    let refused = commit(&cluster, &address, &lease, unnamed).await;
    assert_refused("naming no key bundle", refused, Code::KeyBundleIncomplete, &["key bundle"]);

    // B4: with a key bundle that lacks the key that config bundle and manifest are sealed under.
    let random = &SystemRandom;
    let other_keys = Keyring::create(0, &cluster.kek, &cluster.signing, SystemClock.now(), random);
    let foreign = cluster.seal_under(&other_keys, &A());
    for sealed in [&foreign.config, &foreign.manifest] {
        cluster.upload(&address, &lease, sealed).await.expect("taken");
    }
    let mixed = PointFiles {
        config: foreign.config.clone(),
        manifest: foreign.manifest.clone(),
        ..files.clone()
    };
    let refused = commit(&cluster, &address, &lease, cluster.changed(&mixed)).await;
    assert_refused(
        "a key bundle without the key",
        refused,
        Code::KeyBundleIncomplete,
        &["lacks 1 key", "seal a key bundle with all keys"],
    );

    // K3: everything is in order, but a stranger signed.
    let stranger = SigningKey::generate(random);
    let strangers = Keyring::create(0, &cluster.kek, &stranger, SystemClock.now(), random);
    let forged = cluster.seal_under(&strangers, &A());
    for sealed in forged.all() {
        cluster.upload(&address, &lease, sealed).await.expect("sealed bytes like any other");
    }
    let refused = commit(&cluster, &address, &lease, cluster.changed(&forged)).await;
    assert_refused("signed by a stranger", refused, Code::BadSignature, &["signed by another key"]);
    // Only the manifest is the stranger's.
    let swapped = PointFiles { manifest: forged.manifest.clone(), ..files.clone() };
    let refused = commit(&cluster, &address, &lease, cluster.changed(&swapped)).await;
    let manifest = forged.manifest.id().to_string();
    assert_refused("a stranger's manifest", refused, Code::BadSignature, &[&manifest[..8]]);

    // K3: sealed for another cluster, under the same keys.
    let mut elsewhere = cluster.identity();
    elsewhere.cluster = proto_types::ClusterId::from_bytes([9; 16]);
    let recovery = fleet.recovery_public();
    let moved = PointFiles::seal(&cluster.keyring, elsewhere, cluster.parent(), &A(), &recovery);
    for sealed in moved.all() {
        cluster.upload(&address, &lease, sealed).await.expect("sealed bytes like any other");
    }
    let refused = commit(&cluster, &address, &lease, cluster.changed(&moved)).await;
    assert_refused("of another cluster", refused, Code::WrongCluster, &["cluster", "seal"]);

    // K3: sealed to another recovery key than the fleet's.
    let recovery = bundle::RecoverySecret::generate(random).public();
    let lost =
        PointFiles::seal(&cluster.keyring, cluster.identity(), cluster.parent(), &A(), &recovery);
    for sealed in lost.all() {
        cluster.upload(&address, &lease, sealed).await.expect("sealed bytes like any other");
    }
    let refused = commit(&cluster, &address, &lease, cluster.changed(&lost)).await;
    assert_refused("sealed to another recovery key", refused, Code::WrongKey, &["recovery key"]);
    assert_eq!(points(&fleet).await, 0);

    // E1: another agent of the cluster became active; whatever the older one does is too late.
    let old_epoch = cluster.epoch;
    cluster.become_another();
    cluster.open_session(&fleet.address(3)).await.expect("a newer agent");
    assert!(cluster.epoch > old_epoch);
    let new_epoch = std::mem::replace(&mut cluster.epoch, old_epoch);
    let refused = commit(&cluster, &address, &lease, whole).await;
    assert_refused("an older epoch's commit", refused, Code::StaleEpoch, &["another agent"]);
    let refused = cluster.open_upload(&address).await;
    assert_refused("an older epoch's upload", refused, Code::StaleEpoch, &["epoch", "stop one"]);
    assert_eq!(points(&fleet).await, 0);

    // The newer one backs up, and only then there is a point.
    cluster.epoch = new_epoch;
    cluster.backup(&address, &A()).await;
    assert_eq!(points(&fleet).await, 1);

    // K3: a manifest that follows another one than the head does not become the next point.
    let mut stale = cluster.parent();
    stale.manifest = files.manifest.id();
    let fork = PointFiles::seal(
        &cluster.keyring,
        cluster.identity(),
        stale,
        &A(),
        &fleet.recovery_public(),
    );
    let lease = upload_all(&cluster, &address, &fork.all()).await;
    let refused = commit(&cluster, &address, &lease, cluster.changed(&fork)).await;
    assert_refused("a fork", refused, Code::Rollback, &["predecessor"]);
    assert_eq!(points(&fleet).await, 1);
    fleet.assert_quiet(&[]);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

#[tokio::test]
async fn operations_recovery_key_is_followed_word_by_word() {
    let fleet = Fleet::start().await;
    let source = fleet.scratch("source");
    std::fs::write(source.join("app.yaml"), "replicas: 3\n").expect("made");
    let agent = Agent::enrol(&fleet, "harbour", &source, &[]).await;
    assert_eq!(agent.backup().await, 1);
    let export = fleet.scratch("export").join("harbour-1.srx");
    agent.cli.json(&["backup", "export", "--point", "harbour@1", "--out", text(&export)]).await;

    let mut page = Runbook::open(&fleet, "recovery-key.md", &[]);
    let new = fleet.scratch("new").join("keys");
    let made = page.run(&[("KEYS", text(&new))]).await;
    assert!(made.contains("any 3 of them rebuild the key"), "{made}");
    assert!(made.contains("share-5-of-5.txt") && !made.contains("srshare1"), "{made}");

    let [one, two, three] = fleet.recovery_shares();
    let keys = one.parent().expect("its directory");
    let out = fleet.scratch("recovered");
    let variables = [
        ("KEYS", text(keys)),
        ("EXPORT", text(&export)),
        ("OUT", text(&out)),
        ("SHARE_1", text(&one)),
        ("SHARE_2", text(&two)),
        ("SHARE_3", text(&three)),
    ];
    let attested = page.run(&variables).await;
    assert!(attested.contains("share 1 of 5 is whole"), "{attested}");
    let verified = page.run(&variables).await;
    assert!(verified.contains("open harbour@1"), "{verified}");
    page.run(&variables).await;
    page.finish();

    // What was recovered is what the cluster has.
    let recovered = out.join("harbour@1");
    let keys = |file: &Path| keys_in(file).into_iter().map(|(_, key)| key).collect::<Vec<_>>();
    assert_eq!(keys(&recovered.join("kek.key")), keys(&agent.kek()));
    let signing = agent.directory().join("signing.key");
    assert_eq!(keys(&recovered.join("signing.key")), keys(&signing));
    fleet.assert_quiet(&[]);
}

/// All files below a directory, with their bytes.
fn files_below(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    walkdir::WalkDir::new(directory)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            (entry.into_path(), bytes)
        })
        .collect()
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let first = needle[0];
    hay.iter().enumerate().any(|(at, byte)| *byte == first && hay[at..].starts_with(needle))
}

/// The raw keys in a key file: its lines of 64 hexadecimal digits.
fn keys_in(file: &Path) -> Vec<(String, Vec<u8>)> {
    let text = std::fs::read_to_string(file).expect("a key file is text");
    text.lines()
        .filter_map(|line| {
            let (name, digits) = line.split_once(' ')?;
            let bytes = hex::decode(digits).ok().filter(|bytes| bytes.len() == 32)?;
            Some((format!("{} of {}", name, file.display()), bytes))
        })
        .collect()
}

#[tokio::test]
async fn invariant_k1_no_coordinator_log_or_metric_holds_plaintext_names_contents_or_keys() {
    let fleet = Fleet::start().await;
    let source = fleet.scratch("source");
    // Words that stand nowhere else. Not compressible away: zstd keeps short literals as they are.
    let words = ["zqnameconfig", "zqcontentplain", "zqnamesecret", "zqcontentsecret", "zqlinkgoal"];
    std::fs::create_dir(source.join("keys")).expect("made");
    std::fs::write(source.join("zqnameconfig.yaml"), "zqcontentplain").expect("made");
    std::fs::write(source.join("keys/zqnamesecret"), "zqcontentsecret").expect("made");
    std::os::unix::fs::symlink("zqlinkgoal", source.join("link")).expect("made");
    // Something that makes the agent complain: paths may not travel with the complaint.
    rustix::fs::mkfifoat(rustix::fs::CWD, source.join("zqnamefifo"), 0o600.into()).expect("made");
    let agent = Agent::enrol(&fleet, "harbour", &source, &["keys/**"]).await;
    assert_eq!(agent.backup().await, 1);
    std::fs::write(source.join("zqnameconfig.yaml"), "zqcontentplain again").expect("made");
    assert_eq!(agent.backup().await, 2);
    let out = fleet.scratch("out").join("restored");
    agent.restore(&[], &out).await.success().json();
    let shares = fleet.recovery_shares();
    let out = fleet.scratch("out").join("by-shares");
    let mut arguments = vec!["restore", "--cluster", "harbour", "--to", text(&out)];
    arguments.extend(shares.iter().flat_map(|share| ["--share", text(share)]));
    agent.cli.json(&arguments).await;
    tests::raw::scrub(&fleet.operator(Role::Operator), &fleet.address(1)).await.expect("a report");

    let mut needles: Vec<(String, Vec<u8>)> =
        words.iter().map(|word| ((*word).to_owned(), word.as_bytes().to_vec())).collect();
    needles.push(("zqnamefifo".to_owned(), b"zqnamefifo".to_vec()));
    let mut keys = keys_in(&agent.kek());
    keys.extend(keys_in(&agent.directory().join("signing.key")));
    keys.extend(keys_in(&fleet.recovery_files()));
    assert!(keys.len() >= 3, "the key files were understood: {}", keys.len());
    for share in &shares {
        let written = std::fs::read_to_string(share).expect("a share is text");
        let groups = written.lines().last().expect("its text").split(' ').skip(1);
        // The last groups of the value, and the checksum.
        let end: String = groups.skip(5).collect();
        assert_eq!(end.len(), 48, "{}", share.display());
        needles.push((format!("the end of {}", share.display()), end.into_bytes()));
    }
    for (name, key) in keys {
        needles.push((format!("{name} in hexadecimal"), hex::encode(&key).into_bytes()));
        needles.push((name, key));
    }

    let mut seen = 0;
    // No log is an exception, not even the agent's own.
    for (name, needle) in &needles {
        assert!(!contains(agent.log().text().as_bytes(), needle), "the agent's log holds {name}");
    }
    for node in tests::fleet::NODES {
        let directory = fleet.node(node).data().parent().expect("the node's directory").to_owned();
        let mut places = files_below(&directory);
        let page = scrape(&fleet.node(node).metrics_address()).await;
        places.push((PathBuf::from("/metrics"), page.into_bytes()));
        let status = format!("{:?}", fleet.status(node).await);
        places.push((PathBuf::from("status"), status.into_bytes()));
        for (path, bytes) in places {
            seen += bytes.len();
            for (name, needle) in &needles {
                // The config file names the fleet's public keys and nothing secret; it is
                // searched like all else.
                assert!(
                    !contains(&bytes, needle),
                    "node {node} holds {name} in {}",
                    path.display()
                );
            }
        }
    }
    assert!(seen > 100_000, "the search saw {seen} bytes");
    // The search itself finds what is there: the key file does hold its key.
    let kek = std::fs::read(agent.kek()).expect("read");
    assert!(needles.iter().any(|(_, needle)| contains(&kek, needle)));
    fleet.assert_quiet(&[]);
}

#[tokio::test]
async fn invariant_k3_sealed_bytes_are_served_as_they_were_sealed() {
    let fleet = Fleet::start().await;
    let mut cluster = RawCluster::register(&fleet, "harbour").await;
    let files = cluster.seal(&A());
    let address = fleet.address(1);
    let lease = upload_all(&cluster, &address, &files.all()).await;
    let request = cluster.commit_request(&lease, cluster.changed(&files));
    let point = cluster.commit(&address, request).await.expect("committed");
    let viewer = fleet.operator(Role::Viewer);
    let expect = bundle::Expect::of(fleet.id, cluster.id).signed_by(cluster.signing.public());
    for sealed in files.all() {
        let read = read_bundle(&viewer, &fleet.address(3), sealed.id()).await.expect("read");
        assert_eq!(read, sealed.file);
        let verified = bundle::verify_bytes(&read, &expect).expect("signed by the cluster");
        assert_eq!(verified.id, sealed.id());
    }
    assert_eq!(bundles_of(&point).len(), 4);
    // The way back of the keys: by KEK and by recovery key.
    let wraps = read_bundle(&viewer, &address, files.wraps.id()).await.expect("read");
    let key_file = read_bundle(&viewer, &address, files.key.id()).await.expect("read");
    for opened in [
        bundle::open_wraps_with_kek(&wraps, &cluster.kek, &expect),
        bundle::open_wraps_with_recovery(&wraps, &fleet.recovery, &expect),
    ] {
        let content_key = opened.unwrap_or_else(|e| panic!("{e}")).content_key;
        let keys = bundle::open_key_bundle(&key_file, &content_key, &expect);
        assert!(keys.is_ok_and(|keys| keys.keyring.has_dek(&cluster.keyring.current_dek())));
    }
}
