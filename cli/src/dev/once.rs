//! `dev --once`: the story on a given directory, without a person. It ends well only if all of it
//! held.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proto_types::{ByteCount, Code};

use super::compare::Tree;
use super::copy;
use super::steps::{OpenWith, Point, require_equal};
use super::story::Story;
use crate::error::{CliError, Result};
use crate::output::count;

/// Files that are treated as keys: enough that real manifests have some.
const KEYS: [&str; 3] = ["**/*[Ss]ecret*", "**/*.key", "**/*unseal*"];
/// From this many items on, one changed file must make a delta, not a full manifest.
const DELTA_ITEMS: u64 = 16;

/// What to do the story on.
#[derive(Debug)]
pub(super) struct Once {
    source: PathBuf,
    out: PathBuf,
}

impl Once {
    /// Checks the directories before anything is started.
    ///
    /// # Errors
    /// When one is in the way of another, or OUT is not empty.
    pub(super) fn check(source: &Path, out: &Path, data: &Path) -> Result<Self> {
        if !source.is_dir() {
            return Err(CliError::usage(format!("{} is no directory", agent::shown::path(source)))
                .with_remedy("give --source a directory to back up"));
        }
        let source = source.canonicalize().map_err(|error| CliError::io("find", source, &error))?;
        let out = resolve(out)?;
        let data = resolve(data)?;
        for (name, path) in [("--restore-to", &out), ("--data", &data)] {
            if path.starts_with(&source) {
                return Err(CliError::usage(format!(
                    "{name} {} lies inside the source, which is never changed",
                    agent::shown::path(path)
                ))
                .with_remedy("give a directory elsewhere"));
            }
        }
        for (name, path) in [("--source", &source), ("--restore-to", &out)] {
            if *path == data || (name == "--source" && path.starts_with(&data)) {
                return Err(CliError::usage(format!(
                    "{name} {} lies inside --data, which this fleet owns",
                    agent::shown::path(path)
                ))
                .with_remedy("give a directory elsewhere"));
            }
        }
        let is_empty = std::fs::read_dir(&out).map_or(true, |mut entries| entries.next().is_none());
        if !is_empty || (out.exists() && !out.is_dir()) {
            return Err(CliError::new(
                Code::Conflict,
                format!("{} is not an empty directory", agent::shown::path(&out)),
            )
            .with_remedy("give --restore-to a directory that is empty or absent"));
        }
        Ok(Self { source, out })
    }
}

/// The absolute path of something that may not exist yet.
fn resolve(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(|error| CliError::io("find", path, &error))?;
    let mut existing = absolute.as_path();
    let mut rest = Vec::new();
    loop {
        if let Ok(real) = existing.canonicalize() {
            return Ok(rest.iter().rev().fold(real, |path: PathBuf, name| path.join(name)));
        }
        match (existing.parent(), existing.file_name()) {
            (Some(parent), Some(name)) => {
                rest.push(name.to_owned());
                existing = parent;
            }
            _ => return Ok(absolute),
        }
    }
}

/// Tells the story.
pub(super) async fn tell(job: &Once, story: &mut Story<'_>) -> Result<()> {
    story.start_fleet().await?;
    let original = story.copy_source(&job.source)?;
    let name = story.next_cluster_name("once")?;
    story.enrol(&name, &KEYS).await?;
    story.start_agent().await?;
    let first = story.first_backup(&original).await?;
    story.refuse_a_keyless_commit().await?;
    story.change_one_file(&original)?;
    story.delta_backup(&original).await?;
    let (newest, killed) = story.survive_a_lost_leader().await?;
    story.bring_back(killed).await?;
    let latest = Tree::read(&story.state.path("source"))?;
    story.restore_first(&first, &job.out, &original).await?;
    story.restore_newest(&newest, &latest).await?;
    let file = story.export(&newest).await?;
    story.destroy_cluster().await?;
    story.recover_from_fleet(&newest, &latest).await?;
    story.recover_from_file(&file, &latest).await?;
    story.confirm_untouched(job, &original)
}

impl Story<'_> {
    /// Copies the source to where the agent looks, and reads what it is.
    fn copy_source(&mut self, from: &Path) -> Result<Tree> {
        self.narrator.begin("copying the source");
        self.state.destroy("source")?;
        let original = Tree::read(from)?;
        copy::tree(from, &self.state.path("source"))?;
        require_equal(&original, &self.state.path("source"))?;
        let skipped = match original.skipped() {
            0 => String::new(),
            skipped => format!("; {skipped} of sockets, pipes or devices are no part of a backup"),
        };
        self.narrator.say(&format!(
            "the source, {} of {}, is copied for the story; the original is only \
             read{skipped}",
            count(original.len(), "item"),
            ByteCount::new(original.bytes())
        ))?;
        Ok(original)
    }

    /// The first backup.
    pub(super) async fn first_backup(&mut self, source: &Tree) -> Result<Point> {
        self.narrator.begin("the first backup");
        let point = self.backup().await?;
        self.narrator.say(&format!(
            "configuration and keys of {} are backed up together as {} ({}, {} sealed), on \
             the disks of a majority",
            count(source.len(), "item"),
            point.name,
            point.form,
            ByteCount::new(point.added_bytes)
        ))?;
        Ok(point)
    }

    /// Changes the smallest file, or makes one where there is none.
    fn change_one_file(&mut self, original: &Tree) -> Result<()> {
        self.narrator.begin("changing one file");
        let source = self.state.path("source");
        let name = original.smallest_file().unwrap_or_else(|| PathBuf::from("made-by-the-story"));
        let path = source.join(&name);
        let change = |error| CliError::io("change", &path, &error);
        if let Ok(metadata) = path.metadata() {
            // A file that its owner may not write is changed all the same.
            let mode = metadata.permissions().mode() | 0o200;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
                .map_err(change)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(change)?;
        file.write_all(b"\nchanged by the story\n").map_err(change)?;
        self.narrator.say(&format!("one file is changed: {}", agent::shown::path(&name)))
    }

    /// The second backup.
    async fn delta_backup(&mut self, original: &Tree) -> Result<()> {
        self.narrator.begin("the second backup");
        let point = self.backup().await?;
        if original.len() >= DELTA_ITEMS && point.form != "delta" {
            return Err(CliError::new(
                Code::Internal,
                format!("{} should be a delta but is {}", point.name, point.form),
            ));
        }
        self.narrator.say(&format!(
            "only what changed is sent: {} is a {} point and added {} sealed",
            point.name,
            point.form,
            ByteCount::new(point.added_bytes)
        ))
    }

    /// The first point, by its time, to OUT.
    async fn restore_first(&mut self, first: &Point, out: &Path, original: &Tree) -> Result<()> {
        self.narrator.begin("restoring the first point by its time");
        let cluster = self.cluster.name.clone();
        let selection = ["--cluster", &cluster, "--at", &first.committed].map(OsStr::new);
        self.restore(&selection, out, OpenWith::Kek, original).await?;
        self.narrator.say(&format!(
            "the cluster as it was at {} is restored to {} and equals the original byte for byte",
            first.committed,
            agent::shown::path(out)
        ))
    }

    /// The newest point.
    async fn restore_newest(&mut self, newest: &Point, latest: &Tree) -> Result<()> {
        self.narrator.begin("restoring the newest point");
        let to = self.fresh("restored/newest")?;
        let selection = [OsStr::new("--point"), OsStr::new(&newest.name)];
        self.restore(&selection, &to, OpenWith::Kek, latest).await?;
        self.narrator.say(&format!(
            "{} is restored and equals what was last backed up, {} of {}",
            newest.name,
            count(latest.len(), "item"),
            ByteCount::new(latest.bytes())
        ))
    }

    /// The original was never changed, and OUT still equals it.
    fn confirm_untouched(&mut self, job: &Once, original: &Tree) -> Result<()> {
        self.narrator.begin("comparing at the end");
        require_equal(original, &job.source)?;
        require_equal(original, &job.out)?;
        self.narrator.say(&format!(
            "{} was never changed, and {} equals it",
            agent::shown::path(&job.source),
            agent::shown::path(&job.out)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_that_are_in_each_others_way_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(at("source/inner")).unwrap();
        std::fs::create_dir(at("full")).unwrap();
        std::fs::write(at("full/file"), "").unwrap();
        std::fs::create_dir(at("empty")).unwrap();
        let check = |source: &str, out: &str, data: &str| {
            Once::check(&at(source), &at(out), &at(data)).map_err(|error| error.code())
        };
        assert!(check("source", "out", "state").is_ok());
        assert!(check("source", "empty", "state").is_ok());
        for (source, out, data, code) in [
            ("absent", "out", "state", Code::InvalidArgument),
            ("full/file", "out", "state", Code::InvalidArgument),
            ("source", "source/out", "state", Code::InvalidArgument),
            ("source", "out", "source/state", Code::InvalidArgument),
            ("source/inner", "out", "source", Code::InvalidArgument),
            ("source", "state", "state", Code::InvalidArgument),
            ("source", "full", "state", Code::Conflict),
            ("source", "full/file", "state", Code::Conflict),
        ] {
            assert_eq!(check(source, out, data).err(), Some(code), "{source} {out} {data}");
        }
    }
}
