// SPDX-License-Identifier: Apache-2.0 OR MIT
//! System calls without a wrapper in a crate.

use std::os::fd::{AsRawFd, BorrowedFd};

use crucible_protocol::{SYS_CHECKPOINT, SYS_RESTART};
use nix::{errno::Errno, unistd::Pid};

/// The crate `libc` declares this constant with a type that is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn raw_or_none(fd: Option<BorrowedFd<'_>>) -> i64 {
    fd.map_or(-1, |fd| i64::from(fd.as_raw_fd()))
}

/// A flag of [`checkpoint`]: check whether the tree can be saved; write no image.
pub const CHECKPOINT_CHECK: u64 = 1;

/// A flag of [`checkpoint`]: the tree's mount namespace may differ from the caller's. The image
/// lists the mounts, and its restart needs [`RESTART_EQUAL_MOUNTS`].
pub const CHECKPOINT_OWN_MOUNTS: u64 = 2;

/// `checkpoint(2)`: writes the frozen tree rooted at `pid` to `image`.
pub fn checkpoint(
    pid: Pid,
    image: BorrowedFd<'_>,
    flags: u64,
    log: Option<BorrowedFd<'_>>,
) -> nix::Result<()> {
    // SAFETY: the call takes numbers only; both descriptors are open for its whole time.
    let result = unsafe {
        libc::syscall(
            SYS_CHECKPOINT,
            i64::from(pid.as_raw()),
            i64::from(image.as_raw_fd()),
            flags,
            raw_or_none(log),
        )
    };
    Errno::result(result).map(drop)
}

/// A flag of [`restart`]: the first process of a new pid namespace mounts `/proc`. A proc mount
/// shows the namespace of its mounter, and descriptors may refer to it.
pub const RESTART_MOUNT_PROC: u64 = 1;

/// A flag of [`restart`]: the caller's mounts, with that `/proc`, are equal to those that the
/// image lists. The call compares them.
pub const RESTART_EQUAL_MOUNTS: u64 = 2;

/// `restart(2)`: creates the tasks of `image`; returns the pid of the root, a child of the
/// caller.
pub fn restart(
    cgroup: Option<BorrowedFd<'_>>,
    image: BorrowedFd<'_>,
    flags: u64,
    log: Option<BorrowedFd<'_>>,
) -> nix::Result<Pid> {
    // SAFETY: as above. The created tasks have their own memory, not this program's.
    let result = unsafe {
        libc::syscall(
            SYS_RESTART,
            raw_or_none(cgroup),
            i64::from(image.as_raw_fd()),
            flags,
            raw_or_none(log),
        )
    };
    Errno::result(result).map(|pid| Pid::from_raw(pid as i32))
}

/// Forks into a cgroup, with new pid and mount namespaces. Returns `None` in the child.
///
/// # Safety
/// As with `fork`: in a program with several threads the child may only call
/// what is safe in a signal handler.
pub unsafe fn fork_container(cgroup: BorrowedFd<'_>) -> nix::Result<Option<Pid>> {
    let mut args = clone_args();
    args.flags = CLONE_INTO_CGROUP | (libc::CLONE_NEWPID as u64) | (libc::CLONE_NEWNS as u64);
    args.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: no CLONE_VM. The rest is the caller's duty.
    unsafe { clone3(&args) }
}

fn clone_args() -> libc::clone_args {
    // SAFETY: all zeroes is a valid `clone_args`, made of integers.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = libc::SIGCHLD as u64;
    args
}

/// # Safety
/// The flags must not include CLONE_VM, and all pointers must be valid; see also `fork`.
unsafe fn clone3(args: &libc::clone_args) -> nix::Result<Option<Pid>> {
    // SAFETY: `args` has the size that is passed, and lives until the call returns; without
    // CLONE_VM the child has a copy of all memory. The rest is the caller's duty.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const *args,
            std::mem::size_of::<libc::clone_args>(),
        )
    };
    Errno::result(result).map(|pid| (pid != 0).then(|| Pid::from_raw(pid as i32)))
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Sets the permitted and effective capabilities to a mask, and clears the inheritable ones
/// (capset(2)).
pub fn set_capabilities(mask: u64) -> nix::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let data = [mask as u32, (mask >> 32) as u32].map(|half| Data {
        effective: half,
        permitted: half,
        inheritable: 0,
    });
    // SAFETY: both structures have the layout that the call expects, and outlive it.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(result).map(drop)
}
