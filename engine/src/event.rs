// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The text form of events: `vfork:3`, `syscall:read:5`, `signal:SIGCHLD`,
//! `ptrace-stop:@2.1:7`, `time:250ms`.

use std::{fmt, str::FromStr};

use crucible_protocol::{EventKind, Trigger};
use nix::sys::signal::Signal;
use syscalls::x86_64::Sysno;
use thiserror::Error;

/// An event and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSpec {
    text: String,
    trigger: Trigger,
}

/// An error in the text of an event.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{text}` is not an event: {reason}")]
pub struct BadEvent {
    /// The text that was parsed.
    pub text: String,
    /// The error, with a suggestion.
    pub reason: String,
}

/// A kind of event, for the parser and the reference.
pub struct Kind {
    /// Its first word.
    pub name: &'static str,
    /// Its grammar.
    pub grammar: &'static str,
    /// The description of the stop.
    pub stops: &'static str,
}

/// All kinds of events.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "vfork",
        grammar: "vfork[:N]",
        stops: "at the Nth clone with `CLONE_VFORK`: the child runs, the parent waits",
    },
    Kind {
        name: "vfork-new",
        grammar: "vfork-new[:N]",
        stops: "the same, but before the child has run in user space",
    },
    Kind {
        name: "syscall",
        grammar: "syscall:NAME[:N]",
        stops: "at the Nth entry of a system call, which is then finished or interrupted",
    },
    Kind {
        name: "syscall-exit",
        grammar: "syscall-exit:NAME[:N]",
        stops: "at the Nth exit of a system call, before it is reported to a tracer",
    },
    Kind {
        name: "signal",
        grammar: "signal:NAME[:N]",
        stops: "at the Nth delivery of a signal to a handler",
    },
    Kind {
        name: "ptrace-stop",
        grammar: "ptrace-stop[:N]",
        stops: "at the Nth ptrace stop, before it is reported to the tracer",
    },
    Kind {
        name: "exec-wait",
        grammar: "exec-wait[:N]",
        stops: "in the Nth `execve` that waits for the other threads of its process to die",
    },
    Kind {
        name: "all",
        grammar: "all[:N]",
        stops: "at the Nth of any of these",
    },
    Kind {
        name: "time",
        grammar: "time:250ms, time:2s",
        stops: "after a time; the only event that is not exact",
    },
];

/// `exit` and `exit_group`.
const EXITS: [u32; 2] = [60, 231];

impl EventSpec {
    /// Returns the `nth` event of a kind of one task, with the task named as the kernel does.
    pub fn of_task(kind: EventKind, task: &str, nth: u64) -> Self {
        let trigger = Trigger::Count {
            kind,
            task: Some(task.to_owned()),
            nth,
        };
        Self {
            text: format!("{}:@{task}:{nth}", kind_text(kind)),
            trigger,
        }
    }

    /// Returns the next event of a kind, of any task.
    pub fn next(kind: EventKind) -> Self {
        let trigger = Trigger::Count {
            kind,
            task: None,
            nth: 1,
        };
        Self {
            text: format!("{}:1", kind_text(kind)),
            trigger,
        }
    }

    /// Returns the trigger for the guest.
    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }

    /// Returns true when a triggering task at `site` is at this event.
    pub fn is_at(&self, site: &str) -> bool {
        let name = site.split_whitespace().next().unwrap_or("");
        self.sites().is_none_or(|sites| sites.contains(&name))
    }

    /// Returns the sites that [`Self::is_at`] accepts; empty if it accepts any.
    pub fn sites(&self) -> Option<&'static [&'static str]> {
        let Trigger::Count { kind, .. } = self.trigger else {
            return None;
        };
        Some(match kind {
            // A traced parent stops (PTRACE_EVENT_VFORK) before it waits.
            EventKind::Vfork | EventKind::VforkNew => &["vfork", "ptrace-stop"],
            // A task finishes its system call before it quiesces, and these calls end the task.
            EventKind::Syscall { number: Some(n) } if EXITS.contains(&n) => {
                &["exiting", "ptrace-stop"]
            }
            EventKind::Syscall { number: Some(_) }
            | EventKind::SyscallExit { .. }
            | EventKind::Signal { .. } => &["freezer", "ptrace-stop"],
            EventKind::PtraceStop => &["ptrace-stop"],
            // Its threads may have died before it waits.
            EventKind::ExecWait => &["exec", "ptrace-stop", "freezer"],
            EventKind::Syscall { number: None } | EventKind::All => return None,
        })
    }
}

impl fmt::Display for EventSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for EventSpec {
    type Err = BadEvent;

    fn from_str(text: &str) -> Result<Self, BadEvent> {
        match parse(text) {
            Ok(trigger) => Ok(Self {
                text: text.to_owned(),
                trigger,
            }),
            Err(reason) => Err(BadEvent {
                text: text.to_owned(),
                reason,
            }),
        }
    }
}

fn parse(text: &str) -> Result<Trigger, String> {
    let mut words: Vec<_> = text.split(':').collect();
    if let ["time", time] = words[..] {
        return Ok(Trigger::Time { ms: time_ms(time)? });
    }
    let kind = words.remove(0);
    // For every kind, the count is the last part, and the task the one before it.
    let numbers = usize::from(matches!(kind, "syscall" | "syscall-exit" | "signal"));
    let nth = match words.len() > numbers && !words[words.len() - 1].starts_with('@') {
        true => nth(words.pop().unwrap_or_default())?,
        false => 1,
    };
    let task = match words.last().and_then(|w| w.strip_prefix('@')) {
        Some(name) if words.len() > numbers => {
            words.pop();
            Some(task(name)?)
        }
        _ => None,
    };
    let kind = match (kind, &words[..]) {
        ("vfork", []) => EventKind::Vfork,
        ("vfork-new", []) => EventKind::VforkNew,
        ("ptrace-stop", []) => EventKind::PtraceStop,
        ("exec-wait", []) => EventKind::ExecWait,
        ("all", []) => EventKind::All,
        ("syscall", [name]) => EventKind::Syscall {
            number: any_or(name, syscall)?,
        },
        ("syscall-exit", [name]) => EventKind::SyscallExit {
            number: any_or(name, syscall)?,
        },
        ("signal", [name]) => EventKind::Signal {
            number: any_or(name, signal)?,
        },
        ("syscall" | "syscall-exit" | "signal" | "time", []) => {
            return Err("a name or a time is missing, as in `syscall:read:5`, `signal:SIGCHLD`, `time:250ms`".into());
        }
        (kind, _) if KINDS.iter().any(|k| k.name == kind) => return Err("too many parts".into()),
        (kind, _) => {
            return Err(match suggest(kind, KINDS.iter().map(|k| k.name)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    let names: Vec<_> = KINDS.iter().map(|k| k.name).collect();
                    format!("expected one of {}", names.join(", "))
                }
            });
        }
    };
    Ok(Trigger::Count { kind, task, nth })
}

/// Returns the text of a kind in an event.
fn kind_text(kind: EventKind) -> String {
    let name = |n: Option<u32>| match n {
        None => "*".to_owned(),
        Some(n) => Sysno::new(n as usize).map_or(n.to_string(), |s| s.name().to_owned()),
    };
    match kind {
        EventKind::Vfork => "vfork".into(),
        EventKind::VforkNew => "vfork-new".into(),
        EventKind::Syscall { number } => format!("syscall:{}", name(number)),
        EventKind::SyscallExit { number } => format!("syscall-exit:{}", name(number)),
        EventKind::Signal { number } => match number.and_then(|n| i32::try_from(n).ok()) {
            None => "signal:*".into(),
            Some(n) => match Signal::try_from(n) {
                Ok(signal) => format!("signal:{signal}"),
                Err(_) => format!("signal:{n}"),
            },
        },
        EventKind::PtraceStop => "ptrace-stop".into(),
        EventKind::ExecWait => "exec-wait".into(),
        EventKind::All => "all".into(),
    }
}

fn any_or(name: &str, number: impl Fn(&str) -> Result<u32, String>) -> Result<Option<u32>, String> {
    match name {
        "*" => Ok(None),
        name => number(name).map(Some),
    }
}

/// Parses a task's path in the tree, as in `2.1.3`.
fn task(name: &str) -> Result<String, String> {
    let good = name
        .split('.')
        .all(|n| n.parse::<u16>().is_ok_and(|n| n > 0));
    match good {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "`@{name}` is not a task; write its path in the tree, as in `@2.1.3`"
        )),
    }
}

fn nth(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("events are counted from 1".into()),
        Ok(n) => Ok(n),
        Err(_) => Err(format!("`{text}` is not a count")),
    }
}

fn syscall(name: &str) -> Result<u32, String> {
    match Sysno::from_str(name) {
        Ok(number) => Ok(number.id() as u32),
        Err(_) => Err(match suggest(name, Sysno::iter().map(|s| s.name())) {
            Some(near) => format!("x86-64 has no system call `{name}`; did you mean `{near}`?"),
            None => format!("x86-64 has no system call `{name}`"),
        }),
    }
}

fn signal(name: &str) -> Result<u32, String> {
    let long = if name.starts_with("SIG") {
        name.to_owned()
    } else {
        format!("SIG{name}")
    };
    match Signal::from_str(&long) {
        Ok(signal) => Ok(signal as u32),
        Err(_) => Err(
            match suggest(&long, Signal::iterator().map(Signal::as_str)) {
                Some(near) => format!("there is no signal `{name}`; did you mean `{near}`?"),
                None => format!("there is no signal `{name}`"),
            },
        ),
    }
}

fn time_ms(text: &str) -> Result<u64, String> {
    let number = |digits: &str| {
        digits
            .parse::<u64>()
            .map_err(|_| format!("`{text}` is not a time; write `250ms` or `2s`"))
    };
    match text.strip_suffix("ms") {
        Some(digits) => number(digits),
        None => number(text.strip_suffix('s').unwrap_or(""))?
            .checked_mul(1000)
            .ok_or_else(|| format!("`{text}` is too long")),
    }
}

/// Returns the most similar name, if any is similar enough.
pub fn suggest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(text: &str) -> Trigger {
        text.parse::<EventSpec>().unwrap().trigger().clone()
    }

    fn reason(text: &str) -> String {
        text.parse::<EventSpec>().unwrap_err().reason
    }

    fn count(kind: EventKind, nth: u64) -> Trigger {
        let task = None;
        Trigger::Count { kind, task, nth }
    }

    #[test]
    fn every_documented_form_is_understood() {
        assert_eq!(trigger("vfork"), count(EventKind::Vfork, 1));
        assert_eq!(trigger("vfork:3"), count(EventKind::Vfork, 3));
        assert_eq!(trigger("vfork-new:2"), count(EventKind::VforkNew, 2));
        assert_eq!(trigger("ptrace-stop:4"), count(EventKind::PtraceStop, 4));
        assert_eq!(trigger("all:9"), count(EventKind::All, 9));
        let read = EventKind::Syscall { number: Some(0) };
        assert_eq!(trigger("syscall:read:5"), count(read, 5));
        let any = EventKind::SyscallExit { number: None };
        assert_eq!(trigger("syscall-exit:*:2"), count(any, 2));
        let chld = EventKind::Signal { number: Some(17) };
        assert_eq!(trigger("signal:SIGCHLD:2"), count(chld, 2));
        assert_eq!(trigger("time:250ms"), Trigger::Time { ms: 250 });
        assert_eq!(trigger("time:2s"), Trigger::Time { ms: 2000 });
    }

    #[test]
    fn a_point_can_be_one_task_s_and_is_written_as_it_is_read() {
        for (kind, text) in [
            (EventKind::PtraceStop, "ptrace-stop:@2.1:7"),
            (EventKind::Syscall { number: None }, "syscall:*:@2:7"),
            (EventKind::Syscall { number: Some(0) }, "syscall:read:@2:7"),
            (
                EventKind::Signal { number: Some(17) },
                "signal:SIGCHLD:@2.1.9:7",
            ),
        ] {
            let task = text.split(['@', ':']).rev().nth(1).unwrap();
            let spec = EventSpec::of_task(kind, task, 7);
            assert_eq!(spec.to_string(), text);
            assert_eq!(spec.trigger(), &trigger(text), "{text}");
        }
        let first = Trigger::Count {
            kind: EventKind::All,
            task: Some("2".into()),
            nth: 1,
        };
        assert_eq!(trigger("all:@2"), first);
        assert!(reason("all:@2.x:1").contains("`@2.1.3`"));
        assert!(reason("all:@0:1").contains("`@2.1.3`"));
    }

    #[test]
    fn a_wrong_word_gets_a_suggestion() {
        assert_eq!(reason("vfrok:1"), "did you mean `vfork`?");
        assert!(reason("syscall:raed").contains("`read`"));
        assert!(reason("signal:SIGCHDL").contains("`SIGCHLD`"));
        assert!(reason("time:250").contains("`250ms`"));
        assert!(reason("vfork:0").contains("from 1"));
        assert!(reason("vfork:1:2").contains("too many"));
        assert!(reason("syscall").contains("missing"));
    }

    #[test]
    fn an_event_names_the_site_of_its_task() {
        let vfork: EventSpec = "vfork".parse().unwrap();
        assert!(vfork.is_at("vfork nr=12"));
        assert!(vfork.is_at("ptrace-stop vfork"));
        assert!(!vfork.is_at("freezer"));
        assert!(!vfork.is_at(""));
        let exit: EventSpec = "syscall:exit_group".parse().unwrap();
        assert!(exit.is_at("exiting"));
    }
}
