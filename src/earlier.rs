// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An earlier run, by its record: the units that passed, and its kernel.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crucible_engine::record::SCHEMA;
use serde::Deserialize;
use serde_json::Value;

use crate::provenance::Provenance;

/// Maximum number of differences to name.
const NAMED: usize = 8;

/// An earlier run.
#[derive(Debug)]
pub struct Earlier {
    /// The words of the command that repeats it, without the program.
    pub words: Vec<String>,
    /// Keys of the units that passed and need not run again.
    pub passed: HashSet<String>,
    /// True when there is nothing to run again.
    pub complete: bool,
    provenance: Value,
}

/// The parts of a record that are read.
#[derive(Debug, Deserialize)]
struct Read {
    command: String,
    exit_code: u8,
    left: u64,
    units: Vec<Unit>,
    #[serde(default)]
    skipped: Vec<String>,
    #[serde(default)]
    guests: Vec<Value>,
    summary: Value,
    reproduce: String,
    provenance: Value,
}

#[derive(Debug, Deserialize)]
struct Unit {
    key: String,
    verdict: String,
}

impl Earlier {
    /// Reads a record: its file, or the directory of the run. The error is a message for the user.
    pub fn load(run: &Path) -> Result<Self, String> {
        let path: PathBuf = match run.is_dir() {
            true => run.join("record.json"),
            false => run.to_owned(),
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|why| format!("{}: {why}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| format!("this is no record: {error}"))?;
        let schema = value["schema"].as_u64().unwrap_or_default();
        if schema != u64::from(SCHEMA) {
            return Err(format!(
                "a record of schema {schema}; this crucible reads schema {SCHEMA}"
            ));
        }
        let read: Read = serde_json::from_value(value)
            .map_err(|error| format!("this is not a complete record: {error}"))?;
        let words = words(&read.reproduce).ok_or("its command cannot be read")?;
        let mut passed: HashSet<String> = read.skipped.iter().cloned().collect();
        let of_units = read.units.iter().filter(|unit| unit.verdict == "pass");
        passed.extend(of_units.map(|unit| unit.key.clone()));
        for scenario in failed_scenarios(&read.summary) {
            passed.retain(|key| key.split('/').next() != Some(scenario));
        }
        let complete = read.exit_code == 0 && read.left == 0;
        let all = read.units.iter().all(|unit| passed.contains(&unit.key));
        // A unit that is compared with all others is run with all others; and a failure for
        // which no single unit is to blame may be due to any of them.
        let whole = read.command == "clones"
            || words.iter().any(|word| word == "--trials")
            || !read.guests.is_empty()
            || (!complete && all && read.left == 0);
        if whole && !complete {
            passed.clear();
        }
        Ok(Self {
            words,
            passed,
            complete,
            provenance: read.provenance,
        })
    }

    /// Returns the keys of the units that are left out, in order.
    pub fn skipped(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.passed.iter().cloned().collect();
        keys.sort();
        keys
    }

    /// Returns a line that lists the differences of this run from the earlier one.
    pub fn differs(&self, now: &Provenance) -> Option<String> {
        let now = serde_json::to_value(now).unwrap_or_default();
        let mut names = Vec::new();
        compare("", &self.provenance, &now, &mut names);
        if names.is_empty() {
            return None;
        }
        let more = names.len().saturating_sub(NAMED);
        names.truncate(NAMED);
        let more = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "differs from the earlier run in {}{more}",
            names.join(", ")
        ))
    }
}

/// Adds the paths at which two values differ.
fn compare(path: &str, a: &Value, b: &Value, names: &mut Vec<String>) {
    if let (Value::Object(a), Value::Object(b)) = (a, b) {
        let mut keys: Vec<_> = a.keys().chain(b.keys()).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned();
            let path = match path {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            let (a, b) = (of(a).unwrap_or_default(), of(b).unwrap_or_default());
            compare(&path, &a, &b, names);
        }
    } else if a != b {
        names.push(path.to_owned());
    }
}

/// Returns the scenarios whose cases are to be run again, whatever the outcome of each.
fn failed_scenarios(summary: &Value) -> impl Iterator<Item = &str> {
    let summaries = summary.as_array().into_iter().flatten();
    summaries
        .filter(|summary| summary["verdict"] != "pass")
        .filter_map(|summary| summary["scenario"].as_str())
}

/// Returns the words of a command without the program, which is crucible or cargo.
fn words(reproduce: &str) -> Option<Vec<String>> {
    let words = shlex::split(reproduce)?;
    let first = words.first()?;
    let before = match first == "cargo" {
        true => words.iter().position(|word| word == "--")?,
        false => 0,
    };
    Some(words[before + 1..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(change: impl FnOnce(&mut Value)) -> Earlier {
        let mut record = json!({
            "schema": SCHEMA, "command": "matrix", "exit_code": 1, "left": 1,
            "units": [{"key": "a", "verdict": "pass"}, {"key": "b", "verdict": "hang"}],
            "summary": null, "provenance": {"kernel": {"hash": "1", "flavour": "base"}},
            "reproduce": "cargo run -q -- matrix ptrace --cell '*/a'",
        });
        change(&mut record);
        Earlier::parse(&record.to_string()).unwrap()
    }

    #[test]
    fn what_passed_is_left_out() {
        let earlier = record(|_| {});
        assert_eq!(earlier.words, ["matrix", "ptrace", "--cell", "*/a"]);
        assert_eq!(earlier.skipped(), ["a"]);
        assert!(!earlier.complete);
        let twice = record(|it| it["skipped"] = json!(["z"]));
        assert_eq!(twice.skipped(), ["a", "z"]);
        let installed = record(|it| it["reproduce"] = json!("crucible matrix ptrace"));
        assert_eq!(installed.words, ["matrix", "ptrace"]);
        let good = json!([{"key": "a", "verdict": "pass"}]);
        let done = record(|it| {
            it["units"] = good.clone();
            it["exit_code"] = json!(0);
            it["left"] = json!(0);
        });
        assert!(done.complete);
    }

    #[test]
    fn what_only_all_units_together_say_needs_all_of_them() {
        let none: [&str; 0] = [];
        let leak = record(|it| it["guests"] = json!([{"verdict": "panic"}]));
        assert_eq!(leak.skipped(), none);
        let clones = record(|it| it["command"] = json!("clones"));
        assert_eq!(clones.skipped(), none);
        let unexpected = record(|it| {
            it["units"] = json!([
                {"key": "hello/x", "verdict": "pass"},
                {"key": "vfork/x", "verdict": "pass"},
            ]);
            it["left"] = json!(0);
            it["summary"] = json!([
                {"scenario": "hello", "verdict": "diverged"},
                {"scenario": "vfork", "verdict": "pass"},
            ]);
        });
        assert_eq!(unexpected.skipped(), ["vfork/x"]);
    }

    #[test]
    fn another_kernel_is_named() {
        let earlier = record(|_| {});
        let mut names = Vec::new();
        let now = json!({"kernel": {"hash": "2", "flavour": "base"}, "qemu": "9"});
        compare("", &earlier.provenance, &now, &mut names);
        assert_eq!(names, ["kernel.hash", "qemu"]);
    }

    #[test]
    fn what_is_no_record_of_this_version_is_refused() {
        for text in ["", "{}", "{\"schema\": 3}", "{\"schema\": 4}"] {
            assert!(Earlier::parse(text).is_err(), "{text}");
        }
    }
}
