// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The named rules for differences that a comparison ignores. Every use is counted, and all
//! other differences fail the comparison.

use std::collections::{BTreeMap, HashMap};

use crucible_protocol::facts::table::{self, Use};
use crucible_protocol::{Fact, Observation};
use regex::{Captures, Regex};
use serde::{Deserialize, Serialize};

/// A rule; [`Rule::ignores`] describes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The nonce that a run draws before its checkpoint.
    Nonce,
    /// Inode numbers of pipes and sockets. Comparisons still cover which ends belong together.
    PipeNumbers,
    /// Inode numbers of mapped files without a name: deleted files, shared anonymous memory.
    UnlinkedInodes,
    /// Signals and memory of a zombie in `/proc`: the zombie never uses them again.
    ZombieState,
    /// Signals that a timer of the process can have sent since the checkpoint: timers run
    /// while the restarted tasks are still frozen.
    ExpiredTimers,
    /// With CRIU, the system call that `/proc` shows for a task: CRIU moves a task to the
    /// end of its call, or back to its start.
    CriuSystemCall,
    /// With CRIU, the number of the time namespace: CRIU creates one, in which the clocks
    /// continue.
    CriuTimeNamespace,
    /// With CRIU, traces of its own work in the tasks: page faults, CPU times, switches, peaks,
    /// private copies of pages of code, and mappings that are accounted as memory.
    CriuTraces,
    /// Numbers of the namespaces that a restart makes.
    NamespaceNumbers,
    /// CPU times, page faults and context switches that the restart itself has cost.
    Counters,
    /// Creation times of tasks, if another machine has restarted them, which may have been
    /// started later, and with CRIU, which creates new tasks.
    StartTimes,
    /// In logs of strace, process ids.
    StracePids,
    /// In logs of strace, addresses: each program is loaded at a random one.
    StraceAddresses,
    /// In logs of strace, clocks and used CPU time.
    StraceTimes,
    /// In logs of strace, names from `mkstemp`.
    TemporaryNames,
    /// In logs of strace, calls of `getrandom` and their results.
    RandomBytes,
    /// In logs of strace, the result of `sysinfo`, which is about the whole guest.
    SystemLoad,
    /// In logs of strace, the position of SIGCHLD: it can arrive just before or after the call
    /// that waits for the child. The set of signals is compared.
    SigchldOrder,
    /// In logs of strace, interrupted and restarted calls: freezing alone interrupts calls.
    InterruptedCalls,
    /// In logs of strace, the last line of a thread that another thread's execve(2) killed before
    /// strace looked at the stop that the thread had reported.
    KilledByExec,
    /// In logs of strace, the result of a wait on a futex: it slept, or its value had changed
    /// before that.
    FutexWaits,
}

impl Rule {
    /// All rules.
    pub const ALL: &'static [Self] = &[
        Self::Nonce,
        Self::PipeNumbers,
        Self::UnlinkedInodes,
        Self::ZombieState,
        Self::ExpiredTimers,
        Self::CriuSystemCall,
        Self::CriuTimeNamespace,
        Self::CriuTraces,
        Self::NamespaceNumbers,
        Self::Counters,
        Self::StartTimes,
        Self::StracePids,
        Self::StraceAddresses,
        Self::StraceTimes,
        Self::TemporaryNames,
        Self::RandomBytes,
        Self::SystemLoad,
        Self::SigchldOrder,
        Self::InterruptedCalls,
        Self::KilledByExec,
        Self::FutexWaits,
    ];

    /// Returns the name in `scenario.toml` and in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nonce => "nonce",
            Self::PipeNumbers => "pipe-numbers",
            Self::UnlinkedInodes => "unlinked-inodes",
            Self::ZombieState => "zombie-state",
            Self::ExpiredTimers => "expired-timers",
            Self::CriuSystemCall => "criu-system-call",
            Self::CriuTimeNamespace => "criu-time-namespace",
            Self::CriuTraces => "criu-traces",
            Self::NamespaceNumbers => "namespace-numbers",
            Self::Counters => "counters",
            Self::StartTimes => "start-times",
            Self::StracePids => "strace-pids",
            Self::StraceAddresses => "strace-addresses",
            Self::StraceTimes => "strace-times",
            Self::TemporaryNames => "temporary-names",
            Self::RandomBytes => "random-bytes",
            Self::SystemLoad => "system-load",
            Self::SigchldOrder => "sigchld-order",
            Self::InterruptedCalls => "interrupted-calls",
            Self::KilledByExec => "killed-by-exec",
            Self::FutexWaits => "futex-waits",
        }
    }

    /// Returns true for a rule that only applies to logs of strace, and only if the scenario names
    /// it.
    pub fn is_for_logs(self) -> bool {
        !matches!(
            self,
            Self::Nonce
                | Self::PipeNumbers
                | Self::UnlinkedInodes
                | Self::ZombieState
                | Self::ExpiredTimers
                | Self::CriuSystemCall
                | Self::CriuTimeNamespace
                | Self::CriuTraces
                | Self::NamespaceNumbers
                | Self::Counters
                | Self::StartTimes
        )
    }

    /// Returns the description of the differences that the rule ignores, for the reference.
    pub fn ignores(self) -> &'static str {
        match self {
            Self::Nonce => "the number that each run draws",
            Self::PipeNumbers => {
                "inode numbers of pipes and sockets; comparisons still cover which ends belong together"
            }
            Self::UnlinkedInodes => "inode numbers of unlinked files that are mapped",
            Self::ZombieState => "the files of a zombie in `/proc`, except its ids and exit code",
            Self::ExpiredTimers => {
                "a pending signal that one of the process's timers can have sent since the \
                 checkpoint, since timers run while the restarted tasks are still frozen: the \
                 signal of a POSIX timer that the process has, or SIGALRM, which any process may \
                 have newly pending, since `/proc` does not show interval timers"
            }
            Self::CriuSystemCall => {
                "with `--backend criu` only: the system call that `/proc` shows for a task"
            }
            Self::CriuTimeNamespace => {
                "with `--backend criu` only: the number of the time namespace"
            }
            Self::CriuTraces => {
                "with `--backend criu` only: page faults, CPU times, context switches, peaks of \
                 memory, hashes of memory and flags of tasks and mappings, in which CRIU's own \
                 work in the tasks shows"
            }
            Self::NamespaceNumbers => {
                "the numbers of the pid and mount namespaces, which are new; which tasks are in one \
                 is compared"
            }
            Self::Counters => {
                "CPU times, page faults and context switches that a restart has cost: a counter does \
                 not shrink, and grows by at most 1,000"
            }
            Self::StartTimes => {
                "creation times of tasks, in another machine (`--restart-in fresh`), which may \
                 have started after them, and with `--backend criu`, which creates the tasks anew"
            }
            Self::StracePids => {
                "process ids in calls and signals, and the thread ids that `pthread_join` waits for"
            }
            Self::StraceAddresses => "addresses",
            Self::StraceTimes => "clocks and used CPU time",
            Self::TemporaryNames => "names that `mkstemp` makes up",
            Self::RandomBytes => "calls of `getrandom`",
            Self::SystemLoad => "the result of `sysinfo`",
            Self::FutexWaits => {
                "the result of a wait on a futex, as in `pthread_join`, which sleeps and is woken \
                 (0) or fails because the value has changed by then (EAGAIN): it depends on the \
                 scheduler"
            }
            Self::KilledByExec => {
                "the last line of a thread that the `execve` of another thread killed at the entry \
                 of a system call, before strace looked at it; the scheduler decides which comes \
                 first. strace then writes `???( <detached ...>` (the thread is gone) or, from its \
                 buffer, the `execve` that another log of the run ends with, with `<detached ...>` \
                 or `) = ?` in place of `<pid changed to N ...>` (the thread is in its exit stop). \
                 The log of the first thread, which continues, may contain that line. Only in a \
                 run in which an `execve` has superseded a first thread; all earlier lines of the \
                 thread, and the number of threads, are compared"
            }
            Self::SigchldOrder => {
                "at which call and in which order SIGCHLD arrives, with the return from a handler \
                 that makes no calls; the set of signals is compared, under the other rules"
            }
            Self::InterruptedCalls => {
                "that a call was interrupted and restarted: both count as one call, since freezing \
                 alone interrupts calls. A call counts as restarted if the next call that is not a \
                 return from a handler has its name or is `restart_syscall`; `pause` and \
                 `rt_sigsuspend` do not if the return from the handler reports `EINTR`, since they \
                 are complete then. `restart_syscall` shows only a result, so `poll`, `nanosleep`, \
                 `clock_nanosleep` and `futex` are compared by their arguments (except the \
                 remaining time), number and error"
            }
        }
    }

    /// Returns the rule with this name, or with the name that it had before it was renamed.
    pub fn by_name(name: &str) -> Option<Self> {
        let name = match name {
            "nameless-inodes" => "unlinked-inodes",
            "zombie-remains" => "zombie-state",
            "timers-run-out" => "expired-timers",
            name => name,
        };
        Self::ALL.iter().copied().find(|rule| rule.name() == name)
    }
}

/// Number of uses of each rule.
pub type Uses = BTreeMap<Rule, u64>;

/// Replaces the nonce of a run by a fixed word.
pub fn nonce(text: &str, nonce: &str, uses: &mut Uses) -> String {
    let count = text.matches(nonce).count() as u64;
    if nonce.is_empty() || count == 0 {
        return text.to_owned();
    }
    *uses.entry(Rule::Nonce).or_default() += count;
    text.replace(nonce, "<nonce>")
}

/// Replaces addresses, which change with every libc, in an expected result.
pub fn addresses(text: &str) -> String {
    let address = Regex::new("0x[0-9a-f]{7,}").expect("a constant");
    address.replace_all(text, "<address>").into_owned()
}

/// Replaces inode numbers that a restart cannot keep. Equal
/// numbers become equal names, so sharing is still compared.
pub fn observation(observation: &mut Observation, uses: &mut Uses) {
    let pipes = Regex::new(r"^(pipe|socket):\[(\d+)\]$").expect("a constant");
    let mut names: HashMap<String, usize> = HashMap::new();
    for task in &mut observation.tasks {
        for (key, fact) in &mut task.facts {
            if let Fact::Text(value) = fact
                && key.ends_with(".link")
                && pipes.is_match(value)
            {
                *uses.entry(Rule::PipeNumbers).or_default() += 1;
                *value = pipes
                    .replace(value, |found: &Captures<'_>| {
                        let next = names.len() + 1;
                        let number = names.entry(found[2].to_owned()).or_insert(next);
                        format!("{}:<{number}>", &found[1])
                    })
                    .into_owned();
            }
        }
    }
    nameless(observation, uses);
    namespaces(observation, uses);
    zombies(observation, uses);
}

/// Replaces the numbers of namespaces that a restart creates by the first task that is in each:
/// the comparison still covers which tasks share one.
fn namespaces(observation: &mut Observation, uses: &mut Uses) {
    const NEW: [&str; 3] = ["ns/mnt", "ns/pid", "ns/pid_for_children"];
    let mut first: HashMap<String, i32> = HashMap::new();
    for task in &mut observation.tasks {
        for name in NEW {
            let Some(Fact::Text(value)) = task.facts.get_mut(name) else {
                continue;
            };
            if value.contains(":[") {
                let owner = first.entry(value.clone()).or_insert(task.tid);
                *value = format!("that of {owner}");
                *uses.entry(Rule::NamespaceNumbers).or_default() += 1;
            }
        }
    }
}

/// Largest growth of a counter that the cost of a restart explains, in the kernel's units:
/// ticks of 10 ms, page faults, context switches.
const COST: u64 = 1000;

/// Replaces counters of the restarted tree that have grown since the checkpoint by no more than a
/// restart costs.
pub fn counters(before: &Observation, after: &mut Observation, uses: &mut Uses) {
    let grows = |file: &str, fields: &'static [table::Field]| {
        let file = file.to_owned();
        let growing = fields.iter().filter(|(_, what)| *what == Use::Grows);
        growing.map(move |(name, _)| format!("{file}.{name}"))
    };
    let names: Vec<_> = grows("stat", table::STAT)
        .chain(grows("status", table::STATUS))
        .collect();
    for task in &mut after.tasks {
        let Some(earlier) = before.tasks.iter().find(|t| t.tid == task.tid) else {
            continue;
        };
        for name in &names {
            let number =
                |facts: &BTreeMap<String, Fact>| facts.get(name)?.shown().parse::<u64>().ok();
            let (Some(was), Some(is)) = (number(&earlier.facts), number(&task.facts)) else {
                continue;
            };
            if is > was && is - was <= COST {
                task.facts.insert(name.clone(), was.to_string().into());
                *uses.entry(Rule::Counters).or_default() += 1;
            }
        }
    }
}

/// The facts of a task that CRIU changes by design, and their rules.
const CRIU: [(&str, Rule); 16] = [
    ("syscall", Rule::CriuSystemCall),
    ("ns/time", Rule::CriuTimeNamespace),
    ("ns/time_for_children", Rule::CriuTimeNamespace),
    ("memory", Rule::CriuTraces),
    ("smaps", Rule::CriuTraces),
    ("stat.flags", Rule::CriuTraces),
    ("stat.minflt", Rule::CriuTraces),
    ("stat.majflt", Rule::CriuTraces),
    ("stat.utime", Rule::CriuTraces),
    ("stat.stime", Rule::CriuTraces),
    ("stat.cutime", Rule::CriuTraces),
    ("stat.cstime", Rule::CriuTraces),
    ("status.VmHWM", Rule::CriuTraces),
    ("status.VmPeak", Rule::CriuTraces),
    ("status.voluntary_ctxt_switches", Rule::CriuTraces),
    ("status.nonvoluntary_ctxt_switches", Rule::CriuTraces),
];

/// Removes the facts of a task that CRIU changes by design.
pub fn criu(observation: &mut Observation, uses: &mut Uses) {
    for task in &mut observation.tasks {
        for (fact, rule) in CRIU {
            if task.facts.remove(fact).is_some() {
                *uses.entry(rule).or_default() += 1;
            }
        }
    }
}

/// Removes the creation times of tasks that another machine or CRIU has restarted.
pub fn start_times(observation: &mut Observation, uses: &mut Uses) {
    for task in &mut observation.tasks {
        if task.facts.remove("stat.starttime").is_some() {
            *uses.entry(Rule::StartTimes).or_default() += 1;
        }
    }
}

/// Removes signals that a timer can have sent from the pending signals after the restart.
pub fn timers(before: &Observation, after: &mut Observation, uses: &mut Uses) {
    for task in &mut after.tasks {
        let Some(earlier) = before.tasks.iter().find(|t| t.tid == task.tid) else {
            continue;
        };
        // /proc shows timers per process; they are a fact of its first living thread.
        let mut threads = before.tasks.iter().filter(|t| t.pid == task.pid);
        let timers = threads.find_map(|thread| thread.facts.get("timers"));
        let sent = timer_signals(&timers.map_or("".into(), Fact::shown));
        for fact in ["status.ShdPnd", "status.SigPnd"] {
            let mask = |facts: &BTreeMap<String, Fact>| {
                u64::from_str_radix(&facts.get(fact)?.shown(), 16).ok()
            };
            let (Some(was), Some(is)) = (mask(&earlier.facts), mask(&task.facts)) else {
                continue;
            };
            let since = is & !was & sent;
            if since != 0 {
                *uses.entry(Rule::ExpiredTimers).or_default() += u64::from(since.count_ones());
                let rest = format!("{:016x}", is & !since);
                task.facts.insert(fact.to_owned(), rest.into());
            }
        }
    }
}

/// Returns the signals of a process's POSIX timers (`/proc/PID/timers`), and SIGALRM, since
/// `/proc` does not show interval timers. The mask has the form of `/proc/PID/status`.
fn timer_signals(timers: &str) -> u64 {
    let lines = timers
        .lines()
        .filter_map(|line| line.strip_prefix("signal: "));
    let numbers = lines.filter_map(|line| line.split('/').next()?.parse().ok());
    [nix::sys::signal::Signal::SIGALRM as u32]
        .into_iter()
        .chain(numbers)
        .filter(|number| (1..=64).contains(number))
        .fold(0, |mask, number| mask | 1 << (number - 1))
}

/// Keeps only those facts of a zombie that its parent can still read.
fn zombies(observation: &mut Observation, uses: &mut Uses) {
    const KEPT: [&str; 9] = [
        "stat.exit_code",
        "stat.starttime",
        "status.Uid",
        "status.Gid",
        "status.NSpid",
        "status.NStgid",
        "status.NSpgid",
        "status.NSsid",
        "status.Threads",
    ];
    for task in observation.tasks.iter_mut().filter(|t| t.state == 'Z') {
        let before = task.facts.len();
        task.facts.retain(|key, _| KEPT.contains(&key.as_str()));
        *uses.entry(Rule::ZombieState).or_default() += (before - task.facts.len()) as u64;
    }
}

fn nameless(observation: &mut Observation, uses: &mut Uses) {
    let line = Regex::new(
        r"(?m)^(\S+ \S+ \S+) (\S+) (\d+)(\s+(?:/dev/zero|/memfd:.*|/SYSV.*|/.*) \(deleted\))$",
    )
    .expect("a constant");
    let mut names: HashMap<String, usize> = HashMap::new();
    for task in &mut observation.tasks {
        let Some(Fact::Text(maps)) = task.facts.get_mut("maps") else {
            continue;
        };
        *maps = line
            .replace_all(maps, |found: &Captures<'_>| {
                *uses.entry(Rule::UnlinkedInodes).or_default() += 1;
                let next = names.len() + 1;
                let key = format!("{} {}", &found[2], &found[3]);
                let number = names.entry(key).or_insert(next);
                format!("{} <{number}> {}", &found[1], found[4].trim_start())
            })
            .into_owned();
    }
}

#[cfg(test)]
mod tests;
