// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Drops the monitor's privileges before the guest runs.
//!
//! A guest that escapes through a device controls only the monitor's process. So once all files are
//! open and all threads exist, that process gives up everything that it no longer needs, and that
//! its parent has left it ([`crate::confine`]). None of these steps requires privileges.
//!
//! | mechanism | protects against |
//! |---|---|
//! | seccomp, a filter for each kind of thread (`rules`) | opening, connecting, executing or starting anything; code generated at run time; the rest of KVM and of the kernel. A call that is not in the list kills the process by SIGSYS |
//! | no new privileges | rights gained by executing a set-user-ID program |
//! | no capabilities, an empty bounding set | the use of root's privileges, if root started the monitor |
//! | not dumpable | other processes of the user, including those of other guests, that read or trace this one: it holds the guest's memory |
//! | `RLIMIT_CORE` 0 | the guest's memory in a core dump |
//! | `RLIMIT_NOFILE` 0 | new file descriptors, except a debugger's if one may connect; open ones remain usable |
//! | `RLIMIT_FSIZE` | a file that grows beyond the size of the guest's disks, and fills the host's disk |
//! | `RLIMIT_MEMLOCK`, `RLIMIT_MSGQUEUE` 0 | kernel memory held by locked pages or message queues |
//! | a panic aborts | a machine that continues with a missing thread and poisoned locks |
//!
//! Devices work in the threads of vCPUs, so these need the system calls for disks and sockets, too:
//! the filters of the two kinds of threads differ mostly in the permitted requests to KVM.
//!
//! `RLIMIT_NPROC` is not changed: the kernel creates a thread in a VM's first `KVM_RUN` (since
//! Linux 6.14) and counts it there. Seccomp prevents new threads and processes of the monitor.

mod rules;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::Write;
use std::panic;
use std::process;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

pub(super) use self::rules::Role;
use crate::confine::drop_capabilities;
use crate::kvm::failure::{During, Failure};
use crate::kvm::wire::Config;

/// Maximum number of descriptors if a debugger may connect: those of a machine, and the connection.
const DEBUGGER_FILES: u64 = 128;

/// Allowance for files other than disks, which hold messages, in bytes.
const ROOM: u64 = 64 << 20;

/// Installs a panic hook that prints one line and aborts the process, whichever thread panics.
pub(super) fn abort_on_panic() {
    panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("of an unknown kind");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let line = format!(
            "crucible: the monitor panicked at {place}: {}\n",
            message.replace('\n', "; ")
        );
        // Abort even if the message cannot be written.
        let _ = std::io::stderr().write_all(line.as_bytes());
        process::abort();
    }));
}

/// Sets the process's limits. No file can be opened afterwards.
pub(super) fn process(config: &Config) -> Result<(), Failure> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).during("forbid dumps of the monitor")?;
    let limits = [
        (Resource::Core, 0),
        (
            Resource::Nofile,
            if config.debugger { DEBUGGER_FILES } else { 0 },
        ),
        (Resource::Fsize, largest_file(config)),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
    ];
    for (resource, limit) in limits {
        let both = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        // The hard limit may already be lower.
        match setrlimit(resource, both) {
            Err(Errno::PERM) => Ok(()),
            result => result.during(format!("limit the monitor ({resource:?})")),
        }?;
    }
    Ok(())
}

/// Confines this thread irrevocably. Call it when the thread has everything that it will need, and
/// after one of the threads has called [`process()`].
///
/// `debugged` allows the additional calls that a debugger needs.
pub(super) fn thread(role: Role, debugged: bool) -> Result<(), Failure> {
    // Capabilities and filters are per thread, unlike the limits of the process.
    drop_capabilities().during("drop capabilities")?;
    let filter = rules::filter(role, debugged)?;
    // This also sets the thread's no_new_privs.
    seccompiler::apply_filter(&filter).during("install a system call filter")
}

/// Returns the maximum size in bytes of a file that the monitor writes: a disk already has its
/// size.
fn largest_file(config: &Config) -> u64 {
    let disks = config.disks.iter().filter(|disk| !disk.readonly);
    // A block device has length 0 here, and the limit does not apply to it.
    let sizes = disks.filter_map(|disk| Some(fs::metadata(&disk.path).ok()?.len()));
    sizes.max().unwrap_or(0) + ROOM
}
