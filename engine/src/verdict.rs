// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Verdicts. [`crate::blame`] decides which one a run gets, and its exit code.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The result of a case, a scenario, or several.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The restarted run equals the control, and both the expected result.
    Pass,
    /// The restarted run equals the control; the scenario has no expected result.
    Unreviewed,
    /// Checkpoint or restart does not support the workload's state.
    Unsupported,
    /// Unknown: crucible failed, or the event never happened.
    Unknown,
    /// The restarted run differs from the control, or both from the expected result.
    Diverged,
    /// The checkpoint or the restart was refused.
    Refused,
    /// A run did not end within its limit.
    Hang,
    /// The guest's kernel reported a fault.
    Panic,
}

impl Verdict {
    /// All verdicts, from the best to the worst.
    pub const ALL: [Self; 8] = [
        Self::Pass,
        Self::Unreviewed,
        Self::Unsupported,
        Self::Unknown,
        Self::Diverged,
        Self::Refused,
        Self::Hang,
        Self::Panic,
    ];

    /// Returns the meaning of the verdict, for the reference.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Pass => "the restarted run equals the control, and its result the expected one",
            Self::Unreviewed => "all cases passed, but the scenario has no expected result yet",
            Self::Unsupported => {
                "`checkpoint` or `restart` refused with EOPNOTSUPP, and no expected result says \
                 that such a workload is supported; its message is shown"
            }
            Self::Unknown => {
                "cannot tell: the workload failed before the trigger, two undisturbed runs \
                 differ, the event never happened or was missed, something does not build or \
                 boot, or crucible itself failed"
            }
            Self::Diverged => {
                "the restarted run differs from the control, or the result from the expected one"
            }
            Self::Refused => "`checkpoint` or `restart` refused; its message is shown",
            Self::Hang => "a run did not end in time; the states of its tasks are shown",
            Self::Panic => "the guest's kernel reported a fault after the trigger",
        }
    }

    /// Returns true when the guest's kernel is at fault.
    pub fn is_bad(self) -> bool {
        self >= Self::Diverged
    }

    /// Returns the worst of the verdicts: bad ones are worse than unknown ones. Without
    /// any, the verdict is [`Verdict::Unknown`].
    pub fn of_all(parts: impl IntoIterator<Item = Self>) -> Self {
        parts.into_iter().max().unwrap_or(Self::Unknown)
    }

    /// Returns the name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Unreviewed => "unreviewed",
            Self::Unsupported => "unsupported",
            Self::Unknown => "unknown",
            Self::Diverged => "diverged",
            Self::Refused => "refused",
            Self::Hang => "hang",
            Self::Panic => "panic",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_verdicts_are_listed_from_the_best() {
        assert!(Verdict::ALL.is_sorted());
        assert_eq!(Verdict::ALL.len(), Verdict::Panic as usize + 1);
    }

    #[test]
    fn the_worst_part_decides() {
        use Verdict::*;
        assert_eq!(Verdict::of_all([Pass, Pass]), Pass);
        assert_eq!(Verdict::of_all([Pass, Unreviewed]), Unreviewed);
        assert_eq!(Verdict::of_all([Unknown, Pass]), Unknown);
        assert_eq!(Verdict::of_all([Unknown, Diverged, Pass]), Diverged);
        assert_eq!(Verdict::of_all([]), Unknown);
    }

    #[test]
    fn names_are_those_in_json() {
        for verdict in Verdict::ALL {
            let json = serde_json::to_string(&verdict).unwrap();
            assert_eq!(json, format!("\"{}\"", verdict.name()));
        }
    }

    #[test]
    fn the_kernel_is_at_fault_from_a_difference_on() {
        let bad = Verdict::ALL.map(Verdict::is_bad);
        assert_eq!(bad, [false, false, false, false, true, true, true, true]);
    }

    #[test]
    fn each_verdict_has_a_meaning_of_its_own() {
        let all: std::collections::BTreeSet<_> = Verdict::ALL.map(Verdict::meaning).into();
        assert_eq!(all.len(), Verdict::ALL.len());
    }
}
