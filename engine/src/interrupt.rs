// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ctrl-C and SIGTERM: the first ends the command in an orderly way, the second immediately.
//!
//! A signal belongs to the whole process, so there is one flag for all guests. Code that waits for
//! a guest checks it, so that no wait outlasts the first signal by more than a moment.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{consts::TERM_SIGNALS, flag};

static REQUESTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Exit code of a command that was interrupted: 128 plus SIGINT, as in a shell.
pub const EXIT: u8 = 130;

/// Installs the signal handlers: the first SIGINT, SIGTERM or SIGQUIT makes [`requested`] return
/// true, and the second one ends the process.
pub fn install() -> io::Result<()> {
    let requested = REQUESTED.get_or_init(Arc::default);
    for &signal in TERM_SIGNALS {
        // Keep this order: the first signal must find the flag unset.
        flag::register_conditional_shutdown(signal, EXIT.into(), Arc::clone(requested))?;
        flag::register(signal, Arc::clone(requested))?;
    }
    Ok(())
}

/// Returns true when a signal has requested the end of the command.
pub fn requested() -> bool {
    REQUESTED
        .get()
        .is_some_and(|requested| requested.load(Ordering::SeqCst))
}
