// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds the tasks of a freezing cgroup that do not quiesce, the place in the kernel at which
//! each of them sleeps, and the event that can end the sleep, from the census.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use crucible_protocol::census::{self, Class, Entry};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use walkdir::WalkDir;

use crate::cgroup::Cgroup;

/// A task that has not quiesced.
#[derive(Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Its tid in the reader's pid namespace.
    pub tid: i32,
    /// Its command name.
    pub comm: String,
    /// Its state letter of `/proc/TID/stat`.
    pub state: char,
    /// The kernel function in which it sleeps, if it does.
    pub place: String,
    /// The tasks that can end that sleep, or the reason why it should end by itself.
    pub ender: String,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tid, comm, state, ..
        } = self;
        write!(
            f,
            "pid {tid}: {comm}: not at rest, ({state}) in {}: {}",
            self.place, self.ender
        )
    }
}

/// Number of attempts to read the stack of a running task: it is only readable while the task
/// is not on a CPU.
const LOOKS: u32 = 200;

/// Lists the tasks of a tree, of its cgroup and of that cgroup's descendants that have not quiesced.
/// A dying task has left its cgroup and is only in the tree.
pub fn tasks(root: Pid, cgroup: &Cgroup) -> io::Result<Vec<Stuck>> {
    let entries = census::entries().map_err(io::Error::other)?;
    let mut tids = tree(root.as_raw());
    for entry in WalkDir::new(cgroup.dir()) {
        let entry = entry?;
        if entry.file_name() == "cgroup.threads" {
            tids.extend(numbers(entry.path()));
        }
    }
    // A task that has ended in the meantime is not stuck.
    Ok(tids
        .into_iter()
        .filter_map(|tid| look(tid, &entries))
        .collect())
}

/// Lists the threads of a process and of its descendants.
fn tree(root: i32) -> BTreeSet<i32> {
    let mut tids = BTreeSet::new();
    let mut processes = vec![root];
    while let Some(pid) = processes.pop() {
        for entry in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
        {
            let Ok(entry) = entry else { continue };
            if let Some(tid) = entry.file_name().to_str().and_then(|s| s.parse().ok())
                && tids.insert(tid)
            {
                processes.extend(numbers(&entry.path().join("children")));
            }
        }
    }
    tids
}

/// Reads the numbers in a file; empty if the task has ended.
fn numbers(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let words = text.split_whitespace();
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Examines a thread; returns `None` if it is frozen or has ended.
fn look(tid: i32, entries: &[Entry]) -> Option<Stuck> {
    let dir = PathBuf::from(format!("/proc/{tid}"));
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    let state = state_of(&stat)?;
    if matches!(state, 'Z' | 'X') {
        return None;
    }
    let stack = stack_of(&dir, state);
    if is_frozen(&dir) && !leaves_site(&stack, entries) {
        return None;
    }
    let comm = fs::read_to_string(dir.join("comm")).ok()?;
    let (place, ender) = describe(&stack, state, entries);
    Some(Stuck {
        tid,
        comm: comm.trim_end().to_owned(),
        state,
        place,
        ender,
    })
}

/// Returns true when the thread is at a site, which counts as frozen.
fn is_frozen(dir: &Path) -> bool {
    fs::read_to_string(dir.join("ckpt_site")).is_ok_and(|site| site.trim() != "none")
}

/// Returns true when the thread has been killed at its site, and has not left it: another
/// checkpoint holds it.
fn leaves_site(stack: &[String], entries: &[Entry]) -> bool {
    census::place(entries, stack.iter().map(String::as_str))
        .is_some_and(|entry| entry.class == Class::Refused)
}

/// Parses the state letter; the name before it may contain any characters.
fn state_of(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Returns the functions on a task's kernel stack, innermost first. Without the right to read
/// the stack, it is only the function of `wchan`.
fn stack_of(dir: &Path, state: char) -> Vec<String> {
    let functions = if state == 'R' {
        stack_beside(dir)
    } else {
        stack_now(dir)
    };
    if !functions.is_empty() {
        return functions;
    }
    let wchan = fs::read_to_string(dir.join("wchan")).unwrap_or_default();
    let asleep = !wchan.is_empty() && wchan != "0";
    asleep.then_some(wchan).into_iter().collect()
}

fn stack_now(dir: &Path) -> Vec<String> {
    let stack = fs::read_to_string(dir.join("stack")).unwrap_or_default();
    stack.lines().filter_map(function_of).collect()
}

/// Reads the stack of a running task from its own CPU, which preempts the task.
fn stack_beside(dir: &Path) -> Vec<String> {
    let me = Pid::from_raw(0);
    let Ok(everywhere) = sched_getaffinity(me) else {
        return stack_now(dir);
    };
    let mut functions = Vec::new();
    for _ in 0..LOOKS {
        let stat = fs::read_to_string(dir.join("stat")).unwrap_or_default();
        let mut here = CpuSet::new();
        if let Some(cpu) = cpu_of(&stat)
            && here.set(cpu).is_ok()
        {
            // If that fails, the next attempt may work without preemption.
            let _ = sched_setaffinity(me, &here);
        }
        functions = stack_now(dir);
        if !functions.is_empty() {
            break;
        }
    }
    let _ = sched_setaffinity(me, &everywhere);
    functions
}

/// Returns the last CPU of a task: field 39 of `stat`.
fn cpu_of(stat: &str) -> Option<usize> {
    let fields = stat.rsplit_once(") ")?.1;
    fields.split_whitespace().nth(36)?.parse().ok()
}

/// Parses the name in a line of the form `[<0>] pipe_read+0x2f1/0x3f0`.
fn function_of(line: &str) -> Option<String> {
    let (name, _) = line.rsplit_once(' ')?.1.split_once('+')?;
    Some(name.to_owned())
}

/// Finds the census entry for a stack: the place, and the event that ends the wait.
fn describe(stack: &[String], state: char, entries: &[Entry]) -> (String, String) {
    let innermost = stack.first().map_or("no known place", String::as_str);
    match census::place(entries, stack.iter().map(String::as_str)) {
        Some(entry) => {
            let advice = match entry.class {
                Class::Refused => entry.reason.clone(),
                Class::Lock => format!("it waits for a lock: {}", entry.reason),
                _ => format!("it should end by itself: {}", entry.reason),
            };
            (entry.function.name.clone(), advice)
        }
        None if state == 'R' => (
            innermost.to_owned(),
            "it runs, and has not reached a place at which it can freeze".to_owned(),
        ),
        None => (
            innermost.to_owned(),
            "this place is not in the census".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(stack: &[&str], state: char) -> (String, String) {
        let stack: Vec<_> = stack.iter().map(|name| (*name).to_owned()).collect();
        describe(&stack, state, &census::entries().unwrap())
    }

    #[test]
    fn a_line_of_a_stack_is_parsed_to_its_function() {
        let line = "[<0>] zap_pid_ns_processes+0x10f/0x150";
        assert_eq!(function_of(line).unwrap(), "zap_pid_ns_processes");
        let clone = "[<0>] seccomp_do_user_notification.constprop.0+0x1/0x2";
        assert_eq!(
            function_of(clone).unwrap(),
            "seccomp_do_user_notification.constprop.0"
        );
        assert_eq!(function_of("nothing"), None);
    }

    #[test]
    fn a_place_is_named_with_the_way_to_end_the_wait() {
        let stack = ["do_wait", "kernel_wait4", "zap_pid_ns_processes", "do_exit"];
        let (place, ender) = described(&stack, 'S');
        assert_eq!(place, "zap_pid_ns_processes");
        assert!(ender.contains("outside the pid namespace"), "{ender}");
        let (place, ender) = described(&["__mutex_lock.constprop.0", "pipe_write"], 'D');
        assert_eq!(place, "__mutex_lock");
        assert!(ender.starts_with("it waits for a lock"), "{ender}");
    }

    #[test]
    fn a_task_that_is_killed_at_its_site_does_not_count_as_frozen() {
        let entries = census::entries().unwrap();
        let leaves = |stack: &[&str]| {
            let stack: Vec<_> = stack.iter().map(|name| (*name).to_owned()).collect();
            leaves_site(&stack, &entries)
        };
        assert!(leaves(&["ckpt_wait_unheld", "get_signal", "do_syscall_64"]));
        assert!(!leaves(&["get_signal", "do_syscall_64"]));
        assert!(!leaves(&["ptrace_stop", "do_exit"]));
        assert!(!leaves(&[]));
    }

    #[test]
    fn an_unknown_place_is_reported_as_such() {
        let (place, ender) = described(&["some_function"], 'D');
        assert_eq!(place, "some_function");
        assert!(ender.contains("not in the census"), "{ender}");
        let (place, ender) = described(&[], 'R');
        assert_eq!(place, "no known place");
        assert!(ender.contains("it runs"), "{ender}");
    }
}
