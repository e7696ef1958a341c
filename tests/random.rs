// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random trees of processes: they restart, and one that fails is shrunk to the parts that the
//! failure needs.

mod common;

use common::cli;
use crucible_engine::random::{How, draw};
use serde_json::Value;

fn run(seeds: &str, more: &[&str]) -> (Option<i32>, Value) {
    let args = [&["-q", "scenario", "--random", seeds, "--json"], more].concat();
    let ended = cli::run(&args);
    (ended.code(), ended.record())
}

#[test]
fn trees_restart() {
    common::fixture();
    let (code, record) = run("1..4", &[]);
    assert_eq!(code, Some(0), "{record:#}");
    let units = record["units"].as_array().expect("units");
    assert_eq!(units.len(), 4);
    let restarted = record["summary"]["restarted"].as_u64();
    assert!(restarted >= Some(2), "{record:#}");
    for unit in units {
        let seed = unit["key"]
            .as_str()
            .and_then(|key| key.strip_prefix("random/"));
        let seed = seed.and_then(|seed| seed.parse().ok()).expect("a seed");
        assert_eq!(unit["recipe"], draw(seed).to_string());
    }
}

/// A tracee's stop at the entry of a system call needs a tracer and a tracee.
#[test]
fn a_tree_that_fails_is_made_smaller() {
    common::fixture();
    let seed = (1..).find(|&seed| {
        let tree = draw(seed);
        let items: usize = tree.processes.iter().map(|it| it.items.len()).sum();
        let traced = tree.processes.iter().any(|it| it.how == How::TracedSyscall);
        // Each further tree takes a while on the debug kernel.
        tree.processes.len() == 2 && items == 1 && traced && !tree.may_be_refused()
    });
    let seed = seed.expect("such a seed").to_string();
    let (code, record) = run(&seed, &["--break", "syscall-enter"]);
    assert_eq!(code, Some(1), "{record:#}");
    let shrunk = record["units"][0]["shrunk"]
        .as_str()
        .expect("a smaller tree");
    let lines: Vec<_> = shrunk.lines().collect();
    assert_eq!(
        lines,
        ["process 1 0 fork", "process 2 1 traced-syscall"],
        "{record:#}"
    );
}
