// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the fuzz targets share.

/// Does what Rust's `main` does, which libFuzzer has instead of ours: writing to a socket
/// whose other end is gone is an error, and no signal. Devices rely on it.
pub fn ignore_broken_pipes() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
