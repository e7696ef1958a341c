// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table that compares backends, for the screen and as Markdown.

use std::fmt::Write;

use crucible_engine::Verdict;
use crucible_engine::record::{CaseRecord, ScenarioRecord};

/// Maximum length of a reason in the table, in characters.
const LONGEST: usize = 100;

/// Formats the table, with a row for each case and a column for each backend. The records of a
/// scenario must be adjacent and have the same cases.
pub fn table(records: &[ScenarioRecord]) -> String {
    let mut backends: Vec<&str> = Vec::new();
    for record in records {
        if !backends.contains(&record.backend.name()) {
            backends.push(record.backend.name());
        }
    }
    let mut text = format!("| scenario | case | at | {} |\n", backends.join(" | "));
    let _ = writeln!(text, "|---|---|---|{}", "---|".repeat(backends.len()));
    for alike in records.chunks(backends.len()) {
        let Some(first) = alike.first() else { continue };
        for (n, case) in first.cases.iter().enumerate() {
            let cells: Vec<_> = alike
                .iter()
                .map(|record| record.cases.get(n).map_or_else(String::new, cell))
                .collect();
            let _ = writeln!(
                text,
                "| {} | {} | `{}` | {} |",
                first.scenario,
                case.name,
                case.at,
                cells.join(" | ")
            );
        }
    }
    text.push('\n');
    for backend in &backends {
        let cases = records
            .iter()
            .filter(|record| record.backend.name() == *backend)
            .flat_map(|record| &record.cases);
        let (mut all, mut passed) = (0, 0);
        for case in cases {
            all += 1;
            passed += usize::from(case.verdict == Some(Verdict::Pass));
        }
        let _ = writeln!(text, "{backend}: {passed} of {all} cases pass");
    }
    text
}

/// Formats a verdict with its reason.
fn cell(case: &CaseRecord) -> String {
    let verdict = case.verdict.unwrap_or(Verdict::Unknown);
    if verdict == Verdict::Pass {
        return verdict.name().to_owned();
    }
    let why = case.why.replace('|', "\\|");
    let mut short: String = why.chars().take(LONGEST).collect();
    if short.len() < why.len() {
        short.push('…');
    }
    format!("{}: {short}", verdict.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_engine::{Backend, RestartIn};

    fn record(backend: Backend, verdict: Verdict) -> ScenarioRecord {
        ScenarioRecord {
            schema: 2,
            scenario: "strace".into(),
            verdict,
            exit_code: verdict.exit_code(),
            why: "w".into(),
            cases: vec![CaseRecord {
                name: "main".into(),
                at: "vfork:1".into(),
                verdict: Some(verdict),
                why: "a | b".into(),
                ..CaseRecord::default()
            }],
            expected: None,
            reproduce: String::new(),
            backend,
            restart_in: RestartIn::Same,
            versions: Default::default(),
            timings: Default::default(),
            results: String::new(),
        }
    }

    #[test]
    fn each_case_has_one_row_with_both_verdicts() {
        let records = [
            record(Backend::Crucible, Verdict::Pass),
            record(Backend::Criu, Verdict::Refused),
        ];
        let text = table(&records);
        assert!(
            text.contains("| strace | main | `vfork:1` | pass | refused: a \\| b |"),
            "{text}"
        );
        assert!(text.contains("criu: 0 of 1 cases pass"), "{text}");
    }
}
