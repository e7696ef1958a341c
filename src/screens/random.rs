// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible scenario --random`.

use std::fmt::Write as _;

use crucible_engine::experiment::{RandomSummary, RandomTree, Report};
use crucible_engine::record::Record;

use super::{end, failures, head, others};

/// Formats a run.
pub fn screen(report: &Report<RandomTree, RandomSummary>, record: &Record) -> String {
    let mut text = String::new();
    let summary = &report.summary;
    head(&mut text, "random trees", record);
    let _ = writeln!(
        text,
        "  {} of {} trees were restarted, {} were refused, which is permitted",
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
    failures(&mut text, report, 40);
    others(&mut text, report);
    end(&mut text, record);
    text
}
