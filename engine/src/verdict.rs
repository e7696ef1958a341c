// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Verdicts, and their exit codes for `git bisect run`.

use serde::Serialize;

/// The result of a case, a scenario, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The restarted run equals the control, and both the expected result.
    Pass,
    /// The restarted run equals the control; the scenario has no expected result.
    Unreviewed,
    /// Cannot tell: crucible failed, or the event never happened.
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
    pub const ALL: [Self; 7] = [
        Self::Pass,
        Self::Unreviewed,
        Self::Unknown,
        Self::Diverged,
        Self::Refused,
        Self::Hang,
        Self::Panic,
    ];

    /// Returns what the verdict means, for the reference.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Pass => "the restarted run equals the control, and its result the expected one",
            Self::Unreviewed => "all cases passed, but the scenario has no expected result yet",
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

    /// The exit code for `git bisect run`: 0 good, 1 bad, 125 skip.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Unreviewed | Self::Unknown => 125,
            Self::Diverged | Self::Refused | Self::Hang | Self::Panic => 1,
        }
    }

    /// Returns the worst of the verdicts: bad ones are worse than unknown ones. Without
    /// any, the verdict is [`Verdict::Unknown`].
    pub fn of_all(parts: impl IntoIterator<Item = Self>) -> Self {
        parts.into_iter().max().unwrap_or(Self::Unknown)
    }

    /// The name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Unreviewed => "unreviewed",
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
    fn exit_codes_are_those_documented() {
        assert_eq!(Verdict::Pass.exit_code(), 0);
        for bad in [
            Verdict::Diverged,
            Verdict::Refused,
            Verdict::Hang,
            Verdict::Panic,
        ] {
            assert_eq!(bad.exit_code(), 1);
        }
        assert_eq!(Verdict::Unknown.exit_code(), 125);
        assert_eq!(Verdict::Unreviewed.exit_code(), 125);
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
        for verdict in [Verdict::Pass, Verdict::Unreviewed, Verdict::Refused] {
            let json = serde_json::to_string(&verdict).unwrap();
            assert_eq!(json, format!("\"{}\"", verdict.name()));
        }
    }
}
