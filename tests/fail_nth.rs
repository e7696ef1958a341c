// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Allocations and copies in checkpoint(2) and restart(2) fail, each in turn.
//!
//! It needs the flavour `instrumented`, which no other test does, so it is run on request:
//! `cargo test --test fail_nth -- --ignored`.

mod common;

use common::cli;
use serde_json::Value;

fn fail_nth(args: &[&str]) -> Value {
    common::fixture();
    let ended = cli::run(&[&["-q", "torture", "--json", "--fail-nth"][..], args].concat());
    assert_eq!(ended.code(), Some(0), "{}{}", ended.stdout, ended.stderr);
    ended.record()["summary"].clone()
}

/// The first failures of both calls, of all kinds. The first one of a restart is in its coordinator,
/// later ones are in tasks that it creates.
#[test]
#[ignore = "needs a kernel that no other test needs"]
fn a_call_in_which_something_fails_loses_nothing() {
    let summary = fail_nth(&["all", "--nth", "1-60", "--program", "many"]);
    for call in [
        "checkpoint slab",
        "checkpoint page",
        "restart slab",
        "restart page",
    ] {
        let sum = &summary["kinds"][call];
        assert!(
            sum["results"]["ENOMEM"].as_u64() > Some(0),
            "{call}: {sum:#}"
        );
    }
}
