//! Verbs without a fleet: what they refuse by themselves, and that they say who did not answer.

use crate::{run_in, strongroom};

#[test]
fn backup_now_says_that_no_agent_answers() {
    let directory = tempfile::tempdir().unwrap();
    let words = ["--output", "json", "backup", "now", "--socket", "agent.sock", "--full"];
    let ran = run_in(directory.path(), words.into_iter().chain(["--limit-rate", "16MiB"]));
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert_eq!(ran.error()["code"], "UNAVAILABLE");
    assert!(ran.error()["message"].as_str().unwrap().contains("agent.sock"));
}

#[test]
fn restore_selects_one_point_in_one_way() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(run_in(directory.path(), ["agent", "init", "--dir", "agent"]).code, 0);
    let restore = |words: &[&str]| {
        let mut all = vec!["restore", "--to", "out", "--kek", "agent/kek.key"];
        all.extend(words);
        run_in(directory.path(), all)
    };
    for (words, said) in [
        (&[][..], "the following required arguments were not provided"),
        (&["--at", "14:05"], "the following required arguments were not provided"),
        (&["--cluster", "a", "--at", "tomorrow"], "is not a moment"),
        (&["--cluster", "a", "--at", "now", "--point", "1"], "cannot be used with"),
        (&["--cluster", "a", "--from", "file"], "cannot be used with"),
        (&["--point", "7"], "the cluster is missing"),
        (&["--point", "a"], "is not a recovery point"),
        (&["--cluster", "a", "--point", "b@1"], "is not of --cluster a"),
        (&["--cluster", "a", "--include", "[z-"], "--include: "),
        (&["--cluster", "a", "--on-conflict", "ask"], "invalid value 'ask'"),
    ] {
        let ran = restore(words);
        assert_eq!(ran.code, 2, "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{words:?}: {}", ran.stderr);
    }
}

#[test]
fn a_file_that_is_no_export_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(run_in(directory.path(), ["agent", "init", "--dir", "agent"]).code, 0);
    std::fs::write(directory.path().join("file"), "something else entirely").unwrap();
    for words in [
        &["restore", "--from", "file", "--to", "out", "--kek", "agent/kek.key"][..],
        &["backup", "verify", "--from", "file"],
        &["backup", "show", "--from", "file"],
    ] {
        let ran = run_in(directory.path(), words);
        assert_eq!(ran.code, 6, "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("error[DAMAGED]: "), "{words:?}: {}", ran.stderr);
    }
    assert!(!directory.path().join("out").exists());
}

#[test]
fn dev_does_not_take_over_a_directory_or_touch_a_target() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::create_dir_all(at("source")).unwrap();
    std::fs::create_dir_all(at("mine")).unwrap();
    std::fs::write(at("mine/thesis"), "precious").unwrap();
    for (out, data, code, said) in [
        ("mine", "state", 8, "is not an empty directory"),
        ("out", "mine", 4, "holds thesis and no trial fleet"),
        ("source/out", "state", 2, "lies inside the source"),
    ] {
        let ran = run_in(
            directory.path(),
            ["dev", "--once", "--source", "source", "--restore-to", out, "--data", data],
        );
        assert_eq!(ran.code, code, "{}", ran.stderr);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
    assert_eq!(std::fs::read_to_string(at("mine/thesis")).unwrap(), "precious");
    assert!(!at("state").exists());
}

#[test]
fn findings_are_the_fleets_and_need_an_operator() {
    let directory = tempfile::tempdir().unwrap();
    for words in [&["finding", "list"][..], &["finding", "clear", "--kind", "disk-full"]] {
        let ran = run_in(directory.path(), ["--operator-dir", "nowhere"].iter().chain(words));
        assert_eq!(ran.code, 2, "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("there is no nowhere/operator.toml"), "{}", ran.stderr);
    }
}

#[test]
fn settings_come_from_the_environment_too() {
    let ran =
        strongroom().env("STRONGROOM_OPERATOR_DIR", "/nowhere").arg("status").output().unwrap();
    let text = String::from_utf8(ran.stderr).unwrap();
    assert!(text.contains("there is no /nowhere/operator.toml"), "{text}");
}
