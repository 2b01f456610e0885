//! Trees that are large, and what a process took for one.

use std::io::Write;

/// The highest resident size so far, in MiB.
pub(crate) fn peak_mebibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// A file that neither compresses nor repeats.
pub(crate) fn big(path: &std::path::Path, mebibytes: u64) {
    let mut block = crate::tree::noise(1 << 20, 7);
    let mut file = std::fs::File::create(path).unwrap();
    for number in 0..mebibytes {
        block[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&block).unwrap();
    }
}

/// Small files that do not repeat, a hundred to a directory.
pub(crate) fn many(root: &std::path::Path, count: usize) {
    for number in 0..count {
        let directory = root.join(format!("d{:03}", number / 100));
        std::fs::create_dir_all(&directory).unwrap();
        let bytes = crate::tree::noise(1024 + (number * 37) % 3072, number as u64 + 1);
        std::fs::write(directory.join(format!("f{number}")), bytes).unwrap();
    }
}
