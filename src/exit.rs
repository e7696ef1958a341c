// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Exit codes, which `git bisect run` understands: 0 goes on as good, 1 as
//! bad, 125 skips, 128 and above stops.

/// The same; all is well.
pub const PASS: u8 = 0;
/// What was looked for went wrong.
pub const DIVERGED: u8 = 1;
/// Crucible's own failure, or nothing can be said about what was asked.
pub const UNKNOWN: u8 = 125;
/// The command line makes no sense.
pub const USAGE: u8 = 128;
/// This host has to be set up first.
pub const HOST: u8 = 129;

/// The exit code for an error.
pub fn of_error(error: &anyhow::Error) -> u8 {
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

/// An error with its causes, each once.
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
