// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table of blame: the party at fault, the verdict and the exit code of each condition.
//!
//! The code that notices the end of a run names a [`Condition`]. The condition alone decides the
//! verdict and the exit code. `docs/reference/verdicts.md` has the table, generated from
//! [`Condition::ALL`].

use crucible_vmm::Exit;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::verdict::Verdict;

/// Exit code for a host that stays unusable until it is repaired. `git bisect run` stops.
pub const HOST_EXIT: u8 = 129;

/// The party that is to blame.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Blame {
    /// The guest's kernel.
    Kernel,
    /// The workload, or the scenario that describes it.
    Workload,
    /// The host: its memory, disks, network, packages, or a signal from another process.
    Host,
    /// Crucible itself: its agent, its VMM, its engine.
    Crucible,
}

impl Blame {
    /// Returns the name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Workload => "workload",
            Self::Host => "host",
            Self::Crucible => "crucible",
        }
    }
}

/// A row of the table: condition, blame, verdict, exit code, and description.
struct Row(&'static str, Option<Blame>, Verdict, u8, &'static str);

macro_rules! conditions {
    ($($(#[$doc:meta])* $name:ident = $key:literal, $blame:expr, $verdict:ident, $exit:expr, $meaning:literal;)*) => {
        /// The condition that ended a unit of an experiment.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
        )]
        pub enum Condition {
            $(
                #[doc = $meaning]
                #[serde(rename = $key)]
                $name,
            )*
        }

        impl Condition {
            /// All conditions, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            fn row(self) -> Row {
                match self {
                    $(Self::$name => Row($key, $blame, Verdict::$verdict, $exit, $meaning),)*
                }
            }
        }
    };
}

const KERNEL: Option<Blame> = Some(Blame::Kernel);
const WORKLOAD: Option<Blame> = Some(Blame::Workload);
const HOST: Option<Blame> = Some(Blame::Host);
const CRUCIBLE: Option<Blame> = Some(Blame::Crucible);

conditions! {
    Passed = "passed", None, Pass, 0,
        "the restarted run equals the control, and its result the expected one";
    NotApplicable = "not-applicable", None, Pass, 0,
        "there is nothing to compare: the baseline does not have such a stop, or the user allows \
         the refusal";

    Diverged = "diverged", KERNEL, Diverged, 1,
        "the restarted run differs from the control, or the result from the expected one";
    Refused = "refused", KERNEL, Refused, 1,
        "checkpoint or restart refuses, with an error other than EOPNOTSUPP, or although the \
         scenario has an expected result";
    SecondRefused = "second-refused", KERNEL, Refused, 1,
        "the restarted tree cannot be checkpointed again, although none of its tasks has run \
         since the restart";
    Hang = "hang", KERNEL, Hang, 1,
        "a run does not end in time after its trigger, or the guest stops answering, and a second \
         control ends";
    KernelReport = "kernel-report", KERNEL, Panic, 1,
        "the guest's kernel prints a report (WARNING, KASAN, lockdep, oops …) in a guest that has \
         had a trigger, up to the end of its shutdown";
    GuestPanic = "guest-panic", KERNEL, Panic, 1,
        "the guest's kernel panics after a trigger";
    TripleFault = "triple-fault", KERNEL, Panic, 1,
        "the guest triple faults, or resets unannounced";
    Leak = "leak", KERNEL, Panic, 1,
        "kmemleak finds unreachable memory at the end of a session";
    EarlyReport = "early-report", KERNEL, Unknown, 125,
        "the guest's kernel prints a report or panics before any trigger, so checkpoint/restart \
         is not the cause";

    Unreviewed = "unreviewed", WORKLOAD, Unreviewed, 125,
        "all cases pass, but the scenario has no expected result yet";
    Unsupported = "unsupported", WORKLOAD, Unsupported, 125,
        "checkpoint or restart refuses with EOPNOTSUPP, and no expected result says that the \
         workload is supported";
    BuildFailed = "build-failed", WORKLOAD, Unknown, 125,
        "a command that builds the workload fails";
    Unstable = "unstable", WORKLOAD, Unknown, 125,
        "two undisturbed runs or two controls differ, or an undisturbed run fails";
    FreezeVisible = "freeze-visible", WORKLOAD, Unknown, 125,
        "freezing alone changes the run, and no rule of the scenario covers it";
    Missed = "missed", WORKLOAD, Unknown, 125,
        "the event does not happen, or its tasks leave it before the tree is frozen";
    EarlyHang = "early-hang", WORKLOAD, Unknown, 125,
        "a run does not end in time before its trigger, or a second control does not end in time";
    Undecided = "undecided", WORKLOAD, Unknown, 125,
        "a bisection ends without naming a single commit";
    GuestShutdown = "guest-shutdown", WORKLOAD, Unknown, 125,
        "the guest shuts down in order, without a request from crucible";

    HostKilled = "host-killed", HOST, Unknown, 125,
        "a signal from outside (SIGKILL of a person or of the OOM killer, SIGBUS of a shortened \
         file) ends the process that runs the guest";
    MachineLost = "machine-lost", HOST, Unknown, 125,
        "a machine cannot be started, the process that runs it exits by itself, or the file of \
         its memory was shortened";
    DiskFull = "disk-full", HOST, Unknown, HOST_EXIT,
        "the host has no space left for a disk of the guest or for the results";
    HostIo = "host-io", HOST, Unknown, HOST_EXIT,
        "the host cannot read or write a file";
    HostSetup = "host-setup", HOST, Unknown, HOST_EXIT,
        "the host lacks something: a package, the network, KVM";
    Interrupted = "interrupted", HOST, Unknown, 130,
        "Ctrl-C or SIGTERM ended the command before this unit was run";

    ChannelBroken = "channel-broken", CRUCIBLE, Unknown, 125,
        "the channel to the guest carries bytes that are not a message, or ends while the machine \
         continues";
    VmmFault = "vmm-fault", CRUCIBLE, Unknown, 125,
        "our VMM's process breaks its own seccomp rules, or KVM cannot continue";
    ReplyTooLarge = "reply-too-large", CRUCIBLE, Unknown, 125,
        "an answer of the agent is larger than a message may be";
    LeakScanFailed = "leak-scan-failed", CRUCIBLE, Unknown, 125,
        "kmemleak cannot scan at the end of a session of the debug flavour";
    SharedIdentity = "shared-identity", CRUCIBLE, Unknown, 125,
        "two clones of one snapshot share an identity, or a clone has a wrong clock";
    RequestFailed = "request-failed", CRUCIBLE, Unknown, 125,
        "the agent cannot carry out a request, or crucible itself fails";
}

impl Condition {
    /// Returns the party to blame; `None` for a unit that passed.
    pub fn blame(self) -> Option<Blame> {
        self.row().1
    }

    /// Returns the verdict.
    pub fn verdict(self) -> Verdict {
        self.row().2
    }

    /// Returns the exit code of a command whose worst condition this is.
    pub fn exit_code(self) -> u8 {
        self.row().3
    }

    /// Returns the name, as in JSON.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Returns the description of the condition, for the reference.
    pub fn meaning(self) -> &'static str {
        self.row().4
    }

    /// Returns true when the kernel's checkpoint/restart is at fault.
    pub fn is_bad(self) -> bool {
        self.exit_code() == 1
    }

    /// Returns the condition of a command from those of its units: the first bad one decides; then
    /// an interruption and a host that must be repaired, which must stop a bisection; then any
    /// condition without a verdict on the kernel. Without any unit it is unknown.
    pub fn of_all(parts: impl IntoIterator<Item = Self>) -> Self {
        let rank = |condition: &Self| {
            let stops = match condition.exit_code() {
                1 => 2,
                128.. => 1,
                _ => 0,
            };
            (stops, condition.verdict())
        };
        parts
            .into_iter()
            .reduce(|worst, next| {
                if rank(&next) > rank(&worst) {
                    next
                } else {
                    worst
                }
            })
            .unwrap_or(Self::RequestFailed)
    }

    /// Returns the condition of a machine that ended unexpectedly. `used` is true
    /// when the guest has had a trigger.
    pub fn of_exit(exit: Option<&Exit>, used: bool) -> Self {
        match exit {
            Some(Exit::Panic) if used => Self::GuestPanic,
            Some(Exit::Panic) => Self::EarlyReport,
            Some(Exit::TripleFault { .. } | Exit::Reset) if used => Self::TripleFault,
            Some(Exit::TripleFault { .. } | Exit::Reset) => Self::EarlyReport,
            Some(Exit::Shutdown) => Self::GuestShutdown,
            Some(Exit::Kvm { .. }) => Self::VmmFault,
            // Only crucible itself requests this, and it does not wait for an answer after that.
            Some(Exit::Killed) => Self::RequestFailed,
            Some(Exit::HostError { signal, .. }) => match signal {
                Some(nix::libc::SIGSYS) => Self::VmmFault,
                Some(_) => Self::HostKilled,
                None => Self::MachineLost,
            },
            None => Self::ChannelBroken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_follows_from_the_blame() {
        for &condition in Condition::ALL {
            let code = condition.exit_code();
            match condition.blame() {
                None => assert_eq!(code, 0),
                Some(Blame::Kernel) if condition == Condition::EarlyReport => assert_eq!(code, 125),
                Some(Blame::Kernel) => assert_eq!(code, 1),
                Some(Blame::Workload | Blame::Crucible) => assert_eq!(code, 125),
                Some(Blame::Host) => assert!(code == 125 || code >= 128),
            }
            let bad = condition.blame() == Some(Blame::Kernel) && code == 1;
            assert_eq!(condition.verdict().is_bad(), bad, "{condition:?}");
            assert_eq!(condition.is_bad(), bad, "{condition:?}");
        }
    }

    #[test]
    fn names_are_those_in_json() {
        for &condition in Condition::ALL {
            let json = serde_json::to_string(&condition).unwrap();
            assert_eq!(json, format!("\"{}\"", condition.name()));
        }
        for blame in [Blame::Kernel, Blame::Workload, Blame::Host, Blame::Crucible] {
            let json = serde_json::to_string(&blame).unwrap();
            assert_eq!(json, format!("\"{}\"", blame.name()));
        }
    }

    #[test]
    fn each_condition_has_a_meaning_of_its_own() {
        let all: std::collections::BTreeSet<_> =
            Condition::ALL.iter().map(|c| c.meaning()).collect();
        assert_eq!(all.len(), Condition::ALL.len());
        assert!(Condition::DiskFull.meaning().contains("no space"));
    }

    #[test]
    fn a_bad_unit_outweighs_the_host_and_the_host_what_is_unknown() {
        use Condition::*;
        let of = |parts: &[Condition]| Condition::of_all(parts.iter().copied());
        assert_eq!(of(&[Passed, Missed, Passed]), Missed);
        assert_eq!(of(&[Missed, DiskFull, Passed]), DiskFull);
        assert_eq!(of(&[DiskFull, Diverged, Interrupted]), Diverged);
        assert_eq!(of(&[Diverged, KernelReport]), KernelReport);
        assert_eq!(of(&[Diverged, DiskFull]), Diverged);
        assert_eq!(of(&[Passed]), Passed);
        assert_eq!(of(&[]).exit_code(), 125);
        // Of two equal conditions, the first stays.
        assert_eq!(of(&[Missed, Unstable]), Missed);
        assert_eq!(of(&[Unreviewed, Unsupported, Missed]), Missed);
    }

    #[test]
    fn the_way_a_machine_ends_tells_who_ended_it() {
        let host = |signal| Exit::HostError {
            detail: String::new(),
            signal,
        };
        let of = |exit: &Exit| Condition::of_exit(Some(exit), true);
        assert_eq!(of(&Exit::Panic), Condition::GuestPanic);
        assert_eq!(of(&Exit::Reset), Condition::TripleFault);
        let fault = || Exit::TripleFault {
            registers: Vec::new(),
        };
        assert_eq!(of(&fault()), Condition::TripleFault);
        let kvm = Exit::Kvm {
            detail: String::new(),
            registers: Vec::new(),
        };
        assert_eq!(of(&kvm), Condition::VmmFault);
        assert_eq!(of(&Exit::Killed), Condition::RequestFailed);
        assert_eq!(of(&Exit::Shutdown), Condition::GuestShutdown);
        assert_eq!(of(&host(Some(9))), Condition::HostKilled);
        assert_eq!(of(&host(Some(7))), Condition::HostKilled);
        assert_eq!(of(&host(Some(31))), Condition::VmmFault);
        assert_eq!(of(&host(None)), Condition::MachineLost);
        assert_eq!(Condition::of_exit(None, true), Condition::ChannelBroken);
        for exit in [Exit::Panic, Exit::Reset, fault()] {
            let early = Condition::of_exit(Some(&exit), false);
            assert_eq!(early, Condition::EarlyReport);
        }
    }
}
