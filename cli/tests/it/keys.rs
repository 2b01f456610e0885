//! `key init` and `agent init`: private files, made once.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::{run, run_in};

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn key_init_makes_a_whole_private_key_once_and_only_where_asked() {
    let directory = tempfile::tempdir().unwrap();
    let init = ["key", "init", "--out", "keys", "--seed-file", "keys/recovery.key"];
    let made = run_in(directory.path(), init);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert!(made.stdout.contains("keys/recovery.key holds the whole key"), "{}", made.stdout);
    let key = directory.path().join("keys/recovery.key");
    assert_eq!(mode(&key), 0o600);
    assert_eq!(mode(&directory.path().join("keys")), 0o700);
    let text = std::fs::read(&key).unwrap();
    let public = std::fs::read_to_string(directory.path().join("keys/recovery.pub")).unwrap();
    let fingerprint = public.lines().next().unwrap().strip_prefix("# fingerprint ").unwrap();
    assert!(made.stdout.contains(fingerprint), "{}", made.stdout);
    assert!(!made.stdout.contains(std::str::from_utf8(&text).unwrap().lines().last().unwrap()));

    let again = run_in(directory.path(), ["--output", "json"].iter().chain(&init));
    assert_eq!(again.code, 4);
    assert_eq!(again.error()["code"], "ALREADY_EXISTS");
    assert_eq!(again.error()["message"], "keys/share-1-of-5.txt exists and is not replaced");
    assert_eq!(std::fs::read(&key).unwrap(), text);
}

#[test]
fn key_init_leaves_no_half_pair_when_it_refuses() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("recovery.pub"), "precious").unwrap();
    let init = ["key", "init", "--out", ".", "--seed-file", "recovery.key"];
    let refused = run_in(directory.path(), init);
    assert_eq!(refused.code, 4);
    assert!(!directory.path().join("recovery.key").exists());
    assert_eq!(std::fs::read_to_string(directory.path().join("recovery.pub")).unwrap(), "precious");
}

#[test]
fn agent_init_prints_the_public_key_and_never_replaces_keys() {
    let directory = tempfile::tempdir().unwrap();
    let made = run_in(directory.path(), ["--output", "json", "agent", "init", "--dir", "agent"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let answer: serde_json::Value = serde_json::from_str(&made.stdout).unwrap();
    assert_eq!(answer["signing_public_key"].as_str().unwrap().len(), 64);
    for name in ["kek.key", "signing.key"] {
        assert_eq!(mode(&directory.path().join("agent").join(name)), 0o600, "{name}");
    }
    let kek = std::fs::read(directory.path().join("agent/kek.key")).unwrap();
    for present in ["kek.key", "signing.key"] {
        let other = if present == "kek.key" { "signing.key" } else { "kek.key" };
        let hidden = directory.path().join("hidden");
        std::fs::rename(directory.path().join("agent").join(other), &hidden).unwrap();
        let again = run_in(directory.path(), ["agent", "init", "--dir", "agent"]);
        assert_eq!(again.code, 4, "{present}: {}", again.stderr);
        assert!(again.stderr.starts_with("error[ALREADY_EXISTS]: "), "{}", again.stderr);
        std::fs::rename(&hidden, directory.path().join("agent").join(other)).unwrap();
    }
    assert_eq!(std::fs::read(directory.path().join("agent/kek.key")).unwrap(), kek);
}

#[test]
fn a_signing_key_is_taken_as_digits_or_file_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("garbage"), "no key\n").unwrap();
    assert_eq!(run_in(directory.path(), ["agent", "init", "--dir", "agent"]).code, 0);
    let init = ["key", "init", "--out", "keys", "--seed-file", "keys/recovery.key"];
    assert_eq!(run_in(directory.path(), init).code, 0);
    let register =
        |key: &str| run_in(directory.path(), ["cluster", "register", "a", "--signing-key", key]);
    for (key, code, said) in [
        ("12ab", 2, "neither 64 hexadecimal digits nor a file"),
        ("garbage", 6, "garbage: the signing key is damaged"),
        ("keys/recovery.key", 7, "this file holds another kind of key"),
        // A good key gets as far as the operator's config, which is missing here.
        ("agent/signing.key", 2, "it is not known where operator.toml is"),
        (&"ab".repeat(32), 2, "it is not known where operator.toml is"),
    ] {
        let ran = register(key);
        assert_eq!(ran.code, code, "{key}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{key}: {}", ran.stderr);
    }
}

#[test]
fn restore_says_what_is_wrong_with_a_key_before_it_asks_anybody() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(run_in(directory.path(), ["agent", "init", "--dir", "agent"]).code, 0);
    let kek = std::fs::read_to_string(directory.path().join("agent/kek.key")).unwrap();
    std::fs::write(directory.path().join("empty"), "").unwrap();
    let cut = kek.find("\nkey ").unwrap() + 20;
    std::fs::write(directory.path().join("short"), &kek[..cut]).unwrap();
    std::fs::write(directory.path().join("flipped"), kek.replace("key ", "key 0")).unwrap();
    for (flag, key, exit, code) in [
        ("--kek", "absent", 7, "KEY_MISSING"),
        ("--kek", "empty", 7, "KEY_MISSING"),
        ("--kek", "short", 7, "KEY_TOO_SHORT"),
        ("--kek", "flipped", 6, "DAMAGED"),
        ("--kek", "agent/signing.key", 7, "WRONG_KEY"),
        ("--recovery-key", "agent/kek.key", 7, "WRONG_KEY"),
        ("--recovery-key", "absent", 7, "KEY_MISSING"),
    ] {
        let ran = run_in(
            directory.path(),
            ["--output", "json", "restore", "--from", "file", "--to", "out", flag, key],
        );
        assert_eq!(ran.error()["code"], code, "{flag} {key}");
        assert_eq!(ran.code, exit, "{flag} {key}");
        assert!(!directory.path().join("out").exists());
    }
    assert_eq!(run(["restore", "--from", "x", "--to", "y"]).code, 2);
}
