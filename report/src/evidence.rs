// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads the evidence of a failed run: its record, and the files beside it.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::links::stays_within;

/// Maximum size of a record to read, in bytes.
const LARGEST: u64 = 32 << 20;

/// Maximum number of characters shown of a unit's lines.
const CHARACTERS: usize = 4_000;

/// Maximum number of links to files of a run.
const FILES: usize = 12;

/// The evidence of a failure.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// Reason in one line.
    pub why: String,
    /// A difference, a kernel report, task states.
    pub lines: String,
    /// Tasks of the frozen tree, one line each.
    pub frozen: Vec<String>,
    /// Files, with their descriptions.
    pub files: Vec<(String, PathBuf)>,
    /// Command that repeats the run.
    pub reproduce: String,
    /// Directory of a recorded run with the same failure.
    pub replay: Option<PathBuf>,
}

/// Finds a failing run of a test in a directory below the directory of all results.
pub(crate) fn find(results: &Path, directory: &str, test: &str) -> Option<Evidence> {
    if !stays_within(directory) {
        return None;
    }
    let directory = results.join(directory);
    let mut runs: Vec<_> = fs::read_dir(&directory).ok()?.flatten().collect();
    runs.sort_by_key(fs::DirEntry::file_name);
    let mut found = runs.iter().filter_map(|run| of_run(&run.path(), test));
    let mut found = found.next().or_else(|| of_run(&directory, test))?;
    // One more run of the failing unit, which was recorded.
    let recorded = runs
        .iter()
        .map(fs::DirEntry::path)
        .find(|run| is_recorded(run, test));
    if let Some(run) = recorded {
        found.replay = Some(run);
    }
    Some(found)
}

/// Returns true for a run with a recording in which a test failed.
fn is_recorded(run: &Path, test: &str) -> bool {
    let Some(record) = record(run) else {
        return false;
    };
    let recordings = record["recordings"].as_array();
    let units = record["units"].as_array();
    recordings.is_some_and(|all| !all.is_empty())
        && units.is_some_and(|units| units.iter().any(|unit| is_of(unit, test)))
}

fn record(run: &Path) -> Option<Value> {
    let mut text = Vec::new();
    let file = File::open(run.join("record.json")).ok()?;
    file.take(LARGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn of_run(run: &Path, test: &str) -> Option<Evidence> {
    let record = record(run)?;
    let units = record["units"].as_array()?;
    let unit = units.iter().find(|unit| is_of(unit, test))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| {
        let all = value.as_array().into_iter().flatten();
        all.map(text).collect::<Vec<_>>()
    };
    let mut evidence = Evidence {
        why: text(&unit["why"]),
        lines: shortened(&texts(&unit["lines"])),
        reproduce: text(&record["reproduce"]),
        ..Evidence::default()
    };
    let tasks = unit["frozen"]["tasks"].as_array();
    for task in tasks.into_iter().flatten() {
        let of = |key: &str| text(&task[key]);
        let number = |key: &str| task[key].as_i64().unwrap_or_default();
        evidence.frozen.push(format!(
            "{:>6} {:>6} {} {} at {}",
            number("pid"),
            number("tid"),
            of("comm"),
            of("state"),
            of("site"),
        ));
    }
    let named = [("console", text(&unit["console"]))].into_iter();
    let others = texts(&unit["files"])
        .into_iter()
        .map(|file| (kind(&file), file));
    let memory = [("memory", text(&unit["memory"]["kept"]["file"]))].into_iter();
    let record = [("record", "record.json".to_owned())].into_iter();
    let logs = [
        ("console", "console.log".to_owned()),
        ("log", "log.txt".to_owned()),
    ];
    for (what, file) in named.chain(others).chain(memory).chain(record).chain(logs) {
        let path = run.join(&file);
        let known = evidence.files.iter().any(|(_, known)| *known == path);
        if stays_within(&file) && !known && path.exists() && evidence.files.len() < FILES {
            evidence.files.push((what.to_owned(), path));
        }
    }
    evidence.files.push(("all files".into(), run.to_owned()));
    Some(evidence)
}

/// Returns true for a unit of a test that did not pass.
fn is_of(unit: &Value, test: &str) -> bool {
    let key = unit["key"].as_str().unwrap_or_default();
    let key = key.strip_suffix("@criu").unwrap_or(key);
    let rest = test.strip_suffix(key).unwrap_or("x");
    !key.is_empty() && rest.ends_with([' ', '/']) && unit["verdict"] != "pass"
}

/// Returns the description of a file, by its name.
fn kind(file: &str) -> &'static str {
    let is = |word: &str| file.contains(word);
    match () {
        () if is("console") => "console",
        () if is("record") => "recording",
        () if is("image") => "image",
        () => "file",
    }
}

/// Joins lines up to a size.
fn shortened(lines: &[String]) -> String {
    let all = lines.join("\n");
    match all.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}\n[…]", &all[..end]),
        None => all,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_unit_is_found_by_its_test() {
        let unit = |key: &str| json!({ "key": key, "verdict": "diverged" });
        assert!(is_of(&unit("vfork/main"), "scenario vfork/main"));
        assert!(is_of(&unit("vfork/main@criu"), "scenario vfork/main"));
        assert!(is_of(&unit("main/1:vfork:2"), "sweep vfork/main/1:vfork:2"));
        assert!(!is_of(&unit("fork/main"), "scenario vfork/main"));
        assert!(!is_of(&unit(""), "scenario vfork/main"));
        let passed = json!({ "key": "vfork/main", "verdict": "pass" });
        assert!(!is_of(&passed, "scenario vfork/main"));
    }

    #[test]
    fn long_differences_are_cut_between_characters() {
        let lines = vec!["ä".repeat(CHARACTERS + 10)];
        assert!(shortened(&lines).ends_with("ä\n[…]"));
        assert_eq!(shortened(&["a".into(), "b".into()]), "a\nb");
    }
}
