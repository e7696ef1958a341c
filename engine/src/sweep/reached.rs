// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The event at which a run was stopped, as far as its frozen tree shows.
//!
//! A point is a count of one task's events. If two of them change their order between runs, as a
//! wait and the signal that ends it may do, the count leads to a different event than the listed
//! one. The task's site and its system call distinguish them: exactly for ptrace stops, except for
//! the signal of a signal-delivery stop; for other events only by the site that the task reached
//! after its event.

use crucible_protocol::{EventKind, Fact, TaskFacts};

use super::points::call;
use crate::run::Frozen;

/// System calls after which the caller may have exited.
const ENDINGS: [&str; 5] = ["exit", "exit_group", "kill", "tkill", "tgkill"];

/// Returns the site and the system call of the task that stopped a run: `ptrace-stop syscall-exit
/// read`, `freezer read`.
pub(super) fn place(frozen: &Frozen) -> String {
    let mut tasks = frozen.tasks.tasks.iter();
    tasks
        .find(|task| task.tid == frozen.freeze.tid)
        .map_or_else(|| "nowhere".to_owned(), place_of)
}

fn place_of(task: &TaskFacts) -> String {
    // Words such as `nr=5` are specific to this run.
    let words = task.site.split(' ').filter(|word| !word.contains('='));
    let site = words.collect::<Vec<_>>().join(" ");
    match site.as_str() {
        // The interrupted call does not matter, as in a listing. An exiting task is in no call.
        "ptrace-stop signal" | "exiting" => site,
        _ => {
            let facts = task.facts.get("syscall");
            let facts = facts.map_or("".into(), Fact::shown);
            let word = facts.split_whitespace().next().unwrap_or("");
            match word.parse::<i64>() {
                Ok(_) => format!("{site} {}", call(word)),
                Err(_) => format!("{site} unknown"),
            }
        }
    }
}

/// Returns the event that was reached instead of the listed one, or `None` if it is the listed one
/// as far as is known.
pub(super) fn other(kind: EventKind, listed: &str, place: &str) -> Option<String> {
    if can_be(listed, place) {
        return None;
    }
    let call = place.split(' ').next_back().unwrap_or_default();
    Some(match kind {
        // All events of such a sweep are of this kind.
        EventKind::Syscall { .. } if place != "exiting" => format!("syscall {call}"),
        EventKind::SyscallExit { .. } if place != "exiting" => format!("syscall-exit {call}"),
        _ => place.to_owned(),
    })
}

/// Returns true when a task that had the listed event can be at this place.
fn can_be(listed: &str, place: &str) -> bool {
    let listed: Vec<_> = listed.split(' ').collect();
    let place: Vec<_> = place.split(' ').collect();
    // After a return from a signal handler the task is no longer in a call.
    let same =
        |wanted: &str, call: &str| call == wanted || (wanted, call) == ("rt_sigreturn", "none");
    match (&listed[..], &place[..]) {
        (["ptrace-stop", "signal", _], _) => place == ["ptrace-stop", "signal"],
        (["ptrace-stop", ..], _) => place == listed,
        (["vfork"], ["vfork", _]) => true,
        // The tracer is notified before the wait begins.
        (["vfork-new"], ["vfork", _] | ["ptrace-stop", "vfork", _]) => true,
        (["exec-wait"], ["exec" | "ptrace-stop" | "freezer", ..]) => true,
        (["signal", _], ["freezer" | "stopped", _]) => true,
        (["signal", _], ["ptrace-stop", "trap" | "handler", _]) => true,
        // These stops precede the event.
        (["syscall", _], ["ptrace-stop", "syscall-enter" | "seccomp", _]) => false,
        (["syscall", wanted], ["exiting"]) => ENDINGS.contains(wanted),
        (
            ["syscall", wanted],
            ["freezer" | "stopped" | "vfork", call] | ["ptrace-stop", _, call],
        )
        | (
            ["syscall-exit", wanted],
            ["freezer" | "stopped", call] | ["ptrace-stop", "syscall-exit" | "trap", call],
        ) => same(wanted, call),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_protocol::{Freeze, Observation};

    fn at(site: &str, syscall: &str) -> String {
        let mut task = TaskFacts {
            tid: 7,
            site: site.into(),
            ..TaskFacts::default()
        };
        task.facts.insert("syscall".into(), syscall.into());
        place(&Frozen {
            freeze: Freeze { tid: 7, count: 1 },
            tasks: Observation {
                tasks: vec![TaskFacts::default(), task],
            },
            nonce: None,
        })
    }

    #[test]
    fn the_place_is_that_of_the_triggering_task() {
        assert_eq!(
            at("ptrace-stop syscall-enter", "61 0xffff 0x0\n"),
            "ptrace-stop syscall-enter wait4"
        );
        assert_eq!(at("vfork nr=12", "58 0x0\n"), "vfork vfork");
        assert_eq!(at("ptrace-stop signal", "61 0x0\n"), "ptrace-stop signal");
        assert_eq!(at("freezer", "-1 0x7ffc 0x7f11\n"), "freezer none");
        assert_eq!(at("freezer", "running\n"), "freezer unknown");
        assert_eq!(at("exiting", "<No such process>"), "exiting");
    }

    #[test]
    fn a_stop_different_from_the_listed_one_is_reported() {
        let other = |listed, place| other(EventKind::All, listed, place);
        let wait = "ptrace-stop syscall-enter wait4";
        assert_eq!(other(wait, wait), None);
        assert_eq!(
            other(wait, "ptrace-stop signal").as_deref(),
            Some("ptrace-stop signal")
        );
        assert!(other(wait, "ptrace-stop syscall-exit wait4").is_some());
        assert!(other(wait, "ptrace-stop syscall-enter read").is_some());
        assert!(other(wait, "freezer wait4").is_some());
        assert_eq!(other("ptrace-stop signal 17", "ptrace-stop signal"), None);
        assert!(other("ptrace-stop signal 17", wait).is_some());
    }

    #[test]
    fn other_events_are_distinguished_by_the_place_of_their_task() {
        let other = |listed, place| other(EventKind::All, listed, place).is_some();
        for (listed, place) in [
            ("syscall read", "freezer read"),
            ("syscall read", "ptrace-stop syscall-exit read"),
            ("syscall rt_sigreturn", "freezer none"),
            ("syscall exit_group", "exiting"),
            ("syscall clone", "vfork clone"),
            ("syscall-exit read", "ptrace-stop syscall-exit read"),
            ("vfork", "vfork vfork"),
            ("vfork-new", "ptrace-stop vfork clone3"),
            ("signal 17", "freezer wait4"),
        ] {
            assert!(!other(listed, place), "{listed}, {place}");
        }
        for (listed, place) in [
            ("syscall read", "freezer write"),
            ("syscall read", "freezer unknown"),
            ("syscall read", "ptrace-stop syscall-enter read"),
            ("syscall read", "exiting"),
            ("syscall-exit clone", "vfork clone"),
            ("vfork", "freezer vfork"),
            ("signal 17", "vfork vfork"),
            ("signal 17", "nowhere"),
        ] {
            assert!(other(listed, place), "{listed}, {place}");
        }
    }

    #[test]
    fn in_a_sweep_of_one_kind_the_kind_is_known() {
        let kind = EventKind::Syscall { number: None };
        let reached = other(kind, "syscall read", "freezer write");
        assert_eq!(reached.as_deref(), Some("syscall write"));
    }
}
