//! Help, version, usage errors, broken pipes.

use std::process::Stdio;

use crate::{run, strongroom};

#[test]
fn help_names_every_verb_and_all_exit_codes() {
    let help = run(["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for word in ["coordinator", "agent", "key", "cluster", "status", "backup", "restore"]
        .into_iter()
        .chain(["finding", "node", "dev"])
    {
        assert!(help.stdout.contains(&format!("\n  {word} ")), "{word}: {}", help.stdout);
    }
    for line in ["  0  done", "  7  wrong or missing key", "  9  out of resources"] {
        assert!(help.stdout.contains(line), "{line}: {}", help.stdout);
    }
    assert_eq!(run(["--version"]).stdout, format!("strongroom {}\n", env!("CARGO_PKG_VERSION")));
    for words in [
        &["restore", "--help"][..],
        &["backup", "now", "--help"],
        &["dev", "--help"],
        &["backup", "show", "--help"],
        &["finding", "clear", "--help"],
        &["coordinator", "run", "--help"],
    ] {
        assert_eq!(run(words).code, 0, "{words:?}");
    }
}

#[test]
fn usage_errors_end_with_2_and_one_sentence() {
    for (words, said) in [
        (&[][..], "a verb is missing"),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (&["status", "--loud"], "unexpected argument '--loud' found"),
        (&["key", "attest"], "the following required arguments were not provided: --recovery-pub"),
        (&["backup", "show", "nonsense"], "is not a recovery point"),
        (&["backup", "now", "--socket", "x", "--limit-rate", "fast"], "is not a size"),
        (&["backup", "now"], "the following required arguments were not provided"),
        (&["cluster", "register", "UPPER", "--signing-key", "x"], "is not a cluster name"),
        (&["cluster", "register", "a", "--signing-key", "x", "--label", "k"], "is not a label"),
        (&["finding", "clear"], "the following required arguments were not provided: --kind"),
        (&["finding", "clear", "--kind", "a", "--cluster", "b", "--node", "1"], "cannot be used"),
        (&["dev", "--once"], "the following required arguments were not provided"),
        (&["--log-level", "a=b=c", "status"], "is no filter"),
    ] {
        let ran = run(words);
        assert_eq!(ran.code, 2, "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("error[INVALID_ARGUMENT]: "), "{words:?}: {}", ran.stderr);
        let first = ran.stderr.lines().next().unwrap();
        assert!(first.contains(said), "{words:?}: {first}");
        assert_eq!(ran.stdout, "", "{words:?}");
    }
}

#[test]
fn usage_errors_are_json_where_json_was_asked_for() {
    for words in [&["--output", "json", "frobnicate"][..], &["frobnicate", "--output=json"]] {
        let ran = run(words);
        assert_eq!(ran.code, 2);
        assert_eq!(ran.error()["code"], "INVALID_ARGUMENT", "{words:?}");
    }
    let by_environment =
        strongroom().env("STRONGROOM_OUTPUT", "json").arg("status").output().unwrap();
    let error: serde_json::Value = serde_json::from_slice(&by_environment.stderr).unwrap();
    assert_eq!(error["error"]["code"], "INVALID_ARGUMENT");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = strongroom()
        .arg("--help")
        .stdout(Stdio::from(writer))
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&ran.stderr), "");
}
