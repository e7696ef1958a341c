// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The result of a run, as a screen and as JSON.

use std::fmt::Write;

use anyhow::Result;
use crucible_engine::Verdict;
use crucible_engine::record::{CaseRecord, ScenarioRecord};
use crucible_protocol::{shown, shown_json, shown_lines};
use serde::Serialize;

/// Maximum number of lines of a kernel report or a tool's log on the screen.
const LINES: usize = 24;

/// The JSON object for several scenarios.
#[derive(Serialize)]
struct All<'a> {
    schema: u32,
    verdict: Verdict,
    exit_code: u8,
    scenarios: &'a [ScenarioRecord],
}

/// Returns one JSON object: the record of a scenario, or those of several with the overall
/// verdict.
pub fn json(records: &[ScenarioRecord], verdict: Verdict) -> Result<String> {
    let json = match records {
        [one] => serde_json::to_string_pretty(one)?,
        all => serde_json::to_string_pretty(&All {
            schema: crucible_engine::record::SCHEMA,
            verdict,
            exit_code: verdict.exit_code(),
            scenarios: all,
        })?,
    };
    Ok(shown_json(&json).into_owned())
}

/// Formats records for the screen: one line per case, and explanations of failures.
pub fn screen(records: &[ScenarioRecord]) -> String {
    let mut out = String::new();
    for record in records {
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{}: {} ({})",
            shown(&record.scenario),
            record.verdict.name(),
            shown_lines(&record.why)
        );
        for case in &record.cases {
            let verdict = case.verdict.unwrap_or(Verdict::Unknown);
            let (name, at) = (shown(&case.name), shown(&case.at));
            let _ = writeln!(out, "  {name} at {at}: {}", verdict.name());
            frozen(&mut out, case);
            if verdict != Verdict::Pass {
                explain(&mut out, case);
                let _ = writeln!(out, "    console  {}/{}", record.results, case.console);
                for file in &case.files {
                    let file = shown(file);
                    let _ = writeln!(out, "    kept     {}/{file}", record.results);
                }
            }
        }
        if let Some(check) = record.expected.as_ref().filter(|c| !c.ok) {
            let difference = check.difference.as_deref().unwrap_or("");
            let difference = shown_lines(difference);
            let _ = writeln!(out, "  {}: {difference}", shown(&check.name));
            // Accepting cannot help if the expected result could not be read.
            if matches!(record.verdict, Verdict::Unreviewed | Verdict::Diverged) {
                let _ = writeln!(out, "  accept   {} --accept", record.reproduce);
            }
        }
        overhead(&mut out, record);
        if record.verdict != Verdict::Pass {
            let _ = writeln!(out, "  repeat   {}", record.reproduce);
        }
        let _ = writeln!(out, "  record   {}/record.json", record.results);
    }
    out
}

/// Shows the durations of checkpoint, kill and restart, summed over all cases, relative to the
/// undisturbed runs.
fn overhead(out: &mut String, record: &ScenarioRecord) {
    let ms = |step: &str| record.timings.get(&format!("{step}_ms")).copied();
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
        out,
        "  time     checkpoint {checkpoint} ms, kill {kill} ms, restart {restart} ms: \
         {share} % of the undisturbed runs' {run} ms"
    );
}

fn frozen(out: &mut String, case: &CaseRecord) {
    let Some(frozen) = &case.frozen else { return };
    for task in &frozen.tasks {
        let mark = if task.tid == frozen.tid { '*' } else { ' ' };
        let _ = writeln!(
            out,
            "   {mark}{:>4} {:<15} child of {:<4} {}",
            task.tid,
            shown(&task.comm),
            task.ppid,
            shown(&task.site)
        );
    }
}

fn explain(out: &mut String, case: &CaseRecord) {
    let _ = writeln!(out, "    why      {}", shown_lines(&case.why));
    for check in case.checks.iter().filter(|c| !c.ok) {
        let difference = check.difference.as_deref().unwrap_or("");
        let _ = writeln!(
            out,
            "    check    {}: {}",
            shown(&check.name),
            shown_lines(difference).replace('\n', "\n    ")
        );
    }
    for line in case.lines.iter().take(LINES) {
        let _ = writeln!(out, "    | {}", shown(line));
    }
    if let Some(more) = case.lines.len().checked_sub(LINES + 1) {
        let _ = writeln!(out, "    | … {} more lines in the record", more + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_engine::compare::Check;
    use crucible_engine::{Backend, RestartIn};

    fn record(verdict: Verdict) -> ScenarioRecord {
        ScenarioRecord {
            schema: 2,
            scenario: "s".into(),
            verdict,
            exit_code: verdict.exit_code(),
            why: "w".into(),
            cases: vec![CaseRecord {
                name: "main".into(),
                at: "vfork:1".into(),
                verdict: Some(verdict),
                checks: vec![Check::bad(
                    "restarted = control: stdout",
                    "differs from line 1\n  - a\n  + b",
                )],
                lines: (0..100).map(|n| format!("line {n}")).collect(),
                ..CaseRecord::default()
            }],
            expected: None,
            reproduce: "cargo run -- scenario s".into(),
            backend: Backend::Crucible,
            restart_in: RestartIn::Same,
            versions: Default::default(),
            timings: Default::default(),
            results: "results/x".into(),
        }
    }

    #[test]
    fn a_divergence_fits_one_screen_and_says_how_to_see_it_again() {
        let text = screen(&[record(Verdict::Diverged)]);
        assert!(text.lines().count() <= 40, "{text}");
        assert!(text.contains("restarted = control: stdout"), "{text}");
        assert!(text.contains("cargo run -- scenario s"), "{text}");
        assert!(text.contains("results/x"), "{text}");
    }

    #[test]
    fn what_a_guest_printed_cannot_control_the_terminal() {
        let mut record = record(Verdict::Diverged);
        let evil = "\x1b]0;owned\x07\u{9b}31m";
        record.scenario = evil.into();
        record.why = evil.into();
        let case = &mut record.cases[0];
        case.name = evil.into();
        case.at = evil.into();
        case.why = evil.into();
        case.lines = vec![evil.into(), "a\ttab".into()];
        case.files = vec![evil.into()];
        case.checks = vec![Check::bad(evil, evil)];
        let expected = Check::bad("expected", format!("line\n{evil}"));
        record.expected = Some(expected);
        for text in [
            screen(&[record.clone()]),
            json(&[record], Verdict::Diverged).unwrap(),
        ] {
            let raw = |c: char| c.is_control() && c != '\n';
            assert!(!text.contains(raw), "{text:?}");
        }
    }

    #[test]
    fn what_a_restart_costs_is_told_beside_an_undisturbed_run() {
        let mut record = record(Verdict::Pass);
        assert!(!screen(&[record.clone()]).contains("time"));
        for (step, ms) in [
            ("undisturbed_1", 400),
            ("checkpoint", 20),
            ("kill", 5),
            ("restart", 15),
        ] {
            record.timings.insert(format!("{step}_ms"), ms);
        }
        let text = screen(&[record]);
        assert!(text.contains("restart 15 ms: 10 % of"), "{text}");
    }

    #[test]
    fn json_has_a_verdict_at_its_top_for_one_and_for_many() {
        let one = json(&[record(Verdict::Pass)], Verdict::Pass).unwrap();
        let two = json(
            &[record(Verdict::Pass), record(Verdict::Hang)],
            Verdict::Hang,
        )
        .unwrap();
        let verdict = |text: &str| -> serde_json::Value {
            serde_json::from_str::<serde_json::Value>(text).unwrap()["verdict"].clone()
        };
        assert_eq!(verdict(&one), "pass");
        assert_eq!(verdict(&two), "hang");
    }
}
