// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs of the built binary that end in each of its ways.

mod common;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use common::cli::{self, Ended};

/// Allows one guest at a time, because several would compete for the same CPUs.
static GUEST: Mutex<()> = Mutex::new(());

fn crucible(arguments: &[&str]) -> Ended {
    let _alone = GUEST.lock().unwrap_or_else(PoisonError::into_inner);
    cli::run(arguments)
}

#[test]
fn hello_restarts_in_a_fresh_machine_and_its_image_can_be_inspected() {
    let ended = crucible(&["-q", "scenario", "hello", "--restart-in", "fresh", "--json"]);
    let record = ended.record();
    assert_eq!(record["verdict"], "pass", "{record:#}");
    assert_eq!(ended.code(), Some(0));
    let task = &record["units"][0]["frozen"]["tasks"][1];
    assert_eq!(task["comm"], "hello");
    assert_eq!(task["site"], "freezer");

    let results = Path::new(record["results"].as_str().expect("a path"));
    let image = results.join("cases/hello/main/image");
    let image = image.to_str().expect("an ASCII path");
    let inspected = crucible(&["inspect", image, "--json"]);
    assert!(inspected.status.success(), "{inspected:?}");
    let summary = inspected.record();
    assert_eq!(summary["tasks"][1]["comm"], "hello");
}

/// The child of a vfork runs on one CPU while its parent is stopped on another.
#[test]
fn the_main_scenario_passes_with_two_cpus() {
    let ended = crucible(&["-q", "scenario", "vfork", "--vcpus", "2", "--json"]);
    let record = ended.record();
    assert_eq!(record["verdict"], "pass", "{record:#}");
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn a_guest_that_does_not_boot_is_reported_with_its_console() {
    let ended = crucible(&["-q", "kernel", "build"]);
    let mut kernel = std::fs::read(ended.stdout.trim()).expect("a kernel");
    // It does not know the file system of its root, so it panics.
    let name = b"\0erofs\0";
    let places: Vec<_> = (0..kernel.len() - name.len())
        .filter(|&at| kernel[at..].starts_with(name))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        kernel[at + 1] = b'x';
    }
    let directory = tempfile::tempdir().expect("a directory");
    let image = directory.path().join("vmlinux");
    std::fs::write(&image, kernel).expect("a kernel");
    let image = image.to_str().expect("an ASCII path");
    let args = [
        "-q", "scenario", "hello", "--cold", "--kernel", image, "--json",
    ];
    let ended = crucible(&args);
    let record = ended.record();
    assert_eq!(record["verdict"], "unknown", "{record:#}");
    assert_eq!(ended.code(), Some(125));
    let why = record["units"][0]["why"].as_str().expect("a text");
    let (_, path) = why
        .split_once("its console is in ")
        .expect("the console's path");
    let (path, _) = path.split_once(": ").expect("a reason");
    assert!(Path::new(path).is_file(), "{why}");
}

/// Checks that the comparison includes the vfork wait.
#[test]
fn a_restart_without_its_vfork_wait_is_detected() {
    let ended = crucible(&[
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

/// Pieces of restart code, a scenario whose state each of them restores, and the field of the second
/// image that shows its absence.
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

/// Number of these that are tried by default: each needs two guests with the debug kernel, a minute
/// or two. `CRUCIBLE_PIECES=all` tries all.
const FEW: usize = 2;

/// Checks that the comparison of images includes each kind of state.
#[test]
fn a_restart_without_a_piece_of_state_is_detected_by_its_second_image() {
    let pieces = match std::env::var("CRUCIBLE_PIECES").as_deref() {
        Ok("all") => &PIECES[..],
        _ => &PIECES[..FEW],
    };
    for (piece, scenario, field) in pieces {
        let ended = crucible(&["-q", "scenario", scenario, "--break", piece, "--json"]);
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

/// Checks that a second checkpoint which is refused has a condition of its own.
#[test]
fn a_restart_that_leaves_something_behind_is_refused_a_second_checkpoint() {
    let ended = crucible(&[
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

#[test]
fn damaged_and_forged_images_do_no_harm() {
    let images = ["--raw", "100", "--forged", "300", "--json"];
    let ended = crucible(&[&["-q", "torture"][..], &images].concat());
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let record = ended.record();
    assert_eq!(record["summary"]["raw"]["refused"], 100, "{record:#}");
}

#[test]
fn an_event_that_never_happens_is_unknown_and_reported_with_its_count() {
    let ended = crucible(&[
        "-q",
        "scenario",
        "hello",
        "--at",
        "syscall:getpid:99",
        "--json",
    ]);
    let record = ended.record();
    assert_eq!(record["verdict"], "unknown", "{record:#}");
    assert!(
        record["why"]
            .as_str()
            .expect("a text")
            .contains("after 11 such events"),
        "{record:#}"
    );
    assert_eq!(ended.code(), Some(125));
}

#[test]
fn a_workload_without_a_vfork_is_unknown() {
    let ended = crucible(&["-q", "scenario", "hello", "--at", "vfork", "--json"]);
    assert_eq!(ended.record()["verdict"], "unknown");
    assert_eq!(ended.code(), Some(125));
}

#[test]
fn a_wrong_command_line_stops_a_bisection() {
    for wrong in [
        &["scenario", "no-such-scenario"][..],
        &["scenario", "hello", "--at", "vfrok"],
        &["scenario"],
    ] {
        assert_eq!(crucible(wrong).code(), Some(128), "{wrong:?}");
    }
}
