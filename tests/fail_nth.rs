// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Allocations and copies in checkpoint(2) and restart(2) fail, each in turn.
//!
//! It needs the flavour `instrumented`, which no other test does, so it is run on request:
//! `cargo test --test fail_nth -- --ignored`.

mod common;

use common::cli;
use crucible_artefacts::{Silent, kernel};
use crucible_mutants::Kind;
use serde_json::Value;

fn fail_nth(args: &[&str]) -> (Option<i32>, Value) {
    let ended = cli::run(&[&["-q", "torture", "--json", "--fail-nth"][..], args].concat());
    (ended.code(), ended.record())
}

/// The first failures of a restart are in its coordinator, later ones in tasks that it creates.
#[test]
#[ignore = "needs a kernel that no other test needs"]
fn a_call_in_which_something_fails_loses_nothing() {
    let (code, record) = fail_nth(&["all", "--nth", "1-80", "--program", "many"]);
    assert_eq!(code, Some(0), "{record:#}");
    let kinds = &record["summary"]["kinds"];
    for call in ["checkpoint slab", "restart slab", "restart page"] {
        let sum = &kinds[call];
        assert!(
            sum["results"]["ENOMEM"].as_u64() > Some(0),
            "{call}: {sum:#}"
        );
    }
    let units = record["units"].as_array().unwrap();
    let origins = units
        .iter()
        .flat_map(|unit| unit["origins"].as_array().unwrap());
    let in_task = |origin: &Value| origin[0].as_str().unwrap().starts_with("ckpt_restore_cred");
    assert!(origins.into_iter().any(in_task), "{record:#}");
}

/// This mistake leaks memory only if an allocation fails at the right moment.
#[test]
#[ignore = "needs a kernel that no other test needs"]
fn what_a_failure_loses_is_found() {
    let fixture = common::fixture();
    let all = kernel::all_mutants(&fixture.cache, &fixture.sources, &Silent).unwrap();
    let mutant = all.mutants.iter().find(|one| {
        one.function == "ckpt_restore_cred"
            && one.kind == Kind::LeftOut
            && one.text == "abort_creds(new);"
    });
    let number = mutant.expect("the mutant").number.to_string();
    let which = ["slab", "--program", "chain", "--nth", "1-60"];
    let (code, record) = fail_nth(&[&which[..], &["--mutant-number", &number]].concat());
    assert_eq!(code, Some(1), "{record:#}");
    let why = record["why"].as_str().unwrap_or_default();
    assert!(why.contains("objects of cred:"), "{record:#}");
}
