use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use agent::export::ExportPointStore;
use agent::heads::KnownHeads;
use agent::patterns::Patterns;
use agent::point_store::PointSelector;
use agent::progress::NoProgress;
use agent::restore::{Action, ConflictPolicy, Reason, RestoreError, RestoreOptions};
use agent::{OpenedPoint, Opener};
use bundle::{Freshness, Identity, Kek, Keyring, Origin, SigningKey};
use bytes::Bytes;
use proto_types::{ClusterId, Code, Epoch, LogTime, Sequence};

use crate::fleet::{CLUSTER, CLUSTER_NAME, FLEET};
use crate::story::{Story, options, plan, restore};
use crate::tree;

fn include(options: &RestoreOptions, include: &[&str], exclude: &[&str]) -> RestoreOptions {
    RestoreOptions {
        include: Patterns::new(include).unwrap(),
        exclude: Patterns::new(exclude).unwrap(),
        ..options.clone()
    }
}

fn policy(options: &RestoreOptions, on_conflict: ConflictPolicy) -> RestoreOptions {
    RestoreOptions { on_conflict, ..options.clone() }
}

async fn rich() -> Story {
    let mut story = Story::begin().await;
    tree::rich(&story.source());
    story.backup().await;
    story
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_a1_the_recovery_key_alone_opens_everything() {
    let story = rich().await;
    std::fs::remove_dir_all(story.path("state")).unwrap();
    let store = story.store(PointSelector::Newest).await;
    let mut heads = KnownHeads::nothing();
    let point = OpenedPoint::open(store, &story.recovery(), &mut heads, &story.env).await.unwrap();
    // Anybody can seal to a public key: without a pin only the fingerprint can be compared.
    assert_eq!(point.origin(), Origin::Unproven(point.signer().fingerprint()));
    assert_eq!(point.freshness(), Some(Freshness::Unproven));
    assert!(heads.cluster(CLUSTER).is_none(), "what is not proven is no measure of later ones");
    let to = story.path("new/place");
    let report = restore(&point, &options(&to)).await.unwrap();
    tree::assert_equal(&story.source(), &to);
    assert_eq!(report.compared, point.manifest().totals.items);
    assert_eq!(report.safety_file, None);
}

/// Temporary files right in a directory.
fn partials(to: &Path) -> Vec<String> {
    std::fs::read_dir(to)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".partial"))
        .collect()
}

fn tree_mode(root: &Path, path: &str) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_again_finds_nothing_to_do() {
    let story = rich().await;
    let to = story.path("to");
    story.restore(1, &to).await;
    let point = story.open(1).await;
    let plan = plan(&point, &options(&to)).await;
    assert!(plan.changes_nothing(), "{:?}", plan.totals);
    assert_eq!(plan.totals.unchanged, point.manifest().totals.items);
    // What was interrupted is completed. A name that looks like one of ours may be a person's.
    std::fs::remove_file(to.join("conf/zero")).unwrap();
    std::fs::remove_file(to.join("big")).unwrap();
    let digest = proto_types::BundleId::of(b"big");
    let partial = format!(".strongroom-{}.partial", hex::encode(&digest.as_bytes()[..8]));
    tree::write(&to, &partial, b"half");
    // Directories are left with their attributes, but so that the owner may write into them.
    tree::mode(&to, "secrets", 0o700 | tree_mode(&story.source(), "secrets"));
    let report = story.restore(1, &to).await;
    assert_eq!(report.totals.create, 2);
    let left = partials(&to);
    assert_eq!(left, std::slice::from_ref(&partial), "what another made stays");
    std::fs::remove_file(to.join(&partial)).unwrap();
    tree::times(&to, ".", 0, 0);
    story.restore(1, &to).await;
    tree::assert_equal(&story.source(), &to);
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_p1_a_conflict_changes_nothing() {
    let story = rich().await;
    let to = story.path("to");
    std::fs::create_dir(&to).unwrap();
    tree::write(&to, "big", b"mine");
    tree::write(&to, "other", b"not in the point");
    let before = tree::describe(&to);
    let point = story.open(1).await;
    let error = restore(&point, &options(&to)).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict);
    assert!(error.to_string().contains("big"), "{error}");
    assert_eq!(tree::describe(&to), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_p1_what_is_overwritten_comes_back_from_the_safety_file() {
    let story = rich().await;
    let to = story.path("to");
    story.restore(1, &to).await;
    let untouched = tree::describe(&to);
    tree::write(&to, "conf/deep/er/b.yaml", b"changed on the target");
    tree::write(&to, "secrets/unseal.key", b"another secret");
    tree::mode(&to, "conf/zero", 0o600);
    std::fs::remove_file(to.join("link")).unwrap();
    symlink("changed", to.join("link")).unwrap();
    tree::write(&to, "extra", b"stays");
    let changed = tree::describe(&to);

    let point = story.open(1).await;
    let overwrite = policy(&options(&to), ConflictPolicy::Overwrite);
    let report = restore(&point, &overwrite).await.unwrap();
    assert_eq!(report.totals.overwrite, 4);
    std::fs::remove_file(to.join("extra")).unwrap();
    tree::times(&to, ".", 5, 5);
    restore(&point, &options(&to)).await.unwrap();
    assert_eq!(tree::describe(&to), untouched);

    let safety = report.safety_file.unwrap();
    let bytes = std::fs::read(&safety).unwrap();
    for secret in [&b"another secret"[..], b"changed on the target", b"unseal.key"] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "sealed");
    }
    let store = agent::export::ExportPointStore::open(&safety, &story.env).await.unwrap();
    assert_eq!(store.kind(), agent::export::ExportKind::Safety);
    // The machine that made it has seen the point that it has the number of.
    let mut heads = KnownHeads::nothing();
    let newest = story.store(PointSelector::Newest).await;
    OpenedPoint::open(newest, &story.kek(), &mut heads, &story.env).await.unwrap();
    assert!(heads.cluster(CLUSTER).unwrap().head.is_some());
    let kek = story.kek();
    let kept = OpenedPoint::open(Arc::new(store), &kek, &mut heads, &story.env).await.unwrap();
    assert!(kept.is_safety_file());
    restore(&kept, &overwrite).await.unwrap();
    let now = tree::describe(&to);
    for path in ["conf/deep/er/b.yaml", "secrets/unseal.key", "conf/zero", "link"] {
        assert_eq!(now[Path::new(path)], changed[Path::new(path)], "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_skips_what_differs_when_told_so() {
    let story = rich().await;
    let to = story.path("to");
    std::fs::create_dir(&to).unwrap();
    tree::write(&to, "big", b"mine");
    tree::write(&to, "conf", b"a file where a directory should be");
    let point = story.open(1).await;
    let skip = policy(&options(&to), ConflictPolicy::Skip);
    let report = restore(&point, &skip).await.unwrap();
    assert_eq!(std::fs::read(to.join("big")).unwrap(), b"mine");
    assert!(to.join("conf").is_file());
    assert!(to.join("secrets/unseal.key").is_file());
    assert!(report.totals.skip >= 5, "{:?}", report.totals);
    // The other names of a file whose first name was skipped are made all the same.
    assert_eq!(std::fs::read(to.join("hard")).unwrap(), b"kind: ConfigMap\nname: a\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_never_writes_through_a_link_in_the_target() {
    let story = rich().await;
    let outside = story.path("outside");
    std::fs::create_dir_all(outside.join("deep/er")).unwrap();
    tree::write(&outside, "a.yaml", b"untouched");
    let before = tree::describe(&outside);
    for (on_conflict, code) in [
        (ConflictPolicy::Fail, Some(Code::Conflict)),
        (ConflictPolicy::Skip, None),
        (ConflictPolicy::Overwrite, None),
    ] {
        let to = story.path(&format!("to-{on_conflict:?}"));
        std::fs::create_dir(&to).unwrap();
        symlink(&outside, to.join("conf")).unwrap();
        symlink(outside.join("a.yaml"), to.join("big")).unwrap();
        let point = story.open(1).await;
        let result = restore(&point, &policy(&options(&to), on_conflict)).await;
        assert_eq!(result.err().map(|error| error.code()), code, "{on_conflict:?}");
        assert_eq!(tree::describe(&outside), before, "{on_conflict:?}");
        if on_conflict == ConflictPolicy::Overwrite {
            tree::assert_equal(&story.source(), &to);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_never_removes_a_directory_with_contents() {
    let story = rich().await;
    let to = story.path("to");
    std::fs::create_dir_all(to.join("big")).unwrap();
    tree::write(&to, "big/precious", b"x");
    std::fs::create_dir(to.join("link")).unwrap();
    let point = story.open(1).await;
    let overwrite = policy(&options(&to), ConflictPolicy::Overwrite);
    let error = restore(&point, &overwrite).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict);
    assert!(to.join("big/precious").exists());
    // An empty one gives way.
    std::fs::remove_dir_all(to.join("big")).unwrap();
    restore(&point, &overwrite).await.unwrap();
    tree::assert_equal(&story.source(), &to);
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_a_part_reads_little() {
    let mut story = Story::begin().await;
    let source = story.source();
    std::fs::create_dir(source.join("d")).unwrap();
    tree::write(&source, "big", &tree::noise(16 << 20, 3));
    tree::write(&source, "d/one.yaml", b"the one that is needed");
    tree::write(&source, "d/two.yaml", b"another");
    story.backup().await;
    let point = story.open(1).await;
    story.fleet.lock().read = 0;
    let to = story.path("to");
    let part = include(&options(&to), &["*.yaml"], &["two*"]);
    restore(&point, &part).await.unwrap();
    assert_eq!(std::fs::read(to.join("d/one.yaml")).unwrap(), b"the one that is needed");
    assert!(!to.join("d/two.yaml").exists() && !to.join("big").exists());
    assert!(story.fleet.lock().read < 1000, "{}", story.fleet.lock().read);
    let none = include(&options(&to), &["*.nothing"], &[]);
    let error = restore(&point, &none).await.unwrap_err();
    assert_eq!(error.code(), Code::NothingMatches);
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_b3_a_damaged_copy_is_found_and_another_is_read() {
    let story = rich().await;
    let point = story.open(1).await;
    story.fleet.lock().faults.damage_ranges = 2;
    story.fleet.lock().faults.break_reads = vec![100_000, 0];
    let to = story.path("to");
    restore(&point, &options(&to)).await.unwrap();
    tree::assert_equal(&story.source(), &to);

    // Damaged everywhere: an error, and never a wrong file.
    story.fleet.lock().faults.damage_ranges = 1000;
    let to = story.path("never");
    let error = restore(&point, &options(&to)).await.unwrap_err();
    assert_eq!(error.code(), Code::Damaged);
    assert!(!to.join("big").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_that_fails_says_where_the_safety_file_is() {
    let story = rich().await;
    let to = story.path("to");
    std::fs::create_dir(&to).unwrap();
    tree::write(&to, "big", b"mine");
    let point = story.open(1).await;
    let overwrite = policy(&options(&to), ConflictPolicy::Overwrite);
    let plan = plan(&point, &overwrite).await;
    // Appeared after the plan was made, so it is in no safety file.
    tree::write(&to, "link", b"appeared");
    let done = agent::restore::execute(&point, &plan, &overwrite, Arc::new(NoProgress)).await;
    let error = done.unwrap_err();
    assert_eq!(error.code(), Code::Conflict);
    let RestoreError::Unfinished { safety_file, .. } = &error else { panic!("{error}") };
    assert!(safety_file.exists());
    assert!(error.to_string().contains(&safety_file.display().to_string()), "{error}");
    assert_eq!(std::fs::read(to.join("link")).unwrap(), b"appeared");
    assert!(partials(&to).is_empty(), "nothing half written is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_waits_for_no_other_into_the_same_target() {
    let story = rich().await;
    let to = story.path("to");
    std::fs::create_dir(&to).unwrap();
    let other = std::fs::File::open(&to).unwrap();
    rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let error = restore(&story.open(1).await, &options(&to)).await.unwrap_err();
    assert_eq!(error.code(), Code::Busy);
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0);
    drop(other);
    story.restore(1, &to).await;
    tree::assert_equal(&story.source(), &to);
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_that_does_not_equal_the_point_says_so() {
    let story = rich().await;
    let to = story.path("to");
    story.restore(1, &to).await;
    let point = story.open(1).await;
    let plan = plan(&point, &options(&to)).await;
    // Changed after the plan was made.
    tree::write(&to, "conf/deep/er/b.yaml", b"meanwhile");
    let options = options(&to);
    let done = agent::restore::execute(&point, &plan, &options, Arc::new(NoProgress)).await;
    let error = done.unwrap_err();
    assert_eq!(error.code(), Code::NotEqual);
    let RestoreError::NotEqual { report } = error else { panic!("{error}") };
    assert_eq!(report.unequal.len(), 1);
    assert_eq!(report.unequal[0].path, "conf/deep/er/b.yaml");
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_does_not_replace_what_appeared_after_the_plan() {
    let story = rich().await;
    let to = story.path("to");
    let point = story.open(1).await;
    let plan = plan(&point, &options(&to)).await;
    std::fs::create_dir(&to).unwrap();
    tree::write(&to, "big", b"appeared");
    let options = options(&to);
    let done = agent::restore::execute(&point, &plan, &options, Arc::new(NoProgress)).await;
    assert_eq!(done.unwrap_err().code(), Code::Conflict);
    assert_eq!(std::fs::read(to.join("big")).unwrap(), b"appeared");
    assert!(partials(&to).is_empty(), "nothing half written is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_diff_shows_text_and_hides_secrets() {
    let story = rich().await;
    let to = story.path("to");
    story.restore(1, &to).await;
    tree::write(&to, "conf/a.yaml", b"kind: ConfigMap\nname: other\n");
    tree::write(&to, "secrets/unseal.key", b"other secret");
    tree::mode(&to, "big", 0o777);
    let before = tree::describe(&to);
    let point = story.open(1).await;
    let overwrite = policy(&options(&to), ConflictPolicy::Overwrite);
    let plan = plan(&point, &overwrite).await;
    let diffs = agent::restore::diff(&point, &plan, &overwrite).await.unwrap();
    assert_eq!(tree::describe(&to), before, "a diff changes nothing");
    let of = |path: &str| diffs.iter().find(|diff| diff.path == path).unwrap();
    let text = of("conf/a.yaml").text.as_deref().unwrap();
    assert!(text.contains("-name: other\n+name: a\n"), "{text}");
    let secret = of("secrets/unseal.key");
    assert_eq!(secret.text, None);
    assert_eq!(secret.changes[0], "secret content differs (not shown)");
    assert!(!format!("{diffs:?}").contains("s3cr3t"));
    let big = of("big");
    assert_eq!((big.action, big.reason), (Action::Overwrite, Reason::AttributesDiffer));
    assert_eq!(big.changes[0], "mode 0777 -> 0400");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_wrong_are_told_before_anything_is_decrypted() {
    let story = rich().await;
    let random = &*story.env.random;
    let open = |opener: Opener| {
        let story = &story;
        async move {
            let store = story.store(PointSelector::Newest).await;
            let mut heads = KnownHeads::nothing();
            OpenedPoint::open(store, &opener, &mut heads, &story.env).await.err().unwrap()
        }
    };
    assert_eq!(open(Opener::Kek(Kek::generate(random))).await.code(), Code::WrongKey);
    let stranger = bundle::RecoverySecret::generate(random);
    let error = open(Opener::Recovery(stranger)).await;
    assert_eq!(error.code(), Code::WrongKey);
    assert!(error.to_string().contains("recovery key"), "{error}");
    let missing = Opener::from_kek_file(&story.path("nowhere")).err().unwrap();
    assert_eq!(missing.code(), Code::KeyMissing);
    std::fs::write(story.path("short"), "strongroom-store-secret-v1\nkey 00ff\n").unwrap();
    let short = Opener::from_kek_file(&story.path("short")).err().unwrap();
    assert_eq!(short.code(), Code::KeyTooShort);
    let swapped = Opener::from_kek_file(&story.path("recovery.key")).err().unwrap();
    assert_eq!(swapped.code(), Code::WrongKey);
}

/// Puts a manifest of somebody's making in the place of the first point's.
fn forge(story: &Story, cluster: ClusterId) {
    let random = &*story.env.random;
    let (kek, signing) = (Kek::generate(random), SigningKey::generate(random));
    let keyring = Keyring::create(0, &kek, &signing, LogTime::ZERO, random);
    let identity = Identity {
        fleet: FLEET,
        cluster,
        lineage: 0,
        sequence: Sequence::new(1),
        epoch: Epoch::new(1),
        created: LogTime::ZERO,
    };
    let manifest = bundle::Manifest {
        sequence: Sequence::new(1),
        key_bundle: proto_types::BundleId::from_bytes([1; 32]),
        form: bundle::Form::Full,
        items: vec![],
        totals: bundle::Totals::default(),
        proofs: vec![],
    };
    let none = proto_types::BundleId::ZERO;
    let (sealed, bytes) =
        bundle::seal_manifest(Vec::new(), &keyring, &identity, none, &manifest, random).unwrap();
    let id = sealed.id.as_bytes().to_vec();
    let mut state = story.fleet.lock();
    state.headers.insert(id.clone(), sealed.header);
    state.bundles.insert(id.clone(), bytes);
    state.needs[0].insert(id.clone());
    state.points[0].manifest_id = Bytes::from(id);
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_k3_foreign_and_forged_manifests_are_refused() {
    for (cluster, code) in
        [(ClusterId::from_bytes([9; 16]), Code::WrongCluster), (CLUSTER, Code::BadSignature)]
    {
        let story = rich().await;
        forge(&story, cluster);
        for opener in [story.kek(), story.recovery()] {
            let store = story.store(PointSelector::Newest).await;
            let mut heads = KnownHeads::nothing();
            let error = OpenedPoint::open(store, &opener, &mut heads, &story.env).await;
            assert_eq!(error.err().unwrap().code(), code);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_k3_an_older_manifest_offered_as_new_is_refused() {
    let mut story = rich().await;
    tree::write(&story.source(), "conf/new", b"new");
    story.backup().await;
    let mut heads = KnownHeads::load(&story.path("pins.json")).unwrap();
    let store = story.store(PointSelector::Newest).await;
    let point = OpenedPoint::open(store, &story.kek(), &mut heads, &story.env).await.unwrap();
    assert_eq!(point.origin(), Origin::Proven, "only who has the KEK can make its wrap");
    heads.pin(FLEET, CLUSTER, CLUSTER_NAME, *point.signer()).unwrap();
    heads.save().unwrap();

    let mut heads = KnownHeads::load(&story.path("pins.json")).unwrap();
    story.fleet.lock().faults.offer_instead = Some(1);
    let store = story.store(PointSelector::Newest).await;
    let error = OpenedPoint::open(store, &story.recovery(), &mut heads, &story.env).await;
    assert_eq!(error.err().unwrap().code(), Code::Rollback);

    // Asked for by its number it is no rollback, and with the pin its origin is proven.
    let store = story.store(PointSelector::Sequence(Sequence::new(1))).await;
    let opened = OpenedPoint::open(store, &story.recovery(), &mut heads, &story.env).await;
    let opened = opened.unwrap();
    assert_eq!((opened.origin(), opened.freshness()), (Origin::Proven, None));

    // The old manifest under the new number.
    {
        let mut state = story.fleet.lock();
        state.points[1].manifest_id = state.points[0].manifest_id.clone();
        state.needs[1] = state.needs[0].clone();
    }
    let store = story.store(PointSelector::Newest).await;
    let mut nothing = KnownHeads::nothing();
    let error = OpenedPoint::open(store, &story.kek(), &mut nothing, &story.env).await;
    assert_eq!(error.err().unwrap().code(), Code::Rollback);
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_verifies_shows_and_compares() {
    let mut story = rich().await;
    tree::write(&story.source(), "conf/new", b"new");
    std::fs::remove_file(story.source().join("dangling")).unwrap();
    story.backup().await;
    let store = story.store(PointSelector::Newest).await;
    let mut heads = KnownHeads::nothing();
    let nobody = || Arc::new(NoProgress);
    let mut report =
        agent::inspect::verify_sealed(&store, &heads, &story.env, nobody()).await.unwrap();
    assert!(!report.origin_proven);
    assert_eq!(report.bundles.len(), store.point().bundles.len());
    let new = OpenedPoint::open(store, &story.kek(), &mut heads, &story.env).await.unwrap();
    agent::inspect::verify_opened(&new, &mut report, nobody()).await.unwrap();
    assert!(report.blobs_opened > 8 && report.origin_proven);

    let old = story.open(1).await;
    let diff = agent::inspect::diff(&old, &new).unwrap();
    let paths = |items: &[agent::inspect::ShownItem]| -> Vec<String> {
        items.iter().map(|item| item.path.clone()).collect()
    };
    assert_eq!(paths(&diff.added), ["conf/new"]);
    assert_eq!(paths(&diff.removed), ["dangling"]);

    // One flipped bit anywhere is found without a key.
    let id = {
        let mut state = story.fleet.lock();
        let id = state.needs[1].iter().next().unwrap().clone();
        let bytes = state.bundles.get_mut(&id).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        id
    };
    let store = story.store(PointSelector::Newest).await;
    let error = agent::inspect::verify_sealed(&store, &heads, &story.env, nobody()).await;
    let error = error.unwrap_err();
    assert!(matches!(error.code(), Code::Damaged | Code::BadSignature), "{error} {id:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_gives_the_target_itself_its_mode_and_times() {
    let mut story = Story::begin().await;
    let source = story.source();
    tree::write(&source, "file", b"x");
    tree::mode(&source, ".", 0o750);
    tree::times(&source, ".", 1_000_000_000, 0);
    story.backup().await;
    let point = story.open(1).await;
    let root = |plan: &agent::restore::RestorePlan| plan.items[0].clone();

    // Not there, and there but empty, as `mkdir` leaves it.
    story.restore(1, &story.path("new")).await;
    tree::assert_equal(&source, &story.path("new"));
    let empty = story.path("empty");
    std::fs::create_dir(&empty).unwrap();
    tree::mode(&empty, ".", 0o755);
    let planned = root(&plan(&point, &options(&empty)).await);
    assert_eq!((planned.action, planned.reason), (Action::Adjust, Reason::AttributesDiffer));
    assert_eq!(planned.changes[0], "mode 0755 -> 0750");
    assert!(planned.changes[1].ends_with(" -> 2001-09-09T01:46:40Z"), "{planned:?}");
    story.restore(1, &empty).await;
    tree::assert_equal(&source, &empty);

    // Somebody's: only where it was asked for.
    let theirs = story.path("theirs");
    std::fs::create_dir(&theirs).unwrap();
    tree::write(&theirs, "other", b"theirs");
    tree::mode(&theirs, ".", 0o755);
    let before = tree::describe(&theirs);
    let error = restore(&point, &options(&theirs)).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict, "{error}");
    assert_eq!(tree::describe(&theirs), before);
    let skip = policy(&options(&theirs), ConflictPolicy::Skip);
    restore(&point, &skip).await.unwrap();
    assert_eq!(tree_mode(&theirs, "."), 0o755);
    let overwrite = policy(&options(&theirs), ConflictPolicy::Overwrite);
    let report = restore(&point, &overwrite).await.unwrap();
    let line = |root: &Path| tree::describe(root)[Path::new("")].clone();
    assert_eq!(line(&theirs), line(&source));
    // What it was is kept (invariant P1).
    let safety = report.safety_file.expect("a safety file");
    let store = ExportPointStore::open(&safety, &story.env).await.unwrap();
    let mut heads = KnownHeads::nothing();
    let kept =
        OpenedPoint::open(Arc::new(store), &story.kek(), &mut heads, &story.env).await.unwrap();
    restore(&kept, &overwrite).await.unwrap();
    assert_eq!(tree_mode(&theirs, "."), 0o755);
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_plan_says_which_attributes_differ() {
    let story = rich().await;
    let to = story.path("to");
    story.restore(1, &to).await;
    tree::mode(&to, "conf/zero", 0o600);
    tree::times(&to, "conf", 1_000_000_060, 0);
    let attributes = xattr::set(to.join("empty"), "user.new", b"value").is_ok();
    let plan = plan(&story.open(1).await, &options(&to)).await;
    let of = |path: &str| plan.items.iter().find(|item| item.path == path.as_bytes()).unwrap();
    let (zero, conf) = (of("conf/zero"), of("conf"));
    assert_eq!(
        (zero.action, &zero.changes[..]),
        (Action::Conflict, &["mode 0600 -> 4755".to_owned()][..])
    );
    assert_eq!((conf.action, conf.changes.len()), (Action::Adjust, 1));
    let modified = "modified 2001-09-09T01:47:40Z -> 2001-09-09T01:46:40";
    assert!(conf.changes[0].starts_with(modified), "{conf:?}");
    if attributes {
        assert_eq!(of("empty").changes, ["extended attribute user.new is removed"]);
    }
    assert!(of("big").changes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_sets_the_attributes_of_all_names_of_a_file() {
    let story = rich().await;
    let to = story.path("to");
    story.restore(1, &to).await;
    // One file with three names: setting its attributes under the first moves its times.
    tree::mode(&to, "hard", 0o600);
    tree::times(&to, "hard", 1, 1);
    let point = story.open(1).await;
    let overwrite = policy(&options(&to), ConflictPolicy::Overwrite);
    let report = restore(&point, &overwrite).await.unwrap();
    assert_eq!(report.totals.overwrite, 3);
    tree::assert_equal(&story.source(), &to);
}
