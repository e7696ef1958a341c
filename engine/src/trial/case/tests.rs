// SPDX-License-Identifier: Apache-2.0 OR MIT

use crucible_protocol::{Reply, Request};

use super::*;
use crate::{
    played::{PlayedLab, timeout},
    trial,
};

/// A run in a guest, and what is special about it.
#[derive(Clone, Copy)]
enum Special {
    /// It does not end.
    Hangs,
    /// Its standard output differs from that of other runs.
    Differs,
}

/// Runs a case in which these runs are special: their guest's number, their name, and how. Returns
/// the outcome and the number of guests.
fn tried(special: &'static [(u32, &str, Special)]) -> (Outcome, u32) {
    let (mut run, mut was_frozen) = (String::new(), false);
    let lab = PlayedLab::new(move |guest, request| {
        match request {
            Request::Start { run: name, .. } => {
                (run, was_frozen) = (name.clone(), false);
            }
            Request::Thaw { .. } => was_frozen = true,
            _ => {}
        }
        let (.., how) = special
            .iter()
            .find(|(number, name, _)| (*number, *name) == (guest, run.as_str()))?;
        match (how, request) {
            (Special::Hangs, Request::Wait { .. }) if was_frozen => Some(timeout()),
            (Special::Differs, Request::ReadFile { path, .. }) if path.ends_with("/stdout") => {
                let data = b"something else\n".to_vec();
                Some(Reply::Data { data, end: true })
            }
            _ => None,
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let scenario = Scenario {
        name: "test".into(),
        dir: directory.path().to_owned(),
        summary: String::new(),
        shared: Vec::new(),
        build: Vec::new(),
        cases: vec![Case::example()],
    };
    let (outcome, _) = lab.session(|session| {
        trial::build(session, &scenario).unwrap();
        case(session, &scenario, &scenario.cases[0], &Options::default())
    });
    (outcome, lab.guests())
}

#[test]
fn a_run_like_the_control_passes_in_one_guest() {
    let (outcome, guests) = tried(&[]);
    assert_eq!(outcome.condition, Condition::Passed, "{outcome:?}");
    assert_eq!(guests, 1);
}

#[test]
fn a_hang_is_one_if_a_second_control_in_another_guest_ends() {
    let (outcome, guests) = tried(&[(1, "restarted", Special::Hangs)]);
    assert_eq!(outcome.condition, Condition::Hang, "{outcome:?}");
    assert_eq!(guests, 2);
}

#[test]
fn if_a_second_control_does_not_end_the_restart_is_not_to_blame() {
    let (outcome, guests) = tried(&[
        (1, "restarted", Special::Hangs),
        (2, "control", Special::Hangs),
    ]);
    assert_eq!(outcome.condition, Condition::EarlyHang, "{outcome:?}");
    let endless = "the workload did not end within the time limit";
    let why = format!("a second control does not end either: {endless}");
    assert_eq!(outcome.why, why);
    let found = format!("the restarted run: {endless}");
    assert!(outcome.lines.contains(&found), "{outcome:?}");
    assert_eq!(guests, 2);
}

#[test]
fn a_difference_is_one_if_two_controls_are_equal() {
    let (outcome, guests) = tried(&[(1, "restarted", Special::Differs)]);
    assert_eq!(outcome.condition, Condition::Diverged, "{outcome:?}");
    assert_eq!(outcome.why, "restarted = control: stdout");
    assert_eq!(guests, 2);
}

#[test]
fn if_two_controls_differ_the_workload_is_to_blame() {
    for found in [
        &[
            (1, "restarted", Special::Hangs),
            (2, "control", Special::Differs),
        ],
        &[
            (1, "restarted", Special::Differs),
            (2, "control", Special::Differs),
        ],
    ] {
        let (outcome, guests) = tried(found);
        assert_eq!(outcome.condition, Condition::Unstable, "{outcome:?}");
        let why = "two controls differ: control 2 = control: stdout";
        assert_eq!(outcome.why, why);
        assert_eq!(guests, 2);
    }
}
