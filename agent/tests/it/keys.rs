//! Invariant B4 where keys change while a backup is made: at each of its steps by a hand, by an order,
//! with another agent at work, and with a crash. What changes the key is told by the backup's own
//! progress, so that it happens at the same place each time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agent::backup::{BackupError, BackupRequest};
use agent::heads::KnownHeads;
use agent::point_store::PointSelector;
use agent::progress::{Phase, Progress, ProgressEvent};
use agent::{OpenedPoint, Opener};
use bundle::Kek;
use proto::v1;
use proto_types::Code;
use proto_types::env::SystemRandom;

use crate::story::{Story, options, restore};
use crate::tree;

/// Does something once, when a backup comes to a phase.
struct At<F>(Phase, AtomicBool, F);

impl<F: Fn() + Send + Sync + 'static> Progress for At<F> {
    fn on(&self, event: ProgressEvent) {
        if event.phase == self.0 && !self.1.swap(true, Ordering::SeqCst) {
            self.2();
        }
    }
}

async fn backup_with(
    story: &mut Story,
    phase: Phase,
    work: impl Fn() + Send + Sync + 'static,
) -> Result<v1::Point, BackupError> {
    let at = Arc::new(At(phase, AtomicBool::new(false), work));
    // With a limit even a small point is uploaded before its commit.
    let limit_bytes_per_second = if phase == Phase::Uploading { 1 << 30 } else { 0 };
    let request = BackupRequest { limit_bytes_per_second, ..BackupRequest::default() };
    let result = story.engine.as_mut().unwrap().run(request, at.clone()).await;
    assert!(at.1.load(Ordering::SeqCst), "the backup came to {}", phase.as_str());
    result
}

/// The newest point opens with the KEK that stands in its place, whole, and by its keyring every older
/// one does.
async fn every_point_opens(story: &Story) {
    let newest = story.store(PointSelector::Newest).await;
    let sequence = newest.point().sequence.get();
    let opened =
        OpenedPoint::open(newest, &story.kek(), &mut KnownHeads::nothing(), &story.env).await;
    let opened = opened.unwrap();
    let to = story.path(&format!("newest-{sequence}"));
    let _ = std::fs::remove_dir_all(&to);
    restore(&opened, &options(&to)).await.unwrap();
    tree::assert_equal(&story.source(), &to);
    let opener = Opener::Keyring(opened.keyring().clone());
    for sequence in 1..=sequence {
        let selector = PointSelector::Sequence(proto_types::Sequence::new(sequence));
        let store = story.store(selector).await;
        let older = OpenedPoint::open(store, &opener, &mut KnownHeads::nothing(), &story.env).await;
        assert!(older.is_ok(), "point {sequence}: {:?}", older.err().map(|e| e.to_string()));
    }
}

fn write_source(story: &Story, text: &str) {
    for directory in ["conf", "secrets"] {
        std::fs::create_dir_all(story.source().join(directory)).unwrap();
    }
    tree::write(&story.source(), "conf/a.yaml", text.as_bytes());
    tree::write(&story.source(), "secrets/token", format!("secret of {text}").as_bytes());
}

fn kek_path(story: &Story) -> PathBuf {
    story.path("state/kek.key")
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_b4_a_kek_changed_by_a_hand_at_any_step_opens_the_point_that_follows() {
    let mut story = Story::begin().await;
    write_source(&story, "first");
    story.backup().await;
    let phases =
        [Phase::Scanning, Phase::Sealing, Phase::Uploading, Phase::Committing, Phase::Done];
    for (phase, number) in phases.into_iter().zip(1..) {
        write_source(&story, &format!("changed {number}"));
        let (path, text) = (kek_path(&story), Kek::generate(&SystemRandom).to_text().to_string());
        let written = text.clone();
        let point =
            backup_with(&mut story, phase, move || std::fs::write(&path, &written).unwrap()).await;
        point.unwrap();
        assert_eq!(std::fs::read_to_string(kek_path(&story)).unwrap(), text, "it is kept");
        every_point_opens(&story).await;
    }
    let key = ("store-secret-changed".to_owned(), String::new());
    assert!(story.fleet.lock().findings.contains_key(&key));
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_b4_a_kek_that_vanishes_while_a_point_is_sent_is_made_anew() {
    let mut story = Story::begin().await;
    write_source(&story, "first");
    story.backup().await;
    write_source(&story, "second");
    let path = kek_path(&story);
    backup_with(&mut story, Phase::Uploading, move || std::fs::remove_file(&path).unwrap())
        .await
        .unwrap();
    every_point_opens(&story).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_b4_keys_ordered_between_config_and_key_bundle_are_changed_with_the_next_point() {
    let mut story = Story::begin().await;
    write_source(&story, "first");
    story.backup().await;
    let before = std::fs::read_to_string(kek_path(&story)).unwrap();
    write_source(&story, "second");
    let state = story.fleet.state.clone();
    let orders = v1::KeyOrders { kek: 1, kek_done: 0, dek: 1, dek_done: 0 };
    let point = backup_with(&mut story, Phase::Sealing, move || {
        state.lock().unwrap().orders = orders;
    });
    let point = point.await.unwrap();
    assert_eq!(point.sequence, 3, "the order is fulfilled at once, with a point of its own");
    assert!(!point.unchanged);
    assert_ne!(std::fs::read_to_string(kek_path(&story)).unwrap(), before);
    assert!(!story.path("state/kek.next").exists());
    let done = story.fleet.lock().orders;
    assert_eq!((done.kek_done, done.dek_done), (1, 1));
    every_point_opens(&story).await;
    assert!(story.backup().await.unchanged, "once ordered, once done");
}

/// Another agent becomes the active one while this one is about to commit a rotated KEK: nothing of
/// it counts, and the KEK in its place stays the one that opens the newest point (E1).
#[tokio::test(flavor = "multi_thread")]
async fn invariant_b4_of_two_agents_the_older_one_changes_no_key() {
    let mut story = Story::begin().await;
    write_source(&story, "first");
    story.backup().await;
    let before = std::fs::read_to_string(kek_path(&story)).unwrap();
    story.fleet.lock().orders = v1::KeyOrders { kek: 1, ..v1::KeyOrders::default() };
    story.start_agent();
    let state = story.fleet.state.clone();
    let fenced = backup_with(&mut story, Phase::Uploading, move || {
        let mut state = state.lock().unwrap();
        state.epoch += 1;
        state.active = vec![7; 16];
    });
    assert_eq!(fenced.await.unwrap_err().code(), Code::StaleEpoch);
    assert_eq!(std::fs::read_to_string(kek_path(&story)).unwrap(), before);
    every_point_opens(&story).await;
    // The older one is started again and is the active one: what it had prepared is finished.
    story.start_agent();
    story.backup().await;
    assert_ne!(std::fs::read_to_string(kek_path(&story)).unwrap(), before);
    assert!(!story.path("state/kek.next").exists());
    every_point_opens(&story).await;
}

/// A rotation is acknowledged, and the answer is lost, or the agent dies before the new KEK has taken its
/// place.
#[tokio::test(flavor = "multi_thread")]
async fn invariant_b4_a_crash_between_commit_and_the_new_keks_place_loses_no_key() {
    let mut story = Story::begin().await;
    write_source(&story, "first");
    story.backup().await;
    let before = std::fs::read_to_string(kek_path(&story)).unwrap();
    {
        let mut state = story.fleet.lock();
        state.orders = v1::KeyOrders { kek: 1, ..v1::KeyOrders::default() };
        state.faults.lose_commit_answers = 1000;
    }
    story.start_agent();
    assert!(story.try_backup(false).await.is_err(), "the answer is lost for good");
    assert_eq!(story.fleet.lock().points.len(), 2, "and the point is there");
    story.fleet.lock().faults.lose_commit_answers = 0;
    every_point_opens(&story).await;
    story.backup().await;
    let after = std::fs::read_to_string(kek_path(&story)).unwrap();
    assert_ne!(after, before);
    every_point_opens(&story).await;

    // What is on the disk when the agent dies right after the acknowledgement.
    story.engine = None;
    std::fs::rename(kek_path(&story), story.path("state/kek.next")).unwrap();
    std::fs::write(kek_path(&story), &before).unwrap();
    let points = story.fleet.lock().points.len();
    story.start_agent();
    assert!(story.backup().await.unchanged, "nothing has to be sealed for it");
    assert_eq!(story.fleet.lock().points.len(), points + 1);
    assert_eq!(std::fs::read_to_string(kek_path(&story)).unwrap(), after);
    assert!(!story.path("state/kek.next").exists());
    every_point_opens(&story).await;

    // And when it dies before the commit: what was prepared is finished with the next point.
    story.engine = None;
    let prepared = Kek::generate(&SystemRandom).to_text().to_string();
    std::fs::write(story.path("state/kek.next"), &prepared).unwrap();
    story.start_agent();
    assert!(!story.backup().await.unchanged, "its key bundle comes with it");
    assert_eq!(std::fs::read_to_string(kek_path(&story)).unwrap(), prepared);
    every_point_opens(&story).await;
}

/// A fleet that offers a recovery key of its own gets nothing sealed to it (K3).
#[tokio::test(flavor = "multi_thread")]
async fn invariant_k3_a_recovery_key_that_the_pinned_one_did_not_name_is_refused() {
    let mut story = Story::begin().await;
    write_source(&story, "first");
    story.backup().await;
    let random = &SystemRandom;
    let (stranger, other) =
        (bundle::RecoverySecret::generate(random), bundle::RecoverySecret::generate(random));
    story.fleet.lock().recovery = Some(stranger.public());
    let pinned = agent::home::load_recovery_public(&story.path("recovery.pub")).unwrap();
    let former = |key: bundle::RecoveryPublic, signature: [u8; 64]| v1::FormerRecoveryKey {
        hpke: key.hpke.to_vec().into(),
        signing: key.signing.to_vec().into(),
        signature: signature.to_vec().into(),
        ..v1::FormerRecoveryKey::default()
    };
    let fleet = crate::fleet::FLEET;
    let elsewhere = proto_types::FleetId::from_bytes([9; 16]);
    let own = agent::home::load_recovery_secret(&story.path("recovery.key")).unwrap();
    for (what, chain) in [
        ("no word of the pinned key", vec![]),
        (
            "signed by the stranger",
            vec![former(pinned, stranger.sign_successor(fleet, &stranger.public()))],
        ),
        ("of another successor", vec![former(pinned, own.sign_successor(fleet, &other.public()))]),
        (
            "of another fleet",
            vec![former(pinned, own.sign_successor(elsewhere, &stranger.public()))],
        ),
        (
            "a step missing",
            vec![
                former(pinned, own.sign_successor(fleet, &other.public())),
                former(stranger.public(), stranger.sign_successor(fleet, &stranger.public())),
            ],
        ),
    ] {
        story.fleet.lock().former = chain;
        story.start_agent();
        let refused = story.try_backup(true).await.unwrap_err();
        assert_eq!(refused.code(), Code::WrongKey, "{what}: {refused}");
    }
    assert_eq!(story.fleet.lock().points.len(), 1);
    // Named by the pinned one, over a step between.
    story.fleet.lock().former = vec![
        former(pinned, own.sign_successor(fleet, &other.public())),
        former(other.public(), other.sign_successor(fleet, &stranger.public())),
    ];
    story.start_agent();
    write_source(&story, "second");
    story.backup().await;
    let store = story.store(PointSelector::Newest).await;
    let opener = Opener::Recovery(stranger);
    OpenedPoint::open(store, &opener, &mut KnownHeads::nothing(), &story.env).await.unwrap();
    // It is remembered: the same answer without the way is no reason to refuse.
    story.fleet.lock().former = vec![];
    story.start_agent();
    assert!(story.backup().await.unchanged);
}

/// What a coordinator that wants to read puts in the place of the newest key bundle: a keyring of its own,
/// wrapped to the fleet's recovery key and under whatever KEK, for this cluster or another one's.
fn replace_keys(story: &Story, cluster: proto_types::ClusterId, signing: &bundle::SigningKey) {
    let random = &SystemRandom;
    let recovery = agent::home::load_recovery_public(&story.path("recovery.pub")).unwrap();
    let kek = Kek::generate(random);
    let now = proto_types::LogTime::from_millis(1_790_000_000_000);
    let keyring = bundle::Keyring::create(0, &kek, signing, now, random);
    let mut state = story.fleet.lock();
    let state = &mut *state;
    let point = state.points.last_mut().unwrap();
    let identity = bundle::Identity {
        fleet: crate::fleet::FLEET,
        cluster,
        lineage: 0,
        sequence: proto_types::Sequence::new(point.sequence),
        epoch: proto_types::Epoch::new(point.epoch),
        created: now,
    };
    let none = proto_types::BundleId::ZERO;
    let secrets = bundle::Secrets::new();
    let (keys, content_key, key_bytes) =
        bundle::seal_key_bundle(Vec::new(), &keyring, &secrets, &identity, none, &recovery, random)
            .unwrap();
    let (wraps, wraps_bytes) = bundle::seal_wraps(
        Vec::new(),
        &keyring,
        &content_key,
        keys.id,
        &identity,
        &recovery,
        random,
    )
    .unwrap();
    let needs = state.needs.last_mut().unwrap();
    needs.remove(&point.key_bundle_id[..]);
    needs.remove(&point.wraps_id[..]);
    for (id, bytes) in [(keys.id, key_bytes), (wraps.id, wraps_bytes)] {
        let header =
            proto_types::SignedHeader::from_tail(&bytes, bytes.len() as u64).expect("just sealed");
        let id = id.as_bytes().to_vec();
        needs.insert(id.clone());
        state.headers.insert(id.clone(), header);
        state.bundles.insert(id, bytes);
    }
    point.key_bundle_id = keys.id.as_bytes().to_vec().into();
    point.wraps_id = wraps.id.as_bytes().to_vec().into();
}

/// A coordinator that replaces a key bundle with one of its own, or with another cluster's: the agent
/// refuses to go on from it and begins no new lineage, and who opens the point hears why (K3).
#[tokio::test(flavor = "multi_thread")]
async fn invariant_k3_a_key_bundle_of_a_coordinators_own_is_noticed_by_agent_and_reader() {
    let stranger = bundle::SigningKey::generate(&SystemRandom);
    let elsewhere = proto_types::ClusterId::from_bytes([9; 16]);
    for (cluster, own_key, expected) in
        [(crate::fleet::CLUSTER, false, Code::BadSignature), (elsewhere, true, Code::WrongCluster)]
    {
        let mut story = Story::begin().await;
        write_source(&story, "first");
        story.backup().await;
        let path = story.path("state/signing.key");
        let text = std::fs::read_to_string(path).unwrap();
        let own = bundle::SigningKey::from_text(&text).unwrap();
        replace_keys(&story, cluster, if own_key { &own } else { &stranger });
        // The agent has kept nothing, as after a loss of its cache.
        std::fs::remove_dir_all(story.path("state/cache")).unwrap();
        story.start_agent();
        write_source(&story, "second");
        let refused = story.try_backup(false).await.unwrap_err();
        assert_eq!(refused.code(), expected, "{refused}");
        assert_eq!(story.fleet.lock().points.len(), 1, "nothing is built on it");
        assert!(!story.path("state/notices").exists(), "no key of its own was given up for it");
        // A reader who has the signing key pinned, with the recovery key that it is sealed to.
        let mut heads = KnownHeads::nothing();
        let id = crate::fleet::CLUSTER;
        heads.pin(crate::fleet::FLEET, id, crate::fleet::CLUSTER_NAME, own.public()).unwrap();
        let store = story.store(PointSelector::Newest).await;
        let opened = OpenedPoint::open(store, &story.recovery(), &mut heads, &story.env).await;
        let error = opened.err().unwrap();
        assert_eq!(error.code(), expected, "{error}");
    }
}
