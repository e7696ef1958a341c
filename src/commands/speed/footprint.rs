// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The memory footprint of a machine's process.

use std::fs;

use anyhow::{Context as _, Result};

/// Returns the resident memory of process `pid` in KiB, without mappings of `guest_mib` MiB or
/// more, which hold the guest's memory. Reads `/proc/PID/smaps` (proc_pid_smaps(5)).
pub fn beyond_guest(pid: u32, guest_mib: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(sum(&smaps, u64::from(guest_mib) * 1024))
}

fn sum(smaps: &str, guest_kib: u64) -> u64 {
    let mut size = 0;
    let mut sum = 0;
    for line in smaps.lines() {
        // The `Rss` line follows the `Size` line of its mapping.
        match kib(line) {
            Some(("Size", value)) => size = value,
            Some(("Rss", value)) if size < guest_kib => sum += value,
            _ => {}
        }
    }
    sum
}

/// Parses a line such as `Rss:                 123 kB`.
fn kib(line: &str) -> Option<(&str, u64)> {
    let (name, value) = line.split_once(':')?;
    let value = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_the_guest_is_not_counted() {
        let smaps = "7f0-7f1 rw-p 00000000 00:00 0 [heap]\nSize:  100 kB\nRss:  40 kB\n\
                     7f2-7f3 rw-p 00000000 00:00 0\nSize: 2048 kB\nRss: 900 kB\n\
                     7f4-7f5 r-xp 00000000 08:01 7 /bin/x\nSize: 10 kB\nRss: 2 kB\n";
        assert_eq!(sum(smaps, 2048), 42);
    }
}
