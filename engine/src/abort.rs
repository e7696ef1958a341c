// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reasons for which a unit ends before its comparison.

use crucible_vmm::{AlertKind, FaultKind, MemoryDump, TaskStates};

use crate::{
    backend::Refusal, blame::Condition, guest::GuestError, session::SessionError, verdict::Verdict,
};

/// The early end of a unit.
#[derive(Clone, Debug)]
pub struct Abort {
    /// The condition that ended it.
    pub condition: Condition,
    /// Reason in one line.
    pub why: String,
    /// Lines to show: a kernel report, a tool's log, task states.
    pub lines: Vec<String>,
    /// The memory of a guest that has crashed.
    pub memory: Option<MemoryDump>,
    /// True when the guest can run another unit.
    pub guest_usable: bool,
}

/// The phase of a run in which it did not answer or end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Until the trigger has fired; checkpoint/restart is not the cause.
    Before,
    /// From the trigger on.
    After,
}

impl Phase {
    fn hang(self) -> Condition {
        match self {
            Self::Before => Condition::EarlyHang,
            Self::After => Condition::Hang,
        }
    }
}

impl Abort {
    /// Returns the end of a unit for this reason, in a guest that remains usable.
    pub fn new(condition: Condition, why: impl Into<String>) -> Self {
        Self {
            condition,
            why: why.into(),
            lines: Vec::new(),
            memory: None,
            guest_usable: true,
        }
    }

    /// Returns the end of a unit by a failure of crucible itself.
    pub fn failed(why: impl Into<String>) -> Self {
        Self::new(Condition::RequestFailed, why)
    }

    /// Returns the end of a run that did not reach its event, or did not stay there.
    pub fn missed(why: impl Into<String>) -> Self {
        Self::new(Condition::Missed, why)
    }

    /// Adds lines to show.
    pub fn with(mut self, lines: Vec<String>) -> Self {
        self.lines = lines;
        self
    }

    /// Returns the verdict.
    pub fn verdict(&self) -> Verdict {
        self.condition.verdict()
    }

    /// Returns the end of a unit whose guest failed a request. The phase matters only if the guest
    /// did not answer.
    pub fn guest(phase: Phase, error: GuestError) -> Self {
        let why = full(&error);
        let guest_usable = error.guest_usable();
        let condition = of_guest(phase, &error);
        let (lines, memory) = match error {
            GuestError::Alert { alerts, memory, .. } => {
                let lines = alerts.into_iter().flat_map(|alert| alert.lines);
                (lines.collect(), memory)
            }
            GuestError::Ended { memory, .. } => (Vec::new(), memory),
            GuestError::Silent { states, .. } => (states_lines(*states), None),
            _ => (Vec::new(), None),
        };
        Self {
            condition,
            why,
            lines,
            memory,
            guest_usable,
        }
    }

    /// Returns the end of a run that exceeded its time limit.
    pub fn hang(phase: Phase, why: String, states: TaskStates) -> Self {
        Self::new(phase.hang(), why).with(states_lines(states))
    }

    /// Returns the end of a unit whose tool refused. `supported` is true when an expected result
    /// says that such a workload can be checkpointed.
    pub fn refused(refusal: Refusal, supported: bool) -> Self {
        let mut lines: Vec<_> = refusal.log.lines().map(str::to_owned).collect();
        let skip = lines.len().saturating_sub(40);
        lines.drain(..skip);
        let condition = match refusal {
            Refusal {
                timed_out: true, ..
            } => Condition::Hang,
            Refusal {
                unsupported: true, ..
            } if !supported => Condition::Unsupported,
            _ => Condition::Refused,
        };
        Self {
            condition,
            why: format!("{} refused: {}", refusal.step, refusal.message),
            lines,
            memory: None,
            guest_usable: !refusal.timed_out,
        }
    }

    /// Returns the end of a unit whose restarted tree cannot be checkpointed again.
    pub fn second_refused(refusal: Refusal) -> Self {
        let refused = Self::refused(refusal, true);
        match refused.condition {
            Condition::Hang => refused,
            _ => Self {
                condition: Condition::SecondRefused,
                ..refused
            },
        }
    }

    /// Returns the end of a unit whose guest could not be started.
    pub fn session(error: SessionError) -> Self {
        let why = full(&error);
        let condition = match error {
            SessionError::Lab(error) => error.condition,
            SessionError::Io { source, .. } => of_io(&source),
            SessionError::Boot { source, .. } => {
                let lines = Self::guest(Phase::Before, *source);
                return Self {
                    why,
                    guest_usable: false,
                    ..lines
                };
            }
        };
        Self {
            guest_usable: false,
            ..Self::new(condition, why)
        }
    }

    /// Returns the end of a unit for which the host failed to read or write a file.
    pub fn io(what: &str, error: &std::io::Error) -> Self {
        Self::new(of_io(error), format!("{what}: {error}"))
    }
}

/// Returns the condition for a guest that failed a request. The phase matters only if it did not
/// answer.
pub fn of_guest(phase: Phase, error: &GuestError) -> Condition {
    match error {
        GuestError::Alert { used: false, .. } => Condition::EarlyReport,
        GuestError::Alert { alerts, .. } => {
            match alerts.iter().any(|alert| alert.kind == AlertKind::Panic) {
                true => Condition::GuestPanic,
                false => Condition::KernelReport,
            }
        }
        GuestError::Ended { exit, used, .. } => Condition::of_exit(exit.as_ref(), *used),
        GuestError::Silent { .. } => phase.hang(),
        GuestError::Host(fault) => of_fault(fault.kind),
        GuestError::Interrupted => Condition::Interrupted,
        GuestError::TooLarge { .. } => Condition::ReplyTooLarge,
        GuestError::Channel(_) => Condition::ChannelBroken,
        GuestError::Machine(error) => of_machine(error),
        GuestError::Failed(_)
        | GuestError::Confused(_)
        | GuestError::NoMark(_)
        | GuestError::Random(_)
        | GuestError::Thread(_) => Condition::RequestFailed,
    }
}

/// Returns the condition for an I/O error of the host.
pub fn of_io(error: &std::io::Error) -> Condition {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Condition::DiskFull,
        _ => Condition::HostIo,
    }
}

fn of_fault(kind: FaultKind) -> Condition {
    match kind {
        FaultKind::DiskFull => Condition::DiskFull,
        FaultKind::Io => Condition::HostIo,
    }
}

/// Returns the condition for an error of a machine.
pub fn of_machine(error: &crucible_vmm::Error) -> Condition {
    match error {
        crucible_vmm::Error::NoEmulator { .. } => Condition::HostSetup,
        crucible_vmm::Error::File { source, .. } => of_io(source),
        _ => Condition::MachineLost,
    }
}

/// Formats an error and its causes, each once.
pub fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // A transparent error repeats its cause, and many messages end with that of their cause.
        if next != last && !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        last = next;
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
    use crate::blame::Blame;
    use crucible_vmm::Exit;

    fn silent() -> GuestError {
        GuestError::Silent {
            what: "wait",
            limit: std::time::Duration::from_secs(1),
            states: Box::default(),
        }
    }

    fn alert(used: bool) -> GuestError {
        GuestError::Alert {
            alerts: Vec::new(),
            used,
            memory: None,
        }
    }

    #[test]
    fn a_refused_second_checkpoint_is_the_kernels_fault() {
        let refusal = |timed_out| Refusal {
            step: "second checkpoint",
            message: "an ioprio (EOPNOTSUPP)".into(),
            log: String::new(),
            timed_out,
            unsupported: true,
        };
        let stop = Abort::second_refused(refusal(false));
        assert_eq!(stop.condition, Condition::SecondRefused);
        assert!(stop.condition.is_bad() && stop.guest_usable);
        assert!(
            stop.why.starts_with("second checkpoint refused: "),
            "{}",
            stop.why
        );
        let stop = Abort::second_refused(refusal(true));
        assert_eq!(stop.condition, Condition::Hang);
        assert!(!stop.guest_usable);
    }

    #[test]
    fn what_happens_before_any_trigger_says_nothing() {
        let panic = || GuestError::Ended {
            exit: Some(Exit::Panic),
            used: false,
            memory: None,
        };
        for error in [silent(), alert(false), panic()] {
            let stop = Abort::guest(Phase::Before, error);
            assert_eq!(stop.verdict(), Verdict::Unknown, "{stop:?}");
        }
    }

    #[test]
    fn from_the_trigger_on_it_counts() {
        assert_eq!(
            Abort::guest(Phase::After, silent()).verdict(),
            Verdict::Hang
        );
        // The kernel is to blame even in an undisturbed run of a later case: an earlier case may
        // be the cause.
        let stop = Abort::guest(Phase::Before, alert(true));
        assert_eq!(stop.verdict(), Verdict::Panic);
    }

    #[test]
    fn a_failed_question_is_crucibles_own_failure() {
        let stop = Abort::guest(Phase::After, GuestError::Failed("no".into()));
        assert_eq!(stop.condition.blame(), Some(Blame::Crucible));
        assert!(stop.guest_usable);
    }

    #[test]
    fn the_host_is_to_blame_for_a_full_disk() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(Abort::io("x", &full).condition, Condition::DiskFull);
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert_eq!(Abort::io("x", &denied).condition, Condition::HostIo);
    }

    #[test]
    fn unsupported_is_told_from_refused() {
        let refusal = |unsupported| Refusal {
            step: "checkpoint",
            message: String::new(),
            log: String::new(),
            timed_out: false,
            unsupported,
        };
        let of = |unsupported, supported| Abort::refused(refusal(unsupported), supported).condition;
        assert_eq!(of(true, false), Condition::Unsupported);
        assert_eq!(of(true, true), Condition::Refused);
        assert_eq!(of(false, false), Condition::Refused);
    }
}
