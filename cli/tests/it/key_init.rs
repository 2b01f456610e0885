//! `key init` over the real binary: shares for holders, shown once or in files, all or none.

use std::process::Stdio;

use bundle::{RecoveryPublicFile, RecoverySecret, RecoveryShare};

use crate::shares::{json, mode, names};
use crate::{Ran, run_in, strongroom};

#[test]
fn key_init_gives_each_holder_a_file_and_nobody_the_whole_key() {
    let directory = tempfile::tempdir().unwrap();
    let made = run_in(directory.path(), ["key", "init", "--out", "keys"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let keys = directory.path().join("keys");
    let files = [
        "recovery.pub",
        "share-1-of-5.txt",
        "share-2-of-5.txt",
        "share-3-of-5.txt",
        "share-4-of-5.txt",
        "share-5-of-5.txt",
    ];
    assert_eq!(names(&keys), files);
    assert_eq!(mode(&keys), 0o700);
    let mut shares = Vec::new();
    for name in files {
        assert_eq!(mode(&keys.join(name)), 0o600, "{name}");
        assert!(made.stdout.contains(&format!("made         keys/{name}\n")), "{}", made.stdout);
        let text = std::fs::read_to_string(keys.join(name)).unwrap();
        if name != "recovery.pub" {
            shares.push(RecoveryShare::from_text(&text).unwrap());
        }
    }
    // Files or the screen, not both.
    assert!(!made.stdout.contains("srshare1"), "{}", made.stdout);
    let public = std::fs::read_to_string(keys.join("recovery.pub")).unwrap();
    let public = RecoveryPublicFile::from_text(&public).unwrap();
    let rebuilt = RecoverySecret::from_shares(&[&shares[4], &shares[0], &shares[2]]).unwrap();
    assert_eq!(rebuilt.public(), public.public);
    assert!(made.stdout.contains(&public.public.fingerprint().to_string()));

    let status = ["--output", "json", "key", "status", "--recovery-pub", "keys/recovery.pub"];
    let status = json(&run_in(directory.path(), status));
    assert_eq!(status["fingerprint"], public.public.fingerprint().to_string());
    assert_eq!(status["shares"]["set"], shares[0].set().id());
    assert_eq!(
        (&status["shares"]["threshold"], &status["shares"]["total"]),
        (&3.into(), &5.into())
    );
    let status = run_in(directory.path(), ["key", "status", "--recovery-pub", "keys/recovery.pub"]);
    let said = format!("5 of set {}; any 3 of them rebuild the key", shares[0].set().id());
    assert!(status.stdout.contains(&said), "{}", status.stdout);
}

#[test]
fn key_init_without_a_directory_shows_the_shares_once() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["key", "init", "--shares", "4", "--threshold", "2"];
    let made = run_in(directory.path(), arguments);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert_eq!(names(directory.path()), ["recovery.pub"]);
    let shown: Vec<RecoveryShare> = made
        .stdout
        .lines()
        .filter(|line| line.starts_with("  srshare1 "))
        .map(|line| RecoveryShare::from_text(line).unwrap())
        .collect();
    assert_eq!(shown.len(), 4);
    let rebuilt = RecoverySecret::from_shares(&[&shown[3], &shown[1]]).unwrap();
    let public = std::fs::read_to_string(directory.path().join("recovery.pub")).unwrap();
    let public = RecoveryPublicFile::from_text(&public).unwrap();
    assert_eq!(rebuilt.public(), public.public);

    let again = run_in(directory.path(), arguments);
    assert_eq!(again.code, 4, "{}", again.stderr);
    assert!(again.stderr.contains("recovery.pub exists and is not replaced"), "{}", again.stderr);
    assert_eq!(again.stdout, "");

    let many = tempfile::tempdir().unwrap();
    let arguments = ["key", "init", "--shares", "64", "--threshold", "64"];
    let made = run_in(many.path(), arguments);
    assert_eq!(made.stdout.matches("\n  srshare1 ").count(), 64, "{}", made.stdout);

    let other = tempfile::tempdir().unwrap();
    let made = json(&run_in(other.path(), ["--output", "json", "key", "init"]));
    assert_eq!(made["shares"].as_array().unwrap().len(), 5);
    assert_eq!((&made["threshold"], &made["total"]), (&3.into(), &5.into()));
    assert!(made.get("share_files").is_none() && made.get("recovery_key").is_none());
}

#[test]
fn key_init_whose_shares_nobody_saw_made_no_key() {
    let directory = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran: Ran = strongroom()
        .current_dir(directory.path())
        .args(["key", "init"])
        .stdout(Stdio::from(writer))
        .stderr(Stdio::piped())
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("no key was made"), "{}", ran.stderr);
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn key_init_refuses_impossible_numbers_and_leaves_nothing_half_made() {
    let directory = tempfile::tempdir().unwrap();
    for (shares, threshold) in
        [("5", "6"), ("5", "1"), ("5", "0"), ("0", "0"), ("65", "3"), ("300", "3")]
    {
        let numbers = ["--shares", shares, "--threshold", threshold];
        let ran = run_in(directory.path(), ["key", "init", "--out", "k"].iter().chain(&numbers));
        assert_eq!(ran.code, 2, "{threshold} of {shares}: {}", ran.stderr);
        assert!(!directory.path().join("k").exists());
    }
    for taken in ["share-3-of-5.txt", "recovery.pub", "seed"] {
        std::fs::write(directory.path().join(taken), "precious").unwrap();
        let ran = run_in(directory.path(), ["key", "init", "--out", ".", "--seed-file", "seed"]);
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        assert_eq!(names(directory.path()), [taken]);
        assert_eq!(std::fs::read(directory.path().join(taken)).unwrap(), b"precious");
        std::fs::remove_file(directory.path().join(taken)).unwrap();
    }
    // One that cannot be written takes the others with it.
    let ran = run_in(directory.path(), ["key", "init", "--out", "k", "--seed-file", "no/seed"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert_eq!(names(&directory.path().join("k")), [""; 0]);
}
