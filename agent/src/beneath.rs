//! Opening what lies beneath a directory without ever following a symbolic link on the way, so
//! that a link planted in a tree cannot lead a backup or a restore outside of it. Paths are
//! bytes, relative, without `.` and `..`.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

const OPEN_DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
// Not blocking: what was a file may have become a fifo, whose open would wait for a writer.
const OPEN_FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// A directory under which everything happens.
pub(crate) struct Root {
    fd: OwnedFd,
}

impl Root {
    /// Opens the directory itself; that its own path may have links is the caller's wish.
    pub(crate) fn open(path: &Path) -> rustix::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map(|fd| Self { fd })
    }

    /// The directory itself.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Opens a directory beneath; the empty path is the root.
    pub(crate) fn directory(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        if path.is_empty() {
            return self.fd.try_clone().map_err(|_| Errno::MFILE);
        }
        beneath(&self.fd, path, OPEN_DIRECTORY)
    }

    /// Opens a file beneath for reading.
    pub(crate) fn file(&self, path: &[u8]) -> rustix::io::Result<File> {
        beneath(&self.fd, path, OPEN_FILE).map(File::from)
    }
}

/// Opens a file in a directory for reading, not following a link of that name.
pub(crate) fn file_in(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<File> {
    openat(directory, name, OPEN_FILE, Mode::empty()).map(File::from)
}

fn beneath(root: &OwnedFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        // An old kernel, or a filter of system calls that does not know it.
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(root, path, flags),
        other => other,
    }
}

fn step_by_step(root: &OwnedFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let (parents, name) = split(path);
    let mut directory = None;
    for part in parents.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        check_part(part)?;
        let from = directory.as_ref().unwrap_or(root);
        directory = Some(openat(from, part, OPEN_DIRECTORY, Mode::empty())?);
    }
    check_part(name)?;
    openat(directory.as_ref().unwrap_or(root), name, flags, Mode::empty())
}

fn check_part(part: &[u8]) -> rustix::io::Result<()> {
    if part.is_empty() || part == b"." || part == b".." { Err(Errno::XDEV) } else { Ok(()) }
}

/// A path's parent (empty for the root) and last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn beneath_never_follows_a_link_out() {
        let temp = tempfile::tempdir().unwrap();
        let (inside, outside) = (temp.path().join("in"), temp.path().join("out"));
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "x").unwrap();
        std::fs::write(inside.join("a/b/file"), "good").unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        symlink("b", inside.join("a/near")).unwrap();
        let root = Root::open(&inside).unwrap();

        let mut text = String::new();
        root.file(b"a/b/file").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "good");
        assert!(root.directory(b"a/b").is_ok());
        let fd = root.fd();
        for path in [&b"link/secret"[..], b"link", b"a/near/file", b"../out/secret"] {
            assert!(root.file(path).is_err(), "{path:?}");
            assert!(step_by_step(fd, path, OPEN_FILE).is_err(), "{path:?}");
        }
        assert!(step_by_step(fd, b"a/b/file", OPEN_FILE).is_ok());
        assert!(root.directory(b"link").is_err());
        assert!(file_in(fd, b"link").is_err());
    }
}
