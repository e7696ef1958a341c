// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Events as people write them: `vfork:3`, `syscall:read:5`, `signal:SIGCHLD`, `time:250ms`.

use std::{fmt, str::FromStr};

use crucible_protocol::Trigger;
use nix::sys::signal::Signal;
use syscalls::x86_64::Sysno;
use thiserror::Error;

/// An event, with its text for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSpec {
    text: String,
    trigger: Trigger,
}

/// Why a text is no event.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{text}` is not an event: {reason}")]
pub struct BadEvent {
    /// The text.
    pub text: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

const KINDS: &[&str] = &["vfork", "vfork-new", "syscall", "signal", "time"];

/// `exit` and `exit_group`.
const EXITS: [u32; 2] = [60, 231];

impl EventSpec {
    /// What the guest is told.
    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }

    /// Whether a triggering task found at `site` stands at this event.
    pub fn is_at(&self, site: &str) -> bool {
        let name = site.split_whitespace().next().unwrap_or("");
        match self.trigger {
            Trigger::Vfork { .. } | Trigger::VforkNew { .. } => name == "vfork",
            Trigger::Syscall { .. } | Trigger::Signal { .. } => name == self.site(),
            Trigger::Time { .. } => true,
        }
    }

    /// The name of the site that [`Self::is_at`] wants.
    pub fn site(&self) -> &'static str {
        match self.trigger {
            Trigger::Vfork { .. } | Trigger::VforkNew { .. } => "vfork",
            // A system call is finished before its task comes to rest, and these end it.
            Trigger::Syscall { number, .. } if EXITS.contains(&number) => "exiting",
            Trigger::Syscall { .. } | Trigger::Signal { .. } => "freezer",
            Trigger::Time { .. } => "any",
        }
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
    let words: Vec<_> = text.split(':').collect();
    Ok(match words[..] {
        ["vfork"] => Trigger::Vfork { nth: 1 },
        ["vfork", n] => Trigger::Vfork { nth: nth(n)? },
        ["vfork-new"] => Trigger::VforkNew { nth: 1 },
        ["vfork-new", n] => Trigger::VforkNew { nth: nth(n)? },
        ["syscall", name] => Trigger::Syscall {
            number: syscall(name)?,
            nth: 1,
        },
        ["syscall", name, n] => Trigger::Syscall {
            number: syscall(name)?,
            nth: nth(n)?,
        },
        ["signal", name] => Trigger::Signal {
            number: signal(name)?,
            nth: 1,
        },
        ["signal", name, n] => Trigger::Signal {
            number: signal(name)?,
            nth: nth(n)?,
        },
        ["time", time] => Trigger::Time { ms: time_ms(time)? },
        ["syscall" | "signal" | "time"] => {
            return Err("a name or a time is missing, as in `syscall:read:5`, `signal:SIGCHLD`, `time:250ms`".into());
        }
        [kind, ..] if KINDS.contains(&kind) => return Err("there are too many parts".into()),
        [kind, ..] => {
            return Err(match suggest(kind, KINDS.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it begins with none of {}", KINDS.join(", ")),
            });
        }
        [] => return Err("it is empty".into()),
    })
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

/// The most similar of some names, if one is similar at all.
pub(crate) fn suggest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
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

    #[test]
    fn every_documented_form_is_understood() {
        assert_eq!(trigger("vfork"), Trigger::Vfork { nth: 1 });
        assert_eq!(trigger("vfork:3"), Trigger::Vfork { nth: 3 });
        assert_eq!(trigger("vfork-new:2"), Trigger::VforkNew { nth: 2 });
        assert_eq!(
            trigger("syscall:read:5"),
            Trigger::Syscall { number: 0, nth: 5 }
        );
        assert_eq!(
            trigger("signal:SIGCHLD:2"),
            Trigger::Signal { number: 17, nth: 2 }
        );
        assert_eq!(trigger("time:250ms"), Trigger::Time { ms: 250 });
        assert_eq!(trigger("time:2s"), Trigger::Time { ms: 2000 });
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
        assert!(!vfork.is_at("freezer"));
        assert!(!vfork.is_at(""));
        let exit: EventSpec = "syscall:exit_group".parse().unwrap();
        assert!(exit.is_at("exiting"));
    }
}
