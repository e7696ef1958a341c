// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reaps all children. PID 1 also gets orphans: their status is discarded, that of watched
//! children is kept until it is requested.

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

/// The only place that calls `waitpid`.
pub struct Reaper {
    signals: SignalFd,
    children: HashMap<i32, Option<Ended>>,
}

impl Reaper {
    /// Takes over SIGCHLD.
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

    /// Returns a descriptor that is readable when a child has ended.
    pub fn fd(&self) -> &SignalFd {
        &self.signals
    }

    /// Watches a child: its status will be kept.
    pub fn watch(&mut self, pid: Pid) {
        self.children.insert(pid.as_raw(), None);
    }

    /// Stops watching a child; its status is discarded.
    pub fn forget(&mut self, pid: Pid) {
        self.children.remove(&pid.as_raw());
    }

    /// Reaps all children that have ended.
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

    /// Takes the status of a watched child, if it has ended.
    pub fn ended(&self, pid: Pid) -> Option<Ended> {
        self.children.get(&pid.as_raw()).copied().flatten()
    }
}
