// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The eyes: the checks of a restarted tree before it continues, and of a mutant that no run kills.
//! Each can be closed, to measure its cost and the mutants that it alone kills.

use serde::{Deserialize, Serialize};

/// An optional check of a restarted tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Eye {
    /// The comparison of its second image with the one that it was restarted from.
    SecondImage,
    /// The comparison of the facts from `/proc`.
    Facts,
    /// The kernel's counts of its objects, before and after several runs of a mutant.
    Books,
    /// Images with forged fields, restarted with a mutant.
    ForgedImages,
    /// Trees that a checkpoint must refuse, with a mutant.
    Refusals,
}

impl Eye {
    /// All eyes.
    pub const ALL: [Self; 5] = [
        Self::SecondImage,
        Self::Facts,
        Self::Books,
        Self::ForgedImages,
        Self::Refusals,
    ];

    /// Returns true for an eye that only checks mutants.
    pub fn is_of_mutants(self) -> bool {
        match self {
            Self::SecondImage | Self::Facts => false,
            Self::Books | Self::ForgedImages | Self::Refusals => true,
        }
    }

    /// Returns the name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::SecondImage => "second-image",
            Self::Facts => "facts",
            Self::Books => "books",
            Self::ForgedImages => "forged-images",
            Self::Refusals => "refusals",
        }
    }
}
