//! The recovery key as shares, over the real binary: checked alone, put together by every verb that
//! opens, and every way in which they can be wrong. How they are made is in `key_init`.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bech32::{Bech32m, Hrp};
use bundle::{RecoveryPublicFile, RecoverySecret, RecoveryShare, ShareDigests};
use proto_types::env::SystemRandom;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Ran, run_in, strongroom};

/// What `agent` froze: a point of a cluster, exported, and the recovery key that it is sealed to.
pub(crate) fn frozen(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/fixtures").join(name)
}

/// A key bundle with its wraps, and the recovery key that they are sealed to.
fn frozen_bundle(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundle/tests/fixtures/v1").join(name)
}

/// Holders of a recovery key, each with a file.
pub(crate) struct Holders {
    directory: TempDir,
    shares: Vec<RecoveryShare>,
}

impl Holders {
    /// Splits a key that was kept whole.
    pub(crate) fn of(key: &Path) -> Self {
        let secret = RecoverySecret::from_text(&std::fs::read_to_string(key).unwrap()).unwrap();
        let shares = secret.split(3, 5, &SystemRandom).unwrap();
        let holders = Self { directory: tempfile::tempdir().unwrap(), shares };
        for share in &holders.shares {
            holders.write(&format!("share-{}", share.index()), &share.to_file_text());
        }
        let shares = ShareDigests::of(&holders.shares);
        let file = RecoveryPublicFile { public: secret.public(), shares };
        holders.write("recovery.pub", &file.to_text());
        holders.write("recovery-v1.pub", &secret.public().to_text());
        std::fs::copy(frozen("export-v1.tar"), holders.at("point.srx")).unwrap();
        holders
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.at(name), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run_in(self.directory.path(), arguments)
    }

    /// With this on standard input, which is no terminal.
    fn run_with(&self, input: &str, arguments: &[&str]) -> Ran {
        let mut child = strongroom()
            .current_dir(self.directory.path())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that refuses its arguments does not read.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap().into()
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn text(&self, index: usize) -> String {
        self.shares[index - 1].to_text().to_string()
    }
}

pub(crate) fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A share with another value and a checksum that fits it.
fn forged(share: &str) -> String {
    let (hrp, mut bytes) = bech32::decode(&share.replace(' ', "")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(hrp, Hrp::parse("srshare").unwrap());
    bech32::encode::<Bech32m>(hrp, &bytes).unwrap()
}

pub(crate) fn json(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn any_three_shares_restore_a_point_from_files_or_standard_input() {
    let holders = Holders::of(&frozen("recovery.key"));
    let restored =
        |out: &str| std::fs::read_to_string(holders.at(out).join("secrets/key")).unwrap();
    let restore = ["restore", "--from", "point.srx", "--to"];
    for (out, shares) in
        [("a", ["share-1", "share-2", "share-3"]), ("b", ["share-5", "share-3", "share-2"])]
    {
        let mut arguments = restore.to_vec();
        arguments.push(out);
        arguments.extend(shares.iter().flat_map(|share| ["--share", share]));
        let ran = holders.run(&arguments);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert_eq!(restored(out), "s3cr3t\n");
    }
    let lines = format!("\n{}\n{}\n{}", holders.text(4), holders.text(1), holders.text(5));
    let files = [1, 2, 4].map(|index| holders.shares[index - 1].to_file_text().to_string());
    // More than are needed, all of them right, do no harm.
    let all = [1, 2, 3, 4, 5].map(|index| holders.text(index)).join("\n");
    for (out, input) in [("c", lines), ("d", files.concat()), ("e", all)] {
        let mut arguments = restore.to_vec();
        arguments.extend([out, "--shares"]);
        let ran = holders.run_with(&input, &arguments);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert_eq!(restored(out), "s3cr3t\n");
        let seen = ran.stdout + &ran.stderr;
        assert!(!seen.contains("srshare1") && !seen.contains(&holders.text(1)[9..15]), "{seen}");
    }
}

#[test]
fn every_verb_that_opens_takes_shares() {
    let holders = Holders::of(&frozen("recovery.key"));
    let three = ["--share", "share-1", "--share", "share-4", "--share", "share-5"];
    for verb in ["show", "verify"] {
        let mut arguments = vec!["--output", "json", "backup", verb, "--from", "point.srx"];
        arguments.extend(three);
        let answer = json(&holders.run(&arguments));
        match verb {
            "show" => assert_eq!(answer["trust"]["origin"], "unproven", "{answer}"),
            _ => assert!(answer["blobs_opened"].as_u64().unwrap() > 0, "{answer}"),
        }
    }
    // These need a fleet or a snapshot besides; the shares are read, and put together, before.
    for arguments in [
        &["restore", "--cluster", "a", "--to", "out"][..],
        &["backup", "diff", "a@1", "a@2"],
        &["snapshot", "restore", "absent"],
        &["fleet", "init", "--from-snapshot", "absent", "--dir", "d", "--listen", "127.0.0.1:1"],
    ] {
        let mut few = vec!["--operator-dir", "nowhere"];
        few.extend(arguments.iter().chain(&three[..4]));
        let ran = holders.run(&few);
        assert_eq!(ran.code, if arguments[0] == "snapshot" { 2 } else { 7 }, "{}", ran.stderr);
    }
    let mut public = vec!["fleet", "init", "--name", "home", "--dir", "d", "--listen", "h:1"];
    public.extend(three);
    let ran = holders.run(&public);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("only the public half"), "{}", ran.stderr);
}

/// What is wrong with the shares, how they are given, and what is said.
type Row<'a> = (&'a str, Vec<&'a str>, i32, &'a str, Vec<String>);

#[test]
fn shares_that_are_wrong_each_have_their_own_error() {
    let holders = Holders::of(&frozen("recovery.key"));
    let others = Holders::of(&frozen_bundle("recovery.key"));
    for share in &others.shares {
        holders.write(&format!("other-{}", share.index()), &share.to_file_text());
    }
    let text = holders.text(3);
    let groups: Vec<&str> = text.split(' ').collect();
    let flipped = if groups[5].ends_with('q') { "p" } else { "q" };
    let flipped = text.replace(groups[5], &format!("{}{flipped}", &groups[5][..5]));
    holders.write("damaged", &flipped);
    holders.write("unknown", &text.replace(groups[5], &format!("{}b", &groups[5][..5])));
    holders.write("short", &text[..text.len() - 10]);
    holders.write("long", &format!("{text} qqqqqq"));
    holders.write("forged", &forged(&text));
    holders.write("empty", "# share of nobody\n");
    std::fs::copy(frozen("recovery.key"), holders.at("whole")).unwrap();

    let set = holders.shares[0].set().id();
    let other_set = others.shares[0].set().id();
    let rows: Vec<Row<'_>> = vec![
        (
            "too few",
            vec!["share-1", "share-2"],
            7,
            "KEY_MISSING",
            vec![
                format!("any 3 of the 5 of set {set}"),
                "2 of the 3".into(),
                "1 share more".into(),
            ],
        ),
        (
            "mixed sets",
            vec!["share-1", "share-2", "other-3"],
            7,
            "WRONG_KEY",
            vec![
                "other-3: share 3 is of set".into(),
                set.clone(),
                other_set.clone(),
                "one set".into(),
            ],
        ),
        (
            "one twice",
            vec!["share-1", "share-2", "share-1"],
            2,
            "INVALID_ARGUMENT",
            vec!["share-1: share 1".into(), "given twice".into(), "3 different shares".into()],
        ),
        (
            "two with one number",
            vec!["share-3", "share-2", "forged"],
            6,
            "DAMAGED",
            vec!["share-3 and forged: two different".into(), "share 3".into(), "key attest".into()],
        ),
        (
            "a wrong character",
            vec!["share-1", "share-2", "damaged"],
            6,
            "DAMAGED",
            vec![
                "damaged: the share is damaged".into(),
                "it is in group 5 ".into(),
                "copy it again".into(),
            ],
        ),
        (
            "an impossible character",
            vec!["share-1", "share-2", "unknown"],
            6,
            "DAMAGED",
            vec!["unknown: the share is damaged: group 5 ".into()],
        ),
        ("cut short", vec!["short"], 7, "KEY_TOO_SHORT", vec!["short: ".into(), "69 of 78".into()]),
        (
            "too long",
            vec!["long"],
            6,
            "DAMAGED",
            vec!["long: ".into(), "one share at a time".into()],
        ),
        ("empty", vec!["empty"], 7, "KEY_MISSING", vec!["empty: the share is missing".into()]),
        ("absent", vec!["absent"], 7, "KEY_MISSING", vec!["no key file absent".into()]),
        ("the whole key", vec!["whole"], 7, "WRONG_KEY", vec!["whole: this is no share".into()]),
        (
            "right checksums, another key",
            vec!["share-1", "share-2", "forged"],
            7,
            "WRONG_KEY",
            vec![set.clone(), "rebuild another key".into(), "key attest".into()],
        ),
        (
            "one too many, and wrong",
            vec!["share-1", "share-2", "forged", "share-5"],
            6,
            "DAMAGED",
            vec![
                "forged: share 3 of set".into(),
                "rebuild the key without it".into(),
                "leave it out".into(),
            ],
        ),
        (
            "another fleet's",
            vec!["other-1", "other-2", "other-4"],
            7,
            "WRONG_KEY",
            vec!["sealed to recovery key".into(), "give shares of the recovery key".into()],
        ),
    ];
    for (what, shares, exit, code, said) in rows {
        let mut arguments =
            vec!["--output", "json", "restore", "--from", "point.srx", "--to", "out"];
        arguments.extend(shares.iter().flat_map(|share| ["--share", share]));
        let ran = holders.run(&arguments);
        assert_eq!(
            (ran.code, ran.error()["code"].as_str().unwrap()),
            (exit, code),
            "{what}: {}",
            ran.stderr
        );
        let error = ran.error();
        let message = format!("{} {}", error["message"].as_str().unwrap(), error["remedy"]);
        for said in said {
            assert!(message.contains(&said), "{what}: {said:?} in {message}");
        }
        for secret in groups.iter().skip(4) {
            assert!(!message.contains(secret), "{what}: {message}");
        }
        assert!(!holders.at("out").exists(), "{what}");
    }
    // The same from standard input, where the line is named.
    let input = format!("{}\n# a comment\n{flipped}\n", holders.text(1));
    let arguments = ["restore", "--from", "point.srx", "--to", "out", "--shares"];
    let ran = holders.run_with(&input, &arguments);
    assert_eq!(ran.code, 6, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("line 3 of standard input: the share is damaged"),
        "{}",
        ran.stderr
    );
    let ran = holders.run_with("", &arguments);
    assert_eq!(ran.code, 7, "{}", ran.stderr);
    assert!(ran.stderr.contains("no share was given"), "{}", ran.stderr);
    // A key, but shares where the recovery key's file belongs.
    let ran = holders.run(&[
        "restore",
        "--from",
        "point.srx",
        "--to",
        "out",
        "--recovery-key",
        "share-1",
    ]);
    assert_eq!(ran.code, 7, "{}", ran.stderr);
    assert!(ran.stderr.contains("a share of a recovery key"), "{}", ran.stderr);
}

#[test]
fn a_share_among_the_arguments_is_refused_and_not_repeated() {
    let holders = Holders::of(&frozen("recovery.key"));
    let text = holders.text(1);
    let joined = text.replace(' ', "");
    let upper = joined.to_uppercase();
    let words: Vec<&str> = text.split(' ').collect();
    let restore = ["restore", "--from", "point.srx", "--to", "out", "--share"];
    let attest = ["key", "attest", "--recovery-pub", "recovery.pub", "--"];
    for share in [&words[..], &[joined.as_str()], &[upper.as_str()], &[text.as_str()]] {
        for verb in [&restore[..], &attest[..]] {
            if verb[0] == "restore" && share.len() > 1 {
                continue;
            }
            let ran = holders.run(&verb.iter().chain(share).copied().collect::<Vec<_>>());
            assert_eq!(ran.code, 2, "{}", ran.stderr);
            assert!(ran.stderr.contains("may not stand on the command line"), "{}", ran.stderr);
            let said = ran.stderr.to_lowercase();
            assert!(words[1..].iter().all(|word| !said.contains(word)), "{said}");
        }
    }
}

#[test]
fn key_attest_checks_one_share_alone() {
    let holders = Holders::of(&frozen("recovery.key"));
    let others = Holders::of(&frozen("recovery.key"));
    let attest = |file: &str, public: &str| {
        holders.run(&["--output", "json", "key", "attest", file, "--recovery-pub", public])
    };
    for index in 1..=5 {
        let found = json(&attest(&format!("share-{index}"), "recovery.pub"));
        assert_eq!((&found["attested"], &found["share"]), (&true.into(), &index.into()));
        assert_eq!(found["set"], holders.shares[0].set().id());
    }
    let arguments = ["key", "attest", "--recovery-pub", "recovery.pub"];
    let ran = holders.run_with(&holders.text(2), &arguments);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.starts_with("share 2 of 5 is whole: "), "{}", ran.stdout);
    let two = format!("{}\n{}\n", holders.text(2), holders.text(1));
    assert_eq!(holders.run_with(&two, &arguments).code, 2);
    assert_eq!(holders.run_with("", &arguments).code, 7);

    holders.write("other", &others.text(2));
    holders.write("forged", &forged(&holders.text(2)));
    holders.write("short", &holders.text(2)[..40]);
    for (file, public, code, said) in [
        ("other", "recovery.pub", "WRONG_KEY", "other: share 2 is of set"),
        ("forged", "recovery.pub", "DAMAGED", "forged: share 2 of set"),
        ("short", "recovery.pub", "KEY_TOO_SHORT", "short: the share is cut short"),
        ("share-1", "recovery-v1.pub", "KEY_MISSING", "this recovery.pub records no shares"),
        ("share-1", "share-2", "WRONG_KEY", "share-2: this file holds another kind of key"),
        ("share-1", "absent", "KEY_MISSING", "absent"),
    ] {
        let ran = attest(file, public);
        assert_eq!(ran.error()["code"], code, "{file}: {}", ran.stderr);
        assert!(ran.error()["message"].as_str().unwrap().contains(said), "{}", ran.stderr);
    }
    let status = holders.run(&["key", "status", "--recovery-pub", "recovery-v1.pub"]);
    assert!(status.stdout.contains("none recorded"), "{}", status.stdout);
}

#[test]
fn key_verify_opens_an_export_or_a_key_bundle_and_writes_nothing() {
    let holders = Holders::of(&frozen("recovery.key"));
    let before = names(holders.directory.path());
    let verify = ["--output", "json", "key", "verify", "--share", "share-2", "--share", "share-3"];
    fn with<'a>(verify: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
        [verify, &["--share", "share-5"], more].concat()
    }
    let found = json(&holders.run(&with(&verify, &["--file", "point.srx"])));
    assert_eq!((&found["opened"], &found["keks"]), (&true.into(), &1.into()), "{found}");
    assert_eq!(found["set"], holders.shares[0].set().id());
    assert!(found["point"].as_str().unwrap().ends_with("@3"), "{found}");
    let few = holders.run(&[&verify[..], &["--file", "point.srx"]].concat());
    assert_eq!(few.error()["code"], "KEY_MISSING");

    // As they lie on a coordinator's disk.
    let others = Holders::of(&frozen_bundle("recovery.key"));
    for name in ["key.bundle", "wraps.bundle", "config.bundle"] {
        for holders in [&holders, &others] {
            std::fs::copy(frozen_bundle(name), holders.at(name)).unwrap();
        }
    }
    let bundle = ["--file", "key.bundle", "--wraps", "wraps.bundle"];
    let found = json(&others.run(&with(&verify, &bundle)));
    assert_eq!(
        (&found["opened"], &found["deks"], &found["point"]),
        (&true.into(), &2.into(), &Value::Null)
    );
    assert_eq!(found["cluster_id"], "22".repeat(16));
    for (holders, more, code, said) in [
        (&holders, &bundle[..], "WRONG_KEY", "rebuild another key than that of wraps.bundle"),
        (&others, &bundle[..2], "INVALID_ARGUMENT", "without its wraps"),
        (
            &others,
            &["--file", "config.bundle", "--wraps", "wraps.bundle"],
            "DAMAGED",
            "config.bundle: ",
        ),
        (&others, &["--file", "key.bundle", "--wraps", "key.bundle"], "DAMAGED", "key.bundle: "),
        (
            &others,
            &["--file", "point.srx", "--wraps", "wraps.bundle"],
            "INVALID_ARGUMENT",
            "no key bundle",
        ),
        (&others, &["--file", "share-1"], "DAMAGED", "the export share-1 is cut short"),
        (&others, &["--file", "point.srx"], "WRONG_KEY", "sealed to recovery key"),
        (&others, &["--file", "absent"], "LOCAL_IO", "absent"),
    ] {
        let ran = holders.run(&with(&verify, more));
        assert_eq!(ran.error()["code"], code, "{more:?}: {}", ran.stderr);
        assert!(ran.error()["message"].as_str().unwrap().contains(said), "{}", ran.stderr);
    }
    let copied: Vec<String> =
        names(holders.directory.path()).into_iter().filter(|n| !n.ends_with(".bundle")).collect();
    assert_eq!(copied, before);
}

#[test]
fn key_recover_gives_keys_that_restore_without_the_cluster() {
    let holders = Holders::of(&frozen("recovery.key"));
    let three = ["--share", "share-1", "--share", "share-4", "--share", "share-5"];
    let recover = |more: &[&str]| {
        let verb = ["--output", "json", "key", "recover", "--from", "point.srx"];
        holders.run(&[&verb, more, &three].concat())
    };
    let found = json(&recover(&["--out", "keys"]));
    let point = &found["recovered"][0];
    let name = point["point"].as_str().unwrap();
    let cluster = name.strip_suffix("@3").unwrap();
    let kek = point["kek"].as_str().unwrap();
    assert_eq!(kek, format!("keys/{name}/kek.key"));
    let directory = holders.at("keys").join(name);
    assert_eq!(names(&directory), ["kek.key", "signing.key"]);
    for path in [directory.join("kek.key"), directory.join("signing.key")] {
        assert_eq!(mode(&path), 0o600);
    }
    assert_eq!(mode(&directory), 0o700);
    let ran = holders.run(&["restore", "--from", "point.srx", "--to", "out", "--kek", kek]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(holders.at("out/secrets/key")).unwrap(), "s3cr3t\n");

    // Nothing is replaced, and nothing is made for what is not there.
    assert_eq!(recover(&["--out", "keys"]).error()["code"], "ALREADY_EXISTS");
    let none = recover(&["--out", "more", "--cluster", "nowhere"]);
    assert_eq!(none.error()["code"], "CLUSTER_NOT_FOUND");
    assert!(none.error()["message"].as_str().unwrap().contains("nowhere"), "{}", none.stderr);
    assert!(!holders.at("more").exists());
    let chosen = json(&recover(&["--out", "more", "--cluster", cluster]));
    assert_eq!(chosen["recovered"].as_array().unwrap().len(), 1);
    let few = ["key", "recover", "--from", "point.srx", "--out", "few", "--share", "share-1"];
    assert_eq!(holders.run(&few).code, 7);
    let without = holders.run(&["key", "recover", "--from", "point.srx", "--out", "few"]);
    assert_eq!(without.code, 2);
    assert!(without.stderr.contains("the recovery key is missing"), "{}", without.stderr);
    assert!(!holders.at("few").exists());
}
