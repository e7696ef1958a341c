// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible sweep --point TASK:NTH --trials N`.

use std::fmt::Write as _;

use crucible_engine::experiment::{Report, TrialsSummary};
use crucible_engine::record::Record;
use crucible_engine::sweep::Pair;

use super::{end, evidence, head, lines, others};

/// Formats a run.
pub fn screen(report: &Report<Pair, TrialsSummary>, record: &Record) -> String {
    let mut text = String::new();
    let summary = &report.summary;
    let point = summary.point.as_ref();
    let point = point.map_or_else(String::new, |point| {
        format!("{} ({})", point.name(), point.what)
    });
    head(&mut text, &point, record);
    let _ = writeln!(text, "  controls  restarted");
    for one in &summary.trials.ends {
        let cause = match one.cause.as_str() {
            "" => "as undisturbed",
            cause => cause,
        };
        let _ = writeln!(text, "  {:8}  {:9}  {cause}", one.controls, one.restarted);
        lines(
            &mut text,
            "                       ",
            &one.lines[..one.lines.len().min(12)],
        );
    }
    if summary.trials.missed > 0 {
        let _ = writeln!(
            text,
            "  {} runs did not reach the point",
            summary.trials.missed
        );
    }
    let _ = writeln!(
        text,
        "  chance of such a difference if both end equally often: {:.4}",
        summary.chance
    );
    for finding in report.findings.iter().filter(|one| !one.outcome.is_pass()) {
        let outcome = &finding.outcome;
        let condition = outcome.condition.name();
        let _ = writeln!(text, "  {}: {condition}: {}", finding.key, outcome.why);
        evidence(&mut text, "    ", outcome, 12);
    }
    others(&mut text, report);
    end(&mut text, record);
    text
}
