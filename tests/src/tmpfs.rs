//! A small file system of its own, to be filled up. Needs the right to mount; where there is
//! none the test says that it was skipped.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A mounted tmpfs; unmounted on drop.
#[derive(Debug)]
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one of `mebibytes` at `path`, which is made. `None` when that is not permitted.
    ///
    /// # Panics
    /// When the directory cannot be made.
    #[must_use]
    pub fn mount(path: &Path, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a directory can be made");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=0700"), "tmpfs"])
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        done.is_ok_and(|status| status.success()).then(|| Self(path.to_owned()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Fills it up to the last byte with a file of this name.
    ///
    /// # Panics
    /// When something else than lack of space stops it.
    pub fn fill(&self, name: &str) {
        use std::io::Write;
        let mut file =
            std::fs::File::options().create(true).append(true).open(self.0.join(name)).expect(name);
        let mut size = 1 << 16;
        let zeros = vec![0; size];
        while size > 0 {
            match file.write_all(&zeros[..size]) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => size /= 2,
                Err(error) => panic!("cannot fill {}: {error}", self.0.display()),
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a server that is just being killed may still hold a file.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
