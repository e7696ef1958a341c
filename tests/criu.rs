// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The same scenarios under CRIU, in the same guest: what it can do passes, what it cannot
//! do is told in its own words.

use std::process::Command;

use serde_json::Value;

/// The exit status and the record of a scenario under CRIU.
fn criu(scenario: &str) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_crucible"))
        .args(["-q", "scenario", scenario, "--engine", "criu", "--json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the binary that cargo has just built");
    let record = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!("no record ({error}); it said: {said}")
    });
    (output.status.code(), record)
}

fn version(record: &Value) -> &str {
    record["versions"]["criu"].as_str().expect("CRIU's version")
}

#[test]
fn criu_brings_hello_back() {
    let (status, record) = criu("hello");
    assert_eq!(record["verdict"], "pass", "{record:#}");
    assert_eq!(status, Some(0));
    assert!(version(&record).starts_with("Version: "), "{record:#}");
}

#[test]
fn what_criu_does_with_a_vfork_is_told_in_its_own_words() {
    let (status, record) = criu("vfork");
    assert_eq!(record["verdict"], "refused", "{record:#}");
    assert_eq!(status, Some(1));
    assert!(version(&record).starts_with("Version: "), "{record:#}");
    for case in record["cases"].as_array().expect("cases") {
        assert_eq!(case["verdict"], "refused", "{case:#}");
        let lines = case["lines"].as_array().expect("CRIU's own lines");
        let said = |words: &str| {
            lines
                .iter()
                .any(|l| l.as_str().unwrap_or("").contains(words))
        };
        assert!(said("Error (criu/"), "{case:#}");
        assert!(said("the tree was thawed and ended its work"), "{case:#}");
        let kept = case["files"].as_array().expect("files kept");
        assert!(
            kept.iter()
                .any(|f| f.as_str().unwrap_or("").ends_with("criu-dump.log")),
            "{case:#}"
        );
    }
}
