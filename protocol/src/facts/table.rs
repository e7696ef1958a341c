// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The list of facts, from which the agent reads and the reference is made.
//!
//! The fields of a file are listed completely, with the reason for each that is not a fact: the
//! agent refuses to observe a kernel that shows a field that is in no list.

/// The comparison of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is compared.
    Compared,
    /// It is compared, for zombies only.
    OfZombies,
    /// Only these bits of it are compared.
    Bits(u32, &'static str),
    /// It may grow, because the restart itself has a cost, but must not shrink.
    Grows,
    /// It is not a fact, for this reason.
    Left(&'static str),
}

use Use::{Bits, Compared, Grows, Left, OfZombies};

/// A field of a file, and its use.
pub type Field = (&'static str, Use);

const IN_TREE: &str = "compared with the process tree";
const IN_STATUS: &str = "compared as a line of `status`";
const RESIDENT: &str = "the kernel decides which pages are resident";
const OBSOLETE: &str = "always 0";
const EXITING: &str = "shown for exiting tasks only; the second image has the registers";

/// The fields of `stat` from the third on.
pub const STAT: &[Field] = &[
    ("state", Left(IN_TREE)),
    ("ppid", Left(IN_TREE)),
    ("pgrp", Left(IN_TREE)),
    ("session", Left(IN_TREE)),
    ("tty", Compared),
    ("tpgid", Compared),
    (
        "flags",
        // PF_FORKNOEXEC, PF_SUPERPRIV, PF_SIGNALED, PF_NPROC_EXCEEDED.
        Bits(
            0x1540,
            "fork without exec, used privileges, killed by a signal, too many processes",
        ),
    ),
    ("minflt", Grows),
    ("cminflt", Compared),
    ("majflt", Grows),
    ("cmajflt", Compared),
    ("utime", Grows),
    ("stime", Grows),
    ("cutime", Compared),
    ("cstime", Compared),
    ("priority", Compared),
    ("nice", Compared),
    ("num_threads", Compared),
    ("itrealvalue", Left(OBSOLETE)),
    ("starttime", Compared),
    ("vsize", Compared),
    ("rss", Left(RESIDENT)),
    ("rsslim", Compared),
    ("startcode", Compared),
    ("endcode", Compared),
    ("startstack", Compared),
    ("kstkesp", Left(EXITING)),
    ("kstkeip", Left(EXITING)),
    ("signal", Left(IN_STATUS)),
    ("blocked", Left(IN_STATUS)),
    ("sigignore", Left(IN_STATUS)),
    ("sigcatch", Left(IN_STATUS)),
    (
        "wchan",
        Left("the place in the kernel: a restarted task sleeps at its site"),
    ),
    ("nswap", Left(OBSOLETE)),
    ("cnswap", Left(OBSOLETE)),
    ("exit_signal", Compared),
    ("processor", Left("the scheduler decides")),
    ("rt_priority", Compared),
    ("policy", Compared),
    ("blkio_ticks", Left("counts waits of the restart itself")),
    ("guest_time", Compared),
    ("cguest_time", Compared),
    ("start_data", Compared),
    ("end_data", Compared),
    ("start_brk", Compared),
    ("arg_start", Compared),
    ("arg_end", Compared),
    ("env_start", Compared),
    ("env_end", Compared),
    ("exit_code", OfZombies),
];

/// The lines of `status`.
pub const STATUS: &[Field] = &[
    ("Name", Left(IN_TREE)),
    ("Umask", Compared),
    ("State", Left(IN_TREE)),
    ("Tgid", Left(IN_TREE)),
    ("Ngid", Left("NUMA balancing decides")),
    ("Pid", Left(IN_TREE)),
    ("PPid", Left(IN_TREE)),
    ("TracerPid", Compared),
    ("Uid", Compared),
    ("Gid", Compared),
    (
        "FDSize",
        Left("room in the table of descriptors, not its content"),
    ),
    ("Groups", Compared),
    ("NStgid", Compared),
    ("NSpid", Compared),
    ("NSpgid", Compared),
    ("NSsid", Compared),
    ("Kthread", Compared),
    ("VmPeak", Compared),
    ("VmSize", Compared),
    ("VmLck", Compared),
    ("VmPin", Compared),
    ("VmHWM", Compared),
    ("VmRSS", Left(RESIDENT)),
    ("RssAnon", Left(RESIDENT)),
    ("RssFile", Left(RESIDENT)),
    ("RssShmem", Left(RESIDENT)),
    ("VmData", Compared),
    ("VmStk", Compared),
    ("VmExe", Compared),
    ("VmLib", Compared),
    ("VmPTE", Left(RESIDENT)),
    ("VmSwap", Left(RESIDENT)),
    ("HugetlbPages", Compared),
    ("CoreDumping", Compared),
    ("THP_enabled", Compared),
    ("untag_mask", Compared),
    ("Threads", Compared),
    (
        "SigQ",
        Left("counts all signals of the user, in other trees, too"),
    ),
    ("SigPnd", Compared),
    ("ShdPnd", Compared),
    ("SigBlk", Compared),
    ("SigIgn", Compared),
    ("SigCgt", Compared),
    ("CapInh", Compared),
    ("CapPrm", Compared),
    ("CapEff", Compared),
    ("CapBnd", Compared),
    ("CapAmb", Compared),
    ("NoNewPrivs", Compared),
    ("Seccomp", Compared),
    ("Seccomp_filters", Compared),
    ("Speculation_Store_Bypass", Compared),
    ("SpeculationIndirectBranch", Compared),
    ("Cpus_allowed", Compared),
    ("Cpus_allowed_list", Compared),
    ("Mems_allowed", Compared),
    ("Mems_allowed_list", Compared),
    ("voluntary_ctxt_switches", Grows),
    ("nonvoluntary_ctxt_switches", Grows),
    ("x86_Thread_features", Compared),
    ("x86_Thread_features_locked", Compared),
];

/// The lines that `smaps` has of each mapping.
pub const SMAPS: &[Field] = &[
    ("Size", Compared),
    ("KernelPageSize", Compared),
    ("MMUPageSize", Compared),
    ("Rss", Left(RESIDENT)),
    ("Pss", Left(RESIDENT)),
    ("Pss_Dirty", Left(RESIDENT)),
    ("Shared_Clean", Left(RESIDENT)),
    ("Shared_Dirty", Left(RESIDENT)),
    ("Private_Clean", Left(RESIDENT)),
    ("Private_Dirty", Left(RESIDENT)),
    ("Referenced", Left(RESIDENT)),
    ("Anonymous", Left(RESIDENT)),
    ("KSM", Left(RESIDENT)),
    ("LazyFree", Left(RESIDENT)),
    ("AnonHugePages", Left(RESIDENT)),
    ("ShmemPmdMapped", Left(RESIDENT)),
    ("FilePmdMapped", Left(RESIDENT)),
    ("Shared_Hugetlb", Compared),
    ("Private_Hugetlb", Compared),
    ("Swap", Left(RESIDENT)),
    ("SwapPss", Left(RESIDENT)),
    ("Locked", Compared),
    ("THPeligible", Compared),
    ("ProtectionKey", Compared),
    ("VmFlags", Compared),
];

/// Returns the use of a field.
#[must_use]
pub fn find(fields: &[Field], name: &str) -> Option<Use> {
    let found = fields.iter().find(|(known, _)| *known == name);
    found.map(|(_, what)| *what)
}

/// Facts that take more than a file of `/proc`: their names, sources and descriptions.
pub const COMPUTED: &[[&str; 3]] = &[
    [
        "`shares.vm`, `.files`, `.fs`, `.sighand`, `.io`, `.sysvsem`",
        "kcmp(2)",
        "the first task with which the task shares it; an I/O context or an undo list that it does not \
         have counts as its own",
    ],
    [
        "`fd/N.same`",
        "kcmp(2)",
        "the first descriptor of a task that refers to the same open file",
    ],
    [
        "`fd/N.*`",
        "`fd`, `fdinfo`",
        "the target of the link, and each line, with repetitions",
    ],
    [
        "`fd/N.unix`",
        "sock_diag(7)",
        "type, state, name, the first descriptor of the peer, queue, buffer sizes, shutdown and owner of a Unix \
         socket",
    ],
    [
        "`smaps`",
        "`smaps`",
        "a line for each mapping, with the fields below",
    ],
    [
        "`memory`",
        "`pagemap`, `mem`",
        "a hash of the private pages of each mapping that are not zero",
    ],
    [
        "`ioprio`",
        "ioprio_get(2)",
        "class and level, as the number that the call returns",
    ],
    [
        "`sched`",
        "sched_getattr(2)",
        "policy, flags, nice value, priority, and the times of the policy, such as the slice",
    ],
    ["`locks`", "`/proc/locks`", "the locks of the tree's tasks"],
    [
        "`ns/*`",
        "`ns`",
        "the number of the namespace; for `mnt` and `pid`, which are new, the first task in it",
    ],
    [
        "`mounts`",
        "`mountinfo`",
        "the mounts of each mount namespace, without the numbers that the kernel assigns",
    ],
];
