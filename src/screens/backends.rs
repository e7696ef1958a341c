// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table that compares backends, in Markdown.

use std::fmt::Write;

use crucible_engine::experiment::{Finding, ScenarioSummary};
use crucible_engine::record::CaseRecord;

use super::scenario::scenario;

/// Maximum length of a reason in the table, in characters.
const LONGEST: usize = 100;

/// Formats the table, with a row for each case and a column for each backend.
pub fn table(summaries: &[ScenarioSummary], cases: &[Finding<CaseRecord>]) -> String {
    let mut backends: Vec<&str> = Vec::new();
    let mut scenarios: Vec<&str> = Vec::new();
    for summary in summaries {
        if !backends.contains(&summary.backend.name()) {
            backends.push(summary.backend.name());
        }
        if !scenarios.contains(&summary.scenario.as_str()) {
            scenarios.push(&summary.scenario);
        }
    }
    let of = |backend: &str, case: &Finding<CaseRecord>| match backend {
        "criu" => case.key.ends_with("@criu"),
        _ => !case.key.ends_with("@criu"),
    };
    let mut text = format!("| scenario | case | at | {} |\n", backends.join(" | "));
    let _ = writeln!(text, "|---|---|---|{}", "---|".repeat(backends.len()));
    for name in scenarios {
        let alike: Vec<_> = cases.iter().filter(|case| scenario(case) == name).collect();
        let first = backends.first().copied().unwrap_or_default();
        for case in alike.iter().filter(|case| of(first, case)) {
            let Some(detail) = &case.detail else { continue };
            let cells: Vec<_> = backends
                .iter()
                .map(|backend| {
                    let same = |other: &&&Finding<CaseRecord>| {
                        let other_name = other.detail.as_ref().map(|d| &d.name);
                        of(backend, other) && other_name == Some(&detail.name)
                    };
                    alike
                        .iter()
                        .find(same)
                        .map_or_else(String::new, |c| cell(c))
                })
                .collect();
            let _ = writeln!(
                text,
                "| {name} | {} | `{}` | {} |",
                detail.name,
                detail.at,
                cells.join(" | ")
            );
        }
    }
    text.push('\n');
    for backend in &backends {
        let cases: Vec<_> = cases.iter().filter(|case| of(backend, case)).collect();
        let passed = cases.iter().filter(|case| case.outcome.is_pass()).count();
        let _ = writeln!(text, "{backend}: {passed} of {} cases pass", cases.len());
    }
    text
}

/// Formats a verdict with its reason.
fn cell(case: &Finding<CaseRecord>) -> String {
    let verdict = case.outcome.verdict();
    if case.outcome.is_pass() {
        return verdict.name().to_owned();
    }
    let why = case.outcome.why.replace('|', "\\|");
    let mut short: String = why.chars().take(LONGEST).collect();
    if short.len() < why.len() {
        short.push('…');
    }
    format!("{}: {short}", verdict.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_engine::outcome::Outcome;
    use crucible_engine::{Backend, Condition};

    #[test]
    fn each_case_has_one_row_with_both_verdicts() {
        let case = |key: &str, condition| Finding {
            key: key.into(),
            outcome: Outcome::new(condition, "a | b"),
            ms: 1,
            detail: Some(CaseRecord {
                scenario: "strace".into(),
                name: "main".into(),
                at: "vfork:1".into(),
                ..CaseRecord::default()
            }),
        };
        let summary = |backend| ScenarioSummary {
            scenario: "strace".into(),
            backend,
            outcome: Outcome::passed("w"),
            expected: None,
            timings: Default::default(),
        };
        let cases = [
            case("strace/main", Condition::Passed),
            case("strace/main@criu", Condition::Refused),
        ];
        let text = table(
            &[summary(Backend::Crucible), summary(Backend::Criu)],
            &cases,
        );
        assert!(
            text.contains("| strace | main | `vfork:1` | pass | refused: a \\| b |"),
            "{text}"
        );
        assert!(text.contains("criu: 0 of 1 cases pass"), "{text}");
    }
}
