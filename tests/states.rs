// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random states, chosen by a seed (`tests/states/states.c`): either checkpoint refuses one and
//! the tree continues undisturbed, or it restarts and the program finds its state unchanged. No
//! other outcome is permitted. The test prints each seed with its outcome.
//!
//! `CRUCIBLE_STATES` sets the number of states to try, `CRUCIBLE_STATES_FROM` the first seed.

mod common;

use std::collections::BTreeMap;
use std::env;

use common::{LONG, boot};
use crucible_engine::guest::Guest;
use crucible_protocol::{Ended, EventKind, KEEP_DIR, RUN_DIR, Stopped, Trigger};

/// The trigger for getppid(2), which the program calls once its state is complete.
const EVENT: Trigger = Trigger::Count {
    kind: EventKind::Syscall { number: Some(110) },
    task: None,
    nth: 1,
};

const STASH: &str = "states";

/// Number of states to try by default, chosen for the time that a run of all tests can spend.
const FEW: u64 = 40;

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number"))
    })
}

fn run(guest: &mut Guest, script: &str) -> String {
    let argv = ["/bin/sh", "-c", script].map(String::from);
    let run = guest.exec(&argv, &BTreeMap::new(), "/work", LONG);
    let run = run.expect("an answer");
    assert!(run.success(), "{script}: {run:#?}");
    run.stdout
}

/// Thaws a container and waits until it ends on its own. Returns its output and its exit status.
fn finish(guest: &mut Guest, name: &str) -> (String, Option<Ended>) {
    guest.thaw(name).unwrap();
    let stopped = guest.wait(name, LONG).unwrap();
    let Stopped::Exited { workload, .. } = stopped else {
        panic!("{name} did not end: {stopped:?}");
    };
    guest.kill(name).unwrap();
    let mut output = String::new();
    for stream in ["stdout", "stderr"] {
        let bytes = guest.read_file(&format!("{RUN_DIR}/{stream}")).unwrap();
        output.push_str(&String::from_utf8_lossy(&bytes));
    }
    (output, workload)
}

/// The outcome of one state.
struct Outcome {
    restarted: bool,
    /// The names of the parts of the state.
    parts: Vec<String>,
}

fn attempt(guest: &mut Guest, seed: u64) -> Outcome {
    let name = format!("state{seed}");
    let (image, log) = (format!("{KEEP_DIR}/image"), format!("{KEEP_DIR}/log"));
    guest.prepare(Some(STASH)).unwrap();
    let argv = ["./states".to_string(), seed.to_string()];
    guest
        .start(&name, &argv, &BTreeMap::new(), "/work", Some(&EVENT))
        .unwrap();
    let stopped = guest.wait(&name, LONG).unwrap();
    assert!(
        matches!(stopped, Stopped::Frozen(_)),
        "{seed}: {stopped:?}: {}",
        run(guest, &format!("cat {RUN_DIR}/stdout {RUN_DIR}/stderr"))
    );
    let saved = guest.checkpoint(&name, &image, &log, LONG).unwrap();
    let log_text = String::from_utf8(guest.read_file(&log).unwrap()).unwrap();
    let (output, ended) = if saved.success() {
        guest.kill(&name).unwrap();
        let again = format!("{name}-again");
        let restarted = guest.restart(&again, &image, &log, LONG).unwrap();
        let log_text = String::from_utf8(guest.read_file(&log).unwrap()).unwrap();
        assert!(
            restarted.is_ok(),
            "state {seed} was saved but cannot be restarted: {log_text}{restarted:#?}"
        );
        finish(guest, &again)
    } else {
        assert!(
            !log_text.is_empty(),
            "state {seed} is refused without a reason: {saved:#?}"
        );
        finish(guest, &name)
    };
    let restarted = saved.success();
    println!(
        "state {seed}: {}",
        if restarted {
            "restarted"
        } else {
            log_text.trim()
        }
    );
    assert_eq!(
        ended,
        Some(Ended::Exited { code: 0 }),
        "state {seed}, {}: {output}",
        if restarted { "restarted" } else { "refused" }
    );
    let parts = output
        .lines()
        .filter_map(|line| line.strip_suffix(": as it was"))
        .map(str::to_owned)
        .collect();
    Outcome { restarted, parts }
}

#[test]
fn a_state_is_refused_or_restored_completely() {
    let (from, count) = (
        number("CRUCIBLE_STATES_FROM", 1),
        number("CRUCIBLE_STATES", FEW),
    );
    println!("states {from} to {}", from + count - 1);
    let (_directory, mut guest) = boot();
    guest.prepare(None).unwrap();
    guest
        .write_file("/work/states.c", 0o644, include_bytes!("states/states.c"))
        .unwrap();
    run(
        &mut guest,
        "gcc -O1 -Wall -Werror -pthread -o states states.c",
    );
    let all = run(&mut guest, "./states list");
    guest.stash(STASH).unwrap();
    let mut counts: BTreeMap<String, u64> = all.lines().map(|part| (part.to_owned(), 0)).collect();
    let mut restarted = 0;
    for seed in from..from + count {
        let outcome = attempt(&mut guest, seed);
        restarted += u64::from(outcome.restarted);
        assert!(!outcome.parts.is_empty(), "state {seed} has no parts");
        for part in outcome.parts {
            *counts.get_mut(&part).expect("a known part") += 1;
        }
        guest.settle().unwrap();
    }
    println!("{restarted} of {count} restarted; parts: {counts:?}");
    assert!(restarted * 2 >= count, "{restarted} of {count} restarted");
    // Each part occurs about equally often: five times in 40 states.
    for (part, times) in counts {
        assert!(times * 40 >= count * 2, "{part} occurred {times} times");
    }
    guest.shutdown().unwrap();
}
