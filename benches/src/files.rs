//! Directory trees as the measurements need them: warmed, weighed, compared.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The cargo target directory that this program was built into.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("this program does not know where it is")?;
    let target = exe.parent().and_then(Path::parent);
    Ok(target.with_context(|| format!("{} is in no target directory", exe.display()))?.to_owned())
}

/// Puts the machine in the same state before every measurement: nothing dirty is left to be
/// written on somebody else's account, and the source is in the page cache.
pub(crate) fn settle(source: &Path) -> Result<()> {
    rustix::fs::sync();
    let mut buffer = vec![0; 1 << 20];
    for path in files(source)?.values() {
        let mut file =
            std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        while file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))? > 0
        {
        }
    }
    Ok(())
}

/// Sum of the lengths of all files; 0 when there is no such directory.
pub(crate) fn bytes_below(root: &Path) -> Result<u64> {
    if !root.exists() {
        return Ok(0);
    }
    let mut total = 0;
    for path in files(root)?.values() {
        total += path.symlink_metadata()?.len();
    }
    Ok(total)
}

/// Fails unless both trees hold the same files with the same bytes.
pub(crate) fn require_equal(wanted: &Path, found: &Path) -> Result<()> {
    let (left, right) = (files(wanted)?, files(found)?);
    if left.is_empty() || !left.keys().eq(right.keys()) {
        bail!(
            "{} holds {} files, {} holds {}: not the same ones",
            wanted.display(),
            left.len(),
            found.display(),
            right.len()
        );
    }
    for (name, path) in &left {
        if std::fs::read(path)? != std::fs::read(&right[name])? {
            bail!("{} differs in {}", name.display(), found.display());
        }
    }
    Ok(())
}

/// All files below a directory, by their paths relative to it.
fn files(root: &Path) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        let entries = std::fs::read_dir(&directory)
            .with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            } else {
                let path = entry.path();
                found.insert(path.strip_prefix(root)?.to_owned(), path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_differ_in_name_or_byte_are_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        for root in [&one, &two] {
            std::fs::create_dir_all(root.join("in")).unwrap();
            std::fs::write(root.join("in/a"), "same").unwrap();
        }
        require_equal(&one, &two).unwrap();
        assert_eq!(bytes_below(&one).unwrap(), 4);
        assert_eq!(bytes_below(&directory.path().join("absent")).unwrap(), 0);
        std::fs::write(two.join("in/a"), "sAme").unwrap();
        assert!(require_equal(&one, &two).unwrap_err().to_string().contains("in/a"));
        std::fs::write(two.join("in/a"), "same").unwrap();
        std::fs::write(two.join("b"), "").unwrap();
        assert!(require_equal(&one, &two).is_err());
        assert!(require_equal(&directory.path().join("empty"), &two).is_err());
    }
}
