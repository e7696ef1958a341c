// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Nights of a few jobs, by the command line. Nights of all kinds are tested in the crate
//! `nightly`, with a program that only writes events.

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use common::cli;
use serde_json::{Value, json};

fn run(results: &Path, args: &[&str]) -> Output {
    let mut command = cli::program(args);
    command.env("CRUCIBLE_RESULTS", results);
    command.output().expect("the crucible binary to run")
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Time limit for the end of processes that a killed night has started.
const LEFT: Duration = Duration::from_secs(20);

/// Interval of checks of processes.
const PERIOD: Duration = Duration::from_millis(50);

const JOBS: [&str; 4] = ["--job", "canary", "--job", "scenario hello [crucible/base*"];

#[test]
fn a_night_leaves_a_record_and_a_history() {
    common::fixture();
    let directory = tempfile::tempdir().expect("a directory");
    let results = directory.path();
    let junit = results.join("junit.xml");
    let junit = junit.to_str().expect("an ASCII path");
    let night = |more: &[&str]| {
        let args = [&["-q", "nightly"][..], &JOBS, more];
        run(results, &args.concat())
    };
    let first = night(&["--night", "n1", "--json", "--junit", junit]);
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    let record = json_of(&first);
    assert_eq!(record["condition"], "passed", "{record:#}");
    let keys: Vec<_> = record["units"].as_array().expect("units").iter().collect();
    assert!(keys.len() >= 2, "{record:#}");
    assert!(
        record["provenance"]["base"]["kernel"]["hash"].is_string(),
        "{record:#}"
    );
    let xml = fs::read_to_string(junit).expect("JUnit");
    for case in ["canary [crucible/base/qemu]", "main [crucible/base/qemu]"] {
        assert!(xml.contains(&format!("<testcase name=\"{case}\"")), "{xml}");
    }
    // The same night has no jobs left, and refuses a different plan.
    let again = night(&["--night", "n1", "--json"]);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    assert_eq!(json_of(&again)["units"], json!([]));
    let other = run(
        results,
        &["-q", "nightly", "--job", "canary", "--night", "n1"],
    );
    assert_eq!(other.status.code(), Some(128), "{other:?}");
    // The history has the night's results, and its durations are the basis of the next plan.
    let shown = run(results, &["results", "show", "--json"]);
    let shown = json_of(&shown);
    assert_eq!(
        (&shown["night"], &shown["ran"]),
        (&json!("n1"), &shown["planned"])
    );
    let basis = json_of(&run(results, &["results", "basis"]));
    let durations = basis["durations"].as_object().expect("durations");
    assert!(
        durations
            .keys()
            .any(|job| job.starts_with("scenario hello")),
        "{basis:#}"
    );
    let unknown = run(results, &["results", "show", "n9"]);
    assert_eq!(unknown.status.code(), Some(128), "{unknown:?}");
    // No files of passing units are kept.
    let runs = fs::read_dir(results.join("nights/n1/runs")).expect("runs");
    assert_eq!(runs.count(), 0);
}

/// `kill -9` of a night ends the processes that it has started; the next call resumes the night.
#[test]
fn a_killed_night_leaves_nothing_running() {
    common::fixture();
    let directory = tempfile::tempdir().expect("a directory");
    let results = directory.path();
    // It takes minutes.
    let long = ["-q", "nightly", "--night", "n1", "--job", "sweep vfork"];
    let mut command = cli::program(&long);
    command.env("CRUCIBLE_RESULTS", results);
    let night = cli::spawn(command, results.to_owned(), None);
    let began = Instant::now();
    // A job has a group of its own.
    let groups = loop {
        assert!(began.elapsed() < common::LONG, "no machine");
        let groups = cli::groups_of_family(night.pid());
        let machine = |group: &u32| {
            *group != night.pid() && cli::group(*group).iter().any(|it| it.starts_with("qemu"))
        };
        if groups.iter().any(machine) {
            break groups;
        }
        thread::sleep(PERIOD);
    };
    night.signal("-KILL");
    night.end();
    let killed = Instant::now();
    loop {
        let left: Vec<_> = groups.iter().flat_map(|group| cli::group(*group)).collect();
        if left.is_empty() {
            break;
        }
        assert!(killed.elapsed() < LEFT, "still running: {left:?}");
        thread::sleep(PERIOD);
    }
    let again = [&["-q", "nightly", "--night", "n2"][..], &JOBS].concat();
    let again = run(results, &again);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
}

#[test]
fn a_budget_too_small_for_anything_is_no_good_night() {
    common::fixture();
    let directory = tempfile::tempdir().expect("a directory");
    let args = [
        "-q", "nightly", "--budget", "1ms", "--night", "n1", "--json",
    ];
    let args = [&args[..], &JOBS].concat();
    let ended = run(directory.path(), &args);
    assert_eq!(ended.status.code(), Some(125), "{ended:?}");
    let record = json_of(&ended);
    assert_eq!(record["why"], "nothing ran", "{record:#}");
    let tests = record["summary"]["tests"].as_array().expect("tests");
    assert!(
        tests
            .iter()
            .all(|test| test["why"].as_str().is_some_and(|it| it.contains("budget")))
    );
    // The rerun runs the units that never ran; after it, none is left.
    let again = run(
        directory.path(),
        &["-q", "rerun", "n1", "--", "--night", "n2", "--json"],
    );
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    let again = json_of(&again);
    let planned = |record: &Value| record["summary"]["planned"].clone();
    assert_eq!(planned(&again), planned(&record), "{again:#}");
    let nothing = run(directory.path(), &["-q", "rerun", "n2"]);
    assert_eq!(nothing.status.code(), Some(0), "{nothing:?}");
    let said = String::from_utf8_lossy(&nothing.stderr);
    assert!(said.contains("nothing of this night failed"), "{said}");
}

#[test]
fn wrong_command_lines_are_told_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    for args in [
        &["nightly", "--shard", "2/3"][..],
        &["nightly", "--shard", "4/3", "--night", "n"],
        &["nightly", "--shard", "auto", "--night", "n"],
        &["nightly", "--night", "../n"],
        &["nightly", "--budget", "soon"],
        &["nightly", "--job", "no such job"],
        &["nightly", "--basis", "/nowhere"],
        &["results", "merge", "/nowhere"],
        &["results", "show"],
    ] {
        let ended = run(directory.path(), args);
        assert_eq!(ended.status.code(), Some(128), "{args:?}: {ended:?}");
        assert!(!ended.stderr.is_empty());
    }
}
