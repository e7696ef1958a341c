// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The functions that the fuzz targets for files and for the agent call. The repository's tests
//! run them with the seeds, too. The functions for the VMM are in its crate.

#[path = "../../tests/fuzz/targets.rs"]
pub mod targets;

/// Ignores SIGPIPE, as the startup code of Rust's `main` does, which libFuzzer's replaces: writing
/// to a socket whose other end is closed must return an error instead of raising the signal. The
/// devices rely on it.
pub fn ignore_broken_pipes() {
    // SAFETY: ignoring a signal runs no code of this program.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
