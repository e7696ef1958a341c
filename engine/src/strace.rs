// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `strace -ff` writes, a log a task, made comparable from run to run by named rules.
//!
//! Within a task the order is kept. Tasks are not told apart by their numbers, which other
//! tasks' births decide, but by what they did: the logs are compared as a set.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::{
    compare,
    normalise::{Rule, Uses},
};

/// One log: the file's name, and what is in it.
pub type Log = (String, String);

fn regex(text: &str) -> Regex {
    Regex::new(text).expect("a constant")
}

/// Where a number is a process: what calls return and take, and what a signal tells.
static PIDS: LazyLock<[Regex; 3]> = LazyLock::new(|| {
    [
        regex(
            r"^((?:fork|vfork|clone|clone3|wait4|waitid|getpid|gettid|getppid|getpgrp|getpgid|getsid|setsid|set_tid_address)\(.*\) += )([1-9]\d*)",
        ),
        regex(
            r"^((?:kill|tgkill|tkill|wait4|setpgid|getpgid|getsid|prlimit64|sched_getaffinity|sched_setaffinity)\()([1-9]\d*)",
        ),
        regex(r"\b((?:si_pid|child_tid|parent_tid)=(?:\[|\{)?)([1-9]\d*)"),
    ]
});

static ADDRESSES: LazyLock<Regex> = LazyLock::new(|| regex(r"0x[0-9a-f]{7,}"));
static TIMES: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"\b(si_utime|si_stime|tv_sec|tv_nsec|tv_usec|uptime|tms_[cus]+time)=-?\d+(?: /\* [\d.]+ s \*/)?",
    )
});
static TEMPORARY: LazyLock<Regex> = LazyLock::new(|| regex(r"/tmp/(cc|Gm)[A-Za-z0-9]{6}"));

static PADDED: LazyLock<Regex> = LazyLock::new(|| regex(r"\) += "));
static LOAD: LazyLock<Regex> = LazyLock::new(|| regex(r"^sysinfo\(\{.*\}\)"));

/// A call that something interrupted: it is made again, or goes on as `restart_syscall`.
static INTERRUPTED: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^(?P<call>\w+\(.*\)) += \? ERESTART\w* .*$"));
static GOES_ON: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"^restart_syscall\(<\.\.\. resuming interrupted (?P<name>\w+) \.\.\.>\) += (?P<result>.*)$",
    )
});

/// Calls that can go on as `restart_syscall`, which does not tell what they tell.
const GOING_ON: [&str; 4] = ["poll(", "nanosleep(", "clock_nanosleep(", "futex("];

/// The logs, each by the rules, in an order that no number decides.
pub fn normalised(logs: &[Log], rules: &[Rule], uses: &mut Uses) -> Vec<String> {
    let mut texts: Vec<_> = logs
        .iter()
        .map(|(_, text)| normalise(text, rules, uses))
        .collect();
    texts.sort();
    texts
}

/// The first log of one set that is not in the other, held against the one that is most
/// like it there. Both are normalised.
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
            "a log too many, which begins\n  + {}",
            first_line(more)
        ));
    };
    let numbers = format!(
        "{} of {} logs differ, and {} are there instead",
        lost.len(),
        expected.len(),
        left.len()
    );
    let nearest = left.iter().max_by_key(|other| same(log, other));
    Some(match nearest {
        None => format!(
            "{numbers}; one that is lost begins\n  - {}",
            first_line(log)
        ),
        Some(other) => format!(
            "{numbers}; of `{}`: {}",
            first_line(log),
            compare::difference(log, other).unwrap_or_default()
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
    let mut ended = 0u64;
    let mut handled = false;
    for line in text.lines() {
        // strace aligns results, by lines that may have been longer before the rules.
        let mut line = PADDED.replace(line, ") = ").into_owned();
        // mkstemp() draws again where a number would make one name likelier than others.
        if has(Rule::RandomBytes) && line.starts_with("getrandom(") {
            *uses.entry(Rule::RandomBytes).or_default() += 1;
            continue;
        }
        if has(Rule::SigchldOrder) && line.starts_with("--- SIGCHLD ") {
            ended += 1;
            handled = true;
            continue;
        }
        // The return of a handler that makes no call of its own belongs to the signal.
        if std::mem::take(&mut handled) && line.starts_with("rt_sigreturn(") {
            continue;
        }
        if has(Rule::InterruptedCalls) {
            if let Some(found) = INTERRUPTED.captures(&line) {
                interrupted = Some(found["call"].to_owned());
                *uses.entry(Rule::InterruptedCalls).or_default() += 1;
                continue;
            }
            line = going_on(&line, &mut interrupted);
        }
        for (rule, apply) in LINE_RULES {
            if has(*rule) {
                let (changed, count) = apply(&line);
                line = changed;
                if count > 0 {
                    *uses.entry(*rule).or_default() += count;
                }
            }
        }
        lines.push(line);
    }
    if ended > 0 {
        lines.push(format!("{ended} times SIGCHLD"));
        *uses.entry(Rule::SigchldOrder).or_default() += ended;
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Of a call that can go on as another, what both of them show.
fn going_on(line: &str, interrupted: &mut Option<String>) -> String {
    if let Some(found) = GOES_ON.captures(line)
        && let Some(call) = interrupted
            .take()
            .filter(|call| call.split('(').next() == Some(&found["name"]))
    {
        return short(&format!("{call} = {}", &found["result"]));
    }
    if GOING_ON.iter().any(|name| line.starts_with(name)) {
        return short(line);
    }
    line.to_owned()
}

/// A call's name and the number it returned.
fn short(line: &str) -> String {
    let name = line.split('(').next().unwrap_or("");
    let result = line.rsplit(" = ").next().unwrap_or("");
    let number = result.split(' ').next().unwrap_or("");
    format!("{name}(...) = {number}")
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
    fn a_call_that_is_made_again_counts_once() {
        let undisturbed = "read(3, \"x\", 1) = 1\n";
        let frozen = "read(3, 0x7ffd12345678, 1) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)\nread(3, \"x\", 1) = 1\n";
        assert_eq!(one(undisturbed), one(frozen));
        let undisturbed = "poll([{fd=3, events=POLLIN}], 1, 500) = 1 ([{fd=3, revents=POLLIN}])\n";
        let frozen = "poll([{fd=3, events=POLLIN}], 1, 500) = ? ERESTART_RESTARTBLOCK (Interrupted by signal)\nrestart_syscall(<... resuming interrupted poll ...>) = 1\n";
        assert_eq!(one(undisturbed), one(frozen));
    }

    #[test]
    fn a_signal_and_its_handler_s_return_move_together() {
        let rules = &[Rule::SigchldOrder];
        let one = |text| normalise(text, rules, &mut Uses::new());
        let before = "--- SIGCHLD {} ---\nrt_sigreturn({mask=[]}) = 7\nclose(3) = 0\n";
        let behind = "close(3) = 0\n--- SIGCHLD {} ---\nrt_sigreturn({mask=[]}) = 0\n";
        assert_eq!(one(before), one(behind));
        assert_ne!(one("close(3) = 0\n"), one(behind));
        assert_ne!(one("rt_sigreturn({mask=[]}) = 7\n"), one(""));
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
        assert!(difference(&[], &actual).unwrap().contains("too many"));
    }
}
