// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs of crucible that end when the night ends, even if it is killed.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// Starts a command that receives SIGTERM when this thread ends.
pub(crate) fn spawn(command: &mut Command) -> std::io::Result<Child> {
    // SAFETY: prctl(2) is async-signal-safe, and the closure does nothing else.
    unsafe {
        command.pre_exec(|| {
            set_parent_process_death_signal(Some(Signal::TERM))?;
            Ok(())
        });
    }
    // Only the night receives Ctrl-C, and then sends SIGTERM to the run: a run that receives two
    // signals ends immediately, and drops its current work.
    command.process_group(0).spawn()
}

/// Requests a run to end in an orderly way.
pub(crate) fn end(child: &Child) {
    // The run may have ended meanwhile.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
}
