// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compares two runs and explains the differences in a few lines.

use crucible_protocol::{Ended, Fact, FileEntry, FileKind, Observation, TaskFacts};
use serde::{Deserialize, Serialize};

use crate::{
    diff,
    normalise::{self, Rule, Uses},
    strace,
};

/// The result of a run: its exit status, and its output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOutput {
    /// Exit status of the container's init; `None` is unknown, never success.
    pub root: Option<Ended>,
    /// Exit status of the workload, as the container's init reported it.
    pub workload: Option<Ended>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Files in `/work`.
    pub files: Vec<FileEntry>,
    /// Logs named by the case; these are not in `files`.
    pub logs: Vec<strace::Log>,
    /// Nonce that the workload drew before the checkpoint.
    pub nonce: Option<String>,
}

#[cfg(test)]
impl RunOutput {
    /// Returns the output of a run that ended with status 0.
    pub(crate) fn example(stdout: &str) -> Self {
        Self {
            root: Some(Ended::Exited { code: 0 }),
            workload: Some(Ended::Exited { code: 0 }),
            stdout: stdout.into(),
            stderr: String::new(),
            files: Vec::new(),
            logs: Vec::new(),
            nonce: None,
        }
    }
}

/// The result of one comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The two sides and the property: `restarted = control: stdout`.
    pub name: String,
    /// True when the two are equal.
    pub ok: bool,
    /// The difference, if they are not equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<String>,
}

impl Check {
    /// Returns a comparison of equal things.
    pub fn good(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ok: true,
            difference: None,
        }
    }

    /// Returns a comparison that found a difference.
    pub fn bad(name: impl Into<String>, difference: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ok: false,
            difference: Some(difference.into()),
        }
    }

    /// Compares two texts line by line.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.difference.iter().flat_map(|d| d.lines());
        lines.map(str::to_owned).collect()
    }

    fn of(name: String, difference: Option<String>) -> Self {
        match difference {
            None => Self::good(name),
            Some(difference) => Self::bad(name, difference),
        }
    }
}

/// Compares all parts of two results. `pair` names the runs, the expected one last.
pub fn outputs(
    pair: &str,
    actual: &RunOutput,
    expected: &RunOutput,
    rules: &[Rule],
    uses: &mut Uses,
) -> Vec<Check> {
    let mut text = |output: &RunOutput, text: &str| match &output.nonce {
        Some(nonce) => normalise::nonce(text, nonce, uses),
        None => text.to_owned(),
    };
    let stdout = diff::first(
        &text(expected, &expected.stdout),
        &text(actual, &actual.stdout),
    );
    let stderr = diff::first(
        &text(expected, &expected.stderr),
        &text(actual, &actual.stderr),
    );
    let mut checks = vec![
        Check::of(format!("{pair}: stdout"), stdout),
        Check::of(format!("{pair}: stderr"), stderr),
        Check::of(
            format!("{pair}: workload's end"),
            ends(expected.workload, actual.workload),
        ),
        Check::of(
            format!("{pair}: container's end"),
            ends(expected.root, actual.root),
        ),
        Check::of(
            format!("{pair}: files"),
            diff::first(&listing(&expected.files), &listing(&actual.files)),
        ),
    ];
    if !expected.logs.is_empty() || !actual.logs.is_empty() {
        let expected = strace::normalised(&expected.logs, rules, uses);
        let actual = strace::normalised(&actual.logs, rules, uses);
        checks.push(Check::of(
            format!("{pair}: logs"),
            strace::difference(&expected, &actual),
        ));
    }
    checks
}

fn ends(expected: Option<Ended>, actual: Option<Ended>) -> Option<String> {
    let show = |ended: Option<Ended>| ended.map_or("unknown".to_owned(), |e| e.to_string());
    match (expected, actual) {
        (Some(e), Some(a)) if e == a => None,
        _ => Some(format!("expected {}, got {}", show(expected), show(actual))),
    }
}

/// Lists files, one line each, with the hash of their content.
fn listing(files: &[FileEntry]) -> String {
    let mut text = String::new();
    for file in files {
        let kind = match &file.kind {
            FileKind::File { size, sha256 } => format!("{size} bytes, sha256 {sha256}"),
            FileKind::Symlink { target } => format!("-> {target}"),
            other => format!("{other:?}").to_lowercase(),
        };
        text.push_str(&format!("{} {:04o} {kind}\n", file.path, file.mode));
    }
    text
}

/// Compares the tasks before a checkpoint with those after the restart.
pub fn observations(pair: &str, after: &Observation, before: &Observation) -> Vec<Check> {
    let tree = Check::of(
        format!("{pair}: process tree"),
        diff::first(&tree(before), &tree(after)),
    );
    if !tree.ok {
        return vec![tree];
    }
    let mut differences = Vec::new();
    for (before, after) in before.tasks.iter().zip(&after.tasks) {
        differences.extend(task(before, after));
    }
    let facts = if differences.is_empty() {
        None
    } else {
        let more = differences.len().saturating_sub(3);
        differences.truncate(3);
        if more > 0 {
            differences.push(format!("and {more} more facts, in the record"));
        }
        Some(differences.join("\n"))
    };
    vec![tree, Check::of(format!("{pair}: what /proc shows"), facts)]
}

/// Lists the facts of a task that differ.
pub fn task(before: &TaskFacts, after: &TaskFacts) -> Vec<String> {
    // A missing fact differs from an empty one.
    let nothing = Fact::from("<missing>");
    let keys = before.facts.keys().chain(after.facts.keys());
    let mut keys: Vec<_> = keys.collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .filter_map(|key| {
            let one = before.facts.get(key).unwrap_or(&nothing);
            let two = after.facts.get(key).unwrap_or(&nothing);
            if one == two {
                return None;
            }
            diff::first(&one.shown(), &two.shown())
                .or_else(|| Some(format!("{one:?} is of a different kind than {two:?}")))
                .map(|d| format!("task {} ({}), {key}: {d}", before.tid, before.comm))
        })
        .collect()
}

/// Lists tasks, one line each: ids, parent, state and site.
pub fn tree(observation: &Observation) -> String {
    let mut text = String::new();
    for t in &observation.tasks {
        text.push_str(&format!(
            "{} thread {} of {} parent {} group {} session {} state {} site {}\n",
            t.comm, t.tid, t.pid, t.ppid, t.pgid, t.sid, t.state, t.site
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(stdout: &str) -> RunOutput {
        RunOutput::example(stdout)
    }

    /// Returns the names of the comparisons that found a difference, without the pair.
    fn different(checks: &[Check]) -> Vec<&str> {
        let bad = checks.iter().filter(|check| !check.ok);
        bad.map(|check| check.name.strip_prefix("a = b: ").unwrap())
            .collect()
    }

    fn compared(one: &RunOutput, two: &RunOutput) -> Vec<Check> {
        outputs("a = b", one, two, &[], &mut Uses::new())
    }

    #[test]
    fn equal_runs_pass_every_check() {
        let checks = compared(&output("x\n"), &output("x\n"));
        assert_eq!(checks.len(), 5, "{checks:?}");
        assert_eq!(different(&checks), [""; 0]);
        assert!(checks.iter().all(|check| check.lines().is_empty()));
    }

    #[test]
    fn each_part_of_a_result_is_compared() {
        let good = output("x\n");
        let but = |change: &dyn Fn(&mut RunOutput)| {
            let mut other = good.clone();
            change(&mut other);
            let (one, two) = (compared(&other, &good), compared(&good, &other));
            assert_eq!(different(&one), different(&two));
            one
        };
        let killed = Some(Ended::Signaled { signal: 9 });
        let checks = but(&|other| other.stdout = "y\n".into());
        assert_eq!(different(&checks), ["stdout"]);
        assert_eq!(
            checks[0].lines(),
            ["differs from line 1", "  - x", "  + y"],
            "the expected text comes first"
        );
        let checks = but(&|other| other.stderr = "y\n".into());
        assert_eq!(different(&checks), ["stderr"]);
        let checks = but(&|other| other.workload = killed);
        assert_eq!(different(&checks), ["workload's end"]);
        assert_eq!(
            checks[2].lines(),
            [format!(
                "expected {}, got {}",
                Ended::Exited { code: 0 },
                Ended::Signaled { signal: 9 }
            )]
        );
        let checks = but(&|other| other.root = killed);
        assert_eq!(different(&checks), ["container's end"]);
        let file = FileEntry {
            path: "a".into(),
            mode: 0o640,
            kind: FileKind::Dir,
        };
        let checks = but(&|other| other.files.push(file.clone()));
        assert_eq!(different(&checks), ["files"]);
    }

    #[test]
    fn logs_are_compared_once_one_run_has_any() {
        let mut with = output("");
        with.logs = vec![("log.1".into(), "pause() = 0\n".into())];
        let checks = compared(&with, &with);
        assert_eq!((checks.len(), different(&checks)), (6, Vec::new()));
        for (one, two) in [(&with, &output("")), (&output(""), &with)] {
            assert_eq!(different(&compared(one, two)), ["logs"]);
        }
    }

    #[test]
    fn a_listing_has_kind_mode_and_content() {
        let entry = |path: &str, kind| FileEntry {
            path: path.into(),
            mode: 0o640,
            kind,
        };
        let size = 3;
        let sha256 = "ab".into();
        let target = "a".into();
        let text = listing(&[
            entry("a", FileKind::File { size, sha256 }),
            entry("b", FileKind::Dir),
            entry("c", FileKind::Symlink { target }),
        ]);
        let lines = ["a 0640 3 bytes, sha256 ab", "b 0640 dir", "c 0640 -> a", ""];
        assert_eq!(text, lines.join("\n"));
    }

    #[test]
    fn an_unknown_end_equals_nothing_not_even_another() {
        let mut one = output("");
        one.workload = None;
        let checks = outputs("a = b", &one.clone(), &one, &[], &mut Uses::new());
        let bad: Vec<_> = checks.iter().filter(|c| !c.ok).collect();
        assert_eq!(bad.len(), 1);
        assert!(bad[0].difference.as_ref().unwrap().contains("unknown"));
    }

    #[test]
    fn each_run_has_its_own_nonce() {
        let mut one = output("n 11\n");
        one.nonce = Some("11".into());
        let mut two = output("n 22\n");
        two.nonce = Some("22".into());
        let mut uses = Uses::new();
        assert!(
            outputs("a = b", &one, &two, &[], &mut uses)
                .iter()
                .all(|c| c.ok)
        );
        two.stdout = "n 11\n".into();
        assert!(!outputs("a = b", &one, &two, &[], &mut uses)[0].ok);
    }

    #[test]
    fn a_lost_task_is_a_difference_of_the_tree() {
        let both = Observation {
            tasks: vec![TaskFacts::default(), TaskFacts::default()],
        };
        let one = Observation {
            tasks: vec![TaskFacts::default()],
        };
        let checks = observations("after = before", &one, &both);
        assert_eq!(checks.len(), 1);
        assert!(!checks[0].ok);
        let checks = observations("after = before", &both, &both);
        assert_eq!(checks.len(), 2);
        assert!(checks.iter().all(|check| check.ok), "{checks:?}");
    }

    #[test]
    fn a_tree_shows_ids_state_and_site() {
        let text = tree(&Observation {
            tasks: vec![TaskFacts {
                pid: 1,
                tid: 2,
                ppid: 3,
                pgid: 4,
                sid: 5,
                comm: "sh".into(),
                state: 'S',
                site: "vfork".into(),
                ..TaskFacts::default()
            }],
        });
        assert_eq!(
            text,
            "sh thread 2 of 1 parent 3 group 4 session 5 state S site vfork\n"
        );
    }

    #[test]
    fn of_many_facts_three_are_shown_and_the_others_counted() {
        let facts = |count, value: &str| {
            let facts = (0..count).map(|number| (format!("fact.{number}"), value.into()));
            Observation {
                tasks: vec![TaskFacts {
                    facts: facts.collect(),
                    ..TaskFacts::default()
                }],
            }
        };
        let shown = |count| {
            let checks = observations("after = before", &facts(count, "1"), &facts(count, "0"));
            assert!(checks[0].ok && !checks[1].ok, "{checks:?}");
            let lines = checks[1].lines();
            let tasks = lines.iter().filter(|line| line.starts_with("task "));
            (tasks.count(), lines.last().cloned().unwrap_or_default())
        };
        assert_eq!(shown(2).0, 2);
        let (tasks, last) = shown(3);
        assert_eq!((tasks, last.contains("more facts")), (3, false), "{last}");
        let more = "and 2 more facts, in the record".to_owned();
        assert_eq!(shown(5), (3, more));
    }

    #[test]
    fn a_fact_that_only_one_has_is_a_difference() {
        let without = TaskFacts::default();
        let mut with = without.clone();
        with.facts.insert("timers".into(), "ID: 0".into());
        assert_eq!(task(&without, &with).len(), 1);
        assert_eq!(task(&with, &without).len(), 1);
        assert_eq!(task(&with, &with), [""; 0]);
    }

    #[test]
    fn a_changed_fact_names_its_task() {
        let mut before = TaskFacts {
            tid: 7,
            comm: "make".into(),
            ..TaskFacts::default()
        };
        before.facts.insert("status.SigBlk".into(), "01".into());
        let mut after = before.clone();
        after.facts.insert("status.SigBlk".into(), "00".into());
        let found = task(&before, &after);
        assert!(
            found[0].starts_with("task 7 (make), status.SigBlk: "),
            "{found:?}"
        );
    }
}
