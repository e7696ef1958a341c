// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Commands that are killed at random moments.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::cli;

/// Time limit for the end of processes that a killed command has started.
pub const LEFT: Duration = Duration::from_secs(20);

/// Interval of checks of processes.
pub const PERIOD: Duration = Duration::from_millis(50);

/// A small generator of numbers (xorshift64*).
pub struct Random(u64);

impl Random {
    /// Returns the generator of a seed.
    pub fn new(seed: u64) -> Self {
        // It never leaves 0.
        Self(seed.max(1))
    }

    /// Returns a number below the limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

/// Returns the number in this variable of the environment.
pub fn number(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(default, |text| text.parse().expect(name))
}

/// Starts a command in a process group of its own.
pub fn start(args: &[&str], results: &Path, cache: Option<&Path>) -> Child {
    let mut command = cli::program(args);
    command
        .env("CRUCIBLE_RESULTS", results)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    if let Some(cache) = cache {
        command.env("CRUCIBLE_CACHE", cache);
    }
    command.spawn().expect("the crucible binary to run")
}

/// Kills a command after a while. Returns false when it had ended before.
pub fn kill(mut child: Child, after: Duration) -> bool {
    let id = child.id();
    let began = Instant::now();
    while began.elapsed() < after {
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        thread::sleep(PERIOD);
    }
    child.kill().expect("a kill");
    child.wait().expect("an end");
    let killed = Instant::now();
    loop {
        let left = cli::group(id);
        if left.is_empty() {
            return true;
        }
        assert!(killed.elapsed() < LEFT, "still running: {left:?}");
        thread::sleep(PERIOD);
    }
}
