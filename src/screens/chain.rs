// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible sweep --chain`.

use std::fmt::Write as _;

use crucible_engine::experiment::{Finding, Report};
use crucible_engine::record::Record;
use crucible_engine::sweep::Chain;

use super::{blame, end, evidence, others};

/// Formats a run.
pub fn screen(report: &Report<Chain, ()>, record: &Record) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        one(&mut text, finding);
    }
    others(&mut text, report);
    end(&mut text, record);
    text
}

fn one(text: &mut String, finding: &Finding<Chain>) {
    let outcome = &finding.outcome;
    // Writing to a string cannot fail.
    let mut add = |line: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{line}");
    };
    let verdict = outcome.verdict().name();
    let name = &finding.key;
    match &finding.detail {
        Some(chain) => {
            add(format_args!(
                "{name}, chain: {verdict}{}: checkpointed, killed and restarted {} times in one run",
                blame(outcome),
                chain.links
            ));
            if chain.covered > 0 {
                add(format_args!(
                    "  {} more events happened while the tasks were being frozen for an earlier \
                     one, whose checkpoint covers them",
                    chain.covered
                ));
            }
            if chain.by_control {
                add(format_args!(
                    "  ended like the control; freezing alone has a visible effect"
                ));
                add(format_args!("      difference: {}", outcome.why));
            }
            add(format_args!(
                "  {} ms, {} ms per link; an undisturbed run takes {} ms",
                chain.ms,
                chain.ms / chain.links.max(1),
                chain.undisturbed_ms
            ));
            for (site, count) in &chain.sites {
                add(format_args!("      {count} at {site}"));
            }
            if !outcome.is_pass() {
                add(format_args!("  {}", outcome.why));
                add(format_args!("  at link {}: {}", chain.links, chain.last));
            }
        }
        None => add(format_args!(
            "{name}, chain: {verdict}{}: {}",
            blame(outcome),
            outcome.why
        )),
    }
    evidence(text, "    ", outcome, 12);
}
