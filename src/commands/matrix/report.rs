// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The results of the cells.

use std::collections::BTreeMap;
use std::time::Duration;

use crucible_protocol::matrix::{Cell, Class};
use serde::Serialize;

use crate::exit;

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Number of cells by class.
    pub counts: BTreeMap<Class, u64>,
    /// Number of excluded cells by the ptrace(2) request that failed and its errno.
    pub excluded: BTreeMap<String, u64>,
    /// Number of cells whose tracee did not reach the intended stop, by the state that it reached
    /// instead.
    pub no_such_stop: BTreeMap<String, u64>,
    /// True if refused cells do not count as failures.
    pub allow_refused: bool,
    /// Total duration in seconds, including the set-up.
    pub seconds: u64,
    /// The results of all cells.
    pub cells: Vec<Cell>,
}

impl Report {
    /// Summarises the results of cells.
    pub fn new(cells: Vec<Cell>, allow_refused: bool, took: Duration) -> Self {
        let mut counts: BTreeMap<_, _> = Class::ALL.map(|class| (class, 0)).into();
        for cell in &cells {
            *counts.entry(cell.class).or_default() += 1;
        }
        let reasons = |class| {
            let mut reasons = BTreeMap::new();
            for cell in cells.iter().filter(|cell| cell.class == class) {
                let why = cell.why.clone().unwrap_or_default();
                *reasons.entry(why).or_default() += 1;
            }
            reasons
        };
        Self {
            counts,
            excluded: reasons(Class::Excluded),
            no_such_stop: reasons(Class::NoSuchStop),
            allow_refused,
            seconds: took.as_secs(),
            cells,
        }
    }

    /// Returns the number of cells of a class.
    pub fn count(&self, class: Class) -> u64 {
        self.counts.get(&class).copied().unwrap_or_default()
    }

    /// Returns 1 if a cell failed, otherwise 125 if the result of a cell is unknown, otherwise 0.
    pub fn exit_code(&self) -> u8 {
        let refused = self.count(Class::Refused) > 0 && !self.allow_refused;
        if self.count(Class::Failed) > 0 || refused {
            exit::DIVERGED
        } else if self.count(Class::Unknown) > 0 {
            exit::UNKNOWN
        } else {
            exit::PASS
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(classes: &[Class], allow_refused: bool) -> Report {
        let cell = |&class: &Class| Cell {
            cell: "fork/seize/cont/pending/one".to_owned(),
            class,
            why: Some("listen EIO".to_owned()),
            differs: None,
            ms: 1,
        };
        let cells = classes.iter().map(cell).collect();
        Report::new(cells, allow_refused, Duration::ZERO)
    }

    #[test]
    fn a_failure_outweighs_an_unknown_result() {
        use Class::{Excluded, Failed, Passed, Refused, Unknown};
        assert_eq!(report(&[Passed, Excluded], false).exit_code(), exit::PASS);
        let both = report(&[Unknown, Failed], false);
        assert_eq!(both.exit_code(), exit::DIVERGED);
        assert_eq!(report(&[Passed, Unknown], false).exit_code(), exit::UNKNOWN);
        assert_eq!(report(&[Refused], false).exit_code(), exit::DIVERGED);
        assert_eq!(report(&[Refused], true).exit_code(), exit::PASS);
    }

    #[test]
    fn exclusions_are_counted_by_request_and_errno() {
        let report = report(&[Class::Excluded, Class::Excluded], false);
        assert_eq!(report.excluded["listen EIO"], 2);
    }
}
