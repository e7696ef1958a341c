// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads the facts of a container's tasks from its `/proc`, so that pids are those of its
//! namespace.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use crucible_protocol::{Observation, TaskFacts};
use nix::unistd::Pid;

/// Lines of `status` that are facts. Resident memory, for example, is not one: the kernel
/// decides which pages are resident.
const STATUS: &[&str] = &[
    "Umask",
    "TracerPid",
    "Uid",
    "Gid",
    "Groups",
    "NStgid",
    "NSpid",
    "NSpgid",
    "NSsid",
    "VmData",
    "VmStk",
    "VmExe",
    "VmLib",
    "CoreDumping",
    "THP_enabled",
    "Threads",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Cpus_allowed",
];

/// Files of a task whose whole content is a fact.
const TASK_FILES: &[&str] = &["cmdline", "limits", "personality", "syscall", "children"];

/// Files of a process whose whole content is a fact, in the directory of each of its threads.
const SHARED_FILES: &[&str] = &["maps", "auxv", "environ", "oom_score_adj"];

/// The same, which only the directory of the process has.
const PROCESS_FILES: &[&str] = &["timers", "timerslack_ns", "coredump_filter"];

/// Links of a task that are facts.
const LINKS: &[&str] = &[
    "exe",
    "cwd",
    "root",
    "ns/cgroup",
    "ns/ipc",
    "ns/net",
    "ns/time",
    "ns/user",
    "ns/uts",
];

/// Reads all tasks of the container whose first process is `root`.
pub fn observe(root: Pid) -> Result<Observation> {
    let proc = PathBuf::from(format!("/proc/{root}/root/proc"));
    let mut tasks = Vec::new();
    for pid in numbers(&proc).context("the container has ended, or has no /proc")? {
        let process = proc.join(pid.to_string());
        let threads = numbers(&process.join("task"))?;
        // A first thread that has exited has no memory any more: ask one that lives.
        let lives = |tid: &&i32| !is_zombie(&process.join("task").join(tid.to_string()));
        let reader = threads.iter().find(lives).copied().unwrap_or(pid);
        for tid in threads {
            let dir = process.join("task").join(tid.to_string());
            let task = task(&process, &dir, pid, tid, tid == reader)
                .with_context(|| format!("cannot read what /proc shows of task {tid}"))?;
            tasks.push(task);
        }
    }
    Ok(Observation { tasks })
}

fn numbers(dir: &Path) -> io::Result<Vec<i32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        numbers.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<i32>().ok()),
        );
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Returns true when a task has exited, or is gone.
fn is_zombie(dir: &Path) -> bool {
    let stat = text(&dir.join("stat")).unwrap_or_default();
    split_stat(&stat).is_none_or(|(_, fields)| fields.first() == Some(&"Z"))
}

/// Reads a task. The facts of its process are with the task that `is_reader`.
fn task(process: &Path, dir: &Path, pid: i32, tid: i32, is_reader: bool) -> Result<TaskFacts> {
    let stat = fs::read_to_string(dir.join("stat"))?;
    let (comm, fields) = split_stat(&stat).context("cannot parse stat")?;
    let number = |n: usize| fields.get(n).and_then(|f| f.parse().ok()).unwrap_or(0);
    let mut facts = BTreeMap::new();
    for (index, name) in [
        (4, "tty"),
        (5, "tpgid"),
        (15, "priority"),
        (16, "nice"),
        (19, "starttime"),
    ] {
        facts.insert(
            format!("stat.{name}"),
            fields.get(index).unwrap_or(&"").to_string(),
        );
    }
    if fields.first() == Some(&"Z") {
        facts.insert(
            "stat.exit_code".into(),
            fields.last().unwrap_or(&"").to_string(),
        );
    }
    status(dir, &mut facts)?;
    for name in TASK_FILES {
        file(dir, name, &mut facts)?;
    }
    if is_reader {
        for name in SHARED_FILES {
            file(dir, name, &mut facts)?;
        }
        for name in PROCESS_FILES {
            file(process, name, &mut facts)?;
        }
    }
    for name in LINKS {
        link(dir, name, name, &mut facts)?;
    }
    descriptors(dir, &mut facts)?;
    Ok(TaskFacts {
        pid,
        tid,
        ppid: number(1),
        pgid: number(2),
        sid: number(3),
        comm,
        state: fields.first().and_then(|s| s.chars().next()).unwrap_or('?'),
        site: text(&process.join("task").join(tid.to_string()).join("ckpt_site"))
            .or_else(|| text(&process.join("ckpt_site")))
            .map_or_else(String::new, |site| site.trim_end().to_owned()),
        facts,
    })
}

/// Splits `stat` into the command name and the fields from the state on.
fn split_stat(stat: &str) -> Option<(String, Vec<&str>)> {
    let open = stat.find('(')?;
    let close = stat.rfind(')')?;
    Some((
        stat.get(open + 1..close)?.to_owned(),
        stat.get(close + 1..)?.split_whitespace().collect(),
    ))
}

fn text(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn status(dir: &Path, facts: &mut BTreeMap<String, String>) -> io::Result<()> {
    for line in fs::read_to_string(dir.join("status"))?.lines() {
        if let Some((name, value)) = line.split_once(':')
            && STATUS.contains(&name)
        {
            facts.insert(format!("status.{name}"), value.trim().to_owned());
        }
    }
    Ok(())
}

/// Reads a file. An error of the kernel is a fact, too.
fn file(dir: &Path, name: &str, facts: &mut BTreeMap<String, String>) -> io::Result<()> {
    let value = match fs::read(dir.join(name)) {
        Ok(bytes) if name == "auxv" => bytes.iter().map(|b| format!("{b:02x}")).collect(),
        Ok(bytes) => String::from_utf8_lossy(&bytes).replace('\0', " "),
        // Compared, it would be equal for ever.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let problem = format!("this kernel has no {}", dir.join(name).display());
            return Err(io::Error::new(e.kind(), problem));
        }
        Err(e) => format!("<{e}>"),
    };
    facts.insert(name.to_owned(), value);
    Ok(())
}

fn link(dir: &Path, name: &str, key: &str, facts: &mut BTreeMap<String, String>) -> io::Result<()> {
    let value = match fs::read_link(dir.join(name)) {
        Ok(target) => target.to_string_lossy().into_owned(),
        Err(e) => format!("<{e}>"),
    };
    facts.insert(key.to_owned(), value);
    Ok(())
}

/// Selects facts of `fdinfo`. An epoll file has a line for each watched descriptor, in the order
/// of kernel addresses, with an inode number at the end. The remaining time (`it_value`) and the
/// expirations (`ticks`) of a timer change with time.
fn watched(name: &str, value: &str) -> (String, String) {
    if name != "tfd" {
        return (name.to_owned(), value.to_owned());
    }
    let (fd, rest) = value.split_once(' ').unwrap_or((value, ""));
    let known = rest.split(" ino:").next().unwrap_or_default();
    let words: Vec<_> = known.split_whitespace().collect();
    (format!("tfd {fd}"), words.join(" "))
}

/// Adds a fact. Several with one name, such as the watches of an inotify file, are one fact with a
/// line each, sorted, since the kernel's order has no meaning.
fn add(facts: &mut BTreeMap<String, String>, name: String, value: &str) {
    let Some(all) = facts.get_mut(&name) else {
        facts.insert(name, value.to_owned());
        return;
    };
    let mut lines: Vec<_> = all.lines().chain([value]).collect();
    lines.sort_unstable();
    *all = lines.join("\n");
}

fn descriptors(dir: &Path, facts: &mut BTreeMap<String, String>) -> io::Result<()> {
    // A zombie has no descriptors.
    let Ok(fds) = numbers(&dir.join("fd")) else {
        return Ok(());
    };
    for fd in fds {
        link(dir, &format!("fd/{fd}"), &format!("fd/{fd}.link"), facts)?;
        let Some(info) = text(&dir.join(format!("fdinfo/{fd}"))) else {
            continue;
        };
        for line in info.lines() {
            if let Some((name, value)) = line.split_once(':')
                && !["mnt_id", "ino", "it_value", "ticks"].contains(&name)
            {
                let (name, value) = watched(name, value.trim());
                add(facts, format!("fd/{fd}.{name}"), &value);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_several_lines_is_kept() {
        let mut facts = BTreeMap::new();
        for value in ["wd:2", "wd:1", "wd:2"] {
            add(&mut facts, "inotify".into(), value);
        }
        assert_eq!(facts["inotify"], "wd:1\nwd:2\nwd:2");
    }

    #[test]
    fn each_watched_descriptor_is_a_fact_of_its_own() {
        let (name, value) = watched("tfd", "8 events:       19 data:  5  pos:0 ino:7 sdev:9");
        assert_eq!(name, "tfd 8");
        assert_eq!(value, "events: 19 data: 5 pos:0");
        assert_eq!(watched("flags", "02").0, "flags");
    }

    #[test]
    fn a_command_name_may_hold_anything() {
        let (comm, fields) = split_stat("7 (a) b (c) S 1 7 7 0 -1").unwrap();
        assert_eq!(comm, "a) b (c");
        assert_eq!(fields[..3], ["S", "1", "7"]);
    }
}
