// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A fixed sample of sweeps: each point is reached, checkpointed and restarted, and the run ends
//! normally.

mod common;

use common::cli;
use serde_json::Value;

fn sweep(args: &[&str]) -> Value {
    let ended = cli::run(&[&["-q", "sweep", "--json"][..], args].concat());
    let record = ended.record();
    assert_eq!(ended.code(), Some(0), "{record:#}");
    record
}

/// Checks that the expected number of points was tried, that each passed like an undisturbed run,
/// and that every event has a name.
fn all_passed(record: &Value, points: u64) {
    let case = &record["summary"]["cases"][0];
    assert_eq!(case["points"], points, "{record:#}");
    assert_eq!(case["tried"], points, "{record:#}");
    assert_eq!(case["counts"]["passed"], points, "{record:#}");
    assert_eq!(case["by_control"], 0, "{record:#}");
    assert_eq!(case["unnamed"], 0, "{record:#}");
}

#[test]
fn a_sample_of_points_passes() {
    let gdb = ["gdb", "--case", "watch", "--event", "ptrace-stop"];
    all_passed(&sweep(&[&gdb[..], &["--limit", "6"]].concat()), 6);
    let strace = [
        "strace-seccomp",
        "--case",
        "middle",
        "--event",
        "ptrace-stop",
    ];
    all_passed(&sweep(&[&strace[..], &["--limit", "20"]].concat()), 20);
    let vfork = ["vfork", "--case", "dash", "--event", "vfork"];
    all_passed(&sweep(&[&vfork[..], &["--limit", "3"]].concat()), 3);
    let all = ["hello", "--event", "all"];
    all_passed(&sweep(&[&all[..], &["--limit", "12"]].concat()), 12);
}

#[test]
fn a_single_point_can_be_tried_by_name() {
    let record = sweep(&[
        "vfork", "--case", "dash", "--event", "vfork", "--point", "2:1",
    ]);
    all_passed(&record, 1);
}

/// A chain restarts one run at each of its stops, so that it also checkpoints restarted tasks.
#[test]
fn a_chain_covers_a_whole_run() {
    let record = sweep(&[
        "gdb",
        "--case",
        "watch",
        "--event",
        "ptrace-stop",
        "--chain",
    ]);
    let chain = &record["units"][0];
    assert_eq!(chain["condition"], "passed", "{record:#}");
    let links = chain["links"].as_u64().unwrap_or_default();
    assert!(links > 10, "{record:#}");
    let sites = chain["sites"].as_object().expect("an object of sites");
    let at_sites: u64 = sites.values().filter_map(Value::as_u64).sum();
    assert_eq!(at_sites, links, "{record:#}");
}
