// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--break`: pieces of restart code that the debug kernel can leave out.

use clap::{Args, ValueEnum};

use crate::boot_artefacts::{FlavourArg, GuestArgs, KernelArgs};

/// A piece of restart code in `guest-kernel/src/kernel/checkpoint/break.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Break {
    /// The vfork parent's wait for its child
    VforkWait,
    /// The rest of a system call at whose entry a tracee is stopped
    SyscallEnter,
    /// The rest of a system call at whose exit a tracee is stopped
    SyscallExit,
    /// The delivery of the signal by which a tracee is stopped
    SignalStop,
    /// The release of the buffer into which the image is read
    Free,
    /// The flags that madvise(2) has set for a mapping, and its accounting as committed memory
    VmaFlag,
    /// The ambient capabilities
    Credential,
    /// The address of a thread's last exception (CR2)
    Register,
    /// The signals that a handler blocks
    Handler,
    /// The information of a queued signal in addition to its number
    SignalQueue,
    /// The interval of ITIMER_REAL
    Itimer,
    /// The time by which the end of a sleep is moved
    Sleep,
    /// The release of the open file that creates a pipe
    PipeEnd,
    /// The borders of packets in a pipe
    PipeFlag,
    /// The copy-on-write sharing of pages between processes
    SharedPage,
    /// The limits of a process (setrlimit(2)), if the restart has raised them
    Rlimit,
}

/// A check whose removal reopens a hole that the kernel once had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Guard {
    /// The right of checkpoint(2)'s caller to read unlinked files of the tree
    #[value(name = "guard-readable")]
    Readable,
    /// The seccomp filters of restart(2)'s caller, which stay in force
    #[value(name = "guard-filter")]
    Filter,
    /// The hiding of tasks until the release
    #[value(name = "guard-hidden")]
    Hidden,
    /// The end of a task of an unfinished restart by SIGKILL
    #[value(name = "guard-sigkill")]
    Sigkill,
    /// The second check of the right to trace the tasks, when they have quiesced
    #[value(name = "guard-recheck")]
    Recheck,
}

/// A check whose removal lets a forged image do harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Check {
    /// The length of the path of an inotify watch
    #[value(name = "check-length")]
    Length,
}

/// `--break` of a fuzzer, on the command line.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct CheckArgs {
    /// Leave out one check of the kernel, to check that the fuzzer notices
    #[arg(long = "break", value_enum, value_name = "CHECK")]
    check: Option<Check>,
}

impl CheckArgs {
    /// Returns the name of the check, as the kernel has it.
    pub fn name(self) -> Option<String> {
        let value = self.check?.to_possible_value()?;
        Some(value.get_name().to_owned())
    }
}

/// `--break` of an adversary, on the command line.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct GuardArgs {
    /// Leave out one check of the kernel, to check that the adversary finds the hole
    ///
    /// Uses the debug kernel.
    #[arg(
        long = "break",
        value_enum,
        value_name = "GUARD",
        requires = "adversary"
    )]
    guard: Option<Guard>,
}

impl GuardArgs {
    /// Returns the name of the check, as the kernel has it.
    pub fn name(self) -> Option<String> {
        let value = self.guard?.to_possible_value()?;
        Some(value.get_name().to_owned())
    }
}

/// `--break`, on the command line.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct BreakArgs {
    /// Leave out one piece of restart code, to check that the comparison notices
    ///
    /// Uses the debug kernel.
    #[arg(long = "break", value_enum, value_name = "PIECE")]
    piece: Option<Break>,
}

impl BreakArgs {
    /// Returns the name of the piece, as the kernel has it.
    pub fn name(self) -> Option<String> {
        let value = self.piece?.to_possible_value()?;
        Some(value.get_name().to_owned())
    }

    /// Returns the guest to use: only the debug kernel can leave out a piece.
    pub fn guest(self, guest: &GuestArgs) -> GuestArgs {
        let mut guest = guest.clone();
        if self.piece.is_some() {
            guest.kernel = KernelArgs {
                flavour: FlavourArg::Debug,
                ..guest.kernel
            };
        }
        guest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names are those of the kernel's debugfs files.
    #[test]
    fn the_kernel_has_the_same_pieces() {
        let source = include_str!("../guest-kernel/src/kernel/checkpoint/break.c");
        let mut of_kernel: Vec<_> = source
            .split('"')
            .filter_map(|word| word.strip_prefix("break_"))
            .map(|name| name.replace('_', "-"))
            .collect();
        let mut ours: Vec<_> = Break::value_variants()
            .iter()
            .filter_map(|piece| {
                BreakArgs {
                    piece: Some(*piece),
                }
                .name()
            })
            .collect();
        of_kernel.sort();
        let guards = Guard::value_variants().iter().filter_map(|guard| {
            let guard = Some(*guard);
            GuardArgs { guard }.name()
        });
        ours.extend(guards);
        let checks = Check::value_variants().iter().filter_map(|check| {
            let check = Some(*check);
            CheckArgs { check }.name()
        });
        ours.extend(checks);
        ours.sort();
        assert_eq!(ours, of_kernel);
    }
}
