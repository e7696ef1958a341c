// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible nightly` and `crucible results show`: the changes first.

use std::collections::BTreeMap;
use std::fmt::Write;

use crucible_history::{Change, Judgement};
use crucible_nightly::NightReport;

/// Maximum number of tests that are named for one reason.
const NAMED: usize = 3;

/// The sections, in the order in which they are shown, with their titles.
const SECTIONS: [(Change, &str); 5] = [
    (Change::Regressed, "new"),
    (Change::TurnedFlaky, "flaky"),
    (Change::StillFailing, "failing"),
    (Change::StillFlaky, "flaky"),
    (Change::Fixed, "fixed"),
];

/// Formats a night.
pub fn screen(report: &NightReport) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "night {}: {} ({})",
        report.night,
        report.verdict(),
        report.why
    );
    for (change, title) in SECTIONS {
        for (signature, tests) in grouped(report, change) {
            section(&mut text, title, change, signature, &tests);
            let found = report
                .bisections
                .iter()
                .filter(|it| it.signature == signature);
            for found in found {
                let _ = writeln!(
                    text,
                    "           bisected: {} ({})",
                    found.answer, found.directory
                );
            }
        }
    }
    for slower in &report.slower {
        let _ = writeln!(
            text,
            "  slower   {}: {} takes {:.1} % more instructions since {}",
            slower.test,
            slower.metric,
            (slower.ratio() - 1.0) * 100.0,
            slower.since
        );
    }
    let criu: Vec<_> = report
        .tests
        .iter()
        .filter(|test| test.test.is_comparison() && test.change != Change::NotRun)
        .collect();
    if !criu.is_empty() {
        let pass = criu.iter().filter(|test| !test.change.is_bad()).count();
        let _ = writeln!(text, "  CRIU     {pass} of {} tests pass", criu.len());
    }
    for (reason, tests) in grouped(report, Change::NotRun) {
        let _ = writeln!(text, "  not run  {}: {reason}", names(&tests));
    }
    let _ = writeln!(
        text,
        "  ran      {} of {} planned tests, {} runs",
        report.ran, report.planned, report.runs
    );
    for missing in &report.missing_shards {
        let _ = writeln!(
            text,
            "  missing  shard {missing} has no results, or has not ended"
        );
    }
    text
}

/// Returns the tests with this change, by signature: a bug is one line, however many tests fail.
fn grouped(report: &NightReport, change: Change) -> BTreeMap<&str, Vec<&Judgement>> {
    let mut groups: BTreeMap<&str, Vec<&Judgement>> = BTreeMap::new();
    let ours = |test: &&Judgement| !test.test.is_comparison() || change == Change::NotRun;
    let tests = report.tests.iter().filter(|test| test.change == change);
    for test in tests.filter(ours) {
        groups.entry(&test.why).or_default().push(test);
    }
    groups
}

fn section(text: &mut String, title: &str, change: Change, signature: &str, tests: &[&Judgement]) {
    let colon = if signature.is_empty() { "" } else { ": " };
    let _ = writeln!(text, "  {title:8} {}{colon}{signature}", names(tests));
    let Some(first) = tests.first() else { return };
    if change.is_bad() {
        let runs: u64 = tests.iter().map(|test| test.runs).sum();
        let failures: u64 = tests.iter().map(|test| test.failures).sum();
        let rate = match change {
            Change::TurnedFlaky | Change::StillFlaky => {
                format!(", {:.0} % since it began", first.rate * 100.0)
            }
            _ => String::new(),
        };
        let _ = match failures {
            0 => writeln!(
                text,
                "           {runs} runs pass tonight, too few to call it mended{rate}"
            ),
            _ => writeln!(text, "           {failures} of {runs} runs failed{rate}"),
        };
    }
    if let Some((from, to)) = &first.since {
        let when = match from == to {
            true => format!("in {from}"),
            false => format!("between {from} and {to}"),
        };
        let good = first.last_good.as_ref();
        let good = good.filter(|_| change.is_bad());
        let good = good.map_or(String::new(), |night| format!("; last good night: {night}"));
        let _ = writeln!(text, "           began {when}{good}");
    }
    if !first.directory.is_empty() && change.is_bad() {
        let _ = writeln!(text, "           runs in {}", first.directory);
    }
}

/// Names some tests and counts the others.
fn names(tests: &[&Judgement]) -> String {
    let named: Vec<_> = tests
        .iter()
        .take(NAMED)
        .map(|test| test.test.to_string())
        .collect();
    match tests.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
