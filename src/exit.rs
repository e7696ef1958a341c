// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Exit codes for `git bisect run`: it marks a commit good for 0 and bad for 1, skips it for
//! 125, and stops at 128 and above.

/// Good.
pub const PASS: u8 = 0;
/// Bad.
pub const DIVERGED: u8 = 1;
/// Cannot tell, or a failure of crucible itself.
pub const UNKNOWN: u8 = 125;
/// Usage error.
pub const USAGE: u8 = 128;
/// The host lacks something that crucible needs.
pub const HOST: u8 = 129;

/// All exit codes and their meanings, for the reference.
pub const CODES: [(u8, &str); 5] = [
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
        "the host lacks something; `crucible doctor` says what",
    ),
];

/// A mistake on the command line that clap cannot know.
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
    if error
        .chain()
        .any(|cause| cause.downcast_ref::<Usage>().is_some())
    {
        return USAGE;
    }
    let host = error.chain().any(|cause| {
        let artefacts = cause
            .downcast_ref::<crucible_artefacts::Error>()
            .is_some_and(crucible_artefacts::Error::is_host_setup);
        let machine = matches!(
            cause.downcast_ref(),
            Some(crucible_vmm::Error::NoEmulator { .. })
        );
        artefacts || machine
    });
    if host { HOST } else { UNKNOWN }
}

/// Formats an error with its causes, each once.
pub fn chain(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // A transparent error repeats its cause.
        if parts.last() != Some(&text) {
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
        let ours = std::fs::read("/no/such/file").context("reading");
        assert_eq!(of_error(&ours.unwrap_err()), UNKNOWN);
    }

    #[test]
    fn causes_are_shown_once() {
        let error = anyhow::anyhow!("inner").context("inner").context("outer");
        assert_eq!(chain(&error), "outer: inner");
    }
}
