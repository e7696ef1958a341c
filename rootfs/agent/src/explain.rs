// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Explains errors of the two system calls, with advice.

use nix::errno::Errno;

/// Explains an errno of `checkpoint(2)`.
pub fn checkpoint(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOSYS => "this kernel has no checkpoint(2)",
        Errno::EOPNOTSUPP => "the tree has state that cannot be saved; the message above names it",
        Errno::EBUSY => {
            "a task or object is in a state that cannot be saved now, or is shared with a \
             task outside the tree; it is named above: try again later or take a larger tree"
        }
        Errno::EAGAIN => "the tree is not at rest; freeze its cgroup first, or use --freeze",
        Errno::ESRCH => "there is no such process, or it is dying",
        Errno::EPERM => "not permitted; you must be allowed to trace every task of the tree",
        Errno::EINVAL => "the kernel refused the request; the reason is above",
        Errno::ENOSPC => "there is no space left for the image",
        Errno::EIO => "the image could not be written",
        _ => "the kernel refused it; see its messages above, if any",
    }
}

/// Explains an errno of `restart(2)`.
pub fn restart(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOSYS => "this kernel has no restart(2)",
        Errno::EOPNOTSUPP => {
            "the image has state that this kernel cannot restore; the message above names it"
        }
        Errno::EINVAL => {
            "the image is damaged, or was written by a different kernel; the message above names the place"
        }
        Errno::EIO => "the image is incomplete: it was truncated or not written to its end",
        Errno::EEXIST => "a process id of the image is taken; use --pidns, or end that process",
        Errno::EPERM => {
            "not permitted; you need CAP_CHECKPOINT_RESTORE and the rights of the tasks"
        }
        Errno::ECHILD => {
            "the root was not the init of a pid namespace, so it cannot start a new one: \
             use --pids"
        }
        Errno::ENOENT => "a file that the tasks had open no longer exists; it is named above",
        Errno::ESTALE => "a file or the mounts differ from those at the checkpoint, see above",
        Errno::ENOMEM => "there is not enough memory for the tasks",
        _ => "the kernel refused it; see its messages above, if any",
    }
}
