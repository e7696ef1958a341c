// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Checks that comparisons can fail, with a program that behaves differently after a restart, and
//! that each format distinguishes the outcomes and is accepted by a reader of its own.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::formats::{self, output};
use common::{cli, dump};
use serde_json::Value;

/// The conditions of the cases of `tests/scenarios/notices`.
const CONDITIONS: [(&str, &str); 7] = [
    ("breaks-the-kernel", "guest-panic"),
    ("hangs", "hang"),
    ("is-refused", "refused"),
    ("is-unstable", "unstable"),
    ("passes", "passed"),
    ("tells", "diverged"),
    ("warns-at-its-end", "kernel-report"),
];

/// Reads JUnit's XML, and prints each case with its result: nothing, a failure or an error, and
/// its type.
const READ_JUNIT: &str = "
import sys
from junitparser import JUnitXml
for suite in JUnitXml.fromfile(sys.argv[1]):
    for case in suite:
        kinds = [f'{type(r).__name__} {r.type}' for r in case.result]
        print(case.name, *kinds)
";

/// Validates each line of a file by a schema.
const VALIDATE: &str = "
import json, sys
from jsonschema import Draft202012Validator
schema = json.load(open(sys.argv[1]))
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
lines = [json.loads(line) for line in open(sys.argv[2])]
for line in lines:
    validator.validate(line)
assert not validator.is_valid({'event': 'unit-finished'})
print(len(lines))
";

fn junit(file: &Path) {
    let cases = output(
        Command::new(formats::python())
            .args(["-c", READ_JUNIT])
            .arg(file),
    );
    let cases: BTreeMap<_, _> = cases
        .lines()
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
        .collect();
    let kind = |condition: &str| match condition {
        "passed" => String::new(),
        "unstable" => "Error unstable".to_owned(),
        other => format!("Failure {other}"),
    };
    let expected = CONDITIONS.map(|(case, condition)| (case, kind(condition)));
    let expected: BTreeMap<_, _> = expected.iter().map(|(c, k)| (*c, k.as_str())).collect();
    assert_eq!(cases, expected);
}

/// Reads the file with the kernel's own parser, which must distinguish the reasons.
fn ktap(file: &Path) {
    let parsed = formats::kunit(file);
    assert!(
        parsed.contains("Ran 7 tests: passed: 1, failed: 6"),
        "{parsed}"
    );
    assert!(!parsed.contains("[ERROR]"), "{parsed}");
    let text = fs::read_to_string(file).expect("the file");
    for (case, condition) in CONDITIONS {
        let line = text.lines().find(|line| line.contains(&format!(" {case}")));
        let line = line.unwrap_or_else(|| panic!("no {case}: {text}"));
        let says = match condition {
            "passed" => line.trim_start().starts_with("ok "),
            "unstable" => line.contains("# ERROR unstable: "),
            other => line.contains(&format!("# {other}: ")),
        };
        assert!(says, "{line}");
    }
}

fn events(file: &Path) {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/events.schema.json");
    let mut validate = Command::new(formats::python());
    let count = output(validate.args(["-c", VALIDATE]).arg(schema).arg(file));
    let count: usize = count.trim().parse().expect("a number");
    assert!(count > 50, "{count} events");
}

#[test]
fn a_program_that_behaves_differently_after_a_restart_is_detected() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str| directory.path().join(name);
    let (xml, tap) = (file("junit.xml"), file("results.ktap"));
    let (xml_name, tap_name) = (xml.to_string_lossy(), tap.to_string_lossy());
    let mut args = vec!["-q", "scenario", "tests/scenarios/notices", "--json"];
    args.extend(["--junit", &xml_name, "--ktap", &tap_name]);
    let ended = cli::run(&args);
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    let record = ended.record();
    let units = record["units"].as_array().expect("an array of cases");
    let conditions: BTreeMap<_, _> = units
        .iter()
        .map(|unit| {
            let text = |name: &str| unit[name].as_str().expect("a text");
            (text("name"), text("condition"))
        })
        .collect();
    assert_eq!(conditions, CONDITIONS.into(), "{record:#}");
    let text = record.to_string();
    assert!(text.contains("Show State"), "no task states: {record:#}");
    assert!(text.contains("sysrq triggered crash"), "{record:#}");
    // This also installs gdb.
    common::fixture();
    for unit in units {
        match unit["condition"].as_str() {
            Some("guest-panic") => dump::check(unit, &["native_machine_emergency_restart"]),
            _ => assert_eq!(unit["memory"], Value::Null, "{unit:#}"),
        }
    }
    // A restart that hangs leaves its image.
    let hangs = units.iter().find(|unit| unit["name"] == "hangs");
    let files = hangs.map(|unit| &unit["files"]).map(Value::to_string);
    assert!(
        files.is_some_and(|files| files.contains("image")),
        "{record:#}"
    );

    junit(&xml);
    ktap(&tap);
    let run = fs::read_dir(&ended.results)
        .expect("results")
        .flatten()
        .map(|entry| entry.path().join("events.jsonl"))
        .find(|path| path.is_file());
    events(&run.expect("events"));
}
