use std::os::unix::fs::symlink;
use std::sync::Arc;

use agent::backup::BackupRequest;
use agent::heads::KnownHeads;
use agent::opened::OpenedPoint;
use agent::point_store::PointSelector;
use agent::progress::NoProgress;
use proto::v1;
use proto_types::Code;

use crate::story::Story;
use crate::tree;

/// Stamps of what was just written prove nothing; these are old.
fn settle(root: &std::path::Path) {
    let path = root.to_owned();
    // The change time cannot be set: wait until the clock has ticked well past it.
    let changed = || std::os::unix::fs::MetadataExt::ctime_nsec(&std::fs::metadata(&path).unwrap());
    let _ = changed();
    let probe = root.parent().unwrap().join("probe");
    let newest = newest_change(root);
    loop {
        std::fs::write(&probe, "x").unwrap();
        let now = std::os::unix::fs::MetadataExt::ctime(&std::fs::metadata(&probe).unwrap())
            as i128
            * 1_000_000_000
            + i128::from(std::os::unix::fs::MetadataExt::ctime_nsec(
                &std::fs::metadata(&probe).unwrap(),
            ));
        if now - newest > 100_000_000 {
            break;
        }
        std::thread::yield_now();
    }
}

fn newest_change(root: &std::path::Path) -> i128 {
    use std::os::unix::fs::MetadataExt;
    let mut newest = 0;
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        newest =
            newest.max(i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec()));
        if meta.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    newest
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_first_delta_unchanged_and_back() {
    let mut story = Story::begin().await;
    let source = story.source();
    tree::rich(&source);
    settle(&source);

    let first = story.backup().await;
    assert_eq!(first.sequence, 1);
    assert!(!first.unchanged && first.base_manifest_id.is_empty());
    let copy = story.path("copy");
    story.restore(1, &copy).await;
    tree::assert_equal(&source, &copy);

    // Nothing changed: a statement, no lease, no file.
    story.fleet.take_calls();
    let second = story.backup().await;
    assert!(second.unchanged);
    let calls = story.fleet.take_calls();
    assert_eq!(calls.into_iter().collect::<Vec<_>>(), [("commit_point", 1)]);

    tree::write(&source, "conf/deep/er/b.yaml", b"kind: Secret\nname: changed\n");
    std::fs::remove_file(source.join("dangling")).unwrap();
    symlink("elsewhere", source.join("new-link")).unwrap();
    settle(&source);
    let third = story.backup().await;
    assert!(!third.unchanged);
    assert_eq!(third.base_manifest_id, first.manifest_id, "a delta against the full one");
    assert_eq!(third.key_bundle_id, first.key_bundle_id, "no key changed");
    assert!(third.added_bytes < 10_000, "{}", third.added_bytes);

    let (then, now) = (story.path("then"), story.path("now"));
    story.restore(2, &then).await;
    story.restore(3, &now).await;
    tree::assert_equal(&copy, &then);
    tree::assert_equal(&source, &now);
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_touched_files_are_read_and_still_unchanged() {
    let mut story = Story::begin().await;
    let source = story.source();
    tree::rich(&source);
    settle(&source);
    story.backup().await;
    // The change time moves, and nothing else.
    tree::mode(&source, "big", 0o600);
    tree::mode(&source, "big", 0o400);
    settle(&source);
    let before = story.fleet.lock().uploaded;
    let point = story.backup().await;
    assert!(point.unchanged);
    assert_eq!(story.fleet.lock().uploaded, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_goes_on_after_the_agent_lost_all_but_its_keys() {
    let mut story = Story::begin().await;
    let source = story.source();
    tree::rich(&source);
    settle(&source);
    story.backup().await;
    tree::write(&source, "conf/new", b"new");
    settle(&source);
    story.backup().await;

    // The cache of a restarted agent is believed: nothing is fetched or read.
    story.start_agent();
    story.fleet.take_calls();
    assert!(story.backup().await.unchanged);
    assert!(!story.fleet.take_calls().contains_key("read_bundle"));

    // Lost, it is made anew from the fleet; the same bytes are not sent again.
    story.engine = None;
    std::fs::remove_dir_all(story.path("state/cache")).unwrap();
    story.start_agent();
    let before = story.fleet.lock().uploaded;
    assert!(story.backup().await.unchanged);
    assert!(story.fleet.take_calls()["read_bundle"] >= 4);
    assert_eq!(story.fleet.lock().uploaded, before);

    // Damaged, it is not believed.
    story.engine = None;
    for file in std::fs::read_dir(story.path("state/cache/bundles")).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    story.start_agent();
    assert!(story.backup().await.unchanged);
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_of_an_empty_directory_has_no_config_bundle() {
    let mut story = Story::begin().await;
    settle(&story.source());
    let point = story.backup().await;
    assert_eq!(point.items, 1);
    assert_eq!(story.fleet.lock().bundles.len(), 3);
    let copy = story.path("copy");
    story.restore(1, &copy).await;
    tree::assert_equal(&story.source(), &copy);
    assert!(story.backup().await.unchanged);
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_b4_secrets_are_in_the_key_bundle_only_and_carried_on() {
    let mut story = Story::begin().await;
    let source = story.source();
    tree::rich(&source);
    tree::write(&source, "secrets/other.key", b"another secret");
    settle(&source);
    let first = story.backup().await;
    tree::write(&source, "secrets/unseal.key", b"rotated");
    settle(&source);
    let second = story.backup().await;
    assert_ne!(second.key_bundle_id, first.key_bundle_id);
    {
        let state = story.fleet.lock();
        let needs = state.needs.last().unwrap();
        assert!(!needs.contains(&first.key_bundle_id[..]), "the old one is dropped");
        assert!(!needs.contains(&first.wraps_id[..]));
    }
    // The other secret was not read again; it came from the last key bundle.
    let copy = story.path("copy");
    story.restore(2, &copy).await;
    tree::assert_equal(&source, &copy);
    let old = story.path("old");
    story.restore(1, &old).await;
    assert_eq!(std::fs::read(old.join("secrets/unseal.key")).unwrap(), b"s3cr3t-unseal-share");
    let point = story.open(2).await;
    let shown = agent::inspect::show(&point);
    let secret: Vec<&str> =
        shown.iter().filter(|item| item.secret).map(|item| item.path.as_str()).collect();
    assert_eq!(secret, ["secrets/other.key", "secrets/unseal.key"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_full_is_made_when_much_changed_and_repacks() {
    let mut story = Story::begin().await;
    let source = story.source();
    for n in 0..40 {
        tree::write(&source, &format!("f{n:02}"), &tree::noise(3000, n));
    }
    settle(&source);
    let first = story.backup().await;
    for n in 0..4 {
        tree::write(&source, &format!("f{n:02}"), &tree::noise(3000, 100 + n));
    }
    settle(&source);
    let delta = story.backup().await;
    assert_eq!(delta.base_manifest_id, first.manifest_id);
    // Over a quarter, and over half of the first bundle is dead: it is swept up.
    for n in 4..30 {
        tree::write(&source, &format!("f{n:02}"), &tree::noise(3000, 200 + n));
    }
    settle(&source);
    let full = story.backup().await;
    assert!(full.base_manifest_id.is_empty());
    {
        let state = story.fleet.lock();
        let config = |at: usize| {
            state.needs[at]
                .iter()
                .filter(|id| state.headers[*id].header().kind.as_str() == "config")
                .count()
        };
        assert_eq!((config(0), config(1), config(2)), (1, 2, 2));
        let oldest = state.needs[0].intersection(&state.needs[2]).count();
        assert_eq!(oldest, 2, "only key bundle and wraps are left of the first point");
    }
    let copy = story.path("copy");
    story.restore(3, &copy).await;
    tree::assert_equal(&source, &copy);

    let asked = story.try_backup(true).await.unwrap();
    assert!(asked.base_manifest_id.is_empty());
    assert!(asked.added_bytes > 40 * 3000, "everything was sealed anew");
    let copy = story.path("again");
    story.restore(4, &copy).await;
    tree::assert_equal(&source, &copy);
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_e1_an_older_agent_can_commit_nothing() {
    let mut story = Story::begin().await;
    story.backup().await;
    story.fleet.lock().epoch += 1;
    tree::write(&story.source(), "x", b"y");
    let error = story.try_backup(false).await.unwrap_err();
    assert_eq!(error.code(), Code::StaleEpoch);
    assert_eq!(story.fleet.lock().points.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_refuses_keys_that_are_not_the_pinned_ones() {
    let mut story = Story::begin().await;
    let right = story.fleet.lock().recovery;
    let other = bundle::RecoverySecret::generate(&*story.env.random).public();
    story.fleet.lock().recovery = Some(other);
    let error = story.try_backup(false).await.unwrap_err();
    assert_eq!(error.code(), Code::WrongKey);
    assert!(error.to_string().contains("pins"), "{error}");

    story.fleet.lock().recovery = right;
    let ours = story.fleet.lock().signing_key.clone();
    story.fleet.lock().signing_key = vec![7; 32];
    let error = story.try_backup(false).await.unwrap_err();
    assert_eq!(error.code(), Code::WrongKey);
    story.fleet.lock().signing_key = ours;
    // Nothing is stuck: with the right keys it goes on.
    assert_eq!(story.backup().await.sequence, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_tells_what_it_could_not_keep_and_takes_it_back() {
    let mut story = Story::begin().await;
    let source = story.source();
    let fifo = source.join("secret-name-of-a-fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    story.backup().await;
    {
        let state = story.fleet.lock();
        let found = &state.findings[&("source-special-file".to_owned(), "directory".to_owned())];
        assert_eq!(found.message, "1 fifos, sockets or devices are left out");
        assert!(!format!("{:?}", state.findings).contains("secret-name"), "K1");
        assert_eq!(state.points[0].proofs[0].state(), proto::v1::ProofState::Proved);
    }
    std::fs::remove_file(fifo).unwrap();
    story.backup().await;
    assert!(story.fleet.lock().findings.is_empty());
    // Nothing is reported twice.
    story.fleet.take_calls();
    story.backup().await;
    assert!(!story.fleet.take_calls().contains_key("report_findings"));
}

/// The system's clock, some days ahead.
struct Ahead(u64);

impl proto_types::env::Clock for Ahead {
    fn now(&self) -> proto_types::LogTime {
        let days = 24 * 60 * 60 * 1000;
        proto_types::env::SystemClock.now().plus_millis(self.0 * days)
    }
    fn elapsed_millis(&self) -> u64 {
        proto_types::env::SystemClock.elapsed_millis()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_b4_a_new_data_key_comes_with_a_key_bundle_that_holds_the_old_one() {
    let mut story = Story::begin().await;
    let source = story.source();
    tree::rich(&source);
    settle(&source);
    let first = story.backup().await;
    story.env.clock = std::sync::Arc::new(Ahead(31));
    story.start_agent();
    // Nothing new is sealed, so no new key is needed.
    assert!(story.backup().await.unchanged);
    tree::write(&source, "conf/new", b"sealed under the new key");
    settle(&source);
    let third = story.backup().await;
    assert_ne!(third.key_bundle_id, first.key_bundle_id);
    {
        let state = story.fleet.lock();
        let deks = |id: &[u8]| state.headers[id].header().dek_ids.len();
        assert_eq!((deks(&first.key_bundle_id), deks(&third.key_bundle_id)), (1, 2));
    }
    for (sequence, name) in [(1, "old"), (3, "new")] {
        let to = story.path(name);
        story.restore(sequence, &to).await;
        assert_eq!(to.join("conf/new").exists(), sequence == 3);
    }
    tree::assert_equal(&source, &story.path("new"));
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_and_restore_renew_their_leases_while_they_work() {
    let mut story = Story::begin().await;
    let noise: Vec<u8> =
        (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(story.source().join("large"), noise).unwrap();
    story.fleet.lock().faults.lease_millis = Some(90);
    story.fleet.take_calls();
    let request = BackupRequest { limit_bytes_per_second: 1 << 20, ..BackupRequest::default() };
    let engine = story.engine.as_mut().unwrap();
    engine.run(request, Arc::new(NoProgress)).await.unwrap();
    let renewals = story.fleet.take_calls().get("renew_upload").copied().unwrap_or(0);
    assert!(renewals >= 3, "{renewals} renewals in most of a second");

    // A lease that has to be renewed before every read.
    story.fleet.lock().faults.lease_millis = Some(2);
    story.restore(1, &story.path("copy")).await;
    assert!(story.fleet.take_calls().contains_key("renew_read_lease"));
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_k3_an_agent_notices_that_acknowledged_points_are_gone() {
    let mut story = Story::begin().await;
    for text in ["one", "two", "three"] {
        tree::write(&story.source(), "file", text.as_bytes());
        story.backup().await;
    }
    // What it notes within a second of the last note it notes when it ends.
    story.engine.as_mut().unwrap().close().await;
    // The fleet goes back to its first point, and the agent starts anew.
    {
        let mut state = story.fleet.lock();
        state.points.truncate(1);
        state.needs.truncate(1);
    }
    story.start_agent();
    let point = story.backup().await;
    assert_eq!(point.sequence, 2, "what protects goes on");
    let found = story.fleet.lock().findings.keys().cloned().collect::<Vec<_>>();
    assert_eq!(found, [("head-rolled-back".to_owned(), String::new())]);
    tree::write(&story.source(), "file", b"four");
    story.backup().await;
    assert!(!story.fleet.lock().findings.is_empty(), "only a person may clear it");
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_k3_an_unchanged_point_is_believed_only_with_the_clusters_signature() {
    let mut story = Story::begin().await;
    tree::write(&story.source(), "file", b"content");
    story.backup().await;
    let good = story.backup().await;
    assert!(good.unchanged);
    story.open(2).await;

    let flipped = |bytes: &bytes::Bytes| {
        let mut bytes = bytes.to_vec();
        bytes[17] ^= 1;
        bytes::Bytes::from(bytes)
    };
    let mut forged = good.clone();
    forged.statement_signature = flipped(&good.statement_signature);
    let later = v1::Point { taken_ms: good.taken_ms + 60_000, ..good.clone() };
    let repeated = v1::Point { sequence: 3, ..good.clone() };
    let silent = v1::Point { statement_signature: bytes::Bytes::new(), ..good.clone() };
    for (what, point, code) in [
        ("a flipped bit", forged, Code::BadSignature),
        ("another time", later, Code::BadSignature),
        ("another number", repeated, Code::BadSignature),
        ("no signature", silent, Code::Rollback),
    ] {
        story.fleet.lock().points[1] = point.clone();
        let selector = PointSelector::Newest;
        let store = story.store(selector).await;
        let opened =
            OpenedPoint::open(store, &story.kek(), &mut KnownHeads::nothing(), &story.env).await;
        assert_eq!(opened.err().map(|error| error.code()), Some(code), "{what}");
        // Nor does the agent build on it.
        story.start_agent();
        let error = story.try_backup(false).await.unwrap_err();
        assert_eq!(error.code(), code, "{what}: {error}");
    }
}
