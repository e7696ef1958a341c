//! What became of the cells.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::exit;

/// What a cell turned out to be; see docs/matrix.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The restarted run saw what the control saw.
    Passed,
    /// It saw something else, or did not come to its end.
    Failed,
    /// checkpoint(2) refused it.
    Refused,
    /// A call of ptrace(2) that the cell is about fails, undisturbed.
    Excluded,
    /// Undisturbed, the tracee never comes to such a stop.
    NoSuchStop,
    /// Undisturbed, it cannot be told from a run without the feature.
    Indistinguishable,
    /// The program itself failed, or two of its controls differ.
    Unknown,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Passed,
        Self::Failed,
        Self::Refused,
        Self::Excluded,
        Self::NoSuchStop,
        Self::Indistinguishable,
        Self::Unknown,
    ];

    /// Whether somebody has to look at it.
    pub fn is_bad(self) -> bool {
        matches!(self, Self::Failed | Self::Refused | Self::Unknown)
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Excluded => "excluded",
            Self::NoSuchStop => "no such stop",
            Self::Indistinguishable => "indistinguishable here",
            Self::Unknown => "unknown",
        }
    }
}

/// One cell, as the guest tells of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    /// STOP/WAY/NEXT/COLLECTED/THREADS.
    pub cell: String,
    /// What it turned out to be.
    pub class: Class,
    /// Why, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The first line that differs: the control's, and that of the restarted run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differs: Option<[String; 2]>,
    /// How long it took.
    pub ms: u64,
}

impl Cell {
    /// The part of its name that says which stop.
    pub fn stop(&self) -> &str {
        self.part(0)
    }

    /// The part that says how the tracer came to be one.
    pub fn way(&self) -> &str {
        self.part(1)
    }

    fn part(&self, nth: usize) -> &str {
        self.cell.split('/').nth(nth).unwrap_or_default()
    }
}

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How many cells there are of each class.
    pub counts: BTreeMap<Class, u64>,
    /// How often each call of ptrace(2) has excluded a cell, and by which errno.
    pub excluded: BTreeMap<String, u64>,
    /// Whether refused cells are no failure.
    pub allow_refused: bool,
    /// How long all took, the set-up included.
    pub seconds: u64,
    /// All cells.
    pub cells: Vec<Cell>,
}

impl Report {
    /// Counts cells.
    pub fn new(cells: Vec<Cell>, allow_refused: bool, took: Duration) -> Self {
        let mut counts: BTreeMap<_, _> = Class::ALL.map(|class| (class, 0)).into();
        let mut excluded = BTreeMap::new();
        for cell in &cells {
            *counts.entry(cell.class).or_default() += 1;
            if cell.class == Class::Excluded {
                let why = cell.why.clone().unwrap_or_default();
                *excluded.entry(why).or_default() += 1;
            }
        }
        Self {
            counts,
            excluded,
            allow_refused,
            seconds: took.as_secs(),
            cells,
        }
    }

    /// How many cells are of a class.
    pub fn count(&self, class: Class) -> u64 {
        self.counts.get(&class).copied().unwrap_or_default()
    }

    /// 1 where a cell failed, else 125 where nothing can be said of one.
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
    fn a_failure_outweighs_what_is_unknown() {
        use Class::{Excluded, Failed, Passed, Refused, Unknown};
        assert_eq!(report(&[Passed, Excluded], false).exit_code(), exit::PASS);
        let both = report(&[Unknown, Failed], false);
        assert_eq!(both.exit_code(), exit::DIVERGED);
        assert_eq!(report(&[Passed, Unknown], false).exit_code(), exit::UNKNOWN);
        assert_eq!(report(&[Refused], false).exit_code(), exit::DIVERGED);
        assert_eq!(report(&[Refused], true).exit_code(), exit::PASS);
    }

    #[test]
    fn exclusions_are_told_by_call_and_errno() {
        let report = report(&[Class::Excluded, Class::Excluded], false);
        assert_eq!(report.excluded["listen EIO"], 2);
    }
}
