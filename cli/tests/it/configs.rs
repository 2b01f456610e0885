//! Config files: what is wrong is named with file, line, key and remedy.

use std::path::Path;

use crate::{Ran, run_in};

const AGENT: &str = "cluster = \"a\"\ncoordinators = [\"127.0.0.1:1\"]\nstate_dir = \".\"\n\
    recovery_key = \"recovery.pub\"\n[tls]\nca = \"c\"\ncertificate = \"c\"\nkey = \"k\"\n\
    [[sources]]\nkind = \"directory\"\npath = \"x\"\n";
const OPERATOR: &str = "coordinators = [\"127.0.0.1:1\"]\n[tls]\nca = \"c\"\ncertificate = \"c\"\n\
    key = \"k\"\n";

fn with(directory: &Path, name: &str, text: &str, words: &[&str]) -> Ran {
    std::fs::write(directory.join(name), text).unwrap();
    run_in(directory, words)
}

#[test]
fn config_errors_name_file_line_key_and_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let agent = |text: &str| {
        with(directory.path(), "agent.toml", text, &["agent", "run", "--config", "agent.toml"])
    };
    let coordinator = |text: &str| {
        let words = ["coordinator", "run", "--config", "coordinator.toml"];
        with(directory.path(), "coordinator.toml", text, &words)
    };
    let operator = |text: &str| {
        with(directory.path(), "operator.toml", text, &["--operator-dir", ".", "status"])
    };
    for (ran, said) in [
        (agent(&AGENT.replace("path =", "pathh =")), &["agent.toml", "11", "pathh", "path"][..]),
        (agent(&AGENT.replace("state_dir", "statedir")), &["agent.toml", "3", "statedir"]),
        (agent("cluster = \"a\"\n"), &["agent.toml", "coordinators", "add it"]),
        (agent("cluster = \n"), &["agent.toml", "1"]),
        (agent(&AGENT.replace("\"directory\"", "\"tape\"")), &["agent.toml", "tape"]),
        (coordinator("node_idd = 1\n"), &["coordinator.toml", "line 1", "node_idd", "remove"]),
        (coordinator("node_id = 1\n"), &["coordinator.toml", "name", "add it"]),
        (
            operator(&OPERATOR.replace("ca =", "caa =")),
            &["operator.toml line 3", "caa", "correct its name"],
        ),
        (operator("[tls]\n"), &["operator.toml", "missing field", "add the key"]),
        (
            operator(&OPERATOR.replace("[\"127.0.0.1:1\"]", "[]")),
            &["operator.toml", "coordinators is empty", "list host:port"],
        ),
        (
            operator(&OPERATOR.replace("[\"127.0.0.1:1\"]", "7")),
            &["operator.toml line 1", "expected type"],
        ),
    ] {
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.starts_with("error[INVALID_CONFIG]: "), "{}", ran.stderr);
        for words in said {
            assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
        }
    }
}

#[test]
fn missing_files_are_named_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let ran = run_in(directory.path(), ["--operator-dir", "nowhere", "status"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("there is no nowhere/operator.toml"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--operator-dir"), "{}", ran.stderr);
    for words in
        [["agent", "run", "--config", "absent"], ["coordinator", "run", "--config", "absent"]]
    {
        let ran = run_in(directory.path(), words);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.starts_with("error[INVALID_CONFIG]: "), "{}", ran.stderr);
        assert!(ran.stderr.contains("absent"), "{}", ran.stderr);
    }
    std::fs::write(directory.path().join("operator.toml"), OPERATOR).unwrap();
    let ran = run_in(directory.path(), ["--operator-dir", ".", "status"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot read the certificate file ./c"), "{}", ran.stderr);
}
