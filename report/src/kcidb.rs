// SPDX-License-Identifier: Apache-2.0 OR MIT
//! KCIDB's JSON, version 5.3, which KernelCI accepts.
//!
//! A night is a checkout, a flavour of its kernel a build, and each run of a test a test, so that
//! flakes can be seen. A metric is a test below its own. A signature is an issue, and its runs are
//! the incidents. No field is null, and a row has the same name each time that it is sent.

use std::collections::{BTreeMap, BTreeSet};

use crucible_history::{Metric, ResultRow, TestId};
use crucible_protocol::shown_lines;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::results::{NightResults, TestResult};

/// Maximum number of characters of a log, by the format.
const EXCERPT: usize = 16_384;

/// Returns true for the name of a CI system that can be used.
pub fn is_origin(text: &str) -> bool {
    let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    !text.is_empty() && text.chars().all(usable)
}

/// Returns the results of a night. `origin` is the name of the CI system.
pub fn of_night(night: &NightResults, origin: &str) -> Value {
    let checkout = format!("{origin}:{}", hash(&[&night.night, &night.plan]));
    let names = Names {
        origin,
        checkout: &checkout,
    };
    let mut tests = Vec::new();
    let mut incidents = Vec::new();
    let mut signatures: BTreeSet<&str> = BTreeSet::new();
    for result in &night.tests {
        if result.runs.is_empty() {
            tests.push(names.without_run(result));
        }
        for run in &result.runs {
            tests.push(names.run(result, run));
            tests.extend(run.metrics.iter().map(|metric| names.metric(run, metric)));
            if run.is_failure() {
                signatures.insert(&run.signature);
                incidents.push(names.incident(run));
            }
        }
    }
    let issues = signatures.into_iter().map(|it| names.issue(it));
    json!({
        "version": { "major": 5, "minor": 3 },
        "checkouts": [names.checkout(night)],
        "builds": names.builds(night),
        "tests": tests,
        "issues": issues.collect::<Vec<_>>(),
        "incidents": incidents,
    })
}

/// Names of objects.
struct Names<'a> {
    origin: &'a str,
    checkout: &'a str,
}

impl Names<'_> {
    fn name(&self, parts: &[&str]) -> String {
        format!("{}:{}", self.origin, hash(parts))
    }

    fn build(&self, test: &TestId) -> String {
        format!("{}-{}", self.checkout, flavour(test))
    }

    fn checkout(&self, night: &NightResults) -> Value {
        let mut checkout = json!({
            "id": self.checkout,
            "origin": self.origin,
            "valid": true,
            "comment": shown_lines(&format!("crucible night {}", night.night)),
            "misc": { "night": night.night, "plan": night.plan },
        });
        if let Some(first) = night.shards.iter().map(|it| &it.started).min()
            && !first.is_empty()
        {
            checkout["start_time"] = json!(first);
        }
        if let Some(commit) = commit(night) {
            checkout["git_commit_hash"] = json!(commit);
        }
        checkout
    }

    fn builds(&self, night: &NightResults) -> Vec<Value> {
        let mut builds: BTreeMap<&str, (String, &str)> = BTreeMap::new();
        for result in &night.tests {
            let name = || (self.build(&result.test), "");
            let build = builds.entry(flavour(&result.test)).or_insert_with(name);
            let kernels = result.runs.iter().map(|run| run.kernel.as_str());
            if let Some(kernel) = kernels.max().filter(|kernel| !kernel.is_empty()) {
                build.1 = kernel;
            }
        }
        let builds = builds.into_iter().map(|(flavour, (id, kernel))| {
            json!({
                "id": id,
                "origin": self.origin,
                "checkout_id": self.checkout,
                "architecture": "x86_64",
                "config_name": printable(flavour, EXCERPT),
                "status": "PASS",
                "misc": { "kernel": kernel },
            })
        });
        builds.collect()
    }

    /// Returns the properties that all tests have.
    fn test(&self, id: String, test: &TestId, path: &str) -> Map<String, Value> {
        let parts: Vec<_> = test.variant.split('/').collect();
        let part = |at: usize| parts.get(at).copied().unwrap_or_default();
        let test = json!({
            "id": id,
            "origin": self.origin,
            "build_id": self.build(test),
            "path": path,
            "environment": {
                "comment": printable(&test.variant, EXCERPT),
                "misc": { "backend": part(0), "machine": part(2) },
            },
        });
        match test {
            Value::Object(test) => test,
            _ => Map::new(),
        }
    }

    fn without_run(&self, result: &TestResult) -> Value {
        let test = &result.test;
        let id = self.name(&[self.checkout, &test.name, &test.variant]);
        let mut object = self.test(id, test, &path(test));
        // The test was left out, or its result was lost.
        let status = if result.outcome.is_pass() {
            "SKIP"
        } else {
            "MISS"
        };
        object.insert("status".into(), json!(status));
        object.insert(
            "comment".into(),
            json!(printable(&result.outcome.why, EXCERPT)),
        );
        Value::Object(object)
    }

    fn run(&self, result: &TestResult, run: &ResultRow) -> Value {
        let mut object = self.test(self.name(&[&run.id()]), &run.test, &path(&run.test));
        object.insert("status".into(), json!(status(run)));
        object.insert("duration".into(), json!(run.ms as f64 / 1000.0));
        if !run.blame.is_empty() {
            let lines = match run.is_failure() {
                true => result.outcome.lines.join("\n"),
                false => String::new(),
            };
            let text = format!("{}: {}\n{lines}", run.condition, run.why);
            object.insert("log_excerpt".into(), json!(printable(&text, EXCERPT)));
        }
        let misc = json!({
            "name": run.test.to_string(),
            "attempt": run.attempt,
            "finished": run.time,
            "condition": run.condition,
            "verdict": run.verdict,
            "blame": run.blame,
            "signature": run.signature,
            "harness": run.harness,
        });
        object.insert("misc".into(), misc);
        Value::Object(object)
    }

    fn metric(&self, run: &ResultRow, metric: &Metric) -> Value {
        let id = self.name(&[&run.id(), &metric.name]);
        let path = format!("{}.{}", path(&run.test), part(&metric.name));
        let mut object = self.test(id, &run.test, &path);
        let (value, unit) = match metric.unit.as_str() {
            "ms" => (metric.value / 1000.0, "s"),
            unit => (metric.value, unit),
        };
        let unit = printable(unit, EXCERPT);
        let number = json!({ "value": value, "unit": unit, "prefix": "metric" });
        object.insert("status".into(), json!("DONE"));
        object.insert("number".into(), number);
        Value::Object(object)
    }

    fn issue(&self, signature: &str) -> Value {
        json!({
            "id": self.name(&[signature]),
            "version": 1,
            "origin": self.origin,
            "comment": printable(signature, EXCERPT),
            "culprit": { "code": true, "tool": false, "harness": false },
        })
    }

    fn incident(&self, run: &ResultRow) -> Value {
        json!({
            "id": self.name(&[&run.id(), "incident"]),
            "origin": self.origin,
            "issue_id": self.name(&[&run.signature]),
            "issue_version": 1,
            "test_id": self.name(&[&run.id()]),
            "present": true,
        })
    }
}

/// Returns the status of a test with this outcome. Only a fault of the kernel is a failure; a fault
/// of the host or crucible counts as a test that was not run.
fn status(run: &ResultRow) -> &'static str {
    match run.blame.as_str() {
        "" if run.condition == "not-applicable" => "SKIP",
        "" => "PASS",
        _ if run.is_failure() => "FAIL",
        "host" | "crucible" => "MISS",
        _ => "ERROR",
    }
}

fn flavour(test: &TestId) -> &str {
    test.variant.split('/').nth(1).unwrap_or("base")
}

/// Returns the commit that all shards have run.
fn commit(night: &NightResults) -> Option<String> {
    let commits = night.shards.iter().map(|shard| {
        let provenance: Value = serde_json::from_str(&shard.provenance).ok()?;
        let parts = provenance.as_object()?.values().next()?;
        let commit = parts["checkout"]["commit"].as_str()?;
        let is_hash = matches!(commit.len(), 40 | 64)
            && commit
                .bytes()
                .all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
        is_hash.then(|| commit.to_owned())
    });
    let commits: Option<BTreeSet<_>> = commits.collect();
    let commits = commits.filter(|commits| commits.len() == 1)?;
    commits.into_iter().next()
}

/// Returns the path of a test: `crucible.scenario.vfork.main`.
fn path(test: &TestId) -> String {
    let backend = test.variant.split('/').next().unwrap_or_default();
    let parts = test.name.split([' ', '/', '.']);
    let parts = [backend].into_iter().chain(parts);
    let parts: Vec<_> = parts.filter(|it| !it.is_empty()).map(part).collect();
    parts.join(".")
}

/// Returns a part of a path.
fn part(text: &str) -> String {
    let usable = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let part: String = text
        .chars()
        .map(|c| if usable(c) { c } else { '_' })
        .collect();
    if part.is_empty() { "_".into() } else { part }
}

/// Returns a text without control characters, cut to a number of characters.
fn printable(text: &str, most: usize) -> String {
    shown_lines(text.trim_end()).chars().take(most).collect()
}

/// Returns a name for some parts.
fn hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let mut name = String::with_capacity(32);
    for byte in hash.finalize().iter().take(16) {
        name.push_str(&format!("{byte:02x}"));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_dots_for_slashes() {
        let of = |name: &str, variant: &str| {
            path(&TestId {
                name: name.into(),
                variant: variant.into(),
            })
        };
        let ours = "crucible/base/qemu";
        assert_eq!(
            of("scenario vfork/main", ours),
            "crucible.scenario.vfork.main"
        );
        assert_eq!(of("scenario a/b", "criu/base/qemu"), "criu.scenario.a.b");
        assert_eq!(
            of("sweep v/m/1:vfork:2", ours),
            "crucible.sweep.v.m.1_vfork_2"
        );
        assert_eq!(of("a//b é", ours), "crucible.a.b._");
        assert!(is_origin("our_ci2"));
        assert!(!is_origin("") && !is_origin("Our") && !is_origin("a:b"));
    }
}
