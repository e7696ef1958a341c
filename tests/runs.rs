// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs of the built binary, one for each way in which it can end.

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

/// One run, checkpointed and restarted three times, beside two busy processes in the guest.
#[test]
fn a_run_is_restarted_several_times_in_a_busy_guest() {
    let args = [
        "-q", "scenario", "hello", "--chain", "3", "--load", "2", "--json",
    ];
    let ended = crucible(&args);
    let record = ended.record();
    assert_eq!(record["verdict"], "pass", "{record:#}");
    assert_eq!(ended.code(), Some(0));
    let unit = &record["units"][0];
    let why = unit["why"].as_str().expect("a reason");
    assert_eq!(why, "1 of 1 restarts like the control, 3 links in all");
    let checks = unit["checks"].as_array().expect("checks");
    let images = checks
        .iter()
        .filter(|check| check["name"] == "second image = first image");
    assert_eq!(images.count(), 3, "{unit:#}");
    let reproduce = record["reproduce"].as_str().expect("a command");
    assert!(
        reproduce.contains("scenario hello --chain 3 --load 2"),
        "{reproduce}"
    );
}

#[test]
fn a_guest_that_does_not_boot_is_reported_with_its_console() {
    let ended = crucible(&["-q", "kernel", "build"]);
    let mut kernel = std::fs::read(ended.stdout.trim()).expect("a kernel");
    // This kernel lacks the file system of its root, so it panics.
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
