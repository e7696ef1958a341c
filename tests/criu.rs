// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The same scenarios with CRIU as the backend, in the same guest: supported ones pass, and for
//! unsupported ones the report quotes CRIU's own log.

mod common;

use common::cli;
use serde_json::Value;

/// Returns the exit status and the record of a scenario under CRIU.
fn criu(scenario: &str) -> (Option<i32>, Value) {
    let ended = cli::run(&["-q", "scenario", scenario, "--backend", "criu", "--json"]);
    (ended.code(), ended.record())
}

fn version(record: &Value) -> &str {
    record["units"][0]["criu"].as_str().expect("CRIU's version")
}

#[test]
fn criu_restarts_hello() {
    let (status, record) = criu("hello");
    assert_eq!(record["verdict"], "pass", "{record:#}");
    assert_eq!(status, Some(0));
    assert!(version(&record).starts_with("Version: "), "{record:#}");
}

#[test]
fn criu_refuses_a_vfork_with_lines_of_its_own_log() {
    let (status, record) = criu("vfork");
    assert_eq!(record["verdict"], "refused", "{record:#}");
    assert_eq!(status, Some(1));
    assert!(version(&record).starts_with("Version: "), "{record:#}");
    for case in record["units"].as_array().expect("cases") {
        assert_eq!(case["verdict"], "refused", "{case:#}");
        let lines = case["lines"].as_array().expect("CRIU's own lines");
        let has_line = |text: &str| {
            lines
                .iter()
                .any(|l| l.as_str().unwrap_or("").contains(text))
        };
        assert!(has_line("Error (criu/"), "{case:#}");
        assert!(
            has_line("the tree was thawed and completed its work"),
            "{case:#}"
        );
        let kept = case["files"].as_array().expect("files kept");
        assert!(
            kept.iter()
                .any(|f| f.as_str().unwrap_or("").ends_with("criu-dump.log")),
            "{case:#}"
        );
    }
}
