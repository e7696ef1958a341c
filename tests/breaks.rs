// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernels that leave out a piece of the restart (`--break`): a comparison notices each. Each run
//! has one guest at a time, with one vCPU, so as many run at a time as there are CPUs.

mod common;

use common::cli;

/// Checks that the comparison includes the vfork wait.
#[test]
fn a_restart_without_its_vfork_wait_is_detected() {
    let ended = cli::run(&[
        "-q",
        "scenario",
        "vfork-chain",
        "--break",
        "vfork-wait",
        "--json",
    ]);
    let record = ended.record();
    assert_eq!(record["verdict"], "diverged", "{record:#}");
    assert_eq!(ended.code(), Some(1));
    let text = record.to_string();
    assert!(text.contains("its wait was lost"), "{record:#}");
    assert!(text.contains("chain (2) waited"), "{record:#}");
}

/// Pieces of restart code, a scenario whose state each of them restores, and the field of the
/// second image that shows its absence.
const PIECES: [(&str, &str, &str); 10] = [
    ("rlimit", "random-tree", "Rlimits limit["),
    ("sleep", "sleep", "Task restart["),
    ("vma-flag", "mappings", "Vma advice"),
    ("credential", "state", "Cred cap_ambient"),
    ("register", "exceptions", "Regs cr2"),
    ("handler", "signals", "Sighand action["),
    ("signal-queue", "signals", "Siginfo "),
    ("itimer", "signals", "Timers real_interval"),
    ("pipe-flag", "descriptors", "PipeBuf flags"),
    ("shared-page", "cow", "shared copy-on-write"),
];

/// Number of pieces that are tried by default: each needs two guests with the debug kernel, a
/// minute or two. `CRUCIBLE_PIECES=all` tries all.
const FEW: usize = 2;

/// Checks that the comparison of images includes each kind of state.
#[test]
fn a_restart_without_a_piece_of_state_is_detected_by_its_second_image() {
    let pieces = match std::env::var("CRUCIBLE_PIECES").as_deref() {
        Ok("all") => &PIECES[..],
        _ => &PIECES[..FEW],
    };
    for (piece, scenario, field) in pieces {
        let ended = cli::run(&["-q", "scenario", scenario, "--break", piece, "--json"]);
        let record = ended.record();
        assert_eq!(ended.code(), Some(1), "{piece}: {record:#}");
        let units = record["units"].as_array().expect("units");
        let checks = units.iter().filter_map(|unit| unit["checks"].as_array());
        let mut seen = checks
            .flatten()
            .filter(|check| check["name"] == "second image = first image")
            .filter_map(|check| check["difference"].as_str());
        assert!(seen.any(|text| text.contains(field)), "{piece}: {record:#}");
    }
}

/// Checks that a second checkpoint which is refused has its own condition.
#[test]
fn a_restart_that_leaves_something_behind_is_refused_a_second_checkpoint() {
    let ended = cli::run(&[
        "-q", "scenario", "pipeline", "--break", "pipe-end", "--json",
    ]);
    let record = ended.record();
    // The record's own condition is the leak that follows.
    assert_eq!(
        record["units"][0]["condition"], "second-refused",
        "{record:#}"
    );
    assert_eq!(ended.code(), Some(1));
    let lines = record["units"][0]["lines"].to_string();
    assert!(lines.contains("of them in the tree"), "{record:#}");
}
