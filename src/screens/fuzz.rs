// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible fuzz`.

use std::fmt::Write as _;

use crucible_engine::experiment::{FuzzSummary, Fuzzed, Report};
use crucible_engine::record::Record;

use super::{blame, end, evidence, others};

/// Formats a run.
pub fn screen(report: &Report<Fuzzed, FuzzSummary>, record: &Record) -> String {
    let mut text = String::new();
    let verdict = record.outcome.verdict().name();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "fuzz: {verdict}{} ({})",
        blame(&record.outcome),
        record.outcome.why
    );
    for finding in report.findings.iter().filter(|one| !one.outcome.is_pass()) {
        let outcome = &finding.outcome;
        let condition = outcome.condition.name();
        let _ = writeln!(text, "  {}: {condition}: {}", finding.key, outcome.why);
        evidence(&mut text, "    ", outcome, 40);
    }
    let summary = &report.summary;
    let refused: Vec<_> = summary
        .errnos
        .iter()
        .map(|(errno, count)| format!("{count} {errno}"))
        .collect();
    let _ = writeln!(
        text,
        "  {} restarts, {:.1} a second in each guest: {} succeeded{}{}",
        summary.restarts,
        summary.per_second,
        summary.restored,
        if refused.is_empty() { "" } else { ", " },
        refused.join(", ")
    );
    let _ = writeln!(
        text,
        "  {} of {} blocks reached ({}); {} recipes in the corpus",
        summary.reached,
        summary.blocks,
        share(summary.reached, summary.blocks),
        summary.corpus
    );
    for file in &summary.files {
        let _ = writeln!(
            text,
            "  {:>7}  {:>5} of {:<5} {}",
            share(file.reached, file.blocks),
            file.reached,
            file.blocks,
            file.file
        );
    }
    others(&mut text, report);
    end(&mut text, record);
    text
}

fn share(part: usize, whole: usize) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.1} %", part as f64 * 100.0 / whole as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages() {
        assert_eq!(share(1, 3), "33.3 %");
        assert_eq!(share(0, 0), "-");
    }
}
