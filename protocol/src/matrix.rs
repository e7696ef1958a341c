// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guest's `matrix` says of each cell, a line of JSON a cell.

use serde::{Deserialize, Serialize};

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
