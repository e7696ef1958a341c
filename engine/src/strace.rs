// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Normalises logs of `strace -ff`, one per task, by named rules, so that runs can be compared.
//!
//! Within a task the order is kept. Logs are compared as a set: a task is identified by its calls,
//! since its pid depends on the creation of other tasks.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::{
    diff,
    normalise::{Rule, Uses},
};

/// A log: name and content of the file.
pub type Log = (String, String);

fn regex(text: &str) -> Regex {
    Regex::new(text).expect("a constant")
}

/// Places of process ids: results and arguments of calls, and siginfo of signals.
static PIDS: LazyLock<[Regex; 4]> = LazyLock::new(|| {
    [
        regex(
            r"^((?:fork|vfork|clone|clone3|wait4|waitid|getpid|gettid|getppid|getpgrp|getpgid|getsid|setsid|set_tid_address)\(.*\) += )([1-9]\d*)",
        ),
        regex(
            r"^((?:kill|tgkill|tkill|wait4|setpgid|getpgid|getsid|prlimit64|sched_getaffinity|sched_setaffinity)\()([1-9]\d*)",
        ),
        regex(r"\b((?:si_pid|child_tid|parent_tid)=(?:\[|\{)?)([1-9]\d*)"),
        // pthread_join() waits for a tid: the only futex wait of this form that is not private.
        regex(r"^(futex\([^,]+, FUTEX_WAIT_BITSET\|FUTEX_CLOCK_REALTIME, )([1-9]\d*)"),
    ]
});

static ADDRESSES: LazyLock<Regex> = LazyLock::new(|| regex(r"0x[0-9a-f]{7,}"));
static TIMES: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"\b(si_utime|si_stime|tv_sec|tv_nsec|tv_usec|uptime|tms_[cus]+time)=-?\d+(?: /\* [\d.]+ s \*/)?",
    )
});
static TEMPORARY: LazyLock<Regex> = LazyLock::new(|| regex(r"/tmp/(cc|Gm)[A-Za-z0-9]{6}"));

static FUTEX: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^(futex\(.*\bFUTEX_WAIT\w*\b.*\) = )(?:0|-1 EAGAIN(?: \(.*\))?)$"));
static PADDED: LazyLock<Regex> = LazyLock::new(|| regex(r"\) += "));
static LOAD: LazyLock<Regex> = LazyLock::new(|| regex(r"^sysinfo\(\{.*\}\)"));

/// An interrupted call. It may be made again, continue as `restart_syscall`, or be complete.
static INTERRUPTED: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^(?P<call>(?P<name>\w+)\(.*\)) += \? ERESTART\w* .*$"));
/// Calls that are complete when a handler has interrupted them. Any other call is made again by
/// its program; whether a signal arrives while freezing interrupts it depends on timing.
const WAITS_FOR_SIGNALS: [&str; 2] = ["pause", "rt_sigsuspend"];
/// The return from a handler to a call that is not made again.
static GIVEN_UP: LazyLock<Regex> = LazyLock::new(|| regex(r"^rt_sigreturn\(.*\) += -1 EINTR"));
static GOES_ON: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"^restart_syscall\(<\.\.\. resuming interrupted (?P<name>\w+) \.\.\.>\) += (?P<result>.*)$",
    )
});

/// Calls that can continue as `restart_syscall`, of which a log shows only the result.
const GOING_ON: [&str; 4] = ["poll(", "nanosleep(", "clock_nanosleep(", "futex("];
/// The remaining time of a sleep, which is shown only if it was interrupted.
static LEFT: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^((?:clock_)?nanosleep\(.*, )(?:NULL|0x[0-9a-f]+|\{[^{}]*\})\)$"));

/// Normalises the logs and sorts them by content.
pub fn normalised(logs: &[Log], rules: &[Rule], uses: &mut Uses) -> Vec<String> {
    let not_looked_at = match rules.contains(&Rule::KilledByExec) {
        true => NotLookedAt::new(logs),
        false => NotLookedAt::default(),
    };
    let mut texts: Vec<_> = logs
        .iter()
        .map(|(_, text)| {
            let cut = not_looked_at.cut(text);
            if cut.is_some() {
                *uses.entry(Rule::KilledByExec).or_default() += 1;
            }
            normalise(cut.as_ref().unwrap_or(text), rules, uses)
        })
        .collect();
    texts.sort();
    texts
}

/// Lines that strace writes about a thread that was stopped at the entry of a system call, and was
/// killed by another thread's execve(2) before strace looked at it. strace collects stops before
/// it looks at any thread, and resumes each as soon as it has looked: a thread may kill another
/// one by its execve(2) in between or later; the scheduler decides. If the other one is gone,
/// strace does not have the call and writes `???(`. If it is in its exit stop,
/// PTRACE_GET_SYSCALL_INFO reports that it is in no call, and leaves the rest of strace's buffer
/// alone, in which strace finds the call that it looked at before: the execve(2) of the first
/// thread. Then that call has no result, or none that strace receives.
#[derive(Default)]
struct NotLookedAt(Vec<String>);

const DETACHED: &str = " <detached ...>";
const SUPERSEDED: &str = "+++ superseded by execve in pid ";

impl NotLookedAt {
    /// Collects the possible lines from the logs of all threads.
    fn new(logs: &[Log]) -> Self {
        let lines = || logs.iter().flat_map(|(_, text)| text.lines());
        let mut found = Vec::new();
        if lines().any(|line| line.starts_with(SUPERSEDED)) {
            found.push(format!("???({DETACHED}"));
            let calls = lines().filter_map(|line| line.rsplit_once(" <pid changed to "));
            found.extend(
                calls.flat_map(|(call, _)| [format!("{call}{DETACHED}"), format!("{call}) = ?")]),
            );
        }
        Self(found)
    }

    /// Returns a log without the last line of a killed thread, if it is one of these lines. The log
    /// of the first thread continues with the log of the thread that has superseded it.
    fn cut(&self, text: &str) -> Option<String> {
        let lines: Vec<_> = text.lines().collect();
        let end = lines
            .iter()
            .position(|line| line.starts_with(SUPERSEDED))
            .unwrap_or(lines.len());
        let (killed, rest) = lines.split_at(end);
        let (last, before) = killed.split_last()?;
        let last = PADDED.replace(last, ") = ");
        self.0.iter().any(|line| *line == last).then(|| {
            let kept = before.iter().chain(rest);
            kept.map(|line| format!("{line}\n")).collect()
        })
    }
}

/// Compares the first log that is only in one set with the most similar one in the other set.
/// Both sets are normalised.
pub fn difference(expected: &[String], actual: &[String]) -> Option<String> {
    let mut left: Vec<_> = actual.iter().collect();
    let mut lost = Vec::new();
    for log in expected {
        match left.iter().position(|other| *other == log) {
            Some(found) => drop(left.remove(found)),
            None => lost.push(log),
        }
    }
    let same = |a: &str, b: &str| a.lines().zip(b.lines()).take_while(|(a, b)| a == b).count();
    let Some(log) = lost.first() else {
        let more = left.first()?;
        return Some(format!(
            "an additional log, which begins\n  + {}",
            first_line(more)
        ));
    };
    let numbers = format!(
        "{} of {} logs are missing, and {} others exist",
        lost.len(),
        expected.len(),
        left.len()
    );
    let nearest = left.iter().max_by_key(|other| same(log, other));
    Some(match nearest {
        None => format!("{numbers}; a missing one begins\n  - {}", first_line(log)),
        Some(other) => format!(
            "{numbers}; of `{}`: {}",
            first_line(log),
            diff::first(log, other).unwrap_or_default()
        ),
    })
}

fn first_line(log: &str) -> &str {
    log.lines().next().unwrap_or("(an empty log)")
}

fn normalise(text: &str, rules: &[Rule], uses: &mut Uses) -> String {
    let has = |rule| rules.contains(&rule);
    let mut lines: Vec<String> = Vec::new();
    let mut interrupted: Option<String> = None;
    let mut ended: Vec<String> = Vec::new();
    let mut handled = false;
    let mut rest = text.lines();
    while let Some(line) = rest.next() {
        // strace aligns results; the lines may have been longer before normalisation.
        let mut line = PADDED.replace(line, ") = ").into_owned();
        // mkstemp() draws again if a number would make some names more likely than others.
        if has(Rule::RandomBytes) && line.starts_with("getrandom(") {
            *uses.entry(Rule::RandomBytes).or_default() += 1;
            continue;
        }
        if has(Rule::SigchldOrder) && line.starts_with("--- SIGCHLD ") {
            *uses.entry(Rule::SigchldOrder).or_default() += 1;
            ended.push(by_line(line, rules, uses));
            handled = true;
            continue;
        }
        // The return from a handler that makes no calls belongs to the signal.
        if std::mem::take(&mut handled) && line.starts_with("rt_sigreturn(") {
            continue;
        }
        if has(Rule::InterruptedCalls) {
            if let Some(found) = INTERRUPTED.captures(&line)
                && is_made_again(&found["name"], rest.clone())
            {
                interrupted = Some(found["call"].to_owned());
                *uses.entry(Rule::InterruptedCalls).or_default() += 1;
                continue;
            }
            line = going_on(&line, &mut interrupted);
        }
        lines.push(by_line(line, rules, uses));
    }
    // Compare the set, not position and order.
    ended.sort();
    lines.append(&mut ended);
    lines.push(String::new());
    lines.join("\n")
}

/// Returns true when a task's next call is the same one, after signals and returns from their
/// handlers.
fn is_made_again<'a>(name: &str, rest: impl Iterator<Item = &'a str>) -> bool {
    for line in rest {
        match line.split('(').next() {
            _ if line.starts_with("--- ") => {}
            Some("rt_sigreturn")
                if WAITS_FOR_SIGNALS.contains(&name) && GIVEN_UP.is_match(line) =>
            {
                return false;
            }
            Some("rt_sigreturn") => {}
            Some(next) => return next == name || next == "restart_syscall",
            None => return false,
        }
    }
    false
}

/// Reduces a call that can continue as `restart_syscall` to the part that both forms show.
fn going_on(line: &str, interrupted: &mut Option<String>) -> String {
    if let Some(found) = GOES_ON.captures(line)
        && let Some(call) = interrupted
            .take()
            .filter(|call| call.split('(').next() == Some(&found["name"]))
    {
        return short(&call, &found["result"]);
    }
    match line.rsplit_once(" = ") {
        Some((call, result)) if GOING_ON.iter().any(|name| call.starts_with(name)) => {
            short(call, result)
        }
        _ => line.to_owned(),
    }
}

/// Returns a call without its remaining time, and its result: a number, with an error if any.
fn short(call: &str, result: &str) -> String {
    let call = LEFT.replace(call, "${1}<left>)");
    let mut words = result.split(' ');
    match (words.next().unwrap_or(""), words.next()) {
        (number @ ("-1" | "?"), Some(error)) => format!("{call} = {number} {error}"),
        (number, _) => format!("{call} = {number}"),
    }
}

/// Normalises a line by the rules that need no context.
fn by_line(mut line: String, rules: &[Rule], uses: &mut Uses) -> String {
    for (rule, apply) in LINE_RULES {
        if rules.contains(rule) {
            let (changed, count) = apply(&line);
            line = changed;
            if count > 0 {
                *uses.entry(*rule).or_default() += count;
            }
        }
    }
    line
}

type Apply = fn(&str) -> (String, u64);

const LINE_RULES: &[(Rule, Apply)] = &[
    (Rule::StracePids, pids),
    (Rule::StraceAddresses, |line| {
        replace(&ADDRESSES, line, |_| "<address>".into())
    }),
    (Rule::StraceTimes, |line| {
        replace(&TIMES, line, |found| format!("{}=<time>", &found[1]))
    }),
    (Rule::FutexWaits, |line| {
        replace(&FUTEX, line, |found| format!("{}<woken>", &found[1]))
    }),
    (Rule::TemporaryNames, |line| {
        replace(&TEMPORARY, line, |found| {
            format!("/tmp/{}<name>", &found[1])
        })
    }),
    (Rule::SystemLoad, |line| {
        replace(&LOAD, line, |_| "sysinfo(<load>)".into())
    }),
];

fn pids(line: &str) -> (String, u64) {
    let mut line = line.to_owned();
    let mut uses = 0;
    for pattern in PIDS.iter() {
        let (changed, count) = replace(pattern, &line, |found| format!("{}<pid>", &found[1]));
        line = changed;
        uses += count;
    }
    (line, uses)
}

fn replace(pattern: &Regex, line: &str, with: impl Fn(&Captures<'_>) -> String) -> (String, u64) {
    let mut count = 0;
    let changed = pattern.replace_all(line, |found: &Captures<'_>| {
        count += 1;
        with(found)
    });
    (changed.into_owned(), count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Rule] = &[
        Rule::StracePids,
        Rule::StraceAddresses,
        Rule::StraceTimes,
        Rule::TemporaryNames,
        Rule::RandomBytes,
        Rule::SystemLoad,
        Rule::InterruptedCalls,
    ];

    fn one(text: &str) -> String {
        normalise(text, ALL, &mut Uses::new())
    }

    #[test]
    fn numbers_are_processes_only_where_calls_say_so() {
        assert_eq!(one("vfork() = 12"), "vfork() = <pid>\n");
        assert_eq!(one("close(12) = 0"), "close(12) = 0\n");
        assert_eq!(
            one("wait4(-1, [{WIFEXITED(s)}], 0, NULL) = 12"),
            "wait4(-1, [{WIFEXITED(s)}], 0, NULL) = <pid>\n"
        );
        assert_eq!(
            one("wait4(12, NULL, WNOHANG, NULL) = 0"),
            "wait4(<pid>, NULL, WNOHANG, NULL) = 0\n"
        );
        assert_eq!(
            one("--- SIGCHLD {si_signo=SIGCHLD, si_pid=12, si_uid=0, si_utime=0, si_stime=3} ---"),
            "--- SIGCHLD {si_signo=SIGCHLD, si_pid=<pid>, si_uid=0, si_utime=<time>, si_stime=<time>} ---\n"
        );
    }

    #[test]
    fn a_futex_wait_that_found_the_value_changed_has_not_slept() {
        let wait = "futex(0x7ffd12345678, FUTEX_WAIT_BITSET|FUTEX_CLOCK_REALTIME, 7, NULL, 0x1)";
        let rules = &[Rule::FutexWaits];
        let with = |result: &str| normalise(&format!("{wait} = {result}"), rules, &mut Uses::new());
        assert_eq!(
            with("0"),
            with("-1 EAGAIN (Resource temporarily unavailable)")
        );
        assert_eq!(with("0"), with("-1 EAGAIN"));
        assert_ne!(with("0"), with("-1 ETIMEDOUT (Connection timed out)"));
        let wake = |result: &str| {
            let line = format!("futex(0x7ffd12345678, FUTEX_WAKE_PRIVATE, 1) = {result}");
            normalise(&line, rules, &mut Uses::new())
        };
        assert_ne!(wake("0"), wake("-1 EAGAIN"));
    }

    #[test]
    fn a_call_that_is_made_again_counts_once() {
        let undisturbed = "read(3, \"x\", 1) = 1\n";
        let frozen = "read(3, 0x7ffd12345678, 1) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)\nread(3, \"x\", 1) = 1\n";
        assert_eq!(one(undisturbed), one(frozen));
        let undisturbed = "poll([{fd=3, events=POLLIN}], 1, 500) = 1 ([{fd=3, revents=POLLIN}])\n";
        let frozen = "poll([{fd=3, events=POLLIN}], 1, 500) = ? ERESTART_RESTARTBLOCK (Interrupted by signal)\nrestart_syscall(<... resuming interrupted poll ...>) = 1\n";
        assert_eq!(one(undisturbed), one(frozen));
    }

    #[test]
    fn a_call_that_is_not_made_again_stays() {
        let pause = "pause() = ? ERESTARTNOHAND (To be restarted if no handler)\n";
        let signal = "--- SIGALRM {si_signo=SIGALRM, si_code=SI_KERNEL} ---\n";
        let end = "exit_group(0) = ?\n+++ exited with 0 +++\n";
        let back = "rt_sigreturn({mask=[]}) = -1 EINTR (Interrupted system call)\n";
        let undisturbed = [pause, signal, back, end].concat();
        assert!(one(&undisturbed).contains("pause"));
        assert_ne!(one(&undisturbed), one(&[signal, back, end].concat()));
        // The freeze interrupts the call before the signal does.
        assert_eq!(one(&undisturbed), one(&[pause, &undisturbed].concat()));
        // Two interrupted calls are counted as two.
        let twice = [pause, signal, back, &undisturbed].concat();
        assert_eq!(one(&twice).matches("pause").count(), 2);
        // Killed in it.
        let killed = [pause, "+++ killed by SIGKILL +++\n"].concat();
        assert!(one(&killed).contains("pause"));
        let read =
            "read(0, 0x7ffd12345678, 1) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)\n";
        assert!(one(&[read, signal, back, end].concat()).contains("read(0"));
        for back in [back, "rt_sigreturn({mask=[]}) = 0\n"] {
            let again = [read, signal, back, "read(0, \"\", 1) = 0\n"].concat();
            assert_eq!(one(&again).matches("read").count(), 1);
        }
    }

    #[test]
    fn a_call_that_can_go_on_as_another_keeps_what_both_show() {
        let waits = "futex(0x7ffd12345678, FUTEX_WAIT, 2, {tv_sec=1, tv_nsec=0})";
        let again = "restart_syscall(<... resuming interrupted futex ...>)";
        let error = "-1 ETIMEDOUT (Connection timed out)\n";
        let undisturbed = one(&format!("{waits} = {error}"));
        let stopped = "? ERESTART_RESTARTBLOCK (Interrupted by signal)\n";
        let frozen = one(&format!("{waits} = {stopped}{again} = {error}"));
        assert_eq!(undisturbed, frozen);
        assert!(frozen.contains("FUTEX_WAIT, 2") && frozen.contains("ETIMEDOUT"));
        let sleep = "nanosleep({tv_sec=1, tv_nsec=0}, ";
        let again = "restart_syscall(<... resuming interrupted nanosleep ...>) = 0\n";
        assert_eq!(
            one(&format!("{sleep}0x7ffd12345678) = 0\n")),
            one(&format!(
                "{sleep}{{tv_sec=0, tv_nsec=5}}) = {stopped}{again}"
            ))
        );
        let poll = |fd: u32| one(&format!("poll([{{fd={fd}, events=POLLIN}}], 1, -1) = 1\n"));
        assert_ne!(poll(3), poll(4));
    }

    #[test]
    fn a_signal_and_its_handler_s_return_move_together() {
        let rules = &[Rule::SigchldOrder, Rule::StracePids, Rule::StraceTimes];
        let one = |text: &str| normalise(text, rules, &mut Uses::new());
        let before = "--- SIGCHLD {} ---\nrt_sigreturn({mask=[]}) = 7\nclose(3) = 0\n";
        let behind = "close(3) = 0\n--- SIGCHLD {} ---\nrt_sigreturn({mask=[]}) = 0\n";
        assert_eq!(one(before), one(behind));
        assert_ne!(one("close(3) = 0\n"), one(behind));
        assert_ne!(one("rt_sigreturn({mask=[]}) = 7\n"), one(""));
        let ends = |pid: u32, status: u32, time: u32| {
            format!(
                "--- SIGCHLD {{si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid={pid}, si_uid=0, si_status={status}, si_utime=0, si_stime={time}}} ---\n"
            )
        };
        let two = one(&(ends(7, 0, 1) + &ends(8, 1, 2)));
        assert_eq!(two, one(&(ends(9, 1, 3) + &ends(7, 0, 0))));
        assert_ne!(two, one(&(ends(7, 1, 1) + &ends(8, 1, 2))));
    }

    #[test]
    fn a_thread_that_execve_killed_before_strace_looked_may_end_in_three_more_ways() {
        let execve = "execve(\"./execs\", [\"./execs\"], 0x555555558080 /* 3 vars */";
        let threads = |lines: [&str; 4]| -> Vec<Log> {
            let logs = lines.iter().enumerate();
            logs.map(|(n, line)| (format!("log.{n}"), line.to_string()))
                .collect()
        };
        let first = "clone3({flags=0}, 88) = 6\n+++ superseded by execve in pid 6 +++\n\
                     <... execve resumed>)                   = 0\n";
        let executes = format!("{execve} <pid changed to 5 ...>\n");
        let stale = format!("{execve} <detached ...>\n");
        let unknown = "???( <detached ...>\n";
        let ended = format!("{execve})  = ?\n");
        let rules = &[Rule::KilledByExec];
        let normal = |lines: [&str; 4], rules: &[Rule]| {
            let mut uses = Uses::new();
            let logs = normalised(&threads(lines), rules, &mut uses);
            (logs, uses.get(&Rule::KilledByExec).copied().unwrap_or(0))
        };
        let (expected, none) = normal([first, &executes, "", ""], rules);
        assert_eq!(none, 0);
        for (killed, also, count) in [
            (unknown, "", 1),
            (unknown, unknown, 2),
            (&stale, unknown, 2),
            (&ended, "", 1),
        ] {
            let run = [first, &executes, killed, also];
            assert_eq!(normal(run, rules), (expected.clone(), count));
            assert_ne!(normal(run, &[]).0, expected);
        }
        let first_killed = first.replace("+++ superseded", &format!("{ended}+++ superseded"));
        assert_eq!(
            normal([&first_killed, &executes, "", ""], rules),
            (expected.clone(), 1)
        );
        let after = first.replace("<... execve", &format!("{ended}<... execve"));
        assert_ne!(normal([&after, &executes, "", ""], rules).0, expected);
        // The thread's earlier calls are compared.
        let before = "write(1, \"x\", 1) = 1\n";
        let killed = format!("{before}{unknown}");
        let (wrote, _) = normal([first, &executes, before, ""], rules);
        assert_eq!(normal([first, &executes, &killed, ""], rules).0, wrote);
        assert_ne!(expected, wrote);
        // The rule does not apply to a different call, a line that is not the last, an additional
        // thread, or a first thread that no other one has replaced.
        let result = format!("{execve}) = 0\n");
        let other = stale.replace("./execs", "./other");
        let earlier = format!("{unknown}write(1, \"x\", 1) = 1\n");
        for killed in [
            "write(1, \"x\", 1 <detached ...>\n",
            "???()                                   = ?\n",
            &result,
            &other,
            &earlier,
        ] {
            assert_ne!(normal([first, &executes, killed, ""], rules).0, expected);
        }
        let more = [threads([first, &executes, "", ""]), threads([unknown; 4])].concat();
        let more = normalised(&more[..5], rules, &mut Uses::new());
        assert!(difference(&expected, &more).is_some());
        let alone = first.replace("+++ superseded by execve in pid 6 +++\n", "");
        let (alone_ended, _) = normal([&alone, &executes, "", ""], rules);
        assert_ne!(
            normal([&alone, &executes, unknown, ""], rules).0,
            alone_ended
        );
    }

    #[test]
    fn a_call_too_many_is_a_difference() {
        let expected = vec![one("write(1, \"x\", 1) = 1\nclose(1) = 0\n")];
        let actual = vec![one(
            "write(1, \"x\", 1) = 1\nwrite(1, \"x\", 1) = 1\nclose(1) = 0\n",
        )];
        let text = difference(&expected, &actual).unwrap();
        assert!(text.contains("- close(1) = 0"), "{text}");
        assert!(difference(&expected, &expected).is_none());
        assert!(
            difference(&[], &actual)
                .unwrap()
                .contains("an additional log")
        );
    }
}
