// SPDX-License-Identifier: Apache-2.0 OR MIT
//! kmemleak at the end of each session of the debug flavour.

mod common;

use common::cli;
use serde_json::Value;

/// Returns the exit code, and the kernel reports of a scenario's guest.
fn guests(args: &[&str]) -> (Option<i32>, Vec<Value>) {
    let args = [
        &["-q", "scenario", "--flavour", "debug", "--json"][..],
        args,
    ]
    .concat();
    let ended = cli::run(&args);
    let record = ended.record();
    assert_eq!(record["counts"]["passed"], 1, "{record:#}");
    let guests = record["guests"].as_array();
    (ended.code(), guests.cloned().unwrap_or_default())
}

#[test]
fn a_leak_and_a_scan_that_fails_are_told_apart() {
    let (code, leak) = guests(&["hello", "--break", "free"]);
    assert_eq!(code, Some(1));
    assert_eq!(leak.len(), 1);
    assert_eq!(leak[0]["condition"], "leak");
    // The stack of the allocation is shown with its lines.
    let source = leak[0]["source"].as_array().map(Vec::as_slice);
    let in_ours = |line: &&Value| line["file"] == "kernel/checkpoint/sys.c";
    let ours = source.unwrap_or_default().iter().find(in_ours);
    let ours = ours.unwrap_or_else(|| panic!("{:#}", leak[0]));
    assert!(ours["line"].as_u64() > Some(1), "{ours}");
    // The scenario ends by switching kmemleak off.
    let (code, failed) = guests(&["tests/scenarios/unscanned"]);
    assert_eq!(code, Some(125));
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["condition"], "leak-scan-failed");
}

/// Repeats a scenario enough times for the kernel's books.
fn repeated(options: &[&str]) -> (Option<i32>, Value) {
    let args = ["-q", "scenario", "hello", "--repeat", "10", "--json"];
    let ended = cli::run(&[&args, options].concat());
    (ended.code(), ended.record()["units"][0].clone())
}

#[test]
fn repeated_restarts_lose_nothing() {
    let (code, unit) = repeated(&[]);
    assert_eq!(code, Some(0), "{unit:#}");
    assert_eq!(unit["verdict"], "pass", "{unit:#}");
}

#[test]
#[ignore = "repeats dozens of restarts and controls in the debug flavour"]
fn what_each_restart_loses_is_in_the_kernels_books() {
    let (code, unit) = repeated(&["--break", "free"]);
    assert_eq!(code, Some(1), "{unit:#}");
    assert_eq!(unit["condition"], "leak", "{unit:#}");
    let why = unit["why"].as_str().unwrap_or_default();
    assert!(why.starts_with("the kernel's books: "), "{why}");
}
