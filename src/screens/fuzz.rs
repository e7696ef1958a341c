// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible fuzz`.

use std::fmt::Write as _;

use crucible_engine::experiment::{FuzzSummary, Fuzzed, Report};
use crucible_engine::record::Record;

use super::{end, failures, head, others};

/// Formats a run.
pub fn screen(report: &Report<Fuzzed, FuzzSummary>, record: &Record) -> String {
    let mut text = String::new();
    head(&mut text, "fuzz", record);
    failures(&mut text, report, 40);
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
    if summary.full > 0 {
        let _ = writeln!(
            text,
            "  {} restarts filled KCOV's area: further blocks that they reached are unknown",
            summary.full
        );
    }
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
