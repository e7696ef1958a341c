// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible torture --adversary`.

use std::fmt::Write as _;

use crucible_engine::experiment::{AdversarySummary, Attacked, Report};
use crucible_engine::record::Record;

use super::{blame, end, evidence, others};

/// Formats a run.
pub fn screen(report: &Report<Attacked, AdversarySummary>, record: &Record) -> String {
    let mut text = String::new();
    let verdict = record.outcome.verdict().name();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "adversary: {verdict}{} ({})",
        blame(&record.outcome),
        record.outcome.why
    );
    for finding in report.findings.iter().filter(|one| !one.outcome.is_pass()) {
        let outcome = &finding.outcome;
        let condition = outcome.condition.name();
        let _ = writeln!(text, "  {}: {condition}: {}", finding.key, outcome.why);
        evidence(&mut text, "    ", outcome, 40);
        if let Some(seed) = finding.key.strip_prefix("adversary/") {
            let _ = writeln!(
                text,
                "    again    crucible torture --adversary --seed {seed} --count 1"
            );
        }
    }
    let results: Vec<_> = report
        .summary
        .results
        .iter()
        .map(|(result, count)| format!("{count} {result}"))
        .collect();
    let _ = writeln!(text, "  calls: {}", results.join(", "));
    let rarest = report.summary.attackers.iter().min_by_key(|one| one.1);
    if let Some((name, count)) = rarest {
        let attackers = report.summary.attackers.len();
        let _ = writeln!(
            text,
            "  {attackers} attackers, the rarest {count} times: {name}"
        );
    }
    others(&mut text, report);
    end(&mut text, record);
    text
}
