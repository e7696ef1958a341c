// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Checks that comparisons can fail: a program that behaves differently after a restart gets each
//! of the verdicts for that.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_program_that_behaves_differently_after_a_restart_is_detected() {
    let output = Command::new(env!("CARGO_BIN_EXE_crucible"))
        .args(["-q", "scenario", "tests/scenarios/notices", "--json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the crucible binary to run");
    assert_eq!(output.status.code(), Some(1));
    let record: Value = serde_json::from_slice(&output.stdout).expect("a record");
    let cases = record["units"].as_array().expect("an array of cases");
    let verdict = |name: &str| {
        let case = cases.iter().find(|case| case["name"] == name);
        case.unwrap_or_else(|| panic!("no case {name}: {record:#}"))["verdict"].clone()
    };
    assert_eq!(verdict("tells"), "diverged", "{record:#}");
    assert_eq!(verdict("hangs"), "hang", "{record:#}");
    assert_eq!(verdict("breaks-the-kernel"), "panic", "{record:#}");
    assert_eq!(verdict("warns-at-its-end"), "panic", "{record:#}");
    let text = record.to_string();
    assert!(text.contains("Show State"), "no task states: {record:#}");
    assert!(text.contains("sysrq triggered crash"), "{record:#}");
}
