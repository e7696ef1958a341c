// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When a workload is to be stopped.

use serde::{Deserialize, Serialize};

/// An event of the workload, in the numbers that the kernel counts by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Trigger {
    /// The `nth` event of a kind.
    Count {
        /// What is counted.
        kind: EventKind,
        /// Whose events: a task's way through the tree, as the kernel lists it; none for
        /// all of them together.
        task: Option<String>,
        /// Counted from 1.
        nth: u64,
    },
    /// None: all events of a kind are listed.
    List {
        /// What is listed.
        kind: EventKind,
    },
    /// A time after the workload was started.
    Time {
        /// Milliseconds.
        ms: u64,
    },
}

/// What can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EventKind {
    /// A `CLONE_VFORK`: the child runs, the parent is about to wait.
    Vfork,
    /// The same before the child first runs.
    VforkNew,
    /// The entry to a system call; of any one without a number.
    Syscall {
        /// x86-64 number.
        number: Option<u32>,
    },
    /// The end of a system call, before its tracer's stop; of any one without a number.
    SyscallExit {
        /// x86-64 number.
        number: Option<u32>,
    },
    /// The delivery of a signal to a handler; of any one without a number.
    Signal {
        /// Signal number.
        number: Option<u32>,
    },
    /// A ptrace stop, before its tracer is told.
    PtraceStop,
    /// An `execve` that waits until the other threads of its process are dead.
    ExecWait,
    /// Any of these.
    All,
}

impl EventKind {
    /// How a line for `cgroup.freeze_at` begins.
    fn line(self) -> String {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        match self {
            Self::Vfork => "vfork".into(),
            Self::VforkNew => "vfork-new".into(),
            Self::Syscall { number: n } => format!("syscall {}", number(n)),
            Self::SyscallExit { number: n } => format!("syscall-exit {}", number(n)),
            Self::Signal { number: n } => format!("signal {}", number(n)),
            Self::PtraceStop => "ptrace-stop".into(),
            Self::ExecWait => "exec-wait".into(),
            Self::All => "all".into(),
        }
    }
}

impl Trigger {
    /// The line that arms `cgroup.freeze_at`; none for a time, which the agent keeps.
    pub fn freeze_at(&self) -> Option<String> {
        Some(match self {
            Self::Count { kind, task, nth } => match task {
                Some(task) => format!("{} @{task} {nth}", kind.line()),
                None => format!("{} {nth}", kind.line()),
            },
            Self::List { kind } => format!("{} 0", kind.line()),
            Self::Time { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: EventKind, task: Option<&str>, nth: u64) -> String {
        let task = task.map(str::to_owned);
        Trigger::Count { kind, task, nth }.freeze_at().unwrap()
    }

    #[test]
    fn lines_are_those_that_the_kernel_takes() {
        assert_eq!(line(EventKind::Vfork, None, 3), "vfork 3");
        assert_eq!(
            line(EventKind::Syscall { number: Some(59) }, None, 2),
            "syscall 59 2"
        );
        assert_eq!(
            line(EventKind::SyscallExit { number: None }, Some("2.1"), 7),
            "syscall-exit * @2.1 7"
        );
        let kind = EventKind::PtraceStop;
        let list = Trigger::List { kind };
        assert_eq!(list.freeze_at().unwrap(), "ptrace-stop 0");
        assert_eq!(Trigger::Time { ms: 5 }.freeze_at(), None);
    }
}
