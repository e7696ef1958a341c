// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The system calls that each kind of thread may make, and with which arguments.
//!
//! A call that is missing here kills the process; `strace -f` shows which call it was. seccompiler
//! compares the numbers sequentially, so a longer list is slower.

use std::collections::BTreeMap;
use std::mem::size_of;

use kvm_bindings::*;
use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};

use crate::kvm::failure::{During, Failure};

/// A kind of thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kvm::monitor) enum Role {
    /// A thread that runs a vCPU and the devices that it notifies.
    Vcpu,
    /// The main thread, which waits for all events.
    Loop,
}

/// A condition on an argument. The kernel uses only the lower 32 bits of all arguments here.
#[derive(Clone, Copy)]
enum Arg {
    /// The argument with this index has this value.
    Is(u8, u32),
    /// The argument has all of these bits.
    Has(u8, u32),
    /// The argument has none of these bits.
    Lacks(u8, u32),
}
use Arg::{Has, Is, Lacks};

/// A system call, and the alternative sets of conditions under which it is allowed; without any,
/// all arguments are allowed.
type Call = (c_long, &'static [&'static [Arg]]);

const ANY: &[&[Arg]] = &[];

/// Calls of both kinds of threads: for the devices' work, locks and memory.
const BOTH: &[Call] = &[
    // Disks, sockets, eventfds.
    (SYS_read, ANY),
    (SYS_write, ANY),
    (SYS_lseek, ANY),
    (SYS_sendto, ANY),
    (SYS_recvfrom, ANY),
    // Punching and filling holes in a disk; its size never changes.
    (SYS_fallocate, &[&[Has(1, FALLOC_FL_KEEP_SIZE as u32)]]),
    // Rearming event sources.
    (SYS_epoll_ctl, ANY),
    // The guest's random numbers, and the keys of hash tables.
    (SYS_getrandom, ANY),
    // Locks and channels of Rust's library, and locks of the allocator.
    (
        SYS_futex,
        &[
            &[Is(1, (FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG) as u32)],
            &[Is(1, (FUTEX_WAIT | FUTEX_PRIVATE_FLAG) as u32)],
            &[Is(1, (FUTEX_WAKE | FUTEX_PRIVATE_FLAG) as u32)],
        ],
    ),
    // Rust's channels yield while they spin.
    (SYS_sched_yield, ANY),
    // The allocator's memory, and freed stacks. Nothing is ever mapped from a file or made
    // executable.
    (SYS_brk, ANY),
    (
        SYS_mmap,
        &[&[
            Lacks(2, PROT_EXEC as u32),
            Has(3, (MAP_PRIVATE | MAP_ANONYMOUS) as u32),
        ]],
    ),
    (SYS_mprotect, &[&[Lacks(2, PROT_EXEC as u32)]]),
    (SYS_mremap, &[&[Is(3, MREMAP_MAYMOVE as u32)]]),
    (SYS_munmap, ANY),
    (SYS_madvise, &[&[Is(2, MADV_DONTNEED as u32)]]),
    // Dropped files are closed; debug builds of Rust's library first check that they are open.
    (SYS_close, ANY),
    (SYS_fcntl, &[&[Is(1, F_GETFD as u32)]]),
    // The return from the signal that interrupts KVM_RUN; C libraries block signals while they send
    // one or end a thread.
    (SYS_rt_sigreturn, ANY),
    (SYS_rt_sigprocmask, ANY),
    // The end of a thread: Rust frees its signal stack.
    (SYS_sigaltstack, ANY),
    // abort(3), and the handler that distinguishes a stack overflow from other faults: their
    // signals are more informative than SIGSYS. `tgkill` is in `filter`.
    (
        SYS_rt_sigaction,
        &[
            &[Is(0, SIGABRT as u32)],
            &[Is(0, SIGBUS as u32)],
            &[Is(0, SIGSEGV as u32)],
        ],
    ),
    (SYS_getpid, ANY),
    (SYS_gettid, ANY),
    (SYS_exit_group, ANY),
];

/// Calls of vCPU threads only. KVM_RUN comes first, because it is the most frequent.
const VCPU: &[Call] = &[
    (
        SYS_ioctl,
        &[
            &[Is(1, io(0x80))], // KVM_RUN
            // Reading registers for display and saves.
            &[Is(1, ior::<kvm_regs>(0x81))],        // KVM_GET_REGS
            &[Is(1, ior::<kvm_sregs>(0x83))],       // KVM_GET_SREGS
            &[Is(1, iowr::<kvm_msrs>(0x88))],       // KVM_GET_MSRS
            &[Is(1, ior::<kvm_fpu>(0x8c))],         // KVM_GET_FPU
            &[Is(1, ior::<kvm_lapic_state>(0x8e))], // KVM_GET_LAPIC
            &[Is(1, iowr::<kvm_cpuid2>(0x91))],     // KVM_GET_CPUID2
            &[Is(1, ior::<kvm_mp_state>(0x98))],    // KVM_GET_MP_STATE
            &[Is(1, ior::<kvm_vcpu_events>(0x9f))], // KVM_GET_VCPU_EVENTS
            &[Is(1, ior::<kvm_debugregs>(0xa1))],   // KVM_GET_DEBUGREGS
            &[Is(1, io(0xa3))],                     // KVM_GET_TSC_KHZ
            &[Is(1, ior::<kvm_xsave>(0xa4))],       // KVM_GET_XSAVE
            &[Is(1, ior::<kvm_xsave>(0xcf))],       // KVM_GET_XSAVE2
            &[Is(1, ior::<kvm_xcrs>(0xa6))],        // KVM_GET_XCRS
            // After a pause, to keep the guest's watchdogs from reporting it as a lockup.
            &[Is(1, io(0xad))], // KVM_KVMCLOCK_CTRL
        ],
    ),
    // The end of the thread.
    (SYS_exit, ANY),
];

/// Calls of the main thread only.
const LOOP: &[Call] = &[
    (SYS_epoll_wait, ANY),
    // Reading the state of the virtual machine for saves.
    (
        SYS_ioctl,
        &[
            &[Is(1, io(0x03))],                    // KVM_CHECK_EXTENSION
            &[Is(1, iow::<kvm_dirty_log>(0x42))],  // KVM_GET_DIRTY_LOG
            &[Is(1, iowr::<kvm_irqchip>(0x62))],   // KVM_GET_IRQCHIP
            &[Is(1, ior::<kvm_clock_data>(0x7c))], // KVM_GET_CLOCK
            &[Is(1, ior::<kvm_pit_state2>(0x9f))], // KVM_GET_PIT2
            &[Is(1, iowr::<kvm_msr_list>(0x02))],  // KVM_GET_MSR_INDEX_LIST
        ],
    ),
    // The wall clock, if the vDSO cannot read it in user space.
    (SYS_clock_gettime, ANY),
    // Waiting for the end of a thread.
    (
        SYS_futex,
        &[&[Is(1, (FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME) as u32)]],
    ),
];

/// Additional calls for a debugger: vCPU threads set registers and breakpoints; the main thread
/// accepts the connection.
const VCPU_DEBUGGED: &[Call] = &[(
    SYS_ioctl,
    &[
        &[Is(1, iow::<kvm_regs>(0x82))],        // KVM_SET_REGS
        &[Is(1, iow::<kvm_guest_debug>(0x9b))], // KVM_SET_GUEST_DEBUG
        &[Is(1, iow::<kvm_debugregs>(0xa2))],   // KVM_SET_DEBUGREGS
    ],
)];
const LOOP_DEBUGGED: &[Call] = &[(SYS_accept, ANY)];

/// `_IO(KVMIO, number)`.
const fn io(number: u32) -> u32 {
    ioctl_expr(_IOC_NONE, KVMIO, number, 0) as u32
}

/// `_IOR(KVMIO, number, T)`.
const fn ior<T>(number: u32) -> u32 {
    ioctl_expr(_IOC_READ, KVMIO, number, size_of::<T>() as u32) as u32
}

/// `_IOW(KVMIO, number, T)`.
const fn iow<T>(number: u32) -> u32 {
    ioctl_expr(_IOC_WRITE, KVMIO, number, size_of::<T>() as u32) as u32
}

/// `_IOWR(KVMIO, number, T)`.
const fn iowr<T>(number: u32) -> u32 {
    ioctl_expr(_IOC_READ | _IOC_WRITE, KVMIO, number, size_of::<T>() as u32) as u32
}

/// Returns the filter for a kind of thread of this process.
pub(super) fn filter(role: Role, debugged: bool) -> Result<BpfProgram, Failure> {
    let (ours, more) = match role {
        Role::Vcpu => (VCPU, VCPU_DEBUGGED),
        Role::Loop => (LOOP, LOOP_DEBUGGED),
    };
    let more = if debugged { more } else { &[] };
    let mut rules = BTreeMap::<c_long, Vec<SeccompRule>>::new();
    for (call, ways) in BOTH.iter().chain(ours).chain(more) {
        let rules = rules.entry(*call).or_default();
        for way in *ways {
            rules.push(rule(way)?);
        }
    }
    // Signals may go to this process only: the one by which abort(3) ends it, and the one by which
    // the main thread interrupts vCPUs.
    let signals = match role {
        Role::Vcpu => &[SIGABRT][..],
        Role::Loop => &[SIGABRT, SIGRTMIN()],
    };
    for signal in signals {
        let way = [Is(0, std::process::id()), Is(2, *signal as u32)];
        rules.entry(SYS_tgkill).or_default().push(rule(&way)?);
    }
    SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )
    .and_then(BpfProgram::try_from)
    .during("build a system call filter")
}

fn rule(way: &[Arg]) -> Result<SeccompRule, Failure> {
    let conditions = way.iter().map(|arg| {
        let (index, operator, value) = match *arg {
            Is(index, value) => (index, SeccompCmpOp::Eq, value),
            Has(index, bits) => (index, SeccompCmpOp::MaskedEq(bits.into()), bits),
            Lacks(index, bits) => (index, SeccompCmpOp::MaskedEq(bits.into()), 0),
        };
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value.into())
    });
    conditions
        .collect::<Result<_, _>>()
        .and_then(SeccompRule::new)
        .during("build a system call filter")
}
