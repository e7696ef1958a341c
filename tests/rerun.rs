// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible rerun` runs the units that an earlier run lacks, and no others.

mod common;

use std::fs;
use std::path::Path;

use common::cli;
use serde_json::{Value, json};

/// Copies a directory without its subdirectories, which hold the expected result.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a file");
        }
    }
}

/// Runs a command with results in `results`.
fn run(args: &[&str], results: &Path) -> cli::Ended {
    let (mut command, directory) = cli::command(args);
    command.env("CRUCIBLE_RESULTS", results);
    cli::spawn(command, results.to_owned(), Some(directory)).end()
}

fn keys(record: &Value) -> Vec<&str> {
    let units = record["units"].as_array().expect("units");
    units
        .iter()
        .filter_map(|unit| unit["key"].as_str())
        .collect()
}

#[test]
fn what_passed_is_not_run_again() {
    let place = tempfile::tempdir().expect("a directory");
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let own = place.path().join("own");
    copy(&scenarios.join("hello"), &own);
    copy(&scenarios.join("shared"), &place.path().join("shared"));
    let own = own.to_str().expect("UTF-8");
    let results = place.path().join("results");
    // The scenario has no expected result, so the run is `unreviewed`, although its case passes.
    let first = run(&["-q", "scenario", "hello", own, "--json"], &results);
    assert_eq!(first.code(), Some(125), "{}", first.stderr);
    let record = first.record();
    let all: Vec<String> = keys(&record).iter().map(ToString::to_string).collect();
    let (ours, others): (Vec<_>, Vec<_>) = all.iter().partition(|key| key.starts_with("own/"));
    assert!(!ours.is_empty() && !others.is_empty(), "{all:?}");
    let directory = record["results"].as_str().expect("a path").to_owned();

    let second = run(&["-q", "rerun", &directory, "--", "--json"], &results);
    assert_eq!(second.code(), Some(125), "{}", second.stderr);
    let record = second.record();
    assert_eq!(json!(keys(&record)), json!(ours));
    assert_eq!(record["skipped"], json!(others));
    // A rerun of a rerun leaves out the same units.
    let again = record["results"].as_str().expect("a path").to_owned();

    // Once the result is accepted, the scenario has an expected result, and the rerun passes.
    let accepted = run(&["-q", "scenario", own, "--accept"], &results);
    assert_eq!(accepted.code(), Some(0), "{}", accepted.stderr);
    let third = run(
        &[
            "-q",
            "rerun",
            &format!("{again}/record.json"),
            "--",
            "--json",
        ],
        &results,
    );
    assert_eq!(third.code(), Some(0), "{}", third.stderr);
    let record = third.record();
    assert_eq!(json!(keys(&record)), json!(ours));
    assert_eq!(record["skipped"], json!(others));
    let last = record["results"].as_str().expect("a path").to_owned();
    let nothing = run(&["rerun", &last], &results);
    assert_eq!(nothing.code(), Some(0), "{}", nothing.stderr);
    assert!(
        nothing.stderr.contains("nothing of this run failed"),
        "{}",
        nothing.stderr
    );
}

#[test]
fn what_an_interruption_left_is_run() {
    let place = tempfile::tempdir().expect("a directory");
    let results = place.path().join("results");
    let (mut command, directory) = cli::command(&[
        "-q", "scenario", "hello", "vfork", "--json", "--memory", "768",
    ]);
    command.env("CRUCIBLE_RESULTS", &results);
    let mut run_one = cli::spawn(command, results.clone(), Some(directory));
    run_one.wait_event("unit-finished");
    run_one.signal("-INT");
    let first = run_one.end();
    assert_eq!(first.code(), Some(130), "{}", first.stderr);
    let record = first.record();
    let reproduce = record["reproduce"].as_str().expect("a command");
    assert!(reproduce.ends_with("--memory 768"), "{reproduce}");
    assert!(record["left"].as_u64() > Some(0), "{record:#}");
    let directory = record["results"].as_str().expect("a path").to_owned();
    // The record is of a different kernel, and a line reports that.
    let path = Path::new(&directory).join("record.json");
    let mut other = record.clone();
    other["provenance"]["kernel"]["hash"] = json!("another");
    fs::write(&path, other.to_string()).expect("a record");

    let second = run(&["rerun", &directory, "--", "--json"], &results);
    assert_eq!(second.code(), Some(0), "{}", second.stderr);
    let differs = second
        .stderr
        .lines()
        .filter(|line| line.contains("differs from"));
    let differs: Vec<_> = differs.collect();
    assert!(
        matches!(differs[..], [line] if line.ends_with("differs from the earlier run in kernel.hash")),
        "{}",
        second.stderr
    );
    let record = second.record();
    let skipped = record["skipped"].as_array().expect("keys").len();
    assert!(skipped > 0, "{record:#}");
    assert!(
        keys(&record).iter().any(|key| key.starts_with("vfork/")),
        "{record:#}"
    );
}

#[test]
fn what_is_no_record_is_a_wrong_command_line() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().to_str().expect("UTF-8");
    assert_eq!(cli::run(&["rerun", path]).code(), Some(128));
    fs::write(place.path().join("record.json"), "{\"schema\": 3}").expect("a file");
    let old = cli::run(&["rerun", path]);
    assert_eq!(old.code(), Some(128));
    assert!(
        old.stderr.contains("a record of schema 3"),
        "{}",
        old.stderr
    );
}
