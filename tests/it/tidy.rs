//! The shape of the tree: edges between packages point down only (invariant L1), and a few
//! libraries are known to a few rooms only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// Direct dependencies of every package of the workspace, for building, not for its tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata runs");
    metadata
        .packages
        .iter()
        .map(|package| {
            let names = package
                .dependencies
                .iter()
                .filter(|d| d.kind == cargo_metadata::DependencyKind::Normal)
                .map(|d| d.name.clone())
                .collect();
            (package.name.to_string(), names)
        })
        .collect()
}

const OURS: [&str; 10] = [
    "proto",
    "proto-types",
    "bundle",
    "storage",
    "coordinator",
    "coordinator-core",
    "agent",
    "cli",
    "tests",
    "benches",
];

#[test]
fn invariant_l1_edges_between_packages_point_down_only() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("cli", &["coordinator", "agent", "bundle", "proto", "proto-types"][..]),
        ("coordinator", &["coordinator-core", "storage", "proto", "proto-types"][..]),
        ("agent", &["bundle", "proto", "proto-types"][..]),
        ("coordinator-core", &["proto-types"][..]),
        ("bundle", &["proto-types"][..]),
        ("storage", &["proto-types"][..]),
        ("proto", &["proto-types"][..]),
        ("proto-types", &[][..]),
    ]);
    let dependencies = dependencies();
    for (package, allowed) in allowed {
        let ours: BTreeSet<&str> = dependencies[package]
            .iter()
            .map(String::as_str)
            .filter(|name| OURS.contains(name))
            .collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        let extra: Vec<_> = ours.difference(&allowed).collect();
        assert!(extra.is_empty(), "{package} must not depend on {extra:?}");
    }
}

#[test]
fn invariant_l1_libraries_stay_behind_their_doors() {
    let doors: [(&str, &[&str]); 17] = [
        // The one way to an object store; reqwest is there to choose its TLS.
        ("object_store", &["storage"]),
        ("reqwest", &["storage"]),
        ("croner", &["coordinator"]),
        // A cluster's API is the agent's to know.
        ("kube", &["agent"]),
        ("k8s-openapi", &["agent"]),
        ("openraft", &["coordinator", "storage"]),
        ("sled", &["storage", "agent"]),
        ("aes-gcm", &["bundle"]),
        ("hkdf", &["bundle"]),
        ("hpke", &["bundle"]),
        // Splitting the recovery key, the text of a share, and asking for one unseen.
        ("vsss-rs", &["bundle"]),
        ("bech32", &["bundle"]),
        ("rpassword", &["cli"]),
        ("tonic", &["proto", "coordinator", "agent", "cli"]),
        ("ed25519-dalek", &["proto-types", "bundle"]),
        ("imbl", &["coordinator-core"]),
        ("rcgen", &["cli", "proto"]),
    ];
    let dependencies = dependencies();
    for (library, doors) in doors {
        for (package, names) in &dependencies {
            if ["tests", "benches"].contains(&package.as_str()) {
                continue;
            }
            assert!(
                !names.contains(library) || doors.contains(&package.as_str()),
                "{package} must not depend on {library}: only {doors:?} may"
            );
        }
    }
    // The thinking part cannot do I/O.
    for library in ["tokio", "tonic", "rustix", "tempfile", "getrandom", "tracing", "metrics"] {
        for package in ["coordinator-core", "bundle"] {
            assert!(!dependencies[package].contains(library), "{package} must not know {library}");
        }
    }
}

/// Rust files of a directory, with their text.
fn sources(directory: &Path) -> Vec<(PathBuf, String)> {
    walkdir::WalkDir::new(directory)
        .into_iter()
        .map(|entry| entry.expect("the tree is readable").into_path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a source file is readable");
            (path, text)
        })
        .collect()
}

#[test]
fn invariant_l1_openraft_stays_in_the_raft_modules() {
    for (path, text) in sources(&root().join("coordinator/src")) {
        let shown = path.strip_prefix(root()).expect("below the root").display().to_string();
        let inside = shown.starts_with("coordinator/src/raft");
        assert!(
            inside || !text.contains("openraft::"),
            "{shown} names openraft: only coordinator/src/raft may"
        );
    }
}

#[test]
fn tidy_no_macros_of_convenience_in_product_code() {
    let banned = [
        (concat!("todo", "!("), "finish it"),
        (concat!("unimplemented", "!("), "finish it"),
        (concat!("FIX", "ME"), "fix it or file an issue"),
        (concat!("#[", "ignore"), "a test that does not run shows nothing"),
        (concat!("println", "!("), "write through the output module or tracing"),
    ];
    for package in ["proto", "bundle", "storage", "coordinator", "agent", "cli", "tests"] {
        for (path, text) in sources(&root().join(package)) {
            let shown = path.strip_prefix(root()).expect("below the root").display().to_string();
            if shown.ends_with("build.rs") || shown.contains("/target/") {
                continue;
            }
            let is_test = shown.contains("/tests/")
                || shown.contains("tests.rs")
                || shown.starts_with("tests/");
            for (word, remedy) in banned {
                // A test may print: why it skipped, what it measured.
                if is_test && word.starts_with("print") {
                    continue;
                }
                assert!(!text.contains(word), "{shown} contains {word:?}: {remedy}");
            }
        }
    }
}

#[test]
fn tidy_every_test_that_the_threat_model_names_is_there() {
    let page = std::fs::read_to_string(root().join("docs/threat-model.md")).expect("readable");
    let mut tests = BTreeSet::new();
    for package in ["proto", "bundle", "storage", "coordinator", "agent", "cli", "tests"] {
        for (_, text) in sources(&root().join(package)) {
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split('(').next());
            tests.extend(names.map(str::to_owned));
        }
    }
    let areas = ["invariant_", "bad_input_", "join_", "fleet_init_", "recover_", "membership_"];
    let quoted: Vec<&str> = page.split('`').skip(1).step_by(2).collect();
    let named: Vec<&str> =
        quoted.into_iter().filter(|word| areas.iter().any(|area| word.starts_with(area))).collect();
    assert!(named.len() > 20, "the page names {} tests", named.len());
    let missing: Vec<&str> = named.into_iter().filter(|name| !tests.contains(*name)).collect();
    assert!(missing.is_empty(), "docs/threat-model.md names tests that are not there: {missing:?}");
}
