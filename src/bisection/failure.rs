// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Classifies the failure of a build: the kernel's, or the host's.

use crucible_artefacts::Error;
use crucible_bisect::Stop;
use crucible_engine::Condition;

use crate::exit;

/// A kernel that cannot be built, or a reason to stop.
pub(super) enum Failure {
    Unbuildable(String),
    Stop(Stop),
}

pub(super) fn stop(error: &anyhow::Error) -> Stop {
    Stop::new(exit::condition(error), exit::chain(error))
}

/// Distinguishes a kernel that cannot be built from a failure of the host or of crucible.
pub(super) fn failure(error: &anyhow::Error) -> Failure {
    let condition = exit::condition(error);
    if condition != Condition::RequestFailed {
        return Failure::Stop(stop(error));
    }
    let text = exit::chain(error);
    let of_kernel = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Error>());
    let is_build =
        |what: &str| what.starts_with("building the ") || what.starts_with("configuring the ");
    match of_kernel {
        // If the compiler was killed or the disk was full, the failure is not the source's.
        Some(Error::Failed { words, .. }) if words.contains("No space left on device") => {
            Failure::Stop(Stop::new(Condition::DiskFull, text))
        }
        Some(Error::Failed { words, status, .. })
            if words.contains("Killed") || status.contains("signal") =>
        {
            Failure::Stop(Stop::new(Condition::HostKilled, text))
        }
        Some(Error::Failed { what, words, .. }) if is_build(what) => {
            Failure::Unbuildable(first_error(words))
        }
        Some(Error::Patch { .. } | Error::Config { .. } | Error::Malformed { .. }) | None => {
            Failure::Unbuildable(text.lines().next().unwrap_or_default().to_owned())
        }
        Some(_) => Failure::Stop(stop(error)),
    }
}

/// Returns the first line that is an error among the last lines of a build.
fn first_error(words: &str) -> String {
    let is_error = |line: &&str| line.contains("error:") || line.contains("undefined reference");
    let line = words
        .lines()
        .find(is_error)
        .or_else(|| words.lines().last());
    line.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(what: &str, words: &str) -> anyhow::Error {
        anyhow::Error::new(Error::Failed {
            what: what.into(),
            status: "exit status: 2".into(),
            command: "make".into(),
            words: words.into(),
        })
    }

    #[test]
    fn only_what_the_kernel_is_to_blame_for_makes_a_commit_unbuildable() {
        let of = |error: anyhow::Error| match failure(&error) {
            Failure::Unbuildable(why) => Ok(why),
            Failure::Stop(stop) => Err(stop.condition),
        };
        let words = "  a.c:1:2: error: no field x\n  make: *** [a.o] Error 1";
        let why = of(failed("building the base kernel", words));
        assert_eq!(why, Ok("a.c:1:2: error: no field x".into()));
        let full = failed("building the base kernel", "No space left on device");
        assert_eq!(of(full), Err(Condition::DiskFull));
        let killed = failed(
            "building the base kernel",
            "gcc: fatal error: Killed signal",
        );
        assert_eq!(of(killed), Err(Condition::HostKilled));
        let ours = failed("compiling the agent", "error: x");
        assert_eq!(of(ours), Err(Condition::RequestFailed));
        let none = anyhow::Error::new(Error::NoCache);
        assert_eq!(of(none), Err(Condition::HostSetup));
    }
}
