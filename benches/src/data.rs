//! What is backed up: made from a seed, the same bytes on every machine. Text in the manner of
//! Kubernetes manifests, which compresses as they do, and noise that does not compress at all.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Directories of the small files.
const DIRECTORIES: usize = 100;
/// Small files in each directory.
const FILES_PER_DIRECTORY: usize = 100;
/// Every so many-th small file changes between two backups: 1 %.
const CHANGED_EVERY: usize = 100;
/// Bytes of the large file.
pub(crate) const LARGE_BYTES: u64 = 1 << 30;

const WORDS: [&str; 32] = [
    "backup",
    "cluster",
    "controller",
    "default",
    "enabled",
    "endpoint",
    "gateway",
    "group",
    "ingress",
    "interval",
    "label",
    "limit",
    "memory",
    "metrics",
    "namespace",
    "network",
    "node",
    "policy",
    "port",
    "probe",
    "replica",
    "request",
    "resource",
    "role",
    "route",
    "secret",
    "selector",
    "service",
    "storage",
    "timeout",
    "token",
    "volume",
];
const KINDS: [&str; 6] =
    ["ConfigMap", "Deployment", "NetworkPolicy", "Role", "Service", "ServiceMonitor"];

/// xorshift64*: small, fast, the same everywhere. Not for keys.
#[derive(Debug)]
struct Noise(u64);

impl Noise {
    /// Seeds that differ by little give streams that have nothing in common.
    fn new(seed: u64) -> Self {
        // splitmix64 of the seed; zero is the one state that xorshift cannot leave.
        let mut state = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self((state ^ (state >> 31)).max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        // The remainder is below a usize.
        (self.next() % bound as u64) as usize
    }

    fn pick<'a>(&mut self, among: &[&'a str]) -> &'a str {
        among[self.below(among.len())]
    }
}

/// Makes 10,000 files of 1 to 4 KiB in 100 directories.
pub(crate) fn make_small_files(root: &Path) -> Result<()> {
    for directory in 0..DIRECTORIES {
        let path = root.join(format!("namespace-{directory:03}"));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        for file in 0..FILES_PER_DIRECTORY {
            write_small(root, directory * FILES_PER_DIRECTORY + file, 0)?;
        }
    }
    Ok(())
}

/// Changes 1 % of the small files, spread over all directories. Each round gives other content.
pub(crate) fn change_one_percent(root: &Path, round: u64) -> Result<()> {
    changed().try_for_each(|number| write_small(root, number, round + 1))
}

/// Numbers of the files that change: one in each directory, not always the first.
fn changed() -> impl Iterator<Item = usize> {
    let every = (0..DIRECTORIES * FILES_PER_DIRECTORY).step_by(CHANGED_EVERY);
    every.map(|number| number + (number / CHANGED_EVERY) % CHANGED_EVERY)
}

fn write_small(root: &Path, number: usize, round: u64) -> Result<()> {
    let path = small_path(root, number);
    std::fs::write(&path, small_text(number, round))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn small_path(root: &Path, number: usize) -> PathBuf {
    root.join(format!("namespace-{:03}", number / FILES_PER_DIRECTORY))
        .join(format!("object-{:03}.yaml", number % FILES_PER_DIRECTORY))
}

fn small_text(number: usize, round: u64) -> String {
    let mut noise = Noise::new((round << 32) | number as u64);
    let bytes = 1024 + noise.below(3 * 1024 + 1);
    let mut text = format!(
        "apiVersion: v1\nkind: {}\nmetadata:\n  name: {}-{}-{:05x}\n  uid: {:016x}{:016x}\nspec:\n",
        noise.pick(&KINDS),
        noise.pick(&WORDS),
        noise.pick(&WORDS),
        noise.below(1 << 20),
        noise.next(),
        noise.next(),
    );
    while text.len() < bytes {
        let indent = "  ".repeat(1 + noise.below(4));
        let (one, two) = (noise.pick(&WORDS), noise.pick(&WORDS));
        match noise.below(4) {
            0 => text.push_str(&format!("{indent}{one}: {}\n", noise.below(10_000))),
            1 => text.push_str(&format!("{indent}- {one}-{two}-{:04x}\n", noise.below(1 << 16))),
            2 => text.push_str(&format!("{indent}{one}:\n{indent}  {two}: \"true\"\n")),
            _ => text.push_str(&format!("{indent}{one}: {two}.{}\n", noise.pick(&WORDS))),
        }
    }
    text.truncate(bytes);
    text
}

/// Makes one file of noise.
pub(crate) fn make_noise(path: &Path, bytes: u64) -> Result<()> {
    const PIECE: usize = 1 << 20;
    let context = || format!("cannot write {}", path.display());
    let mut file = File::create(path).with_context(context)?;
    let mut noise = Noise::new(1);
    let mut piece = vec![0; PIECE];
    let mut left = bytes;
    while left > 0 {
        for eight in piece.chunks_exact_mut(8) {
            eight.copy_from_slice(&noise.next().to_le_bytes());
        }
        let take = left.min(PIECE as u64);
        file.write_all(&piece[..usize::try_from(take)?]).with_context(context)?;
        left -= take;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_the_same_on_every_machine() {
        let mut noise = Noise::new(1);
        assert_eq!(
            [noise.next(), noise.next()],
            [5_424_204_624_148_110_235, 15_555_979_849_632_202_484]
        );
        assert!(small_text(7, 0).starts_with(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: request-enabled-a2831\n  \
             uid: 9a97f083ccdaf74c6a3d07c9757c58b2\nspec:\n"
        ));
        assert_ne!(small_text(7, 0), small_text(7, 1));
        assert_ne!(small_text(7, 0), small_text(8, 0));
    }

    #[test]
    fn data_sizes_are_one_to_four_kib_and_average_in_between() {
        let sizes: Vec<usize> = (0..10_000).map(|number| small_text(number, 0).len()).collect();
        assert!(sizes.iter().all(|size| (1024..=4096).contains(size)));
        let total: usize = sizes.iter().sum();
        assert!((24_600_000..=26_600_000).contains(&total), "{total}");
    }

    #[test]
    fn data_change_touches_one_file_of_each_directory() {
        let directories: Vec<usize> = changed().map(|n| n / FILES_PER_DIRECTORY).collect();
        assert_eq!(directories, (0..100).collect::<Vec<_>>());
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("namespace-007")).unwrap();
        write_small(root.path(), 707, 0).unwrap();
        let path = root.path().join("namespace-007/object-007.yaml");
        let before = std::fs::read(&path).unwrap();
        assert_eq!(before.len(), small_text(707, 0).len());
        assert_eq!(changed().nth(7), Some(707));
        write_small(root.path(), 707, 1).unwrap();
        assert_ne!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn data_noise_has_the_wanted_length_and_every_byte_value() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("noise");
        make_noise(&path, (1 << 20) + 5).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), (1 << 20) + 5);
        let mut counts = [0_u32; 256];
        bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        assert!(counts.iter().all(|count| (3600..4600).contains(count)), "{counts:?}");
    }
}
