//! `dev` for people: the story on the example cluster, then a fleet to try things on until Ctrl-C.
//! A second start finds the story told and goes straight to the fleet.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::compare::Tree;
use super::state::RECOVERY_KEY;
use super::steps::{OpenWith, Point};
use super::story::Story;
use super::{configs, copy, examples};
use crate::error::{CliError, Result};
use crate::output::count;
use proto_types::Code;

/// How often it is looked whether all processes still run.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Tells the story, once per state directory, and runs the fleet until `interrupted`.
pub(super) async fn tell(story: &mut Story<'_>, interrupted: &CancellationToken) -> Result<()> {
    story.start_fleet().await?;
    match story.state.saved.live_cluster.clone() {
        None => story.tell_all().await?,
        Some(live) => {
            story.narrator.say(
                "the story was told at an earlier start and is not told again; give another \
                 --data directory to see it anew",
            )?;
            story.resume_cluster(&live)?;
            story.narrator.begin("starting the agent");
            story.start_agent().await?;
            story.narrator.say(&format!("the agent of {live} runs again"))?;
        }
    }
    story.print_places()?;
    story.narrator.begin("running the fleet");
    story.run_until(interrupted).await
}

impl Story<'_> {
    async fn tell_all(&mut self) -> Result<()> {
        self.narrator.begin("making the example cluster");
        self.state.destroy("source")?;
        let source = self.state.path("source");
        examples::write(&source)?;
        let tree = Tree::read(&source)?;
        self.narrator.say(&format!(
            "the workload cluster is the example of deploy/examples: {}, a NeuVector export \
             with its store Secret, Vault's unseal keys, Secrets, ConfigMaps, CRDs",
            count(tree.len(), "item")
        ))?;
        let name = self.next_cluster_name("harbour")?;
        self.enrol(&name, &examples::KEYS).await?;
        self.start_agent().await?;
        let first = self.first_backup(&tree).await?;
        self.show_parts(&first).await?;
        self.refuse_a_keyless_commit().await?;
        self.change_the_secret(&source).await?;
        let (_, killed) = self.survive_a_lost_leader().await?;
        self.bring_back(killed).await?;
        let newest = self.bring_one_secret_back(&first, &tree, &source).await?;
        let latest = Tree::read(&source)?;
        let file = self.export(&newest).await?;
        self.destroy_cluster().await?;
        self.recover_from_fleet(&newest, &latest).await?;
        self.recover_from_file(&file, &latest).await?;
        self.rebuild(&name, &first).await
    }

    /// Which bundles the first point consists of.
    async fn show_parts(&mut self, point: &Point) -> Result<()> {
        let shown = self.runner.run(["backup", "show", &point.name]).await?;
        let bundles = shown.get("bundles").and_then(|bundles| bundles.as_array());
        let kinds: Vec<&str> = bundles
            .into_iter()
            .flatten()
            .filter_map(|bundle| bundle.get("kind")?.as_str())
            .collect();
        self.narrator.say(&format!(
            "it consists of {} sealed files ({}); no coordinator can open any of them",
            kinds.len(),
            kinds.join(", ")
        ))
    }

    /// Changes a Secret for the worse, and backs that up.
    async fn change_the_secret(&mut self, source: &Path) -> Result<()> {
        self.narrator.begin("changing a Secret");
        let path = source.join(examples::SECRET);
        let text =
            std::fs::read_to_string(&path).map_err(|error| CliError::io("read", &path, &error))?;
        let changed = text.replace(examples::PASSWORD.0, examples::PASSWORD.1);
        std::fs::write(&path, changed).map_err(|error| CliError::io("change", &path, &error))?;
        let point = self.backup().await?;
        self.narrator.say(&format!(
            "somebody changes the Secret {}; the next backup, {}, is a {} of what changed",
            examples::SECRET,
            point.name,
            point.form
        ))
    }

    /// Restores that one Secret as it was before, into the running cluster, and backs it up.
    async fn bring_one_secret_back(
        &mut self,
        first: &Point,
        before: &Tree,
        source: &Path,
    ) -> Result<Point> {
        self.narrator.begin("bringing one Secret back");
        let cluster = self.cluster.name.clone();
        let exports = self.state.path("exports");
        let [at, include, policy, safety] =
            ["--at", "--include", "--on-conflict", "--safety-dir"].map(OsStr::new);
        let selection = [
            OsStr::new("--cluster"),
            OsStr::new(&cluster),
            at,
            OsStr::new(&first.committed),
            include,
            OsStr::new(examples::SECRET),
            policy,
            OsStr::new("overwrite"),
            safety,
            exports.as_os_str(),
        ];
        let changed = Tree::read(source)?;
        self.run_restore(&selection, source, OpenWith::Kek).await?;
        let after = Tree::read(source)?;
        let secret = Path::new(examples::SECRET);
        if let Some(difference) = before.differences_at(&after, secret).first() {
            return Err(CliError::new(
                Code::NotEqual,
                format!("{} {} after its restore", difference.path, difference.what),
            ));
        }
        // Its directory was written to, which changes that directory's time and nothing else.
        let parent = secret.parent().unwrap_or(secret).to_string_lossy().into_owned();
        let others = changed.differences(&after);
        let touched =
            others.iter().find(|other| other.path != examples::SECRET && other.path != parent);
        if let Some(other) = touched {
            return Err(CliError::new(
                Code::NotEqual,
                format!("{} {} although only the Secret was asked for", other.path, other.what),
            ));
        }
        let point = self.backup().await?;
        self.narrator.say(&format!(
            "the Secret is back as it was at {}, and nothing else was touched; a sealed safety \
             copy was taken first, and {} keeps the result",
            first.committed, point.name
        ))?;
        Ok(point)
    }

    /// Starts the fleet again and enrols the rebuilt cluster, so that there is something to try.
    async fn rebuild(&mut self, lost: &str, first: &Point) -> Result<()> {
        self.narrator.begin("going on with a rebuilt cluster");
        self.fleet()?.start_all().await?;
        copy::tree(&self.state.path("restored/after-the-loss"), &self.state.path("source"))?;
        let name = format!("{lost}-rebuilt");
        self.enrol(&name, &examples::KEYS).await?;
        self.start_agent().await?;
        let point = self.backup().await?;
        self.state.saved.live_cluster = Some(name.clone());
        self.state.saved.lost_cluster = Some((lost.to_owned(), first.committed.clone()));
        self.state.save()?;
        self.narrator.say(&format!(
            "the coordinators run again; the rebuilt cluster has a new agent with new keys, and \
             its first backup, {}",
            point.name
        ))
    }

    /// Where everything listens, and what to try.
    fn print_places(&self) -> Result<()> {
        let screen = &self.context.screen;
        if screen.is_json() {
            return Ok(());
        }
        let mut text = String::from("\nlistening\n");
        let places = configs::addresses(&self.state);
        let metrics = configs::metrics_addresses(&self.state);
        for ((name, grpc), metrics) in configs::COORDINATORS.iter().zip(places).zip(metrics) {
            text.push_str(&format!("  {name}  gRPC {grpc}  http://{metrics}/metrics\n"));
        }
        text.push_str(&format!(
            "  agent          {}\n\nfiles\n  state          {}\n  logs           {}\n\ntry\n",
            agent::shown::path(&self.cluster.socket),
            agent::shown::path(self.state.root()),
            agent::shown::path(self.state.path("logs")),
        ));
        for words in self.commands() {
            let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            text.push_str(&format!("  {}\n", words.join(" ")));
        }
        text.push_str("\nCtrl-C stops all of it; the next start goes on from here\n");
        screen.text(&text)
    }

    fn commands(&self) -> Vec<Vec<String>> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let operator = text(self.state.path("operator"));
        let recovery_key = text(self.state.path("operator").join(RECOVERY_KEY));
        let kek = text(self.state.path("agent").join("kek.key"));
        let config = text(self.cluster.agent_config.clone());
        let to = text(self.state.path("restored/try"));
        let strongroom = |words: &[&str]| -> Vec<String> {
            let exe = text(self.exe.clone());
            let common = [exe.as_str(), "--operator-dir", operator.as_str()];
            common.iter().chain(words).map(|word| (*word).to_owned()).collect()
        };
        let mut commands = vec![
            strongroom(&["status"]),
            strongroom(&["backup", "list"]),
            strongroom(&["backup", "now", "--config", &config]),
        ];
        if let Some((lost, first)) = &self.state.saved.lost_cluster {
            let (one, two) = (format!("{lost}@1"), format!("{lost}@2"));
            commands.push(strongroom(&[
                "backup",
                "diff",
                &one,
                &two,
                "--recovery-key",
                &recovery_key,
            ]));
            commands.push(strongroom(&[
                "restore",
                "--cluster",
                lost,
                "--at",
                first,
                "--to",
                &to,
                "--recovery-key",
                &recovery_key,
                "--dry-run",
            ]));
        }
        let live = &self.cluster.name;
        commands.push(strongroom(&[
            "restore",
            "--cluster",
            live,
            "--at",
            "now",
            "--to",
            &to,
            "--kek",
            &kek,
        ]));
        commands
    }

    /// Watches all processes until it is told to end.
    async fn run_until(&mut self, interrupted: &CancellationToken) -> Result<()> {
        let mut looks = tokio::time::interval(WATCH_EVERY);
        loop {
            tokio::select! {
                () = interrupted.cancelled() => return Ok(()),
                _ = looks.tick() => {}
            }
            self.fleet()?.require_alive()?;
            if let Some(agent) = &mut self.agent {
                agent.require_alive()?;
            }
        }
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@=,+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("/a/b@1"), "/a/b@1");
        assert_eq!(quoted("with space"), "'with space'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
