// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible scenario`: one line per case, and explanations of failures.

use std::fmt::Write;

use crucible_engine::Verdict;
use crucible_engine::experiment::{Finding, Report, ScenarioSummary};
use crucible_engine::record::{CaseRecord, Record};

use super::{backends, blame, end, evidence, others};

type Case = Finding<CaseRecord>;

/// Formats a run.
pub fn screen(report: &Report<CaseRecord, Vec<ScenarioSummary>>, record: &Record) -> String {
    let several = report
        .summary
        .windows(2)
        .any(|pair| pair[0].backend != pair[1].backend);
    let mut text = String::new();
    if several {
        text.push_str(&backends::table(&report.summary, &report.findings));
        text.push('\n');
    } else {
        for summary in &report.summary {
            let of = |case: &&Case| scenario(case) == summary.scenario;
            let cases: Vec<_> = report.findings.iter().filter(of).collect();
            one(&mut text, summary, &cases, record);
        }
    }
    others(&mut text, report);
    end(&mut text, record);
    text
}

/// Returns the name of a case's scenario.
pub(super) fn scenario(case: &Case) -> &str {
    let detail = case.detail.as_ref();
    detail.map_or_else(
        || case.key.split('/').next().unwrap_or_default(),
        |detail| detail.scenario.as_str(),
    )
}

fn one(text: &mut String, summary: &ScenarioSummary, cases: &[&Case], record: &Record) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{}: {}{} ({})",
        summary.scenario,
        summary.outcome.verdict().name(),
        blame(&summary.outcome),
        summary.outcome.why
    );
    for case in cases {
        let verdict = case.outcome.verdict();
        let Some(detail) = &case.detail else {
            let _ = writeln!(text, "  {}: {}", case.key, verdict.name());
            explain(text, case);
            continue;
        };
        let (name, at) = (&detail.name, &detail.at);
        let _ = writeln!(text, "  {name} at {at}: {}", verdict.name());
        frozen(text, detail);
        if !case.outcome.is_pass() {
            explain(text, case);
            let results = &record.results;
            if !detail.console.is_empty() {
                let _ = writeln!(text, "    console  {results}/{}", detail.console);
            }
            kept(text, results, &detail.files);
        }
    }
    if let Some(check) = summary.expected.as_ref().filter(|c| !c.ok) {
        let difference = check.difference.as_deref().unwrap_or("");
        let _ = writeln!(text, "  {}: {difference}", check.name);
        // Accepting cannot help if the expected result could not be read.
        if matches!(
            summary.outcome.verdict(),
            Verdict::Unreviewed | Verdict::Diverged
        ) {
            let _ = writeln!(text, "  accept   {} --accept", record.reproduce);
        }
    }
    overhead(text, summary);
}

/// Shows the durations of checkpoint, kill and restart, summed over all cases, relative to the
/// undisturbed runs.
fn overhead(text: &mut String, summary: &ScenarioSummary) {
    let ms = |step: &str| summary.timings.get(&format!("{step}_ms")).copied();
    let (Some(run), Some(checkpoint), Some(kill), Some(restart)) = (
        ms("undisturbed_1"),
        ms("checkpoint"),
        ms("kill"),
        ms("restart"),
    ) else {
        return;
    };
    let share = (checkpoint + kill + restart) * 100 / run.max(1);
    let _ = writeln!(
        text,
        "  time     checkpoint {checkpoint} ms, kill {kill} ms, restart {restart} ms: \
         {share} % of the undisturbed runs' {run} ms"
    );
}

/// Shows the directory of the files that were kept, and their names.
fn kept(text: &mut String, results: &str, files: &[String]) {
    let Some((directory, _)) = files.first().and_then(|file| file.rsplit_once('/')) else {
        return;
    };
    let names = files.iter().filter_map(|file| file.rsplit('/').next());
    let names = names.collect::<Vec<_>>().join(" ");
    let _ = writeln!(text, "    kept     {results}/{directory}/: {names}");
}

fn frozen(text: &mut String, case: &CaseRecord) {
    let Some(frozen) = &case.frozen else { return };
    for task in &frozen.tasks {
        let mark = if task.tid == frozen.tid { '*' } else { ' ' };
        let _ = writeln!(
            text,
            "   {mark}{:>4} {:<15} child of {:<4} {}",
            task.tid, task.comm, task.ppid, task.site
        );
    }
}

fn explain(text: &mut String, case: &Case) {
    let outcome = &case.outcome;
    let _ = writeln!(text, "    why      {}", outcome.why);
    if let Some(blame) = outcome.condition.blame() {
        let condition = outcome.condition.name();
        let _ = writeln!(text, "    blame    {} ({condition})", blame.name());
    }
    let checks = case.detail.iter().flat_map(|detail| &detail.checks);
    for check in checks.filter(|c| !c.ok) {
        let difference = check.difference.as_deref().unwrap_or("");
        let _ = writeln!(
            text,
            "    check    {}: {}",
            check.name,
            difference.replace('\n', "\n    ")
        );
    }
    evidence(text, "    ", outcome, usize::MAX);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crucible_engine::compare::Check;
    use crucible_engine::outcome::Outcome;
    use crucible_engine::record::SCHEMA;
    use crucible_engine::{Backend, Condition};
    use serde_json::Value;

    fn case(condition: Condition) -> Case {
        Finding {
            key: "s/main".into(),
            outcome: Outcome {
                lines: (0..100).map(|n| format!("line {n}")).collect(),
                ..Outcome::new(condition, "w")
            },
            ms: 1,
            detail: Some(CaseRecord {
                scenario: "s".into(),
                name: "main".into(),
                at: "vfork:1".into(),
                checks: vec![Check::bad(
                    "restarted = control: stdout",
                    "differs from line 1\n  - a\n  + b",
                )],
                ..CaseRecord::default()
            }),
        }
    }

    fn screen_of(condition: Condition, timings: BTreeMap<String, u64>) -> String {
        let report = Report {
            findings: vec![case(condition)],
            summary: vec![ScenarioSummary {
                scenario: "s".into(),
                backend: Backend::Crucible,
                outcome: Outcome::new(condition, "w"),
                expected: None,
                timings,
            }],
            guests: Vec::new(),
            left: 0,
            unplanned: None,
            interrupted: false,
            booted: None,
        };
        let record = Record {
            without: Vec::new(),
            schema: SCHEMA,
            command: "scenario".into(),
            outcome: report.outcome(),
            exit_code: report.exit_code(),
            counts: report.counts(),
            left: 0,
            units: Vec::new(),
            skipped: Vec::new(),
            guests: Vec::new(),
            summary: Value::Null,
            reproduce: "cargo run -- scenario s".into(),
            provenance: Value::Null,
            guest: None,
            machine: None,
            machine_ready_ms: None,
            recordings: Vec::new(),
            ms: 1,
            results: "results/x".into(),
        };
        screen(&report, &record)
    }

    #[test]
    fn a_divergence_fits_one_screen_and_says_how_to_see_it_again() {
        let text = screen_of(Condition::Diverged, BTreeMap::new());
        assert!(text.lines().count() <= 40, "{text}");
        assert!(text.contains("restarted = control: stdout"), "{text}");
        assert!(text.contains("cargo run -- scenario s"), "{text}");
        assert!(text.contains("results/x"), "{text}");
        assert!(text.contains("s: diverged [kernel]"), "{text}");
    }

    #[test]
    fn what_a_restart_costs_is_told_beside_an_undisturbed_run() {
        let none = screen_of(Condition::Passed, BTreeMap::new());
        assert!(!none.contains("time"), "{none}");
        let steps = [
            ("undisturbed_1_ms", 400),
            ("checkpoint_ms", 20),
            ("kill_ms", 5),
            ("restart_ms", 15),
        ];
        let timings = steps.map(|(step, ms)| (step.to_owned(), ms)).into();
        let text = screen_of(Condition::Passed, timings);
        assert!(text.contains("restart 15 ms: 10 % of"), "{text}");
    }
}
