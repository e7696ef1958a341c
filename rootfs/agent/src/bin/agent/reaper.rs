// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Collects everything that ends. PID 1 gets orphans too; what it did not start is
//! dropped, what it did is kept until somebody asks.

use std::collections::HashMap;

use anyhow::Result;
use crucible_protocol::Ended;
use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// The one place that calls `waitpid`.
pub struct Reaper {
    signals: SignalFd,
    children: HashMap<i32, Option<Ended>>,
}

impl Reaper {
    /// Takes SIGCHLD over.
    pub fn new() -> Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self {
            signals: SignalFd::with_flags(&mask, flags)?,
            children: HashMap::new(),
        })
    }

    /// Becomes readable when something has ended.
    pub fn fd(&self) -> &SignalFd {
        &self.signals
    }

    /// Remembers a child whose end matters.
    pub fn watch(&mut self, pid: Pid) {
        self.children.insert(pid.as_raw(), None);
    }

    /// Forgets a child; its end is dropped.
    pub fn forget(&mut self, pid: Pid) {
        self.children.remove(&pid.as_raw());
    }

    /// Collects all that has ended so far.
    pub fn reap(&mut self) -> Result<()> {
        while self.signals.read_signal()?.is_some() {}
        loop {
            let (pid, ended) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Ended::Exited { code }),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (
                    pid,
                    Ended::Signaled {
                        signal: signal as i32,
                    },
                ),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if let Some(slot) = self.children.get_mut(&pid.as_raw()) {
                *slot = Some(ended);
            }
        }
    }

    /// How a watched child ended, if it did.
    pub fn ended(&self, pid: Pid) -> Option<Ended> {
        self.children.get(&pid.as_raw()).copied().flatten()
    }
}
