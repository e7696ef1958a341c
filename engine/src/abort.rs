// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reasons for which a case ends before its comparison.

use crucible_vmm::TaskStates;

use crate::{backend::Refusal, guest::GuestError, session::SessionError, verdict::Verdict};

/// The early end of a case.
#[derive(Clone, Debug)]
pub struct Abort {
    /// The verdict.
    pub verdict: Verdict,
    /// Reason in one line.
    pub why: String,
    /// Lines to show: a kernel report, a tool's log, task states.
    pub lines: Vec<String>,
    /// True if the guest can run another case.
    pub guest_usable: bool,
    /// True if the run was not at the requested event: the event did not happen, or its
    /// tasks left it.
    pub missed: bool,
}

/// The phase of a run in which it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before the trigger fired, so checkpoint/restart is not the cause.
    Before,
    /// From the trigger on.
    After,
}

impl Abort {
    /// A case without a result.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Unknown,
            why: why.into(),
            lines: Vec::new(),
            guest_usable: true,
            missed: false,
        }
    }

    /// A run that did not reach its event, or did not stay there.
    pub fn missed(why: impl Into<String>) -> Self {
        Self {
            missed: true,
            ..Self::unknown(why)
        }
    }

    /// Adds lines to show.
    pub fn with(mut self, lines: Vec<String>) -> Self {
        self.lines = lines;
        self
    }

    /// A guest that did not answer, judged by the phase.
    pub fn guest(phase: Phase, error: GuestError) -> Self {
        let why = full(&error);
        let (bad, lines) = match error {
            GuestError::Alert(alerts) => {
                let lines = alerts.into_iter().flat_map(|a| a.lines).collect();
                (Verdict::Panic, lines)
            }
            GuestError::Ended(_) => (Verdict::Panic, Vec::new()),
            GuestError::Silent { states, .. } => (Verdict::Hang, states_lines(*states)),
            // The guest is alive and the agent answers: only this request failed.
            GuestError::Failed(_) => return Self::unknown(why),
            _ => (Verdict::Unknown, Vec::new()),
        };
        Self {
            verdict: match phase {
                Phase::Before => Verdict::Unknown,
                Phase::After => bad,
            },
            why,
            lines,
            guest_usable: false,
            missed: false,
        }
    }

    /// A run that did not end in time.
    pub fn hang(phase: Phase, why: String, states: TaskStates) -> Self {
        Self {
            verdict: match phase {
                Phase::Before => Verdict::Unknown,
                Phase::After => Verdict::Hang,
            },
            why,
            lines: states_lines(states),
            guest_usable: true,
            missed: false,
        }
    }

    /// A tool that refused.
    pub fn refused(refusal: Refusal) -> Self {
        let mut lines: Vec<_> = refusal.log.lines().map(str::to_owned).collect();
        let skip = lines.len().saturating_sub(40);
        lines.drain(..skip);
        Self {
            verdict: if refusal.timed_out {
                Verdict::Hang
            } else {
                Verdict::Refused
            },
            why: format!("{} refused: {}", refusal.step, refusal.message),
            lines,
            guest_usable: !refusal.timed_out,
            missed: false,
        }
    }

    /// A guest that could not be started.
    pub fn session(error: &SessionError) -> Self {
        Self {
            guest_usable: false,
            ..Self::unknown(full(error))
        }
    }
}

/// Formats an error and its causes, each once.
pub fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn states_lines(states: TaskStates) -> Vec<String> {
    let mut lines = states.lines;
    if !states.answered {
        lines.push("the guest's kernel did not answer sysrq; registers:".into());
        lines.extend(states.registers);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent() -> GuestError {
        GuestError::Silent {
            what: "wait",
            limit: std::time::Duration::from_secs(1),
            states: Box::default(),
        }
    }

    #[test]
    fn what_happens_before_the_trigger_says_nothing() {
        for error in [
            silent(),
            GuestError::Alert(Vec::new()),
            GuestError::Ended(None),
        ] {
            assert_eq!(Abort::guest(Phase::Before, error).verdict, Verdict::Unknown);
        }
    }

    #[test]
    fn from_the_trigger_on_it_counts() {
        assert_eq!(Abort::guest(Phase::After, silent()).verdict, Verdict::Hang);
        let alert = GuestError::Alert(Vec::new());
        assert_eq!(Abort::guest(Phase::After, alert).verdict, Verdict::Panic);
    }

    #[test]
    fn a_failed_question_is_crucibles_own_failure() {
        let stop = Abort::guest(Phase::After, GuestError::Failed("no".into()));
        assert_eq!(stop.verdict, Verdict::Unknown);
        assert!(stop.guest_usable);
    }
}
