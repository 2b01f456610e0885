//! Child processes: commands that are run to their end and timed, and servers that are stopped by
//! their own handle on every way out. Times of both are taken the same way.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::interrupt::{self, Registration};

/// Between two looks at something that is waited for.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long a server may take to end after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// What a command that ended well took and said.
#[derive(Debug)]
pub(crate) struct Finished {
    /// From before its start to after its end.
    pub(crate) wall: Duration,
    /// User and system time of it and what it waited for; to 10 ms, as the kernel counts.
    pub(crate) cpu: Duration,
    /// Its standard output.
    pub(crate) stdout: Vec<u8>,
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started or does not end well, with the end of what it said.
pub(crate) fn run(command: &mut Command) -> Result<Finished> {
    let shown = shown(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let cpu_before = reaped_children_cpu()?;
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
    let registration = interrupt::register(&mut child)?;
    let output = child.wait_with_output().with_context(|| format!("cannot wait for {shown}"))?;
    let wall = start.elapsed();
    drop(registration);
    interrupt::check()?;
    if !output.status.success() {
        bail!("{shown} ended with {}: {}", output.status, last_lines(&output.stderr));
    }
    let cpu = reaped_children_cpu()?.saturating_sub(cpu_before);
    Ok(Finished { wall, cpu, stdout: output.stdout })
}

/// A command that runs while something else goes on, killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Attempt {
    child: Child,
    _registration: Registration,
}

impl Attempt {
    /// Starts a command of which the exit status matters; what it says is appended to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let output = append_to(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", shown(command)))?;
        let registration = interrupt::register(&mut child)?;
        Ok(Self { child, _registration: registration })
    }

    /// Whether it ended well; `None` while it runs.
    pub(crate) fn ended(&mut self) -> Result<Option<bool>> {
        Ok(self.child.try_wait()?.map(|status| status.success()))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running server, killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    child: Child,
    log: PathBuf,
    _registration: Registration,
}

impl Server {
    /// Starts a server whose output is appended to `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let output = append_to(log)?;
        command
            // Its end tells a server that knows of it that this program is gone.
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let registration = interrupt::register(&mut child)?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), _registration: registration })
    }

    /// Fails if it has ended by itself, with the end of its log.
    pub(crate) fn require_alive(&mut self) -> Result<()> {
        interrupt::check()?;
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended by itself ({status}): {}", self.name, end_of(&self.log));
        }
        Ok(())
    }

    /// User and system time since its start; to 10 ms, as the kernel counts.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        // Fields 14 and 15 of proc_pid_stat(5).
        cpu_fields(&format!("/proc/{}/stat", self.child.id()), 14)
    }

    /// The most bytes that were resident at any time since its start.
    pub(crate) fn peak_resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let kib = text.lines().find_map(|line| {
            line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
        Ok(kib.with_context(|| format!("{path} has no VmHWM"))? * 1024)
    }

    /// SIGKILL, as a power cut would: nothing is flushed, nobody is told.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(mut self) -> Result<()> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Not yet waited for, so that the number is still its own.
            kill_process(pid, Signal::TERM)
                .with_context(|| format!("cannot signal {}", self.name))?;
        }
        let child = &mut self.child;
        let what = format!("the end of {} after SIGTERM", self.name);
        until(&what, STOP_DEADLINE, || Ok(child.try_wait()?.map(|_| ())))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks until `look` finds what it looks for.
///
/// # Errors
/// When that takes longer than the deadline, or this program is interrupted, or `look` fails.
pub(crate) fn until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        interrupt::check()?;
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > deadline {
            bail!("{what} did not happen within {} s", deadline.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// An executable file of this name on the search path.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|directory| directory.join(name)).find(|path| path.is_file())
}

fn reaped_children_cpu() -> Result<Duration> {
    // Fields 16 and 17 of proc_pid_stat(5): children that were waited for.
    cpu_fields("/proc/self/stat", 16)
}

/// User and system time from two neighbouring fields of a stat file, counted from 1.
fn cpu_fields(path: &str, first: usize) -> Result<Duration> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    // The second field, in parentheses, may hold anything; the third follows its last one.
    let (_, rest) = text.rsplit_once(')').with_context(|| format!("{path} has no fields"))?;
    let mut ticks = 0;
    for field in rest.split_whitespace().skip(first - 3).take(2) {
        ticks += field.parse::<u64>().with_context(|| format!("{path} has a wrong field"))?;
    }
    Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn append_to(log: &Path) -> Result<File> {
    let open = OpenOptions::new().create(true).append(true).open(log);
    open.with_context(|| format!("cannot open {}", log.display()))
}

/// The last lines of a log.
pub(crate) fn end_of(log: &Path) -> String {
    last_lines(&std::fs::read(log).unwrap_or_default())
}

fn last_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return "it said nothing".to_owned();
    }
    lines[lines.len().saturating_sub(5)..].join("\n")
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
