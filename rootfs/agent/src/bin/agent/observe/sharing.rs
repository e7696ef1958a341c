// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Observes the objects that tasks of a tree share, by kcmp(2): tables of descriptors, directories,
//! signal handlers, memory, I/O contexts, semaphore undo lists, and open files.

use std::{cmp::Ordering, collections::HashMap};

use anyhow::{Context, Result, bail};
use crucible_protocol::{Observation, TaskFacts};
use nix::errno::Errno;

use super::numbers;

/// The kinds of objects that tasks share: the name of the fact, and the type of kcmp(2).
pub const KINDS: [(&str, i32); 6] = [
    ("vm", 1),
    ("files", 2),
    ("fs", 3),
    ("sighand", 4),
    ("io", 5),
    ("sysvsem", 6),
];

const KCMP_FILE: i32 = 0;

/// An object of a task: its tid in the agent's namespace, and the descriptor of a file.
#[derive(Clone, Copy)]
struct Holder {
    /// Index in the observation.
    task: usize,
    tid: i32,
    fd: i32,
}

/// Adds to each task the earlier tasks with which it shares objects: the facts `shares.vm`,
/// `fd/3.same`, ….
///
/// `outer` has the ids of the living tasks in the agent's namespace.
///
/// # Errors
/// Fails if two tasks cannot be compared.
pub fn observe(observation: &mut Observation, outer: &HashMap<i32, i32>) -> Result<()> {
    for (name, kind) in KINDS {
        let all = holders(observation, outer);
        for (holder, first) in classes(all, kind)? {
            let alone = first.task == holder.task || has_none(&holder, kind)?;
            let value = match alone {
                true => "own".to_owned(),
                false => observation.tasks[first.task].tid.to_string(),
            };
            let facts = &mut observation.tasks[holder.task].facts;
            facts.insert(format!("shares.{name}"), value.into());
        }
    }
    files(observation, outer)
}

/// Returns true for a task that has no such object. An I/O context and a semaphore undo list are
/// created when they are first needed: kthreadd has none, and one that no other task shares is
/// treated as none.
fn has_none(holder: &Holder, kind: i32) -> Result<bool> {
    const KTHREADD: i32 = 2;
    let nobody = Holder {
        tid: KTHREADD,
        ..*holder
    };
    let may_be_none = KINDS[4..].iter().any(|(_, made_late)| *made_late == kind);
    Ok(may_be_none && kcmp(holder, &nobody, kind)?.is_eq())
}

/// Returns the living tasks. A zombie shares nothing.
fn holders(observation: &Observation, outer: &HashMap<i32, i32>) -> Vec<Holder> {
    let tasks = observation.tasks.iter().enumerate();
    let lives = tasks.filter(|(_, task)| !matches!(task.state, 'Z' | 'X'));
    let holder = |(task, facts): (usize, &TaskFacts)| {
        let tid = *outer.get(&facts.tid)?;
        Some(Holder { task, tid, fd: 0 })
    };
    lives.filter_map(holder).collect()
}

/// Adds for each descriptor the earlier one that refers to the same open file. Examines shared
/// tables once.
fn files(observation: &mut Observation, outer: &HashMap<i32, i32>) -> Result<()> {
    let mut all = Vec::new();
    for holder in holders(observation, outer) {
        let facts = &observation.tasks[holder.task].facts;
        let own = facts
            .get("shares.files")
            .is_some_and(|fact| fact.shown() == "own");
        if !own {
            continue;
        }
        let fds = numbers(format!("/proc/{}/fd", holder.tid).as_ref());
        let fds = fds.with_context(|| format!("cannot list the files of {}", holder.tid))?;
        all.extend(fds.into_iter().map(|fd| Holder { fd, ..holder }));
    }
    for (holder, first) in classes(all, KCMP_FILE)? {
        if (holder.task, holder.fd) == (first.task, first.fd) {
            continue;
        }
        let value = format!("{}:{}", observation.tasks[first.task].tid, first.fd);
        let facts = &mut observation.tasks[holder.task].facts;
        facts.insert(format!("fd/{}.same", holder.fd), value.into());
    }
    Ok(())
}

/// Returns each holder with the first holder of the same object, in their order. kcmp(2) orders
/// objects, so they can be sorted.
fn classes(all: Vec<Holder>, kind: i32) -> Result<Vec<(Holder, Holder)>> {
    let mut failed = None;
    let mut sorted: Vec<_> = all.into_iter().enumerate().collect();
    sorted.sort_by(|(n, one), (m, other)| match kcmp(one, other, kind) {
        Ok(Ordering::Equal) => n.cmp(m),
        Ok(order) => order,
        Err(error) => {
            failed.get_or_insert(error);
            n.cmp(m)
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let mut found: Vec<(Holder, Holder)> = Vec::with_capacity(sorted.len());
    for (_, holder) in sorted {
        let first = match found.last() {
            Some((last, first)) if kcmp(last, &holder, kind)?.is_eq() => *first,
            _ => holder,
        };
        found.push((holder, first));
    }
    Ok(found)
}

fn kcmp(one: &Holder, other: &Holder, kind: i32) -> Result<Ordering> {
    if (one.tid, one.fd) == (other.tid, other.fd) {
        return Ok(Ordering::Equal);
    }
    // SAFETY: kcmp(2) accesses no user memory for these types.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            one.tid,
            other.tid,
            kind,
            one.fd as libc::c_ulong,
            other.fd as libc::c_ulong,
        )
    };
    match result {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        _ => bail!(
            "cannot compare {} with {} (kcmp type {kind}): {}",
            one.tid,
            other.tid,
            Errno::last()
        ),
    }
}
