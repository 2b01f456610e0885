//! Copies a directory tree with all that a backup keeps: bytes and holes, modes, owners where
//! allowed, modification times, links of both kinds, attributes of the user namespace. The source
//! is only read. Sockets, pipes and devices are left out, as a backup leaves them out.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::error::{CliError, Result};

/// Copies `from` to `to`, which must not exist.
///
/// # Errors
/// When something cannot be read or written.
pub(super) fn tree(from: &Path, to: &Path) -> Result<()> {
    let mut links: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    // Directories get their attributes last, the deepest first: filling one changes its time.
    let mut made: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut waiting = vec![(from.to_owned(), to.to_owned())];
    while let Some((source, target)) = waiting.pop() {
        DirBuilder::new()
            .mode(0o700)
            .create(&target)
            .map_err(|error| CliError::io("make", &target, &error))?;
        let list = |error| CliError::io("list", &source, &error);
        for entry in std::fs::read_dir(&source).map_err(list)? {
            let name = entry.map_err(list)?.file_name();
            let (source, target) = (source.join(&name), target.join(&name));
            let metadata = source
                .symlink_metadata()
                .map_err(|error| CliError::io("look at", &source, &error))?;
            if metadata.is_dir() {
                waiting.push((source, target));
            } else if metadata.is_symlink() {
                let points_to = std::fs::read_link(&source)
                    .map_err(|error| CliError::io("read the link", &source, &error))?;
                std::os::unix::fs::symlink(points_to, &target)
                    .map_err(|error| CliError::io("make", &target, &error))?;
                attributes(&source, &target, &metadata)?;
            } else if metadata.is_file() {
                file(&source, &target, &metadata, &mut links)?;
            }
        }
        made.push((source, target));
    }
    for (source, target) in made.iter().rev() {
        let metadata =
            std::fs::metadata(source).map_err(|error| CliError::io("look at", source, &error))?;
        attributes(source, target, &metadata)?;
    }
    Ok(())
}

fn file(
    source: &Path,
    target: &Path,
    metadata: &Metadata,
    links: &mut BTreeMap<(u64, u64), PathBuf>,
) -> Result<()> {
    if metadata.nlink() > 1 {
        let key = (metadata.dev(), metadata.ino());
        if let Some(first) = links.get(&key) {
            return std::fs::hard_link(first, target)
                .map_err(|error| CliError::io("make", target, &error));
        }
        links.insert(key, target.to_owned());
    }
    let mut input = File::open(source).map_err(|error| CliError::io("read", source, &error))?;
    let mut output = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target)
        .map_err(|error| CliError::io("make", target, &error))?;
    content(&mut input, &mut output, metadata.len())
        .map_err(|error| CliError::io("copy to", target, &error))?;
    drop(output);
    attributes(source, target, metadata)
}

/// Copies what is data and leaves holes where there are holes.
fn content(input: &mut File, output: &mut File, size: u64) -> std::io::Result<()> {
    output.set_len(size)?;
    let mut at = 0;
    while at < size {
        let Some((start, end)) = next_data(input, at, size)? else { break };
        input.seek(SeekFrom::Start(start))?;
        output.seek(SeekFrom::Start(start))?;
        std::io::copy(&mut Read::by_ref(input).take(end - start), output)?;
        at = end;
    }
    output.flush()
}

/// The next stretch of data at or after `at`.
fn next_data(file: &File, at: u64, size: u64) -> std::io::Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        Ok(start) => start,
        // Nothing but a hole up to the end.
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        // A file system without holes: all is data.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {
            return Ok(Some((at, size)));
        }
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(size))).filter(|(start, end)| start < end))
}

fn attributes(source: &Path, target: &Path, metadata: &Metadata) -> Result<()> {
    let set = |error: &std::io::Error| CliError::io("set the attributes of", target, error);
    match std::os::unix::fs::lchown(target, Some(metadata.uid()), Some(metadata.gid())) {
        // Only root may give files away.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
        other => other.map_err(|error| set(&error))?,
    }
    if !metadata.is_symlink() {
        for name in xattr::list(source).into_iter().flatten() {
            if !name.as_bytes().starts_with(b"user.") {
                continue;
            }
            if let Some(value) = xattr::get(source, &name).map_err(|error| set(&error))? {
                xattr::set(target, &name, &value).map_err(|error| set(&error))?;
            }
        }
        // After the owner: a change of owner takes set-user-id away.
        let mode = std::fs::Permissions::from_mode(metadata.mode() & 0o7777);
        std::fs::set_permissions(target, mode).map_err(|error| set(&error))?;
    }
    let modified = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() };
    let times = Timestamps { last_access: modified, last_modification: modified };
    utimensat(CWD, target, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| set(&error.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::dev::compare::Tree;

    #[test]
    fn a_copy_equals_its_source_and_keeps_holes() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        std::fs::create_dir_all(from.join("deep/deeper")).unwrap();
        std::fs::write(from.join("deep/deeper/a"), "a").unwrap();
        std::fs::hard_link(from.join("deep/deeper/a"), from.join("b")).unwrap();
        symlink("nowhere", from.join("dangling")).unwrap();
        std::fs::write(from.join("run"), "#!/bin/sh").unwrap();
        std::fs::set_permissions(from.join("run"), std::fs::Permissions::from_mode(0o4755))
            .unwrap();
        std::fs::write(from.join(std::ffi::OsStr::from_bytes(b"\xfe")), "").unwrap();
        let mut sparse = File::create(from.join("sparse")).unwrap();
        sparse.write_all(b"begin").unwrap();
        sparse.seek(SeekFrom::Start(64 << 20)).unwrap();
        sparse.write_all(b"end").unwrap();
        sparse.set_len(80 << 20).unwrap();
        std::fs::set_permissions(from.join("deep"), std::fs::Permissions::from_mode(0o550))
            .unwrap();

        tree(&from, &to).unwrap();

        let differences = Tree::read(&from).unwrap().differences(&Tree::read(&to).unwrap());
        assert_eq!(differences, []);
        let blocks = to.join("sparse").metadata().unwrap().blocks();
        assert!(blocks * 512 < 4 << 20, "{blocks} blocks");
        std::fs::set_permissions(from.join("deep"), std::fs::Permissions::from_mode(0o750))
            .unwrap();
        std::fs::set_permissions(to.join("deep"), std::fs::Permissions::from_mode(0o750)).unwrap();
    }
}
