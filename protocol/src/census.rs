// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The census of the guest's kernel: every function in which a task can sleep, and the event that
//! ends that sleep while a freeze is pending. The lists are in `guest-kernel/census/`;
//! `docs/reference/census.md` describes their columns.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The contents of the lists, with their file names in `guest-kernel/census/`.
pub const LISTS: &[(&str, &str)] = &[
    (
        "block.txt",
        include_str!("../../guest-kernel/census/block.txt"),
    ),
    (
        "drivers.txt",
        include_str!("../../guest-kernel/census/drivers.txt"),
    ),
    ("fs.txt", include_str!("../../guest-kernel/census/fs.txt")),
    (
        "kernel.txt",
        include_str!("../../guest-kernel/census/kernel.txt"),
    ),
    ("mm.txt", include_str!("../../guest-kernel/census/mm.txt")),
    ("net.txt", include_str!("../../guest-kernel/census/net.txt")),
];

/// The effect of a pending freeze on a task that sleeps in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The function waits on behalf of its callers, which are listed with their own classes.
    Primitive,
    /// No user task sleeps in the function.
    Never,
    /// The sleep ends in bounded time: by the freeze itself, or by work of the kernel or of a
    /// device that does not depend on a user task.
    Bounded,
    /// The task waits for the holder of a lock: bounded if the holder's sleeps are.
    Lock,
    /// The task counts as frozen, and a restarted task sleeps here again.
    Restored,
    /// A different task must end the sleep. If none does in time, the checkpoint is refused, and
    /// the message names the task, the place, and the task that can end the sleep.
    Refused,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 6] = [
        Self::Primitive,
        Self::Never,
        Self::Bounded,
        Self::Lock,
        Self::Restored,
        Self::Refused,
    ];

    /// Returns the class's name in the lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primitive => "primitive",
            Self::Never => "never",
            Self::Bounded => "bounded",
            Self::Lock => "lock",
            Self::Restored => "restored",
            Self::Refused => "refused",
        }
    }
}

/// A function in a source file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// The file's path in the kernel's source tree.
    pub file: String,
    /// The function's name, without the suffix that the compiler adds for a part or a clone.
    pub name: String,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.file, self.name)
    }
}

/// The number of calls of each primitive in a function's code.
pub type Calls = BTreeMap<String, u32>;

/// An entry of the lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The function.
    pub function: Function,
    /// The calls of primitives in the base flavour.
    pub base: Calls,
    /// The calls of primitives in the debug flavour.
    pub debug: Calls,
    /// The effect of a freeze on a task that sleeps here.
    pub class: Class,
    /// The locks that the task holds meanwhile, for which other tasks may wait.
    pub locks: String,
    /// The reason for the class; for [`Class::Refused`], the task that can end the sleep.
    pub reason: String,
}

impl Entry {
    /// Returns the calls in the format of a list.
    pub fn calls(&self) -> String {
        write_calls(&self.base, &self.debug)
    }

    /// Returns the number of different primitives that the function calls.
    pub fn pairs(&self) -> usize {
        let names: BTreeSet<_> = self.base.keys().chain(self.debug.keys()).collect();
        names.len()
    }
}

/// Parses a list. An error contains the line.
pub fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let mut file = String::new();
    let mut entries: Vec<Entry> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |what: &str| format!("line {}: {what}: {line}", index + 1);
        if let Some(path) = line.strip_suffix(':') {
            file = path.to_owned();
            continue;
        }
        let fields: Vec<_> = line.split('|').map(str::trim).collect();
        let [name, calls, class, locks, reason] = fields[..] else {
            return Err(bad("not five fields"));
        };
        let class = Class::ALL.into_iter().find(|c| c.name() == class);
        let (base, debug) = parse_calls(calls).ok_or_else(|| bad("invalid calls"))?;
        let entry = Entry {
            function: Function {
                file: file.clone(),
                name: name.to_owned(),
            },
            base,
            debug,
            class: class.ok_or_else(|| bad("unknown class"))?,
            locks: locks.to_owned(),
            reason: reason.to_owned(),
        };
        if entry.function.file.is_empty() || name.is_empty() {
            return Err(bad("no file or no function"));
        }
        if entry.reason.is_empty() {
            return Err(bad("no reason"));
        }
        if entry.locks.is_empty() {
            return Err(bad("locks are missing"));
        }
        if entries.iter().any(|e| e.function == entry.function) {
            return Err(bad("listed twice"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Parses calls. `schedule:2 msleep:1/0` means two calls in both flavours; one call in base and
/// none in debug.
fn parse_calls(text: &str) -> Option<(Calls, Calls)> {
    let (mut base, mut debug) = (Calls::new(), Calls::new());
    for word in text.split_whitespace() {
        let (name, counts) = word.split_once(':')?;
        let (one, other) = counts.split_once('/').unwrap_or((counts, counts));
        for (calls, count) in [(&mut base, one), (&mut debug, other)] {
            let count: u32 = count.parse().ok()?;
            if count > 0 {
                calls.insert(name.to_owned(), count);
            }
        }
    }
    (!base.is_empty() || !debug.is_empty()).then_some((base, debug))
}

/// Formats the calls as the column of a line, in the form that [`entries`] reads.
pub fn write_calls(base: &Calls, debug: &Calls) -> String {
    let names: BTreeSet<_> = base.keys().chain(debug.keys()).collect();
    let words = names.into_iter().map(|name| {
        let count = |calls: &Calls| calls.get(name).copied().unwrap_or(0);
        match (count(base), count(debug)) {
            (one, other) if one == other => format!("{name}:{one}"),
            (one, other) => format!("{name}:{one}/{other}"),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Parses all lists and returns their entries.
pub fn entries() -> Result<Vec<Entry>, String> {
    let mut all = Vec::new();
    for (name, text) in LISTS {
        all.extend(parse(text).map_err(|why| format!("{name}: {why}"))?);
    }
    Ok(all)
}

/// The first words of the reason of a [`Class::Bounded`] place: the event that ends the sleep.
pub const BOUNDS: [&str; 5] = ["signal: ", "time: ", "device: ", "kernel: ", "runnable: "];

/// Returns the entry that explains why a task with this stack is not quiesced; the stack begins
/// with the innermost function. This is the innermost function that is not a primitive. However, if
/// the freeze itself ends that sleep and the task still sleeps there, the task has been put to
/// sleep again by an outer function, so the innermost function whose sleep the freeze does not end
/// is returned instead.
pub fn place<'a>(
    entries: &'a [Entry],
    stack: impl Iterator<Item = &'a str> + Clone,
) -> Option<&'a Entry> {
    let find = |wanted: &dyn Fn(&Entry) -> bool| {
        stack.clone().find_map(|function| {
            let name = function.split('.').next()?;
            let mut of_name = entries.iter().filter(|e| e.function.name == name);
            of_name.find(|e| wanted(e))
        })
    };
    let listed = |e: &Entry| e.class != Class::Primitive;
    find(&|e| listed(e) && !e.reason.starts_with(BOUNDS[0])).or_else(|| find(&listed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
# words
fs/a.c:
wait_a | schedule:2 msleep:1/0 | refused | a's mutex | the server
lock_a | schedule:1 | lock | - | whoever has it
wait_b | schedule:1 | bounded | - | signal: the freeze's

kernel/b.c:
b | wait_a:0/1 | bounded | - | time: a time-out
fault | handle_mm_fault:1 | refused | - | the monitor
";

    #[test]
    fn a_list_is_read_as_it_is_written() {
        let entries = parse(LIST).unwrap();
        assert_eq!(entries.len(), 5);
        let first = &entries[0];
        assert_eq!(first.function.to_string(), "fs/a.c wait_a");
        assert_eq!(first.class, Class::Refused);
        assert_eq!((first.base.len(), first.debug.len()), (2, 1));
        assert_eq!(
            write_calls(&first.base, &first.debug),
            "msleep:1/0 schedule:2"
        );
        assert!(entries[3].base.is_empty());
    }

    #[test]
    fn an_invalid_entry_is_refused_with_its_line() {
        for (line, why) in [
            ("a | schedule:1 | bounded | why", "not five fields"),
            ("a | schedule:1 | perhaps | - | why", "unknown class"),
            ("a | schedule | bounded | - | why", "invalid calls"),
            ("a | schedule:0 | bounded | - | why", "invalid calls"),
            ("a | schedule:1 | bounded | - | ", "no reason"),
            ("a | schedule:1 | bounded | | why", "locks are missing"),
        ] {
            let error = parse(&format!("x.c:\n{line}\n")).unwrap_err();
            assert!(error.starts_with(&format!("line 2: {why}")), "{error}");
        }
        let twice = "x.c:\na | s:1 | never | - | w\na | s:2 | never | - | w\n";
        assert!(parse(twice).unwrap_err().contains("listed twice"));
    }

    #[test]
    fn the_place_that_other_tasks_end_is_preferred() {
        let entries = parse(LIST).unwrap();
        let found = |stack: &[&'static str]| {
            place(&entries, stack.iter().copied()).map(|e| e.function.name.clone())
        };
        let clone = "wait_a.constprop.0";
        assert_eq!(found(&["schedule", clone, "fault"]).unwrap(), "wait_a");
        assert_eq!(found(&["wait_b", "wait_a"]).unwrap(), "wait_a");
        assert_eq!(found(&["wait_b", "other"]).unwrap(), "wait_b");
        assert_eq!(found(&["b", "wait_a"]).unwrap(), "b");
        assert_eq!(found(&["lock_a", "wait_a"]).unwrap(), "lock_a");
        assert_eq!(found(&["other", "fault"]).unwrap(), "fault");
        assert_eq!(found(&["other"]), None);
    }

    #[test]
    fn the_lists_are_consistent() {
        let all = entries().unwrap();
        assert!(!all.is_empty());
        for entry in &all {
            let by_what = BOUNDS.iter().any(|b| entry.reason.starts_with(b));
            let bounded = entry.class == Class::Bounded;
            assert_eq!(by_what, bounded, "{}: {}", entry.function, entry.reason);
            let words = entry.reason.split_whitespace().count();
            assert!(words > 2, "{}: {}", entry.function, entry.reason);
        }
    }
}
