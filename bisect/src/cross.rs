// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds the half of checkpoint/restart that a change breaks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maximum number of runs in each direction: each run needs two machines.
pub(crate) const CROSSED: u64 = 12;

/// Runs in which one kernel checkpoints and another one restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Crossed {
    /// Number of runs.
    pub runs: u64,
    /// Number of runs that showed the failure.
    pub failures: u64,
    /// Another failure that runs showed: one kernel may refuse the image of the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
    /// Number of runs without an observation.
    pub unclear: u64,
}

/// The results of restarting each kernel's images with the other kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cross {
    /// The culprit restarts the images of its parent.
    pub checkpointed_by_good: Crossed,
    /// The parent restarts the images of the culprit.
    pub checkpointed_by_bad: Crossed,
    /// What follows from that.
    #[serde(flatten)]
    pub half: Half,
}

/// The half of checkpoint/restart that a change breaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "half", rename_all = "kebab-case")]
pub enum Half {
    /// Its images are wrong, whichever kernel restarts them.
    Checkpoint,
    /// It restarts good images wrongly.
    Restart,
    /// Each half is wrong by itself.
    Each,
    /// Each half of the kernel works with the other half of its parent's kernel.
    OnlyTogether,
    /// One kernel refuses the other's image, so the half is not known.
    NotPossible {
        /// What the runs showed instead.
        why: String,
    },
    /// The runs do not decide it.
    Unclear,
}

impl Half {
    /// Returns the half that the results of both directions imply. A failure as rare as this one
    /// shows in `quiet` runs if it exists.
    pub(crate) fn of(by_good: &Crossed, by_bad: &Crossed, quiet: u64) -> Self {
        let other = [by_good, by_bad]
            .into_iter()
            .find_map(|it| it.other.clone());
        if let Some(why) = other {
            return Self::NotPossible { why };
        }
        let fails = |crossed: &Crossed| match crossed {
            Crossed { failures, .. } if *failures > 0 => Some(true),
            Crossed { runs, unclear, .. } if runs - unclear >= quiet => Some(false),
            _ => None,
        };
        match (fails(by_good), fails(by_bad)) {
            (Some(true), Some(false)) => Self::Restart,
            (Some(false), Some(true)) => Self::Checkpoint,
            (Some(true), Some(true)) => Self::Each,
            (Some(false), Some(false)) => Self::OnlyTogether,
            _ => Self::Unclear,
        }
    }
}

impl std::fmt::Display for Half {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            Self::Checkpoint => "checkpoint: its images are wrong, whichever kernel restarts them",
            Self::Restart => "restart: it restarts good images wrongly",
            Self::Each => "each: its images are wrong, and it restarts good ones wrongly",
            Self::OnlyTogether => {
                "neither alone: each half works with the other half of the parent's kernel"
            }
            Self::NotPossible { why } => {
                return write!(f, "not possible to say: across kernels, {why}");
            }
            Self::Unclear => "not known: the failure is too rare for the number of runs",
        };
        f.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(runs: u64, failures: u64) -> Crossed {
        Crossed {
            runs,
            failures,
            ..Crossed::default()
        }
    }

    #[test]
    fn the_half_follows_from_both_directions() {
        let of = |by_good, by_bad| Half::of(&by_good, &by_bad, 3);
        assert_eq!(of(runs(1, 1), runs(3, 0)), Half::Restart);
        assert_eq!(of(runs(3, 0), runs(1, 1)), Half::Checkpoint);
        assert_eq!(of(runs(1, 1), runs(1, 1)), Half::Each);
        assert_eq!(of(runs(3, 0), runs(3, 0)), Half::OnlyTogether);
        // Too few runs for a rare failure, or runs without an observation.
        assert_eq!(of(runs(2, 0), runs(1, 1)), Half::Unclear);
        let unclear = Crossed {
            unclear: 1,
            ..runs(3, 0)
        };
        assert_eq!(of(unclear, runs(1, 1)), Half::Unclear);
    }

    #[test]
    fn a_refused_image_is_no_verdict() {
        let refused = Crossed {
            other: Some("refused".into()),
            ..runs(1, 0)
        };
        let half = Half::of(&runs(3, 0), &refused, 3);
        assert_eq!(
            half,
            Half::NotPossible {
                why: "refused".into()
            }
        );
        assert!(half.to_string().starts_with("not possible"));
    }
}
