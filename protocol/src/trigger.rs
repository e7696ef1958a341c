// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When a workload is to be stopped.

use serde::{Deserialize, Serialize};

/// An event of the workload, in the numbers that the kernel counts by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Trigger {
    /// The `nth` `CLONE_VFORK`: the child runs, the parent is about to wait.
    Vfork {
        /// Counted from 1.
        nth: u64,
    },
    /// The same before the child first runs.
    VforkNew {
        /// Counted from 1.
        nth: u64,
    },
    /// The `nth` entry to a system call.
    Syscall {
        /// x86-64 number.
        number: u32,
        /// Counted from 1.
        nth: u64,
    },
    /// The `nth` delivery of a signal to a handler.
    Signal {
        /// Signal number.
        number: u32,
        /// Counted from 1.
        nth: u64,
    },
    /// A time after the workload was started.
    Time {
        /// Milliseconds.
        ms: u64,
    },
}

impl Trigger {
    /// The line that arms `cgroup.freeze_at`; none for a time, which the agent keeps.
    pub fn freeze_at(&self) -> Option<String> {
        Some(match self {
            Self::Vfork { nth } => format!("vfork {nth}"),
            Self::VforkNew { nth } => format!("vfork-new {nth}"),
            Self::Syscall { number, nth } => format!("syscall {number} {nth}"),
            Self::Signal { number, nth } => format!("signal {number} {nth}"),
            Self::Time { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_that_the_kernel_takes() {
        let line = |t: Trigger| t.freeze_at();
        assert_eq!(line(Trigger::Vfork { nth: 3 }).unwrap(), "vfork 3");
        assert_eq!(
            line(Trigger::Syscall { number: 59, nth: 2 }).unwrap(),
            "syscall 59 2"
        );
        assert_eq!(line(Trigger::Time { ms: 5 }), None);
    }
}
