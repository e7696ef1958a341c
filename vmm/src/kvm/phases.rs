// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Measures the phases of a monitor's start, before its guest runs.

use rustix::time::{ClockId, clock_gettime};

use crate::Phase;

/// Returns nanoseconds of `CLOCK_MONOTONIC`, which all processes of a host share.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A clock that is read at the end of each phase.
pub(super) struct Phases {
    last: u64,
    list: Vec<Phase>,
}

impl Phases {
    /// Starts the first phase at `began`, a value of [`now`].
    pub fn since(began: u64) -> Self {
        Self {
            last: began,
            list: Vec::new(),
        }
    }

    /// Ends a phase that was spent in our own code.
    pub fn own(&mut self, name: &str) {
        self.end(name, false);
    }

    /// Ends a phase that was spent only in KVM's ioctls.
    pub fn kvm(&mut self, name: &str) {
        self.end(name, true);
    }

    fn end(&mut self, name: &str, in_kvm: bool) {
        let now = now();
        self.list.push(Phase {
            name: name.into(),
            in_kvm,
            micros: now.saturating_sub(self.last) / 1000,
        });
        self.last = now;
    }

    /// Returns all phases that have ended.
    pub fn list(self) -> Vec<Phase> {
        self.list
    }
}
