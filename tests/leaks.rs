// SPDX-License-Identifier: Apache-2.0 OR MIT
//! kmemleak at the end of each session of the debug flavour.

mod common;

use common::cli;
use serde_json::Value;

/// Returns the exit code and the conditions that a scenario leaves for its guest.
fn guests(args: &[&str]) -> (Option<i32>, Vec<String>) {
    let args = [
        &["-q", "scenario", "--flavour", "debug", "--json"][..],
        args,
    ]
    .concat();
    let ended = cli::run(&args);
    let record = ended.record();
    assert_eq!(record["counts"]["passed"], 1, "{record:#}");
    let guests = record["guests"].as_array().map(Vec::as_slice);
    let condition = |guest: &Value| guest["condition"].as_str().unwrap_or_default().to_owned();
    let conditions = guests.unwrap_or_default().iter().map(condition);
    (ended.code(), conditions.collect())
}

#[test]
fn a_leak_and_a_scan_that_fails_are_told_apart() {
    let leak = guests(&["hello", "--break", "free"]);
    assert_eq!(leak, (Some(1), vec!["leak".to_owned()]));
    // Its last act switches kmemleak off.
    let failed = guests(&["tests/scenarios/unscanned"]);
    assert_eq!(failed, (Some(125), vec!["leak-scan-failed".to_owned()]));
}
