// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Locks of artefacts that are being made, and of the whole cache.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use command_fds::CommandFdExt;

use super::Cache;
use crate::progress::Progress;
use crate::{Error, Result};

/// The lock that all users of the cache share.
const IN_USE: &str = "cache";

/// A locked file; unlocked when dropped, not when closed: a process that another thread is just
/// creating has the file open, too, until its exec.
pub(super) struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// A lock; released when dropped.
pub struct Lock {
    file: File,
    /// A command has the lock, too, and keeps it until it has ended.
    shared: AtomicBool,
    /// The cache is not removed meanwhile.
    _in_use: Option<Locked>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.shared.load(Ordering::Relaxed) {
            let _ = self.file.unlock();
        }
    }
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock")
    }
}

impl Lock {
    fn new(file: File, in_use: Option<Locked>) -> Self {
        Self {
            file,
            shared: AtomicBool::new(false),
            _in_use: in_use,
        }
    }

    /// Passes the lock to `command`: if this process is killed, the lock is held until the last
    /// child of the command has ended.
    pub(crate) fn share_with(&self, command: &mut Command) -> Result<()> {
        let file = self
            .file
            .try_clone()
            .map_err(Error::file("share", Path::new("the lock")))?;
        self.shared.store(true, Ordering::Relaxed);
        command.preserved_fds(vec![OwnedFd::from(file)]);
        Ok(())
    }
}

impl Cache {
    /// Keeps `clean --all` from removing the cache while the result lives.
    pub fn hold(&self) -> Result<Lock> {
        self.in_use_file(File::lock_shared)
            .map(|file| Lock::new(file, None))
    }

    /// Takes the lock of this name; waits while another process holds it.
    pub(crate) fn lock(&self, name: &str, progress: &dyn Progress) -> Result<Lock> {
        loop {
            let in_use = self.in_use(File::lock_shared)?;
            let path = self.make("locks")?.join(name);
            let file = File::create(&path).map_err(Error::file("create", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    progress.note(&format!(
                        "another crucible is making {name}; waiting for it"
                    ));
                    file.lock().map_err(Error::file("lock", &path))?;
                }
                Err(TryLockError::Error(source)) => return Err(Error::file("lock", &path)(source)),
            }
            // The process that held the lock may have removed the cache.
            if is_at(&file, &path) {
                return Ok(Lock::new(file, Some(in_use)));
            }
        }
    }

    /// Takes the lock of this name; returns `None` while another process holds it.
    pub(crate) fn try_lock(&self, name: &str) -> Result<Option<Lock>> {
        let in_use = self.in_use(File::lock_shared)?;
        let path = self.make("locks")?.join(name);
        let file = File::create(&path).map_err(Error::file("create", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock::new(file, Some(in_use)))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::file("lock", &path)(source)),
        }
    }

    /// Opens the file of the lock that all users of the cache share, and locks it.
    pub(super) fn in_use(&self, lock: impl FnMut(&File) -> io::Result<()>) -> Result<Locked> {
        self.in_use_file(lock).map(Locked)
    }

    fn in_use_file(&self, mut lock: impl FnMut(&File) -> io::Result<()>) -> Result<File> {
        loop {
            let path = self.make("locks")?.join(IN_USE);
            let file = File::create(&path).map_err(Error::file("create", &path))?;
            lock(&file).map_err(Error::file("lock", &path))?;
            if is_at(&file, &path) {
                return Ok(file);
            }
        }
    }
}

/// Returns true when `path` still leads to this file.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (file.metadata(), path.metadata()) {
        (Ok(file), Ok(there)) => same(&file, &there),
        _ => false,
    }
}
