// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads the facts of a container's tasks from its `/proc`, so that pids are those of its
//! namespace.

mod memory;
mod sharing;
mod sockets;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io, mem,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use crucible_agent::cgroup::Cgroup;
use crucible_protocol::{
    Fact, Observation, TaskFacts,
    facts::table::{self, Use},
};
use nix::{errno::Errno, unistd::Pid};

/// The facts of a task.
type Facts = BTreeMap<String, Fact>;

/// Files of a task whose whole content is a fact.
const TASK_FILES: &[&str] = &[
    "cmdline",
    "limits",
    "personality",
    "syscall",
    "children",
    "cgroup",
];

/// Files of a process whose whole content is a fact, in the directory of each of its threads.
const SHARED_FILES: &[&str] = &["maps", "auxv", "environ", "oom_score_adj"];

/// Files whose whole content is a fact, and which only the directory of the process has.
const PROCESS_FILES: &[&str] = &["timers", "timerslack_ns", "coredump_filter"];

/// Links of a task that are facts.
const LINKS: &[&str] = &[
    "exe",
    "cwd",
    "root",
    "ns/cgroup",
    "ns/ipc",
    "ns/mnt",
    "ns/net",
    "ns/pid",
    "ns/pid_for_children",
    "ns/time",
    "ns/time_for_children",
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
        let reader = reader(&process, &threads).unwrap_or(pid);
        for tid in threads {
            let dir = process.join("task").join(tid.to_string());
            let task = task(&process, &dir, pid, tid, tid == reader)
                .with_context(|| format!("cannot read the files of task {tid} in /proc"))?;
            tasks.push(task);
        }
    }
    let mut observation = Observation { tasks };
    let outer = outer_tids(root)?;
    sharing::observe(&mut observation, &outer)?;
    for task in &mut observation.tasks {
        // A zombie no longer has an I/O context, and is not scheduled.
        if let Some(&tid) = outer.get(&task.tid) {
            task.facts.insert("ioprio".into(), ioprio(tid)?.into());
            task.facts.insert("sched".into(), scheduling(tid)?.into());
        }
    }
    sockets::observe(&mut observation)?;
    mounts(&proc, &mut observation)?;
    locks(&proc, &mut observation)?;
    Ok(observation)
}

/// Returns the ids of the container's living threads in the agent's namespace, by their ids in the
/// container's.
fn outer_tids(root: Pid) -> Result<HashMap<i32, i32>> {
    let cgroup = Cgroup::of(&root.to_string()).context("cannot find the container's cgroup")?;
    let threads = fs::read_to_string(cgroup.dir().join("cgroup.threads"))?;
    let mut tids = HashMap::new();
    for outer in threads.lines().filter_map(|line| line.parse::<i32>().ok()) {
        let status = fs::read_to_string(format!("/proc/{outer}/status"))?;
        let inner = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().next_back());
        if let Some(inner) = inner.and_then(|inner| inner.parse().ok()) {
            tids.insert(inner, outer);
        }
    }
    Ok(tids)
}

/// Returns a task's I/O priority, as ioprio_get(2) does.
fn ioprio(tid: i32) -> Result<String> {
    const WHO_PROCESS: i32 = 1;
    // SAFETY: ioprio_get(2) accesses no user memory.
    let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, tid) };
    if priority < 0 {
        bail!("cannot read the I/O priority of {tid}: {}", Errno::last());
    }
    Ok(format!(
        "class {} level {}",
        priority >> 13,
        priority & 0x1fff
    ))
}

/// Returns a task's scheduling attributes, as sched_getattr(2) does.
fn scheduling(tid: i32) -> Result<String> {
    // SAFETY: all bytes 0 are valid for a structure of integers.
    let mut attr: libc::sched_attr = unsafe { mem::zeroed() };
    let size = size_of_val(&attr) as u32;
    // SAFETY: `attr` is valid for writes of `size` bytes during the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attr, size, 0) };
    if result < 0 {
        bail!("cannot read the scheduling of {tid}: {}", Errno::last());
    }
    Ok(format!(
        "policy {} flags {:#x} nice {} priority {} runtime {} deadline {} period {}",
        attr.sched_policy,
        attr.sched_flags,
        attr.sched_nice,
        attr.sched_priority,
        attr.sched_runtime,
        attr.sched_deadline,
        attr.sched_period
    ))
}

/// Adds the mounts of each mount namespace to the first task that is in it: by mount point,
/// without the numbers that the kernel assigns.
fn mounts(proc: &Path, observation: &mut Observation) -> Result<()> {
    let mut seen = HashSet::new();
    for task in &mut observation.tasks {
        let namespace = task
            .facts
            .get("ns/mnt")
            .map(|fact| fact.shown().into_owned());
        if matches!(task.state, 'Z' | 'X') || !seen.insert(namespace) {
            continue;
        }
        let text = fs::read_to_string(proc.join(format!("{}/mountinfo", task.tid)))?;
        let mut lines: Vec<_> = text.lines().filter_map(mount).collect();
        lines.sort_unstable();
        let lines = lines.into_iter().map(|(_, line)| line).collect();
        task.facts.insert("mounts".into(), Fact::Lines(lines));
    }
    Ok(())
}

/// Returns the mount point of a line of `mountinfo`, and the line from its fourth field on without
/// the numbers of peer groups.
fn mount(line: &str) -> Option<(String, String)> {
    let words = line.split(' ').skip(3);
    let group = |word: &&str| {
        let groups = ["shared:", "master:", "propagate_from:"];
        !groups.iter().any(|group| word.starts_with(group))
    };
    let words: Vec<_> = words.filter(group).collect();
    Some(((*words.get(1)?).to_owned(), words.join(" ")))
}

/// Adds the locks that tasks of the tree hold or wait for to the first task.
fn locks(proc: &Path, observation: &mut Observation) -> Result<()> {
    let text = fs::read_to_string(proc.join("locks")).context("this kernel has no /proc/locks")?;
    let pids: HashSet<_> = observation.tasks.iter().map(|task| task.pid).collect();
    let mut lines: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let (_, lock) = line.split_once(':')?;
            let mut words = lock.split_whitespace();
            words
                .find_map(|word| word.parse().ok())
                .filter(|pid| pids.contains(pid))?;
            Some(lock.trim().to_owned())
        })
        .collect();
    lines.sort_unstable();
    if let Some(first) = observation.tasks.first_mut() {
        first.facts.insert("locks".into(), Fact::Lines(lines));
    }
    Ok(())
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

/// Returns true when a task has exited or no longer exists.
fn is_zombie(dir: &Path) -> bool {
    let stat = text(&dir.join("stat")).unwrap_or_default();
    split_stat(&stat).is_none_or(|(_, fields)| fields.first() == Some(&"Z"))
}

/// Returns the thread whose directory has the state of its process: the first living one. A
/// first thread that has exited no longer has memory.
fn reader(process: &Path, threads: &[i32]) -> Option<i32> {
    let lives = |tid: &&i32| !is_zombie(&process.join("task").join(tid.to_string()));
    threads.iter().find(lives).copied()
}

/// Reads a task. If `is_reader` is true, its facts include those of its process.
fn task(process: &Path, dir: &Path, pid: i32, tid: i32, is_reader: bool) -> Result<TaskFacts> {
    let stat = fs::read_to_string(dir.join("stat"))?;
    let (comm, fields) = split_stat(&stat).context("cannot parse stat")?;
    let number = |n: usize| fields.get(n).and_then(|f| f.parse().ok()).unwrap_or(0);
    let mut facts = Facts::new();
    add_stat(&fields, &mut facts)?;
    status(dir, &mut facts)?;
    for name in TASK_FILES {
        file(dir, name, &mut facts)?;
    }
    if is_reader {
        let process = files_of_process(process, tid, &mut facts)?;
        memory_of(&process, &mut facts)?;
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

/// Adds the fields of `stat` from the state on that are facts.
fn add_stat(fields: &[&str], facts: &mut Facts) -> Result<()> {
    if fields.len() != table::STAT.len() {
        let name = format!("{} fields from the state on", fields.len());
        bail!(memory::unknown("stat", &name));
    }
    let is_zombie = fields.first() == Some(&"Z");
    for ((name, what), value) in table::STAT.iter().zip(fields) {
        let is_fact = match what {
            Use::Compared | Use::Grows | Use::Bits(..) => true,
            Use::OfZombies => is_zombie,
            Use::Left(_) => false,
        };
        let shown = match what {
            Use::Bits(bits, _) => {
                let value: u32 = value.parse().with_context(|| format!("stat: {name}"))?;
                format!("{:#x}", value & bits)
            }
            _ => (*value).to_owned(),
        };
        if is_fact {
            facts.insert(format!("stat.{name}"), shown.as_str().into());
        }
    }
    Ok(())
}

fn status(dir: &Path, facts: &mut Facts) -> Result<()> {
    for line in fs::read_to_string(dir.join("status"))?.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let what = table::find(table::STATUS, name);
        match what.with_context(|| memory::unknown("status", name))? {
            Use::Left(_) => {}
            _ => {
                facts.insert(format!("status.{name}"), value.trim().into());
            }
        }
    }
    Ok(())
}

/// Adds the facts of a process's mappings.
fn memory_of(process: &Path, facts: &mut Facts) -> Result<()> {
    let smaps = fs::read_to_string(process.join("smaps"))?;
    facts.insert("smaps".into(), Fact::Lines(memory::smaps(&smaps)?));
    // A process that is exiting has no memory to read.
    if let Some(maps) = facts.get("maps").filter(|_| !smaps.is_empty()) {
        let hashes = memory::hashes(process, &maps.shown(), &smaps)?;
        facts.insert("memory".into(), Fact::Lines(hashes));
    }
    Ok(())
}

/// Adds the files of a process as its thread `tid` shows them. Returns the directory that was
/// read.
fn files_of_process(process: &Path, tid: i32, facts: &mut Facts) -> io::Result<PathBuf> {
    let dir = process.join("task").join(tid.to_string());
    for name in SHARED_FILES {
        file(&dir, name, facts)?;
    }
    // The directory of the first thread, which may have exited, lacks state of the process.
    let process = process.with_file_name(tid.to_string());
    for name in PROCESS_FILES {
        file(&process, name, facts)?;
    }
    Ok(process)
}

/// Reads a file. An error of the kernel is a fact, too.
fn file(dir: &Path, name: &str, facts: &mut Facts) -> io::Result<()> {
    let value = match fs::read(dir.join(name)) {
        Ok(bytes) => Fact::of(bytes),
        // Fail, because a fact would hide this error: it would be equal in every run.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let problem = format!("this kernel has no {}", dir.join(name).display());
            return Err(io::Error::new(e.kind(), problem));
        }
        Err(e) => format!("<{e}>").into(),
    };
    facts.insert(name.to_owned(), value);
    Ok(())
}

fn link(dir: &Path, name: &str, key: &str, facts: &mut Facts) -> io::Result<()> {
    let value = match fs::read_link(dir.join(name)) {
        Ok(target) => Fact::of(target.into_os_string().into_encoded_bytes()),
        Err(e) => format!("<{e}>").into(),
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

/// Adds a fact. Several facts with one name, such as the watches of an inotify file, become one
/// fact with a sorted line for each, since the kernel's order has no meaning.
fn add(facts: &mut Facts, name: String, value: String) {
    match facts.get_mut(&name) {
        Some(fact) => fact.add(value),
        None => {
            facts.insert(name, value.into());
        }
    }
}

fn descriptors(dir: &Path, facts: &mut Facts) -> io::Result<()> {
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
                add(facts, format!("fd/{fd}.{name}"), value);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::{AsRawFd, OwnedFd},
        ptr, thread,
    };

    use nix::{
        fcntl::OFlag,
        sys::wait::waitpid,
        unistd::{ForkResult, fork, pipe2},
    };

    use super::*;

    /// A process of the host whose first thread has exited. Its second thread waits until this is
    /// dropped.
    struct Headless {
        pid: Pid,
        /// The end of a pipe at whose other end the second thread waits.
        gate: Option<OwnedFd>,
    }

    impl Headless {
        fn new() -> Self {
            let (wait, gate) = pipe2(OFlag::O_CLOEXEC).unwrap();
            // SAFETY: the child only calls functions of the C library that glibc keeps usable after
            // a fork of a process with several threads.
            let ForkResult::Parent { child: pid } = (unsafe { fork() }).unwrap() else {
                drop(gate);
                child(wait.as_raw_fd());
            };
            let dir = PathBuf::from(format!("/proc/{pid}/task/{pid}"));
            while !is_zombie(&dir) {
                thread::yield_now();
            }
            let gate = Some(gate);
            Self { pid, gate }
        }
    }

    /// Creates a timer and a second thread, and exits as a thread. `wait` is a descriptor.
    fn child(wait: i32) -> ! {
        let (mut timer, mut thread) = (ptr::null_mut(), 0);
        let (timer_made, null) = (&raw mut timer, ptr::null_mut());
        // SAFETY: the results are variables of this function; no destructor runs, since they belong
        // to the parent, and pthread_exit() would unwind through the frames of Rust.
        unsafe {
            if libc::timer_create(libc::CLOCK_MONOTONIC, null, timer_made) == 0
                && libc::pthread_create(&raw mut thread, ptr::null(), second, wait as _) == 0
            {
                libc::syscall(libc::SYS_exit, 0);
            }
            libc::_exit(1)
        }
    }

    /// Ends the process once the pipe has ended.
    extern "C" fn second(wait: *mut libc::c_void) -> *mut libc::c_void {
        let mut byte = 0_u8;
        // SAFETY: the buffer has one byte; no destructor runs.
        unsafe {
            libc::read(wait as i32, (&raw mut byte).cast(), 1);
            libc::_exit(0)
        }
    }

    impl Drop for Headless {
        fn drop(&mut self) {
            self.gate = None;
            // An error is no reason to panic in a test that fails already.
            let _ = waitpid(self.pid, None);
        }
    }

    #[test]
    fn a_process_whose_first_thread_has_exited_is_read_by_another_thread() {
        let headless = Headless::new();
        let pid = headless.pid.as_raw();
        let process = PathBuf::from(format!("/proc/{pid}"));
        let threads = numbers(&process.join("task")).unwrap();
        let [first, second] = threads[..] else {
            panic!("{threads:?}");
        };
        assert_eq!(first, pid);
        let reader = reader(&process, &threads).unwrap();
        let mut facts = Facts::new();
        files_of_process(&process, reader, &mut facts).unwrap();
        let shown = |name: &str| facts[name].shown().into_owned();
        // The child has the program, the environment and the auxiliary vector of this process.
        let program = std::env::current_exe().unwrap();
        let maps = shown("maps");
        assert!(maps.contains(program.to_str().unwrap()), "{maps:?}");
        let own = |name: &str| Fact::of(fs::read(format!("/proc/self/{name}")).unwrap());
        for name in ["environ", "auxv"] {
            assert_eq!(facts[name], own(name), "{name}");
            assert_ne!(shown(name), "", "{name}");
        }
        assert!(shown("timers").contains("signal: 14/"), "{facts:?}");
        assert_eq!(reader, second);
    }

    #[test]
    fn a_mount_has_no_numbers() {
        let line = "36 35 98:0 /a /b rw,noatime shared:3 master:1 - ext3 /dev/root rw";
        let (point, line) = mount(line).unwrap();
        assert_eq!(point, "/b");
        assert_eq!(line, "/a /b rw,noatime - ext3 /dev/root rw");
    }

    #[test]
    fn a_field_that_no_table_has_is_an_error() {
        let mut facts = Facts::new();
        let few = add_stat(&["S", "1"], &mut facts).unwrap_err();
        assert!(few.to_string().contains("2 fields"), "{few}");
        let error = memory::smaps("7f00-7f01 rw-p\nSize: 4 kB\nNovel: 3\n").unwrap_err();
        assert!(error.to_string().contains("`Novel` in smaps"), "{error}");
        let lines = memory::smaps("7f00-7f01 rw-p\nSize:   4 kB\nRss: 4 kB\nVmFlags: rd sd\n");
        assert_eq!(lines.unwrap(), ["7f00-7f01 Size:4 kB VmFlags:rd"]);
    }

    #[test]
    fn of_flags_some_bits_are_compared() {
        let shown = |flags: &str| {
            let field = |(name, _): &(&str, _)| match *name {
                "state" => "S".to_owned(),
                "flags" => flags.to_owned(),
                _ => "0".to_owned(),
            };
            let fields: Vec<_> = table::STAT.iter().map(field).collect();
            let fields: Vec<_> = fields.iter().map(String::as_str).collect();
            let mut facts = Facts::new();
            add_stat(&fields, &mut facts).map(|()| facts["stat.flags"].clone())
        };
        // PF_RANDOMIZE is not a part of the fact, PF_FORKNOEXEC is.
        assert_eq!(shown("4194304").unwrap(), shown("0").unwrap());
        assert_ne!(shown("4194368").unwrap(), shown("0").unwrap());
        assert!(shown("many").is_err());
    }

    #[test]
    fn each_watched_descriptor_is_a_fact_of_its_own() {
        let (name, value) = watched("tfd", "8 events:       19 data:  5  pos:0 ino:7 sdev:9");
        assert_eq!(name, "tfd 8");
        assert_eq!(value, "events: 19 data: 5 pos:0");
        assert_eq!(watched("flags", "02").0, "flags");
    }

    #[test]
    fn scheduling_attributes_are_those_of_the_task() {
        let own = nix::unistd::gettid().as_raw();
        let shown = scheduling(own).unwrap();
        assert!(
            shown.starts_with("policy ") && shown.contains(" nice "),
            "{shown}"
        );
        assert!(scheduling(i32::MAX).is_err());
    }

    #[test]
    fn a_command_name_may_hold_anything() {
        let (comm, fields) = split_stat("7 (a) b (c) S 1 7 7 0 -1").unwrap();
        assert_eq!(comm, "a) b (c");
        assert_eq!(fields[..3], ["S", "1", "7"]);
    }
}
