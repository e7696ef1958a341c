// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random trees of processes: recipes for the program of the scenario `random-tree`.

mod draw;
mod shrink;

use std::fmt;

pub use self::{draw::draw, shrink::simpler};

/// Name of the scenario whose program reads recipes.
pub const SCENARIO: &str = "random-tree";

/// Names of the resources that checkpoint(2) saves. `scenarios/random-tree/` makes and checks them.
pub const SAVED: [&str; 33] = [
    "file",
    "unlinked",
    "memfd",
    "shared-offset",
    "descriptor",
    "cwd",
    "pipe",
    "eventfd",
    "signalfd",
    "timerfd",
    "epoll",
    "inotify",
    "stream",
    "datagram",
    "seqpacket",
    "passed-descriptor",
    "terminal",
    "private",
    "shared",
    "file-private",
    "file-shared",
    "umask",
    "nice",
    "name",
    "limit",
    "settings",
    "handler",
    "pending",
    "altstack",
    "interval",
    "posix-timer",
    "rounding",
    "thread",
];

/// Names of the resources that checkpoint(2) refuses.
pub const REFUSED: [&str; 4] = ["lock", "locked", "tcp", "fifo"];

/// The relation of a process to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// A child.
    Fork,
    /// A child in a session of its own.
    Session,
    /// The parent waits for it in a `clone` with `CLONE_VFORK`.
    Vfork,
    /// It is stopped by a signal.
    Stopped,
    /// Its parent traces it; it is in the stop for a signal.
    Traced,
    /// Its parent traces it; it is in the stop at the entry of a system call.
    TracedSyscall,
    /// It has ended, and its parent has not waited for it.
    Zombie,
}

impl How {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Fork,
        Self::Session,
        Self::Vfork,
        Self::Stopped,
        Self::Traced,
        Self::TracedSyscall,
        Self::Zombie,
    ];

    /// Returns true for a stop.
    pub fn is_stop(self) -> bool {
        matches!(self, Self::Stopped | Self::Traced | Self::TracedSyscall)
    }

    /// Returns the name, as in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Session => "session",
            Self::Vfork => "vfork",
            Self::Stopped => "stopped",
            Self::Traced => "traced",
            Self::TracedSyscall => "traced-syscall",
            Self::Zombie => "zombie",
        }
    }
}

/// Something that a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// One of [`SAVED`] or [`REFUSED`].
    pub kind: &'static str,
    /// A size, a value or a variant.
    pub number: u32,
}

/// A process of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number, from 1 on.
    pub id: u32,
    /// The number of its parent; 0 for the first one.
    pub parent: u32,
    /// Its relation to its parent.
    pub how: How,
    /// Its resources.
    pub items: Vec<Item>,
}

/// A tree of processes. Parents precede their children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The processes, the first one with the number 1.
    pub processes: Vec<Process>,
}

impl Tree {
    /// Returns the names of all kinds and relations in it, once each.
    pub fn kinds(&self) -> Vec<&'static str> {
        let items = self.processes.iter().flat_map(|it| &it.items);
        let relations = self.processes.iter().skip(1).map(|it| it.how.name());
        let mut kinds: Vec<_> = items.map(|item| item.kind).chain(relations).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// Returns true when checkpoint(2) may refuse it.
    pub fn may_be_refused(&self) -> bool {
        self.kinds().iter().any(|kind| REFUSED.contains(kind))
    }
}

/// Formats it as a recipe.
impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for process in &self.processes {
            let Process {
                id,
                parent,
                how,
                items,
            } = process;
            writeln!(f, "process {id} {parent} {}", how.name())?;
            for Item { kind, number } in items {
                writeln!(f, "item {id} {kind} {number}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The names in the program's tables.
    #[test]
    fn the_kinds_are_those_of_the_program() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/random-tree");
        let mut found = Vec::new();
        for file in ["files", "queues", "memory", "tasks", "refused"] {
            let text = fs::read_to_string(directory.join(format!("{file}.c"))).unwrap();
            let names = text
                .lines()
                .filter_map(|line| line.strip_prefix("\t{ \"")?.split_once('"'))
                .map(|(name, _)| name.to_owned());
            found.extend(names);
        }
        assert_eq!(found, [&SAVED[..], &REFUSED].concat());
        // The scenario's own case has each of them, and each relation.
        let case = fs::read_to_string(directory.join("scenario.toml")).unwrap();
        for kind in SAVED {
            assert!(case.contains(&format!(" {kind} ")), "{kind}");
        }
        for how in How::ALL {
            assert!(case.contains(&format!(" {}\n", how.name())), "{how:?}");
        }
    }
}
