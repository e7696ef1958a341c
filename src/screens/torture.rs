// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible torture`.

use std::fmt::Write as _;

use crucible_engine::experiment::{Report, TortureSummary};
use crucible_engine::record::Record;
use serde_json::Value;

use super::{end, failures, head, others};
use crate::coverage_report;

/// Formats a run.
pub fn screen(report: &Report<Value, TortureSummary>, record: &Record) -> String {
    let mut text = String::new();
    head(&mut text, "torture", record);
    failures(&mut text, report, usize::MAX);
    for kind in ["raw", "forged"] {
        let Some(counts) = report.summary.sum.get(kind).and_then(Value::as_object) else {
            continue;
        };
        let numbers: Vec<_> = counts
            .iter()
            .filter_map(|(name, count)| Some(format!("{} {name}", count.as_u64()?)))
            .collect();
        let _ = writeln!(text, "  {kind}: {}", numbers.join(", "));
    }
    for line in report
        .summary
        .coverage
        .iter()
        .flat_map(coverage_report::lines)
    {
        let _ = writeln!(text, "  {line}");
    }
    others(&mut text, report);
    end(&mut text, record);
    text
}
