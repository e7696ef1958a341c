// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a run comes to, and the exit code that says so to `git bisect run`.

use serde::Serialize;

/// The result of a case, a scenario, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The restarted run is the control.
    Pass,
    /// Nothing was found out: crucible failed, or the run never came to the question.
    Unknown,
    /// It is another one, or its snapshot is missing or different.
    Diverged,
    /// The checkpoint or the restart was refused.
    Refused,
    /// It did not end in time.
    Hang,
    /// The guest's kernel reported a fault.
    Panic,
}

impl Verdict {
    /// 0 good, 1 bad, 125 skip: what `git bisect run` goes by.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Unknown => 125,
            Self::Diverged | Self::Refused | Self::Hang | Self::Panic => 1,
        }
    }

    /// The verdict of a whole: the worst of its parts. What is known to be bad counts
    /// more than what is unknown, and nothing at all is unknown.
    pub fn of_all(parts: impl IntoIterator<Item = Self>) -> Self {
        parts.into_iter().max().unwrap_or(Self::Unknown)
    }

    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
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
    }

    #[test]
    fn the_worst_part_decides() {
        use Verdict::*;
        assert_eq!(Verdict::of_all([Pass, Pass]), Pass);
        assert_eq!(Verdict::of_all([Pass, Unknown]), Unknown);
        assert_eq!(Verdict::of_all([Unknown, Diverged, Pass]), Diverged);
        assert_eq!(Verdict::of_all([]), Unknown);
    }

    #[test]
    fn names_are_those_in_json() {
        for verdict in [Verdict::Pass, Verdict::Hang, Verdict::Refused] {
            let json = serde_json::to_string(&verdict).unwrap();
            assert_eq!(json, format!("\"{}\"", verdict.name()));
        }
    }
}
