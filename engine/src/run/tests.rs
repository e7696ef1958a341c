// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::sync::{Arc, Mutex};

use crucible_protocol::{Reply, Request};

use super::*;
use crate::{
    blame::Condition,
    played::{PlayedLab, timeout},
};

/// Runs `work` with a runner of a case that stops at its second read(2).
fn with_runner<T>(lab: &PlayedLab, links: u32, work: impl FnOnce(&mut Runner<'_, '_>) -> T) -> T {
    let case = Case {
        at: "syscall:read:2".parse().unwrap(),
        ..Case::example()
    };
    lab.session(|session| {
        session.guest().unwrap();
        work(&mut Runner {
            session,
            stash: "test",
            case: &case,
            backend: Backend::Crucible,
            timings: &mut BTreeMap::new(),
            root: 0,
            patience: 0,
            missed: 0,
            any_point: false,
            supported: false,
            links,
        })
    })
}

/// Returns the limits of the waits, and the condition of a run without a freeze whose first wait
/// reaches its limit, in a guest whose CPU then takes this time for what usually takes 40 ms.
fn limits(later_ns: u64) -> (Vec<u64>, Option<Condition>) {
    let limits = Arc::new(Mutex::new(Vec::new()));
    let asked = limits.clone();
    let lab = PlayedLab::new(move |_, request| {
        let mut asked = asked.lock().unwrap();
        match request {
            Request::Calibrate if !asked.is_empty() => Some(Reply::Calibrated { ns: later_ns }),
            Request::Wait { timeout_ms, .. } => {
                asked.push(*timeout_ms);
                (asked.len() == 1).then(timeout)
            }
            _ => None,
        }
    });
    let ended = with_runner(&lab, 1, |runner| runner.undisturbed(1));
    let limits = limits.lock().unwrap().clone();
    (limits, ended.err().map(|stop| stop.condition))
}

#[test]
fn a_limit_grows_with_the_time_that_the_guests_cpu_takes() {
    assert_eq!(limits(160_000_000), (vec![1000, 4000], None));
    // The CPU is as fast as at first, so the workload is to blame.
    assert_eq!(limits(40_000_000), (vec![1000], Some(Condition::EarlyHang)));
    // A guest that is slower by any factor is not distinguished from a hung one.
    assert_eq!(limits(u64::MAX), (vec![1000, 20_000], None));
}

/// Returns the reason of the hang of a restarted run or of a control with this number of links, at
/// this wait of it, counted from 1.
fn hang(run: &'static str, links: u32, at: u32) -> String {
    let mut waits = 0;
    let lab = PlayedLab::new(move |_, request| match request {
        Request::Wait { run: name, .. } if name == run => {
            waits += 1;
            (waits == at).then(timeout)
        }
        _ => None,
    });
    let stop = with_runner(&lab, links, |runner| match run {
        "control" => runner.control().err(),
        _ => runner
            .restarted(RestartIn::Same)
            .and_then(|run| run.end)
            .err(),
    });
    let stop = stop.expect("a run that hangs");
    assert!(!stop.guest_usable);
    stop.why
}

#[test]
fn a_hang_of_a_chain_is_at_its_link_and_its_event() {
    let never = |event: &str| {
        format!("the event {event} did not happen within the time limit; its count is 0")
    };
    let endless = "the workload did not end within the time limit";
    for run in ["restarted", "control"] {
        assert_eq!(hang(run, 3, 1), never("syscall:read:2"), "{run}");
        let next = never("all:1");
        assert_eq!(hang(run, 3, 2), format!("link 2 of 3: {next}"), "{run}");
        assert_eq!(hang(run, 3, 3), format!("link 3 of 3: {next}"), "{run}");
        let end = format!("link 2 of 2: {endless}");
        assert_eq!(hang(run, 2, 3), end, "{run}");
        // A single restart is not a chain.
        assert_eq!(hang(run, 1, 2), endless, "{run}");
    }
}
