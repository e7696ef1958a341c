// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible torture --fail-nth`.

use std::fmt::Write as _;

use crucible_engine::experiment::{FailNthSummary, Failed, Report};
use crucible_engine::record::Record;

use super::{end, failures, head, others};

/// Formats a run.
pub fn screen(report: &Report<Failed, FailNthSummary>, record: &Record) -> String {
    let mut text = String::new();
    head(&mut text, "fail-nth", record);
    failures(&mut text, report, 40);
    let FailNthSummary {
        failures,
        origins,
        kinds,
    } = &report.summary;
    let _ = writeln!(text, "  {failures} failures of {origins} origins");
    for (name, sum) in kinds {
        let results: Vec<_> = sum
            .results
            .iter()
            .map(|(result, count)| format!("{count} {result}"))
            .collect();
        let _ = writeln!(
            text,
            "  {name}: {} failures of {} origins: {}",
            sum.failures,
            sum.origins,
            results.join(", ")
        );
    }
    others(&mut text, report);
    end(&mut text, record);
    text
}
