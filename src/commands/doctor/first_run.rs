// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Estimates the cost of the first run in time, memory, disk and network, and checks that this host
//! can afford it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use super::{Finding, State};

/// Disk space in the cache for a first run, in GiB: the kernel's source and build trees, the
/// userland, and the disks of a run.
const DISK_GIB: u64 = 8;
/// Memory to build and boot a kernel, in MiB. A generous bound, not a measurement.
const MEMORY_MIB: u64 = 3072;
/// Processor time of a first run from nothing, in minutes, rounded:
/// `docs/measurements/2026-11-29-first-run.md`.
const CPU_MINUTES: u64 = 11;
/// The part that is assumed to use one CPU, so that the estimate for two CPUs is the
/// measured 7 minutes.
const SERIAL_MINUTES: u64 = 2;

/// Returns the estimated duration of the first run on this host.
pub fn time() -> Finding {
    let cpus = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let minutes = SERIAL_MINUTES + (CPU_MINUTES - SERIAL_MINUTES).div_ceil(cpus);
    Finding::new(
        State::Later,
        "first run",
        format!(
            "builds a kernel, a userland and an agent: about {minutes} minutes on {cpus} CPUs \
             ({CPU_MINUTES} minutes of processor time), half of that or twice that by the CPU's \
             speed"
        ),
    )
}

/// Checks the disk space for the cache.
pub fn disk(root: &Path) -> std::io::Result<Finding> {
    let stat = rustix::fs::statvfs(root)?;
    let free = (stat.f_bavail * stat.f_frsize) >> 30;
    let detail = format!("{free} GiB free in {}", root.display());
    Ok(if free >= DISK_GIB {
        Finding::new(State::Ok, "disk", detail)
    } else {
        Finding::new(
            State::Missing,
            "disk",
            format!(
                "{detail}, {DISK_GIB} GiB are needed; free some space, or set CRUCIBLE_CACHE to \
                 a directory on another disk"
            ),
        )
    })
}

/// Checks the memory for the kernel's build.
pub fn memory() -> std::io::Result<Finding> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let mib = available(&text).unwrap_or(0);
    let detail = format!("{mib} MiB available");
    Ok(if mib >= MEMORY_MIB {
        Finding::new(State::Ok, "memory", detail)
    } else {
        Finding::new(
            State::Missing,
            "memory",
            format!(
                "{detail}, {MEMORY_MIB} MiB are needed to build and boot a kernel; end other programs"
            ),
        )
    })
}

/// Returns `MemAvailable` of `/proc/meminfo`, in MiB.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

/// Checks that apt reaches its configured archives, from which kernel source and userland come.
/// Uses apt's own downloader, which knows the host's proxies.
pub fn network() -> Finding {
    let format = "$(REPO_URI)dists/$(RELEASE)/InRelease";
    let listing = Command::new("apt-get")
        .args(["indextargets", "--format", format])
        .output();
    let listing = listing.map_or_else(
        |_| String::new(),
        |o| String::from_utf8_lossy(&o.stdout).into(),
    );
    let Some(address) = listing.lines().next() else {
        return Finding::new(
            State::Missing,
            "network",
            "apt has no archive in /etc/apt/sources.list or has never been updated; run `apt-get \
             update`"
                .to_owned(),
        );
    };
    let reached = reach(address);
    match reached {
        Ok(()) => Finding::new(State::Ok, "network", format!("apt reaches {address}")),
        Err(problem) => Finding::new(
            State::Missing,
            "network",
            format!(
                "apt cannot reach {address}: {problem}; check /etc/apt/sources.list and the proxy"
            ),
        ),
    }
}

fn reach(address: &str) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let output = Command::new("/usr/lib/apt/apt-helper")
        .args([
            "-o",
            "Acquire::http::Timeout=10",
            "-o",
            "Acquire::Retries=0",
        ])
        .arg("download-file")
        .arg(address)
        .arg(directory.path().join("InRelease"))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("apt-helper: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let error = text.lines().find(|line| line.starts_with("E: "));
    Err(error
        .unwrap_or("the download failed")
        .trim_start_matches("E: ")
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_mib() {
        let text = "MemTotal:  100 kB\nMemAvailable:    2097152 kB\n";
        assert_eq!(available(text), Some(2048));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn an_archive_that_does_not_answer_is_reported() {
        // Nothing listens at port 1 of this host.
        let problem = reach("http://127.0.0.1:1/dists/x/InRelease").expect_err("no server");
        assert!(!problem.is_empty());
    }
}
