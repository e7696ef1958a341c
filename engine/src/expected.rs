// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A scenario's expected result: reviewed by people and kept beside the scenario, in
//! insta's file format, so that `cargo insta review` works. A run never replaces it;
//! `crucible scenario NAME --accept` does.

use std::{fs, io, path::PathBuf};

use crucible_protocol::FileKind;

use crate::{
    compare::{Check, RunOutput},
    diff, normalise,
    run::Frozen,
    scenario::{Case, Scenario},
};

/// Directory of the expected results, within the scenario's directory.
const DIR: &str = "snapshots";

/// The name of the check in records and on the screen.
const NAME: &str = "expected result";

/// Header of a file, from which insta's reviewer shows its origin.
const HEADER: &str = "---\nsource: engine/src/expected.rs\n---\n";

/// The comparison of a result with the expected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// They are equal.
    Same,
    /// The scenario has no expected result.
    Missing,
    /// They differ: the explanation.
    Differs(String),
}

/// Renders the reviewed result of a case: the event at which it was stopped and its output,
/// without the parts that an update of Debian packages changes.
pub fn rendered(case: &Case, point: &Frozen, output: &RunOutput) -> String {
    let mut lines = vec![format!("case: {}", case.name), format!("at: {}", case.at)];
    let task = point.tasks.tasks.iter().find(|t| t.tid == point.freeze.tid);
    if let Some(task) = task.filter(|_| !case.any_task) {
        let site = task.site.split(' ').next().unwrap_or("");
        lines.push(format!("stopped: {} at {site}", task.comm));
    }
    let end = output.workload.map_or("unknown".into(), |e| e.to_string());
    lines.push(format!("end: {end}"));
    let mut uses = normalise::Uses::new();
    for (name, content) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let nonce = output.nonce.as_deref().unwrap_or("");
        let content = normalise::nonce(content, nonce, &mut uses);
        let content = normalise::addresses(&content);
        lines.push(format!("{name}:"));
        lines.extend(content.lines().map(|line| format!("  {line}")));
    }
    lines.push("files:".into());
    for file in &output.files {
        let kind = match &file.kind {
            FileKind::File { .. } => "file",
            FileKind::Dir => "directory",
            FileKind::Symlink { .. } => "link",
            _ => "special",
        };
        lines.push(format!("  {} {:04o} {kind}", file.path, file.mode));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Returns the file of a scenario's expected result.
fn file(scenario: &Scenario) -> PathBuf {
    scenario
        .dir
        .join(DIR)
        .join(format!("{}.snap", scenario.name))
}

/// Returns true when the scenario has an expected result.
pub fn exists(scenario: &Scenario) -> bool {
    file(scenario).is_file()
}

/// Returns the file for a result that is to be reviewed.
fn new_file(scenario: &Scenario) -> PathBuf {
    file(scenario).with_extension("snap.new")
}

/// Compares a result with the expected one. A result that is not equal to it is written
/// to a `.snap.new` file for review.
pub fn compare(scenario: &Scenario, result: &str) -> io::Result<Comparison> {
    let comparison = match fs::read_to_string(file(scenario)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Comparison::Missing,
        Err(error) => return Err(error),
        Ok(text) => {
            let (expected, result) = (content(&text).trim_end(), result.trim_end());
            if expected == result {
                remove_if_there(scenario)?;
                return Ok(Comparison::Same);
            }
            Comparison::Differs(explained(expected, result))
        }
    };
    write(scenario, new_file(scenario), result)?;
    Ok(comparison)
}

/// Compares the results of the cases of `scenario` with their parts of the expected result.
/// Writes no file for review, because it would lack the other cases.
pub fn compare_part(scenario: &Scenario, result: &str) -> io::Result<Comparison> {
    let Some(text) = text(scenario)? else {
        return Ok(Comparison::Missing);
    };
    let parts: Option<Vec<_>> = scenario
        .cases
        .iter()
        .map(|case| part(&text, case))
        .collect();
    let Some(parts) = parts else {
        return Ok(Comparison::Missing);
    };
    let expected = parts.join("\n");
    let (expected, result) = (expected.trim_end(), result.trim_end());
    Ok(match expected == result {
        true => Comparison::Same,
        false => Comparison::Differs(explained(expected, result)),
    })
}

/// Returns the expected result of a scenario, if it has one.
///
/// # Errors
/// The file cannot be read.
pub fn text(scenario: &Scenario) -> io::Result<Option<String>> {
    match fs::read_to_string(file(scenario)) {
        Ok(text) => Ok(Some(content(&text).to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Compares the result of one case with its part of the expected result `text`. Returns `None` if
/// they are equal, or if the case has no part.
pub fn compare_case(text: &str, case: &Case, result: &str) -> Option<Check> {
    let part = part(text, case)?;
    let (expected, result) = (part.trim_end(), result.trim_end());
    (expected != result).then(|| Check::bad(NAME, explained(expected, result)))
}

/// Returns one case's part of the expected result `text`.
fn part(text: &str, case: &Case) -> Option<String> {
    let head = format!("case: {}", case.name);
    let mut lines = text.lines().skip_while(|line| *line != head);
    let mut part = vec![lines.next()?];
    // The output of a case is indented.
    part.extend(lines.take_while(|line| !line.starts_with("case: ")));
    // Remove the end of the last line, and the empty line between cases, which the last case lacks.
    Some(format!("{}\n", part.join("\n").trim_end()))
}

/// Explains how two results differ.
fn explained(expected: &str, result: &str) -> String {
    // `first_difference` does not show lines that differ only in their ends.
    diff::first(expected, result).unwrap_or_else(|| "white space differs".to_owned())
}

/// Makes `result` the expected one.
pub fn accept(scenario: &Scenario, result: &str) -> io::Result<()> {
    write(scenario, file(scenario), result)?;
    remove_if_there(scenario)
}

fn write(scenario: &Scenario, file: PathBuf, result: &str) -> io::Result<()> {
    fs::create_dir_all(scenario.dir.join(DIR))?;
    fs::write(file, format!("{HEADER}{}\n", result.trim_end()))
}

fn remove_if_there(scenario: &Scenario) -> io::Result<()> {
    match fs::remove_file(new_file(scenario)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns the comparison as a check for a record. `part` is true when only some of the scenario's
/// cases were run.
pub fn check(comparison: &Comparison, scenario: &Scenario, part: bool) -> Check {
    let review = |what: &str| match part {
        true => what.to_owned(),
        false => format!(
            "{what}\n compare {} with the result that you expect",
            new_file(scenario).display()
        ),
    };
    match comparison {
        Comparison::Same => Check::good(NAME),
        Comparison::Missing if part => Check::bad(NAME, "a case has none yet".to_owned()),
        Comparison::Missing => Check::bad(NAME, review("the scenario has none yet")),
        Comparison::Differs(how) => Check::bad(NAME, review(how)),
    }
}

/// Returns the failed check for an expected result that cannot be read or written.
pub fn unusable(scenario: &Scenario, error: &io::Error) -> Check {
    let dir = scenario.dir.join(DIR);
    Check::bad(NAME, format!("cannot use {}: {error}", dir.display()))
}

/// Strips insta's header from the text of a file.
fn content(file: &str) -> &str {
    file.strip_prefix("---\n")
        .and_then(|rest| rest.split_once("\n---\n"))
        .map_or(file, |(_, content)| content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn scenario(dir: PathBuf) -> Scenario {
        Scenario {
            name: "s".into(),
            dir,
            summary: String::new(),
            shared: Vec::new(),
            build: Vec::new(),
            cases: Vec::new(),
        }
    }

    #[test]
    fn a_missing_result_is_written_for_review_and_can_be_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let scenario = scenario(dir.path().into());
        assert_eq!(compare(&scenario, "one\n").unwrap(), Comparison::Missing);
        let new = dir.path().join("snapshots/s.snap.new");
        assert!(fs::read_to_string(&new).unwrap().ends_with("---\none\n"));
        let said = check(&Comparison::Missing, &scenario, false)
            .difference
            .unwrap();
        assert!(said.contains("s.snap.new"), "{said}");
        accept(&scenario, "one\n").unwrap();
        assert!(!new.exists());
        assert_eq!(compare(&scenario, "one\n").unwrap(), Comparison::Same);
    }

    #[test]
    fn a_case_is_compared_with_its_own_part() {
        let case = |name: &str| Case {
            name: name.into(),
            ..Case::example()
        };
        let (one, two) = (
            "case: one\nstdout:\n  case: two\n",
            "case: two\nstdout:\n  b\n",
        );
        let text = format!("{one}\n{two}");
        assert_eq!(compare_case(&text, &case("one"), one), None);
        assert_eq!(compare_case(&text, &case("two"), two), None);
        assert_eq!(compare_case(&text, &case("three"), two), None);
        let check = compare_case(&text, &case("two"), &two.replace('b', "c")).unwrap();
        assert_eq!(check.name, "expected result");
        assert!(check.difference.unwrap().contains("+   c"));
    }

    #[test]
    fn some_cases_are_compared_with_their_parts() {
        let dir = tempfile::tempdir().unwrap();
        let case = |name: &str| Case {
            name: name.into(),
            ..Case::example()
        };
        let (one, two) = ("case: one\nstdout:\n  a\n", "case: two\nstdout:\n  b\n");
        let mut scenario = scenario(dir.path().into());
        scenario.cases = vec![case("two")];
        let compared = |scenario: &Scenario, result: &str| compare_part(scenario, result).unwrap();
        assert_eq!(compared(&scenario, two), Comparison::Missing);
        accept(
            &scenario,
            &[one, two, "case: three\nstdout:\n  c\n"].join("\n"),
        )
        .unwrap();
        assert_eq!(compared(&scenario, two), Comparison::Same);
        let Comparison::Differs(how) = compared(&scenario, &two.replace('b', "x")) else {
            panic!("not different");
        };
        assert!(how.contains("+   x"), "{how}");
        assert!(!new_file(&scenario).exists());
        scenario.cases = vec![case("one"), case("three")];
        let both = [one, "case: three\nstdout:\n  c\n"].join("\n");
        assert_eq!(compared(&scenario, &both), Comparison::Same);
        scenario.cases.push(case("four"));
        assert_eq!(compared(&scenario, &both), Comparison::Missing);
    }

    #[test]
    fn a_different_result_is_explained_and_not_accepted() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("snapshots")).unwrap();
        let file = dir.path().join("snapshots/s.snap");
        fs::write(&file, "---\nsource: x\n---\none\ntwo\n").unwrap();
        let scenario = scenario(dir.path().into());
        assert_eq!(compare(&scenario, "one\ntwo\n").unwrap(), Comparison::Same);
        let Comparison::Differs(how) = compare(&scenario, "one\nthree\n").unwrap() else {
            panic!("not different");
        };
        assert!(how.contains("- two"), "{how}");
        assert!(how.contains("+ three"), "{how}");
        assert_eq!(
            fs::read_to_string(file).unwrap(),
            "---\nsource: x\n---\none\ntwo\n"
        );
    }

    #[test]
    fn a_result_that_cannot_be_read_is_no_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("snapshots/s.snap")).unwrap();
        assert!(compare(&scenario(dir.path().into()), "one\n").is_err());
    }
}
