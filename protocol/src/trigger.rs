// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The conditions on which a workload is stopped.

use serde::{Deserialize, Serialize};

/// A condition on which a workload is stopped, in terms of the events that the kernel counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Trigger {
    /// The `nth` event of a kind.
    Count {
        /// The kind of event.
        kind: EventKind,
        /// The task whose events count: its path through the tree, as the kernel lists it; `None`
        /// for the events of all tasks together.
        task: Option<String>,
        /// The number of the event, counted from 1.
        nth: u64,
    },
    /// Never stops the workload, but lists all events of a kind.
    List {
        /// The kind of event.
        kind: EventKind,
    },
    /// A time after the start of the workload.
    Time {
        /// The time in milliseconds.
        ms: u64,
    },
}

/// The kinds of events that the kernel counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EventKind {
    /// A `CLONE_VFORK`: the child runs, and the parent is about to wait.
    Vfork,
    /// A `CLONE_VFORK`, before the child first runs.
    VforkNew,
    /// The entry to a system call.
    Syscall {
        /// x86-64 number of the system call; `None` for any.
        number: Option<u32>,
    },
    /// The exit from a system call, before the ptrace stop that reports it.
    SyscallExit {
        /// x86-64 number of the system call; `None` for any.
        number: Option<u32>,
    },
    /// The delivery of a signal to a handler.
    Signal {
        /// Signal number; `None` for any.
        number: Option<u32>,
    },
    /// A ptrace stop, before it is reported to the tracer.
    PtraceStop,
    /// An `execve` that waits for the other threads of its process to die.
    ExecWait,
    /// Any of the events above.
    All,
}

impl EventKind {
    /// Returns the beginning of a line for `cgroup.freeze_at`.
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
    /// Returns the line that arms `cgroup.freeze_at`; `None` for a time, for which the agent uses a
    /// timer.
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
    fn lines_have_the_kernels_format() {
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
