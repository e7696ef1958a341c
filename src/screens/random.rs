// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible scenario --random`.

use std::fmt::Write as _;

use crucible_engine::experiment::{RandomSummary, RandomTree, Report};
use crucible_engine::record::Record;

use super::{blame, end, evidence, others};

/// Formats a run.
pub fn screen(report: &Report<RandomTree, RandomSummary>, record: &Record) -> String {
    let mut text = String::new();
    let summary = &report.summary;
    let verdict = record.outcome.verdict().name();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "random trees: {verdict}{} ({})",
        blame(&record.outcome),
        record.outcome.why
    );
    let _ = writeln!(
        text,
        "  {} of {} were restarted, {} refused as they may be",
        summary.restarted,
        report.findings.len(),
        summary.refused
    );
    let rarest = summary.kinds.iter().min_by_key(|(_, count)| **count);
    if let Some((kind, count)) = rarest {
        let kinds = summary.kinds.len();
        let _ = writeln!(
            text,
            "  {kinds} kinds of state, the rarest {count} times: {kind}"
        );
    }
    for finding in report.findings.iter().filter(|one| !one.outcome.is_pass()) {
        let outcome = &finding.outcome;
        let condition = outcome.condition.name();
        let _ = writeln!(text, "  {}: {condition}: {}", finding.key, outcome.why);
        evidence(&mut text, "    ", outcome, 40);
    }
    others(&mut text, report);
    end(&mut text, record);
    text
}
