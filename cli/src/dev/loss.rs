//! The sad step of the story and its good end: everything of the workload cluster is destroyed,
//! and comes back from the recovery key alone, with the coordinators and without them.

use std::ffi::OsStr;
use std::path::Path;

use super::compare::Tree;
use super::steps::{OpenWith, Point};
use super::story::Story;
use crate::error::Result;
use crate::output::count;

impl Story<'_> {
    /// Destroys the cluster: its source, its agent, its keys.
    pub(super) async fn destroy_cluster(&mut self) -> Result<()> {
        self.narrator.begin("losing the cluster");
        self.stop_agent().await?;
        self.state.destroy("agent")?;
        self.state.destroy("source")?;
        self.narrator.say(&format!(
            "cluster {} is destroyed: its files, its agent, its KEK and its signing key are gone",
            self.cluster.name
        ))
    }

    /// Restores through the coordinators with the recovery key alone.
    pub(super) async fn recover_from_fleet(
        &mut self,
        point: &Point,
        expected: &Tree,
    ) -> Result<()> {
        self.narrator.begin("recovering from the fleet");
        let to = self.fresh("restored/after-the-loss")?;
        let selection = [OsStr::new("--point"), OsStr::new(&point.name)];
        self.restore(&selection, &to, OpenWith::RecoveryKey, expected).await?;
        self.narrator.say(&format!(
            "{} came back from the recovery key alone, through the coordinators: {}, equal \
             byte for byte",
            point.name,
            count(expected.len(), "item")
        ))
    }

    /// Restores from a file with every coordinator stopped.
    pub(super) async fn recover_from_file(&mut self, file: &Path, expected: &Tree) -> Result<()> {
        self.narrator.begin("recovering from a file, without coordinators");
        self.fleet()?.stop_all().await?;
        let to = self.fresh("restored/from-the-file")?;
        let selection = [OsStr::new("--from"), file.as_os_str()];
        self.restore(&selection, &to, OpenWith::RecoveryKey, expected).await?;
        self.narrator.say(
            "all coordinators are stopped, and the exported file and the recovery key gave \
             everything back once more, equal",
        )
    }

    /// An empty place under the state directory.
    pub(super) fn fresh(&self, name: &str) -> Result<std::path::PathBuf> {
        self.state.destroy(name)?;
        Ok(self.state.path(name))
    }
}
