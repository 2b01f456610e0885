//! What machine the figures are of: processors, memory, kernel, file system, and what the disk
//! does when nobody else asks anything of it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::figure::median;
use crate::progress::say;

const SMALL_WRITES: usize = 64;
const LARGE_WRITE_MIB: u32 = 256;

/// One line about this machine and the disk under `work`.
pub(crate) fn describe(work: &Path) -> Result<String> {
    say("looking at the machine and its disk");
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let processors = read("/proc/cpuinfo");
    let model = field(&processors, "model name").unwrap_or("unknown processor");
    let memory = read("/proc/meminfo");
    let kib = field(&memory, "MemTotal").and_then(|kib| kib.split(' ').next()?.parse::<u64>().ok());
    let kernel = read("/proc/sys/kernel/osrelease");
    // What others ask of the machine meanwhile; figures of a busy one are worth little.
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("unknown");
    let fsync_ms = small_write_ms(work).context("cannot try the disk")?;
    let large = large_write_mib_per_second(work).context("cannot try the disk")?;
    Ok(format!(
        "{cores} cores ({model}), {} GiB, Linux {}, {}, load {load} at the start; disk alone: \
         4 KiB append and fdatasync {fsync_ms:.2} ms, {LARGE_WRITE_MIB} MiB write and fsync \
         {large:.0} MiB/s",
        kib.unwrap_or(0).div_ceil(1 << 20),
        kernel.trim(),
        file_system(&read("/proc/self/mounts"), work),
    ))
}

/// Value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

/// Type of the file system that is mounted the deepest above `path`.
fn file_system<'a>(mounts: &'a str, path: &Path) -> &'a str {
    let fields = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let above = fields.filter(|(mount, _)| path.starts_with(mount));
    // The later of two at one place hides the earlier.
    above.max_by_key(|(mount, _)| mount.len()).map_or("unknown file system", |(_, kind)| kind)
}

fn small_write_ms(work: &Path) -> Result<f64> {
    let path = work.join("probe");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..SMALL_WRITES {
        let start = Instant::now();
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    std::fs::remove_file(path)?;
    median(&times).context("nothing was measured")
}

fn large_write_mib_per_second(work: &Path) -> Result<f64> {
    let path = work.join("probe");
    let piece = vec![0x5a; 1 << 20];
    let start = Instant::now();
    let mut file = File::create(&path)?;
    for _ in 0..LARGE_WRITE_MIB {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    let took = start.elapsed();
    std::fs::remove_file(path)?;
    Ok(f64::from(LARGE_WRITE_MIB) / took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_file_system_is_the_deepest_mount() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/a xfs rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/tmp/abc")), "tmpfs");
        assert_eq!(file_system(mounts, Path::new("/tmp/a/c")), "xfs");
        assert_eq!(file_system(mounts, Path::new("/work")), "ext4");
        assert_eq!(file_system("", Path::new("/work")), "unknown file system");
    }

    #[test]
    fn machine_is_described() {
        let directory = tempfile::tempdir().unwrap();
        let text = describe(directory.path()).unwrap();
        assert!(text.contains("cores") && text.contains("Linux"), "{text}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
