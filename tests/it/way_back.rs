//! The way back through the command line: the right key restores, every wrong one is told apart,
//! and a file that was cut or damaged anywhere restores nothing.

use std::path::{Path, PathBuf};

use bundle::{Kek, RecoverySecret};
use proto_types::Code;
use proto_types::env::SystemRandom;
use tests::cli::Problems;
use tests::tree::{Tree, assert_same};
use tests::{Agent, Cli, Fleet};

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// Asserts that a refused restore left nothing at its target.
fn assert_untouched(what: &str, out: &Path) {
    let left = std::fs::read_dir(out).map_or(0, Iterator::count);
    assert_eq!(left, 0, "{what}: something was written to {}", out.display());
}

fn make_source(source: &Path) {
    std::fs::create_dir_all(source.join("conf/deep")).expect("made");
    std::fs::create_dir_all(source.join("keys")).expect("made");
    std::fs::write(source.join("conf/app.yaml"), "replicas: 3\n").expect("made");
    std::fs::write(source.join("conf/deep/big"), crate::restart::noise(3_000_000, 21))
        .expect("made");
    std::fs::write(source.join("keys/unseal"), "not for everybody").expect("made");
    std::os::unix::fs::symlink("app.yaml", source.join("conf/link")).expect("made");
}

#[tokio::test]
async fn bad_input_wrong_short_and_missing_keys_and_truncated_exports_restore_nothing() {
    let mut fleet = Fleet::start().await;
    let source = fleet.scratch("source");
    make_source(&source);
    let agent = Agent::enrol(&fleet, "harbour", &source, &["keys/**"]).await;
    assert_eq!(agent.backup().await, 1);
    let expected = Tree::read(&source);
    let recovery = fleet.recovery_files();
    let out = fleet.scratch("out").join("restored");
    let export = fleet.scratch("export").join("harbour-1.srx");
    agent.cli.json(&["backup", "export", "--point", "harbour@1", "--out", text(&export)]).await;

    let cluster = ["--cluster", "harbour"];
    let file = ["--from", text(&export)];
    for (way, from) in [("the fleet", &cluster), ("the file", &file)] {
        wrong_keys(&fleet, &agent.cli, way, from, &agent.kek(), &out).await;
    }
    no_such_point(&agent.cli, &agent.kek(), &out).await;

    // The right ones, both keys and both ways, give back the same.
    for (number, from) in [&cluster, &file].into_iter().enumerate() {
        for key in [["--kek", text(&agent.kek())], ["--recovery-key", text(&recovery)]] {
            let out = fleet.scratch("good").join(format!("{number}{}", key[0]));
            let mut arguments = vec!["restore", "--to", text(&out)];
            arguments.extend(from.iter().chain(&key));
            agent.cli.run(&arguments).await.success().json();
            assert_same(&expected, &Tree::read(&out));
        }
    }
    // A target that holds something is refused before anything is touched.
    let taken = fleet.scratch("taken");
    std::fs::create_dir(taken.join("conf")).expect("made");
    std::fs::write(taken.join("conf/app.yaml"), "mine").expect("made");
    let before = Tree::read(&taken);
    let done = agent.restore(&[], &taken).await;
    done.assert_refused("a conflict", Code::Conflict, &["on-conflict"]);
    assert_same(&before, &Tree::read(&taken));

    fleet.stop_all().await;
    truncated(&fleet, &export, &recovery).await;
    // The whole file still restores, with every coordinator stopped and no operator's directory.
    let out = fleet.scratch("alone").join("restored");
    let arguments =
        ["restore", "--from", text(&export), "--to", text(&out), "--recovery-key", text(&recovery)];
    Cli::alone().run(&arguments).await.success().json();
    assert_same(&expected, &Tree::read(&out));
    fleet.assert_quiet(&[]);
}

async fn wrong_keys(fleet: &Fleet, cli: &Cli, way: &str, from: &[&str; 2], kek: &Path, out: &Path) {
    let keys = fleet.scratch("keys");
    let write = |name: &str, content: &str| -> PathBuf {
        let path = keys.join(name);
        std::fs::write(&path, content).expect("written");
        path
    };
    let whole = std::fs::read_to_string(kek).expect("read");
    let other_kek = write("other.kek", &Kek::generate(&SystemRandom).to_text());
    let short_kek = write("short.kek", &whole[..whole.len() - 60]);
    let empty_kek = write("empty.kek", "");
    let other_recovery =
        write("other.recovery", &RecoverySecret::generate(&SystemRandom).to_text());
    let missing = keys.join("missing.key");
    let rows: [(&str, &str, &Path, Code); 7] = [
        ("a wrong KEK", "--kek", &other_kek, Code::WrongKey),
        ("a short KEK", "--kek", &short_kek, Code::KeyTooShort),
        ("an empty KEK", "--kek", &empty_kek, Code::KeyMissing),
        ("a missing KEK", "--kek", &missing, Code::KeyMissing),
        ("a wrong recovery key", "--recovery-key", &other_recovery, Code::WrongKey),
        ("a missing recovery key", "--recovery-key", &missing, Code::KeyMissing),
        ("a KEK as recovery key", "--recovery-key", kek, Code::WrongKey),
    ];
    let mut problems = Problems::default();
    for (what, option, path, code) in rows {
        let what = format!("{what}, from {way}");
        let mut arguments = vec!["restore", "--to", text(out), option, text(path)];
        arguments.extend(from);
        let done = cli.run(&arguments).await;
        // What is wrong with the file names the file; a key that is whole but another says so.
        let parts: &[&str] = if code == Code::WrongKey { &["key"] } else { &["key", text(path)] };
        problems.note(done.check_refused(&what, code, parts));
        assert_untouched(&what, out);
    }
    problems.assert_none();
}

async fn no_such_point(cli: &Cli, kek: &Path, out: &Path) {
    let rows: [(&str, &[&str], Code, &str); 4] = [
        ("an unknown cluster", &["--cluster", "nowhere"], Code::ClusterNotFound, "nowhere"),
        ("an unknown point", &["--point", "harbour@77"], Code::PointNotFound, "77"),
        (
            "before the first point",
            &["--cluster", "harbour", "--at", "2001-01-01T00:00:00Z"],
            Code::PointNotFound,
            "harbour",
        ),
        (
            "nothing matches",
            &["--cluster", "harbour", "--include", "no/such/*"],
            Code::NothingMatches,
            "patterns",
        ),
    ];
    let mut problems = Problems::default();
    for (what, which, code, part) in rows {
        let mut arguments = vec!["restore", "--to", text(out), "--kek", text(kek)];
        arguments.extend(which);
        problems.note(cli.run(&arguments).await.check_refused(what, code, &[part]));
        assert_untouched(what, out);
    }
    problems.assert_none();
}

/// Cut at the beginning, at block boundaries, inside, and just before the end; and a bit flipped.
async fn truncated(fleet: &Fleet, export: &Path, recovery: &Path) {
    let whole = std::fs::read(export).expect("read");
    let bad = export.with_file_name("bad.srx");
    let out = fleet.scratch("bad").join("restored");
    let blocks = whole.len() / 512;
    let mut cuts = vec![0, 1, 511, 512, 1024, whole.len() / 2, whole.len() - 1];
    cuts.extend([blocks / 4, blocks / 2, blocks * 3 / 4].map(|block| block * 512));
    let run = async |what: &str| {
        let arguments =
            ["restore", "--from", text(&bad), "--to", text(&out), "--recovery-key", text(recovery)];
        let done = Cli::alone().run(&arguments).await;
        assert_ne!(done.exit, 0, "{what}: restored: {}", done.stdout);
        let (code, message) = done.error();
        assert!(code == "DAMAGED" || code == "INVALID_ARGUMENT", "{what}: {code}: {message}");
        assert!(message.contains(text(&bad)), "{what}: {message}");
        assert_untouched(what, &out);
    };
    for cut in cuts {
        std::fs::write(&bad, &whole[..cut]).expect("written");
        run(&format!("cut to {cut} of {}", whole.len())).await;
    }
    for place in [10, 700, whole.len() / 3, whole.len() / 2] {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x08;
        std::fs::write(&bad, &flipped).expect("written");
        run(&format!("a bit flipped at {place}")).await;
    }
}
