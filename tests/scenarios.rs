// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every scenario.

mod common;

use std::path::Path;

use common::cli;

#[test]
fn every_scenario_can_be_read() {
    let ended = cli::run(&["list", "--json"]);
    assert!(ended.status.success(), "{ended:?}");
    let list = ended.record();
    assert!(list.as_array().expect("an array").len() >= 12);
}

#[test]
fn every_scenario_passes_in_one_boot() {
    let ended = cli::run(&["-q", "scenario", "--all", "--json"]);
    let record = ended.record();
    assert_eq!(record["verdict"], "pass", "{record:#}");
    assert_eq!(ended.code(), Some(0));
    // A clean restart leaves an empty log.
    let mut logs = 0;
    let results = Path::new(record["results"].as_str().expect("a path"));
    for case in record["units"].as_array().expect("a list") {
        for file in case["files"].as_array().expect("a list") {
            let file = results.join(file.as_str().expect("a path"));
            if file.ends_with("restart.log") {
                let log = std::fs::read_to_string(&file).expect("a log");
                assert_eq!(log, "", "{}", file.display());
                logs += 1;
            }
        }
    }
    assert!(logs >= 12, "{record:#}");
}
