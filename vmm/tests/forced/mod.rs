// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes another process make a system call, by ptrace(2).

use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// The instruction `syscall`, as a little-endian number.
const SYSCALL: i64 = 0x050f;

/// Makes the main thread of a process, which waits in a system call, make the call of this number
/// instead. The process's own filters apply to that call.
pub fn system_call(pid: i32, number: i64) {
    let pid = Pid::from_raw(pid);
    loop {
        ptrace::attach(pid).expect("to trace the process");
        let stopped = waitpid(pid, None).expect("the process to stop");
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
        let mut registers = ptrace::getregs(pid).expect("its registers");
        let call = registers.rip - 2;
        let word = ptrace::read(pid, call as ptrace::AddressType).expect("its code");
        let waits = word & 0xffff == SYSCALL;
        if waits {
            registers.rip = call;
            registers.rax = number as u64;
            // Do not restart the interrupted call.
            registers.orig_rax = u64::MAX;
            ptrace::setregs(pid, registers).expect("other registers");
        }
        ptrace::detach(pid, None).expect("to let the process go");
        if waits {
            return;
        }
    }
}
