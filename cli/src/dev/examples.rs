//! The example cluster of `deploy/examples/harbour`, built into the binary, so that the story can
//! be told wherever the binary is. A test compares this list with the directory.

use std::path::Path;

use crate::error::{CliError, Result};

macro_rules! files {
    ($($path:literal)*) => {
        &[$((
            $path,
            include_bytes!(concat!("../../../deploy/examples/harbour/", $path)),
        ),)*]
    };
}

/// Path within the cluster, and content.
const FILES: &[(&str, &[u8])] = files! {
    "apps/berths/configmap.yaml"
    "apps/berths/deployment.yaml"
    "apps/berths/secret.yaml"
    "apps/tariffs/configmap.yaml"
    "apps/tariffs/deployment.yaml"
    "apps/tariffs/secret.yaml"
    "cluster/crd-quays.yaml"
    "cluster/namespaces.yaml"
    "cluster/quays.yaml"
    "cluster/rbac.yaml"
    "neuvector/export.json"
    "neuvector/rules/berths-api.yaml"
    "neuvector/rules/tariffs.yaml"
    "neuvector/store-secret.yaml"
    "vault/appbinding.yaml"
    "vault/policies/berths.hcl"
    "vault/policies/tariffs.hcl"
    "vault/unseal-keys.yaml"
    "vault/vaultserver.yaml"
};

/// Which of the files are keys, as the examples' README says.
pub(super) const KEYS: [&str; 2] = ["**/*secret*.yaml", "**/unseal-keys.yaml"];
/// The Secret that the story changes and brings back.
pub(super) const SECRET: &str = "apps/berths/secret.yaml";
/// The password in that Secret, and what the story puts in its place.
pub(super) const PASSWORD: (&str, &str) = ("fake-password-november", "fake-password-december");

/// Writes the example cluster's files under `directory`, which must not exist.
///
/// # Errors
/// When something cannot be written.
pub(super) fn write(directory: &Path) -> Result<()> {
    for (name, content) in FILES {
        let path = directory.join(name);
        let parent = path.parent().unwrap_or(directory);
        std::fs::create_dir_all(parent).map_err(|error| CliError::io("make", parent, &error))?;
        std::fs::write(&path, content).map_err(|error| CliError::io("write", &path, &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::compare::Tree;

    #[test]
    fn every_example_file_is_built_in() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/harbour");
        let directory = tempfile::tempdir().unwrap();
        let written = directory.path().join("harbour");
        write(&written).unwrap();
        let differences =
            Tree::read(&examples).unwrap().differences(&Tree::read(&written).unwrap());
        let wrong: Vec<_> = differences
            .into_iter()
            .filter(|d| !d.what.contains("modified") && !d.what.contains("mode"))
            .collect();
        assert_eq!(wrong, []);
    }

    #[test]
    fn the_secret_of_the_story_has_its_password() {
        let (_, content) = FILES.iter().find(|(name, _)| *name == SECRET).unwrap();
        assert!(std::str::from_utf8(content).unwrap().contains(PASSWORD.0));
    }
}
