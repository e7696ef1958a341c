// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The results that the guest's `matrix` program prints: one line of JSON per cell.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::image::diff::Rule;

/// The result of a cell; see docs/reference/matrix.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The restarted run observed the same as the control.
    Passed,
    /// The restarted run's observations differ, or it did not finish.
    Failed,
    /// checkpoint(2) refused the cell.
    Refused,
    /// checkpoint(2) refused the restarted cell.
    SecondRefused,
    /// The ptrace(2) call that the cell tests fails in the baseline run.
    Excluded,
    /// In the baseline run, the tracee never reaches such a stop.
    NoSuchStop,
    /// The baseline run cannot be distinguished from a run without the feature.
    Indistinguishable,
    /// The program itself failed, or two of its controls differ.
    Unknown,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 8] = [
        Self::Passed,
        Self::Failed,
        Self::Refused,
        Self::SecondRefused,
        Self::Excluded,
        Self::NoSuchStop,
        Self::Indistinguishable,
        Self::Unknown,
    ];

    /// Returns true when the result needs attention.
    pub fn is_bad(self) -> bool {
        matches!(
            self,
            Self::Failed | Self::Refused | Self::SecondRefused | Self::Unknown
        )
    }

    /// Returns the name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::SecondRefused => "refused again",
            Self::Excluded => "excluded",
            Self::NoSuchStop => "no such stop",
            Self::Indistinguishable => "indistinguishable here",
            Self::Unknown => "unknown",
        }
    }
}

/// The result of a cell, as the guest reports it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    /// The name of the cell: STOP/WAY/NEXT/COLLECTED/THREADS.
    pub cell: String,
    /// The class of the result.
    pub class: Class,
    /// The reason, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The first different line of the control, and that of the restarted run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differs: Option<[String; 2]>,
    /// Description of the differences of the second image from the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// The paths of both images in the guest, if they differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
    /// Number of uses of each rule for images.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub image_rules: BTreeMap<Rule, u64>,
    /// The duration in milliseconds.
    pub ms: u64,
}

impl Cell {
    /// Returns the part of the name that specifies the stop.
    pub fn stop(&self) -> &str {
        self.part(0)
    }

    /// Returns the part of the name that specifies the way of attaching.
    pub fn way(&self) -> &str {
        self.part(1)
    }

    fn part(&self, nth: usize) -> &str {
        self.cell.split('/').nth(nth).unwrap_or_default()
    }
}
