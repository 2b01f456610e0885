//! How a file gets its name: beside what is there, or in its place without losing what came
//! between the last check and the rename (invariant P1).

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use super::{Kept, Target, place, sibling};
use crate::restore::RestoreError;

impl Target {
    /// Gives a temporary file its name. Unless the plan approved a replacement, something that
    /// appeared there since stays.
    pub(super) fn rename(
        &self,
        path: &[u8],
        temporary: &[u8],
        replace: bool,
    ) -> Result<(), RestoreError> {
        let (parent, name) = self.parent(path)?;
        if replace {
            self.check_kept(&parent, name, path)?;
            return self.exchange(&parent, name, temporary, path);
        }
        self.rename_to_free_name(&parent, name, temporary, path)
    }

    /// Puts a temporary file in the place of what was just checked. Between that check and the
    /// rename somebody may have written: so the two change places, what was there is looked at
    /// again where nobody knows its name, and goes back if it is not what the safety file holds.
    pub(super) fn exchange(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        temporary: &[u8],
        path: &[u8],
    ) -> Result<(), RestoreError> {
        let failed = self.failed("rename", path);
        let change_places =
            || rustix::fs::renameat_with(parent, temporary, parent, name, RenameFlags::EXCHANGE);
        match change_places() {
            Ok(()) => {}
            // Gone by now: nothing is lost.
            Err(Errno::NOENT) => return self.rename_to_free_name(parent, name, temporary, path),
            // A file system that cannot: in two steps.
            Err(Errno::INVAL | Errno::NOSYS | Errno::XDEV) => {
                self.take_away(parent, name, path)?;
                return self.rename_to_free_name(parent, name, temporary, path);
            }
            Err(error) => return Err(failed(error)),
        }
        // From here on the temporary name is the other's: an error must not take it away.
        self.ended(path, temporary);
        match self.remove_kept(parent, temporary, path) {
            Ok(()) => Ok(()),
            Err(refused) => {
                change_places().map_err(|source| RestoreError::Displaced {
                    path: place(&self.to, path),
                    now: place(&self.to, &sibling(path, temporary)),
                    source: source.into(),
                })?;
                self.begin(path, temporary);
                Err(refused)
            }
        }
    }

    /// Removes what stands at a path, if it is in the safety file or an empty directory. It gets a
    /// name that nobody knows first, so that nothing is removed that was not looked at.
    pub(super) fn take_away(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), RestoreError> {
        let aside = [&self.temporary_name(path)[..], b"-aside"].concat();
        let flags = RenameFlags::NOREPLACE;
        let back = match rustix::fs::renameat_with(parent, name, parent, &aside[..], flags) {
            Ok(()) => flags,
            Err(Errno::NOENT) => return Ok(()),
            // Layers that cannot rename a directory of a lower one can remove it if it is empty.
            Err(Errno::XDEV) => {
                return rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
                    .map_err(|_| self.changed(path));
            }
            // That name is of this run alone.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::renameat(parent, name, parent, &aside[..])
                    .map_err(self.failed("rename", path))?;
                RenameFlags::empty()
            }
            Err(error) => return Err(self.failed("rename", path)(error)),
        };
        self.remove_kept(parent, &aside, path).or_else(|refused| {
            rustix::fs::renameat_with(parent, &aside[..], parent, name, back).map_err(
                |source| RestoreError::Displaced {
                    path: place(&self.to, path),
                    now: place(&self.to, &sibling(path, &aside)),
                    source: source.into(),
                },
            )?;
            Err(refused)
        })
    }

    /// Removes what was at `path` and has another name now, unless it is not what was checked.
    pub(super) fn remove_kept(
        &self,
        parent: &OwnedFd,
        now: &[u8],
        path: &[u8],
    ) -> Result<(), RestoreError> {
        let failed = self.failed("remove", path);
        let raw = rustix::fs::statat(parent, now, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
        if !self.is_kept(path, &raw, Kept::is_but_moved) {
            return Err(self.changed(path));
        }
        let flags = match FileType::from_raw_mode(raw.st_mode) {
            FileType::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        match rustix::fs::unlinkat(parent, now, flags) {
            Ok(()) => Ok(()),
            // Filled since it was found empty.
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(self.changed(path)),
            Err(error) => Err(failed(error)),
        }
    }

    /// Gives a temporary file its name, where nothing may stand.
    pub(super) fn rename_to_free_name(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        temporary: &[u8],
        path: &[u8],
    ) -> Result<(), RestoreError> {
        let failed = self.failed("rename", path);
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(parent, temporary, parent, name, flags) {
            Ok(()) => {
                self.ended(path, temporary);
                Ok(())
            }
            Err(Errno::EXIST) => Err(self.changed(path)),
            // A file system that cannot: look first.
            Err(Errno::INVAL | Errno::NOSYS) => {
                if rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                    return Err(self.changed(path));
                }
                rustix::fs::renameat(parent, temporary, parent, name).map_err(failed)?;
                self.ended(path, temporary);
                Ok(())
            }
            Err(error) => Err(failed(error)),
        }
    }
}
