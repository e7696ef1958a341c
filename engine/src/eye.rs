// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The eyes: what looks at a restarted tree before it runs on, and at a mutant that no run shows. Each
//! can be closed, to measure what it costs and what it alone sees.

use serde::{Deserialize, Serialize};

/// What looks at a restarted tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Eye {
    /// The comparison of its second image with the one that it was restarted from.
    SecondImage,
    /// The comparison of what `/proc` shows.
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

    /// Returns true when only mutants are looked at in this way.
    pub fn is_of_mutants(self) -> bool {
        match self {
            Self::SecondImage | Self::Facts => false,
            Self::Books | Self::ForgedImages | Self::Refusals => true,
        }
    }

    /// The name on the command line and in records.
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
