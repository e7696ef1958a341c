// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A night in the formats of other programs, each read by a reader of its own, and its page. The
//! night has each kind of result, and guests that print texts that could end a file.

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;

use common::cli;
use common::formats::{self, output};
use crucible_history::{Metric, Night, Planned, ResultRow, Shard, Skipped, Store, TestId};
use serde_json::{Value, json};

/// Output of a guest that would end JSON, XML, HTML, KTAP, or the kernel's parser.
const HOSTILE: &str = "\u{1b}[31m\u{0}]]></failure> \"ok 1 - # SKIP\r\nreboot: System halted\n\
                       List of all partitions:\nKernel panic - not syncing: VFS: x\n1..0";

const OURS: &str = "crucible/base/qemu";

/// The tests with the conditions and blames of their runs, and their results.
const TESTS: [(&str, &[(&str, &str)]); 6] = [
    ("passes", &[("passed", ""), ("passed", "")]),
    ("fails", &[("diverged", "kernel"), ("diverged", "kernel")]),
    ("is-flaky", &[("diverged", "kernel"), ("passed", "")]),
    ("is-unstable", &[("unstable", "workload")]),
    ("has-no-host", &[("host-killed", "host")]),
    ("has-no-turn", &[]),
];

fn test(name: &str) -> TestId {
    TestId {
        name: format!("scenario hello/{name}"),
        variant: OURS.into(),
    }
}

fn rows() -> Vec<ResultRow> {
    let rows = TESTS.iter().flat_map(|(name, runs)| {
        (1..)
            .zip(*runs)
            .map(|(attempt, (condition, blame))| ResultRow {
                night: "n".into(),
                test: test(name),
                attempt,
                time: "2026-01-01T00:00:10Z".into(),
                ms: 1_500,
                condition: (*condition).into(),
                verdict: if blame.is_empty() { "pass" } else { "diverged" }.into(),
                blame: (*blame).into(),
                signature: if blame.is_empty() { "" } else { HOSTILE }.into(),
                why: if blame.is_empty() {
                    "all equal"
                } else {
                    HOSTILE
                }
                .into(),
                kernel: "abc".into(),
                harness: "def".into(),
                directory: if blame.is_empty() {
                    ""
                } else {
                    "nights/n/runs/x"
                }
                .into(),
                metrics: vec![Metric {
                    name: "restart".into(),
                    value: 7.0,
                    unit: "ms".into(),
                }],
            })
    });
    rows.collect()
}

/// Writes a history with one night, and the record of its failures.
fn history(results: &Path) {
    let mut store = Store::open(&results.join("history.sqlite")).expect("a history");
    let night = Night {
        id: "n".into(),
        plan: "p".into(),
        shards: 1,
    };
    let planned = TESTS.map(|(name, _)| Planned {
        test: test(name),
        shard: 1,
    });
    store.plan(&night, &planned).expect("a plan");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let shard = Shard {
        night: "n".into(),
        number: 1,
        process: "p".into(),
        started: "2026-01-01T00:00:00Z".into(),
        finished: Some("2026-01-01T00:01:00Z".into()),
        provenance: json!({ "base": { "checkout": { "commit": commit } } }).to_string(),
    };
    store.shard(&shard).expect("a shard");
    let skipped = Skipped {
        test: test("has-no-turn"),
        reason: crucible_nightly::BUDGET_USED_UP.into(),
    };
    store.skip("n", &skipped).expect("a reason");
    store.add_all(&rows()).expect("results");
    let run = results.join("nights/n/runs/x/run-1");
    fs::create_dir_all(&run).expect("a run");
    let units = ["fails", "is-flaky"].map(|name| {
        json!({
            "key": format!("hello/{name}"),
            "verdict": "diverged",
            "why": HOSTILE,
            "lines": [HOSTILE, "  - expected"],
        })
    });
    let record = json!({ "units": units }).to_string();
    fs::write(run.join("record.json"), record).expect("a record");
}

fn run(results: &Path, args: &[&str]) -> Output {
    let mut command = cli::program(args);
    command.env("CRUCIBLE_RESULTS", results);
    command.output().expect("the crucible binary to run")
}

/// Exports the night in a format. Returns the file.
fn export(results: &Path, format: &str) -> std::path::PathBuf {
    let ended = run(results, &["results", "export", format, "n"]);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let file = results.join(format.trim_start_matches('-'));
    fs::write(&file, ended.stdout).expect("a file");
    file
}

/// Reads KCIDB's JSON as KernelCI does.
const READ_KCIDB: &str = "
import json, sys
from kcidb_io.schema import V5_3
data = json.load(open(sys.argv[1]))
assert V5_3.is_compatible_exactly(data), data['version']
V5_3.validate_exactly(data)
print(json.dumps(data))
";

#[test]
fn kcidb_is_accepted_by_its_own_reader() {
    let directory = tempfile::tempdir().expect("a directory");
    history(directory.path());
    let file = export(directory.path(), "--kcidb");
    let mut read = std::process::Command::new(formats::python());
    let read = output(read.args(["-c", READ_KCIDB]).arg(file));
    let data: Value = serde_json::from_str(&read).expect("JSON");
    let tests = data["tests"].as_array().expect("tests");
    let statuses = |name: &str| {
        let path = format!("crucible.scenario.hello.{name}");
        let of = tests.iter().filter(|test| test["path"] == path.as_str());
        of.map(|test| test["status"].as_str().expect("a status"))
            .collect::<Vec<_>>()
    };
    assert_eq!(statuses("passes"), ["PASS", "PASS"]);
    assert_eq!(statuses("fails"), ["FAIL", "FAIL"]);
    assert_eq!(statuses("is-flaky"), ["FAIL", "PASS"]);
    assert_eq!(statuses("is-unstable"), ["ERROR"]);
    assert_eq!(statuses("has-no-host"), ["MISS"]);
    assert_eq!(statuses("has-no-turn"), ["SKIP"]);
    assert_eq!(statuses("fails.restart"), ["DONE", "DONE"]);
    let metric = tests.iter().find(|test| test["status"] == "DONE");
    let number = json!({ "value": 0.007, "unit": "s", "prefix": "metric" });
    assert_eq!(metric.expect("a metric")["number"], number);
    // One signature is one issue, and every reference has a target.
    let ids = |list: &str| {
        let list = data[list].as_array().expect("a list").iter();
        list.map(|it| it["id"].as_str().expect("a name"))
            .collect::<Vec<_>>()
    };
    assert_eq!(ids("issues").len(), 1);
    assert_eq!(ids("incidents").len(), 3);
    for incident in data["incidents"].as_array().expect("incidents") {
        let of = |key: &str| incident[key].as_str().expect("a name");
        assert!(ids("tests").contains(&of("test_id")));
        assert!(ids("issues").contains(&of("issue_id")));
    }
    let mut unique = ids("tests");
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), tests.len());
    assert!(
        tests
            .iter()
            .all(|test| test["build_id"] == ids("builds")[0])
    );
    assert!(
        read.contains("- expected") && !read.contains("null"),
        "{read}"
    );
}

/// Reads JUnit's XML: each case with its results and its further failed runs.
const READ_JUNIT: &str = "
import sys
from junitparser.xunit2 import JUnitXml, RerunFailure, FlakyFailure
for suite in JUnitXml.fromfile(sys.argv[1]):
    for case in suite:
        kinds = [type(r).__name__ for r in case.result]
        print(case.name.split(' ')[0], *kinds, len(list(case.iterchildren(RerunFailure))),
            len(list(case.iterchildren(FlakyFailure))))
";

#[test]
fn junit_is_accepted_by_its_own_reader() {
    let directory = tempfile::tempdir().expect("a directory");
    history(directory.path());
    let file = export(directory.path(), "--junit");
    let mut read = std::process::Command::new(formats::python());
    let read = output(read.args(["-c", READ_JUNIT]).arg(file));
    let mut cases: Vec<_> = read.lines().collect();
    cases.sort_unstable();
    let expected = [
        "fails Failure 1 0",
        "has-no-host Error 0 0",
        "has-no-turn Skipped 0 0",
        "is-flaky Failure 0 1",
        "is-unstable Error 0 0",
        "passes 0 0",
    ];
    assert_eq!(cases, expected);
}

#[test]
fn ktap_is_accepted_by_the_kernels_parser() {
    let directory = tempfile::tempdir().expect("a directory");
    history(directory.path());
    let file = export(directory.path(), "--ktap");
    let parsed = formats::kunit(&file);
    let text = fs::read_to_string(&file).expect("the file");
    let counts = "Ran 6 tests: passed: 1, failed: 4, skipped: 1";
    assert!(parsed.contains(counts), "{parsed}\n{text}");
    assert!(!parsed.contains("[ERROR]"), "{parsed}\n{text}");
    let says = "is-flaky [crucible/base/qemu]  diverged: 1 of 2 runs failed";
    assert!(text.replace('#', "").contains(says), "{text}");
}

#[test]
fn the_page_lies_in_the_directory_of_the_night() {
    let directory = tempfile::tempdir().expect("a directory");
    history(directory.path());
    let ended = run(directory.path(), &["report"]);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let page = directory.path().join("nights/n/report.html");
    let page = fs::read_to_string(page).expect("the page");
    assert!(page.contains("href=\"runs/x/run-1/record.json\""), "{page}");
    let elsewhere = directory.path().join("page.html");
    let out = elsewhere.to_str().expect("a path in UTF-8");
    let ended = run(directory.path(), &["report", "n", "--out", out]);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let page = fs::read_to_string(&elsewhere).expect("the page");
    let link = "href=\"nights/n/runs/x/run-1/record.json\"";
    assert!(page.contains(link), "{page}");
}

#[test]
fn what_cannot_be_reported_is_a_usage_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let results = directory.path();
    for args in [&["report"][..], &["results", "export", "--kcidb"]] {
        assert_eq!(run(results, args).status.code(), Some(128), "{args:?}");
    }
    history(results);
    for args in [
        &["report", "n9"][..],
        &["results", "export"],
        &["results", "export", "--kcidb", "--junit"],
        &["results", "export", "--ktap", "n9"],
        &["results", "export", "--kcidb", "--origin", "Our CI"],
    ] {
        assert_eq!(run(results, args).status.code(), Some(128), "{args:?}");
    }
}
