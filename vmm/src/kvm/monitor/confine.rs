// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the monitor keeps of its rights while the guest runs: next to nothing.
//!
//! A guest that broke out of its devices would have the monitor's process, not more. So
//! once all files are open and all threads exist, that process gives up what it needs no
//! longer. None of it needs any right to do so.
//!
//! | what | protects from |
//! |---|---|
//! | seccomp, a filter for each kind of thread (`rules`) | opening, connecting, executing or starting anything; code made at run time; the rest of KVM and of the kernel. A call that is not in the list ends the process by SIGSYS |
//! | no new privileges | rights gained by executing a set-user-ID program |
//! | no capabilities, none in the bounding set | the use of root's rights, where it was root who started us |
//! | not dumpable | other processes of the user, those of another guest among them, that read or trace this one: it holds the guest's memory |
//! | `RLIMIT_CORE` 0 | the guest's memory in a core dump |
//! | `RLIMIT_NOFILE` 0 | any new file descriptor, but for a debugger's where one may come; those that are open stay so |
//! | `RLIMIT_FSIZE` | a file that grows beyond what the guest has, and fills the host's disk |
//! | `RLIMIT_MEMLOCK`, `RLIMIT_MSGQUEUE` 0 | kernel memory held by locked pages or message queues |
//! | a panic aborts | a machine that goes on with a thread less, its locks poisoned |
//!
//! `RLIMIT_NPROC` is left alone: the kernel makes a thread of its own in a VM's first
//! `KVM_RUN` (since Linux 6.14) and counts it there. Threads and processes of ours are
//! for seccomp to refuse.

mod rules;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::Write;
use std::panic;
use std::process;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
};

pub(super) use self::rules::Role;
use crate::kvm::failure::{During, Failure};
use crate::kvm::wire::Config;

/// Descriptors where a debugger may come: those of a machine, and its connection.
const DEBUGGER_FILES: u64 = 128;

/// Room in a file for what is not the guest's: messages.
const ROOM: u64 = 64 << 20;

/// From now on a panic, in whichever thread, says one line and ends the process.
pub(super) fn abort_on_panic() {
    panic::set_hook(Box::new(|info| {
        let words = info.payload_as_str().unwrap_or("of an unknown kind");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let line = format!(
            "crucible: the monitor panicked at {place}: {}\n",
            words.replace('\n', "; ")
        );
        // It aborts whether or not somebody hears why.
        let _ = std::io::stderr().write_all(line.as_bytes());
        process::abort();
    }));
}

/// Limits the process. Nothing can be opened any more.
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
        // What it has already may be less.
        match setrlimit(resource, both) {
            Err(Errno::PERM) => Ok(()),
            result => result.during(format!("limit the monitor ({resource:?})")),
        }?;
    }
    Ok(())
}

/// Confines this thread, for good: to be called when it has all that it will need.
/// [`process()`] comes before, in one of the threads.
///
/// `debugged`: a debugger may come, for whom there is a little more.
pub(super) fn thread(role: Role, debugged: bool) -> Result<(), Failure> {
    // Unlike the process's, these are each thread's own.
    for capability in CapabilitySet::all() {
        match remove_capability_from_bounding_set(capability) {
            // Only a privileged thread has to and may (EPERM), and older kernels know
            // fewer (EINVAL).
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(error) => return Err(error).during("empty the bounding set"),
        }
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).during("drop capabilities")?;
    let filter = rules::filter(role, debugged)?;
    // This sets the thread's no_new_privs too.
    seccompiler::apply_filter(&filter).during("install a system call filter")
}

/// No file that the monitor writes is larger: a disk has its size already.
fn largest_file(config: &Config) -> u64 {
    let disks = config.disks.iter().filter(|disk| !disk.readonly);
    // A block device has no length here, and no limit applies to it.
    let sizes = disks.filter_map(|disk| Some(fs::metadata(&disk.path).ok()?.len()));
    sizes.max().unwrap_or(0) + ROOM
}
