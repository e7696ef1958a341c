// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Exit codes for `git bisect run`: it marks a commit good for 0 and bad for 1, skips it for
//! 125, and stops at 128 and above.

use crucible_engine::abort::{self, Phase};
use crucible_engine::blame::{Condition, HOST_EXIT};
use crucible_engine::guest::GuestError;
use crucible_engine::interrupt;

/// Good.
pub const PASS: u8 = 0;
/// Bad.
pub const DIVERGED: u8 = 1;
/// Unknown, or a failure of crucible itself.
pub const UNKNOWN: u8 = 125;
/// Usage error.
pub const USAGE: u8 = 128;
/// The host lacks something that crucible needs.
pub const HOST: u8 = HOST_EXIT;

/// All exit codes and their meanings, for the reference.
pub const CODES: [(u8, &str); 6] = [
    (
        PASS,
        "good: the restarted run equals the control and the expected result",
    ),
    (
        DIVERGED,
        "bad: diverged, refused, hung, or the guest's kernel reported a fault after the trigger",
    ),
    (
        UNKNOWN,
        "cannot tell: the workload failed before the trigger, two undisturbed runs differ, the \
         event never happened, something does not build or boot, the scenario has no expected \
         result, or crucible itself failed",
    ),
    (
        USAGE,
        "usage error: the command line or a scenario file is wrong",
    ),
    (
        HOST,
        "the host lacks something (`crucible doctor` lists it), or its disk is full",
    ),
    (interrupt::EXIT, "interrupted by Ctrl-C or SIGTERM"),
];

/// A mistake on the command line that clap cannot detect.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Returns the exit code for an error.
pub fn of_error(error: &anyhow::Error) -> u8 {
    let usage = |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<Usage>().is_some();
    match error.chain().any(usage) {
        true => USAGE,
        false => condition(error).exit_code(),
    }
}

/// Returns the blame of an error.
pub fn condition(error: &anyhow::Error) -> Condition {
    if interrupt::requested() {
        return Condition::Interrupted;
    }
    let mut found = Condition::RequestFailed;
    for cause in error.chain() {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            found = abort::of_io(io);
        }
        if let Some(artefacts) = cause.downcast_ref::<crucible_artefacts::Error>()
            && artefacts.is_host_setup()
        {
            return Condition::HostSetup;
        }
        if let Some(machine) = cause.downcast_ref::<crucible_vmm::Error>() {
            found = abort::of_machine(machine);
        }
        if let Some(guest) = cause.downcast_ref::<GuestError>()
            && !matches!(guest, GuestError::Machine(_))
        {
            return abort::of_guest(Phase::Before, guest);
        }
        if cause.downcast_ref::<NoKvm>().is_some() || cause.downcast_ref::<HostTrouble>().is_some()
        {
            return Condition::HostSetup;
        }
    }
    found
}

/// A crucible that this one has started reports that the host must be repaired.
#[derive(Debug)]
pub struct HostTrouble(pub String);

impl std::fmt::Display for HostTrouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for HostTrouble {}

/// This host's KVM cannot run a guest, although `--machine kvm` requests it.
#[derive(Debug)]
pub struct NoKvm(pub String);

impl std::fmt::Display for NoKvm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot run a guest on KVM: {}", self.0)
    }
}

impl std::error::Error for NoKvm {}

/// Formats an error with its causes, each once.
pub fn chain(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // A transparent error repeats its cause, and many messages end with that of their cause.
        if !parts.last().is_some_and(|last| last.ends_with(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn host_set_up_is_told_from_our_own_failure() {
        let host = anyhow::Error::new(crucible_artefacts::Error::NoCache);
        assert_eq!(of_error(&host.context("preparing")), HOST);
        let io = std::fs::read("/no/such/file").context("reading");
        assert_eq!(condition(&io.unwrap_err()), Condition::HostIo);
        assert_eq!(of_error(&anyhow::anyhow!("ours")), UNKNOWN);
        let kvm = anyhow::Error::new(NoKvm("no".into()));
        assert_eq!(of_error(&kvm), HOST);
        // An error of the artefacts that is not due to the host.
        let path = std::path::PathBuf::new();
        let problem = String::new();
        let malformed = crucible_artefacts::Error::Malformed { path, problem };
        assert_eq!(of_error(&anyhow::Error::new(malformed)), UNKNOWN);
    }

    #[test]
    fn a_mistake_on_the_command_line_is_a_usage_error_wherever_it_stands() {
        let usage = || anyhow::Error::new(Usage("no such case".into()));
        assert_eq!(of_error(&usage()), USAGE);
        assert_eq!(of_error(&usage().context("reading")), USAGE);
        assert_eq!(usage().to_string(), "no such case");
    }

    #[test]
    fn a_guest_that_ends_outside_of_a_unit_says_why() {
        use crucible_vmm::Exit;
        let of = |error| condition(&anyhow::Error::new(error).context("preparing"));
        let ended = |exit| GuestError::Ended {
            exit,
            used: true,
            memory: None,
        };
        assert_eq!(of(ended(Some(Exit::Panic))), Condition::GuestPanic);
        assert_eq!(of(ended(None)), Condition::ChannelBroken);
        assert_eq!(of(GuestError::Interrupted), Condition::Interrupted);
        assert_eq!(
            of(GuestError::Failed("no".into())),
            Condition::RequestFailed
        );
    }

    #[test]
    fn a_machine_that_does_not_start_is_the_hosts() {
        let binary = "qemu".to_owned();
        let none = crucible_vmm::Error::NoEmulator { binary };
        assert_eq!(condition(&anyhow::Error::new(none)), Condition::HostSetup);
    }

    #[test]
    fn a_host_without_kvm_is_told_so() {
        assert_eq!(
            NoKvm("no /dev/kvm".into()).to_string(),
            "cannot run a guest on KVM: no /dev/kvm"
        );
    }

    #[test]
    fn causes_are_shown_once() {
        let error = anyhow::anyhow!("inner").context("inner").context("outer");
        assert_eq!(chain(&error), "outer: inner");
    }
}
