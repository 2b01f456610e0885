use std::path::Path;
use std::sync::Arc;

use agent::OpenedPoint;
use agent::export::{ExportError, ExportPointStore, write_export};
use agent::heads::KnownHeads;
use agent::point_store::PointSelector;
use agent::progress::NoProgress;
use proto_types::Code;

use crate::story::{Story, options, restore};
use crate::tree;

async fn exported(story: &Story, out: &Path) {
    let store = story.store(PointSelector::Newest).await;
    let report = write_export(&store, out, &story.env, Arc::new(NoProgress)).await.unwrap();
    assert_eq!(report.bytes, std::fs::metadata(out).unwrap().len());
    store.end().await;
}

/// A small point: its export has few blocks.
async fn small() -> Story {
    let mut story = Story::begin().await;
    tree::write(&story.source(), "a.yaml", b"kind: ConfigMap");
    std::fs::create_dir(story.source().join("secrets")).unwrap();
    tree::write(&story.source(), "secrets/key", b"s3cr3t");
    story.backup().await;
    story
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_a1_an_export_restores_with_no_coordinator() {
    let mut story = Story::begin().await;
    tree::rich(&story.source());
    story.backup().await;
    // A delta, so that the base has to come along.
    tree::write(&story.source(), "conf/deep/er/b.yaml", b"changed");
    let second = story.backup().await;
    assert!(!second.base_manifest_id.is_empty());
    let file = story.path("point.strongroom");
    exported(&story, &file).await;
    story.fleet.nodes.iter().for_each(tokio::task::JoinHandle::abort);

    let store = Arc::new(ExportPointStore::open(&file, &story.env).await.unwrap());
    let mut heads = KnownHeads::nothing();
    let point = OpenedPoint::open(store, &story.recovery(), &mut heads, &story.env).await.unwrap();
    let to = story.path("to");
    restore(&point, &options(&to)).await.unwrap();
    tree::assert_equal(&story.source(), &to);
}

#[tokio::test(flavor = "multi_thread")]
async fn export_is_a_plain_tar_with_sums_and_never_overwrites() {
    let story = small().await;
    let file = story.path("point.strongroom");
    exported(&story, &file).await;
    let mut names = Vec::new();
    let mut sums = String::new();
    let mut archive = tar::Archive::new(std::fs::File::open(&file).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        if name == "SHA256SUMS" {
            assert_eq!(String::from_utf8(bytes).unwrap(), sums);
        } else {
            sums.push_str(&format!("{}  {name}\n", proto_types::BundleId::of(&bytes)));
        }
        names.push(name);
    }
    assert_eq!(names.len(), 6);
    assert_eq!((names[0].as_str(), names[5].as_str()), ("point.json", "SHA256SUMS"));

    let store = story.store(PointSelector::Newest).await;
    let again = write_export(&store, &file, &story.env, Arc::new(NoProgress)).await;
    assert!(matches!(again, Err(ExportError::Exists { .. })));
    // A bundle that is damaged in the fleet makes no export, and leaves nothing behind.
    {
        let mut state = story.fleet.lock();
        for bytes in state.bundles.values_mut() {
            bytes[30] ^= 1;
        }
    }
    let out = story.path("never");
    let error = write_export(&store, &out, &story.env, Arc::new(NoProgress)).await.unwrap_err();
    assert_eq!(error.code(), Code::Damaged, "{error}");
    assert!(!out.exists() && !story.path("never.partial").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn export_cut_short_at_any_block_is_refused() {
    let story = small().await;
    let file = story.path("point.strongroom");
    exported(&story, &file).await;
    let whole = std::fs::read(&file).unwrap();
    assert_eq!(whole.len() % 512, 0);
    let cut = story.path("cut");
    for blocks in 0..whole.len() / 512 {
        for extra in [0, 100] {
            std::fs::write(&cut, &whole[..blocks * 512 + extra]).unwrap();
            let error = ExportPointStore::open(&cut, &story.env).await.err().unwrap();
            assert_eq!(error.code(), Code::Damaged, "{blocks} blocks and {extra}: {error}");
            if blocks >= 1 {
                let short = matches!(error, ExportError::CutShort { .. });
                assert!(short, "{blocks} blocks and {extra}: {error}");
            }
        }
    }
    std::fs::write(&cut, [&whole[..], &[0; 512]].concat()).unwrap();
    let longer = ExportPointStore::open(&cut, &story.env).await.err().unwrap();
    assert_eq!(longer.code(), Code::Damaged);
}

#[tokio::test(flavor = "multi_thread")]
async fn export_with_a_flipped_bit_is_refused_or_says_the_same() {
    let story = small().await;
    let file = story.path("point.strongroom");
    exported(&story, &file).await;
    let whole = std::fs::read(&file).unwrap();
    let point = ExportPointStore::open(&file, &story.env).await.unwrap();
    let said = agent::point_store::PointStore::point(&point).clone();
    let bad = story.path("bad");
    // Every seventh byte meets all fields, and runs in a moment.
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&bad, &bytes).unwrap();
        match ExportPointStore::open(&bad, &story.env).await {
            Err(error) => {
                let code = error.code();
                let expected =
                    matches!(code, Code::Damaged | Code::BadSignature | Code::UnsupportedVersion);
                assert!(expected, "byte {at}: {error}");
            }
            // Padding and modes of the tar itself mean nothing to us.
            Ok(store) => {
                assert_eq!(*agent::point_store::PointStore::point(&store), said, "byte {at}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn export_that_is_some_other_file_is_refused() {
    let story = small().await;
    let file = story.path("some");
    for bytes in [vec![], b"text".to_vec(), vec![7; 4096], vec![0; 4096]] {
        std::fs::write(&file, &bytes).unwrap();
        let error = ExportPointStore::open(&file, &story.env).await.err().unwrap();
        assert_eq!(error.code(), Code::Damaged, "{error}");
        assert!(error.to_string().contains("some"), "{error}");
    }
    let missing = ExportPointStore::open(&story.path("none"), &story.env).await.err().unwrap();
    assert_eq!(missing.code(), Code::LocalIo);
}

/// Made by the first version of the format from the third point of a cluster: a full point, a
/// delta, and a statement that nothing changed. Never changed; see docs/formats-export.md.
#[tokio::test(flavor = "multi_thread")]
async fn export_of_version_1_opens_for_ever() {
    proto::tls::install_crypto_provider();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let env = proto::env::Env::system();
    let opener = agent::Opener::from_recovery_file(&fixtures.join("recovery.key")).unwrap();
    let store = ExportPointStore::open(&fixtures.join("export-v1.tar"), &env).await.unwrap();
    let mut heads = KnownHeads::nothing();
    let point = OpenedPoint::open(Arc::new(store), &opener, &mut heads, &env).await.unwrap();
    assert_eq!(point.info().sequence.get(), 3);
    assert_eq!(point.manifest_sequence().get(), 2);
    assert!(point.info().is_unchanged() && point.info().base.is_some());
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("to");
    restore(&point, &options(&to)).await.unwrap();
    let read = |name: &str| std::fs::read_to_string(to.join(name)).unwrap();
    assert_eq!(read("a.yaml"), "kind: ConfigMap\n");
    assert_eq!(read("b.yaml"), "changed\n");
    assert_eq!(read("secrets/key"), "s3cr3t\n");
    assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("a.yaml"));
}
