// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The results of a test in each of the last nights, and their drawing, in which consecutive nights
//! with equal results are one stroke.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use crucible_history::{ResultRow, TestId};
use maud::{Markup, html};

/// Maximum number of nights shown.
pub(crate) const NIGHTS: usize = 90;

/// Number of runs of a test in a night that count, and of failures among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub runs: u64,
    pub failures: u64,
}

/// The result of a test in a night.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Passed,
    Mixed,
    Failed,
    NotRun,
}

impl Counts {
    pub fn cell(self) -> Cell {
        match (self.runs, self.failures) {
            (0, _) => Cell::NotRun,
            (_, 0) => Cell::Passed,
            (runs, failures) if runs == failures => Cell::Failed,
            _ => Cell::Mixed,
        }
    }
}

/// The last nights of all tests.
pub(crate) struct Series<'a> {
    /// The nights that are shown, the oldest first.
    pub nights: Vec<&'a str>,
    tests: HashMap<&'a TestId, Vec<Counts>>,
}

impl<'a> Series<'a> {
    /// Counts the results of the last nights up to and including `night`.
    pub fn new(night: &str, results: &'a [ResultRow]) -> Self {
        let mut nights: Vec<&str> = results.iter().map(|it| it.night.as_str()).collect();
        nights.sort_unstable();
        nights.dedup();
        nights.retain(|it| *it <= night);
        let nights = nights.split_off(nights.len().saturating_sub(NIGHTS));
        let at: BTreeMap<&str, usize> = nights.iter().copied().zip(0..).collect();
        let mut tests: HashMap<&TestId, Vec<Counts>> = HashMap::new();
        for result in results.iter().filter(|it| it.counts()) {
            if let Some(&at) = at.get(result.night.as_str()) {
                let none = || vec![Counts::default(); nights.len()];
                let counts = &mut tests.entry(&result.test).or_insert_with(none)[at];
                counts.runs += 1;
                counts.failures += u64::from(result.is_failure());
            }
        }
        Self { nights, tests }
    }

    /// Draws the nights of a test. The height has the same meaning as the colour: failures are
    /// tall.
    pub fn drawing(&self, test: &TestId) -> Markup {
        let Some(counts) = self.tests.get(test) else {
            return html! {};
        };
        let cells: Vec<_> = counts.iter().map(|it| it.cell()).collect();
        let number = |cell| cells.iter().filter(|it| **it == cell).count();
        let failed = number(Cell::Failed);
        let mixed = number(Cell::Mixed);
        let label = format!(
            "{} nights: {failed} failed, {mixed} mixed, {} not run",
            cells.len(),
            number(Cell::NotRun)
        );
        let view = format!("0 0 {} 9", cells.len());
        html! {
            svg.n viewBox=(view) role="img" aria-label=(label) preserveAspectRatio="none" {
                @for (cell, class, y) in DRAWN {
                    @let path = strokes(&cells, cell, y);
                    @if !path.is_empty() { path class=(class) d=(path) {} }
                }
            }
        }
    }
}

/// The cells that are drawn, with their classes and the middle of their strokes.
const DRAWN: [(Cell, &str, &str); 3] = [
    (Cell::Passed, "p", "7.5"),
    (Cell::Mixed, "m", "6"),
    (Cell::Failed, "f", "4.5"),
];

/// Returns a path with a stroke for each run of equal cells.
fn strokes(cells: &[Cell], wanted: Cell, y: &str) -> String {
    let mut path = String::new();
    let mut at = 0;
    for run in cells.chunk_by(|a, b| a == b) {
        if run[0] == wanted {
            // Writing to a string cannot fail.
            let _ = write!(path, "M{at} {y}h{}", run.len());
        }
        at += run.len();
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_nights_are_one_stroke() {
        use Cell::*;
        let cells = [Passed, Passed, Failed, Passed, NotRun, Failed, Failed];
        assert_eq!(strokes(&cells, Passed, "7"), "M0 7h2M3 7h1");
        assert_eq!(strokes(&cells, Failed, "4"), "M2 4h1M5 4h2");
        assert_eq!(strokes(&cells, Mixed, "4"), "");
        let counts = |runs, failures| Counts { runs, failures }.cell();
        assert_eq!(counts(0, 0), NotRun);
        assert_eq!(counts(5, 5), Failed);
        assert_eq!(counts(5, 2), Mixed);
    }
}
