// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Working directories of running processes, and the removal of those left behind.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// The file in each directory that the owning process holds locked while it runs.
pub(crate) const LOCK: &str = ".lock";

/// Ownership of a directory; released when dropped.
#[derive(Debug)]
pub struct DirLock {
    lock: File,
}

impl Drop for DirLock {
    /// Unlocks: a process that another thread is just creating has the file open, too, until its
    /// exec.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

impl DirLock {
    /// Claims a directory that was just created. Returns `None` if another process has
    /// removed it meanwhile.
    pub fn new(directory: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(LOCK);
        let lock = File::create_new(&path)?;
        lock.lock()?;
        // Between creation and locking, the directory looks abandoned.
        match fs::metadata(&path) {
            Ok(there) if there.ino() == lock.metadata()?.ino() => Ok(Some(Self { lock })),
            _ => Ok(None),
        }
    }

    /// Keeps the directory permanently: without the lock file it is never considered abandoned.
    pub fn release(&self, directory: &Path) -> io::Result<()> {
        fs::remove_file(directory.join(LOCK))
    }
}

/// Removes the directories in `place` whose names begin with `prefix` and whose process has
/// ended. Skips those that cannot be read or removed: they belong to other users.
pub fn sweep(place: &Path, prefix: &str) {
    for (directory, _lock) in abandoned(place, prefix) {
        let _ = remove(&directory);
    }
}

/// Removes a directory, its lock file last: if the process is killed before that, the directory
/// still looks abandoned.
///
/// # Errors
/// The directory cannot be read, or something in it cannot be removed.
pub fn remove(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_dir_all(directory)
}

/// Returns the directories in `place` whose names begin with `prefix` and whose process has ended,
/// each with its lock, which is held until the file is closed. Leaves out those that cannot be
/// read.
pub fn abandoned(place: &Path, prefix: &str) -> Vec<(PathBuf, File)> {
    let mut found = Vec::new();
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(prefix.as_bytes()) {
            continue;
        }
        // Other users may write here: do not follow links, and do not block on a FIFO.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let lock = File::options()
            .write(true)
            .custom_flags(flags.bits() as i32)
            .open(entry.path().join(LOCK));
        let Ok(lock) = lock else {
            continue;
        };
        match lock.try_lock() {
            Ok(()) => found.push((entry.path(), lock)),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_removal_that_fails_leaves_the_lock() {
        let allow = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let place = tempfile::tempdir().unwrap();
        allow(place.path(), 0o777);
        // With several names, the file system lists the lock first in some directories.
        for number in 0..16 {
            let directory = place.path().join(format!("x-{number}"));
            let inner = directory.join(number.to_string());
            fs::create_dir_all(&inner).unwrap();
            fs::write(inner.join("file"), "").unwrap();
            drop(DirLock::new(&directory).unwrap().unwrap());
            allow(&inner, 0o500);
            allow(&directory, 0o777);
            let path = directory.clone();
            let removed = std::thread::spawn(move || {
                // Root may write everywhere; this changes the file accesses of the thread only.
                nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
                remove(&path)
            });
            assert!(removed.join().unwrap().is_err());
            assert!(directory.join(LOCK).exists(), "{number}");
            allow(&inner, 0o700);
            remove(&directory).unwrap();
            assert!(!directory.exists());
        }
    }

    #[test]
    fn what_a_killed_process_leaves_is_swept() {
        let place = tempfile::tempdir().unwrap();
        let make = |name: &str| -> PathBuf {
            let path = place.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let claim = |path: &Path| {
            fs::write(path.join("file"), "").unwrap();
            DirLock::new(path).unwrap().unwrap()
        };
        let alive = make("x-alive");
        let _held = claim(&alive);
        let dead = make("x-dead");
        drop(claim(&dead));
        let kept = make("x-kept");
        claim(&kept).release(&kept).unwrap();
        let other = make("other");
        drop(claim(&other));
        let pipe = make("x-pipe").join(LOCK);
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        nix::unistd::mkfifo(&pipe, mode).unwrap();
        let elsewhere = make("x-elsewhere");
        std::os::unix::fs::symlink(&pipe, elsewhere.join(LOCK)).unwrap();
        sweep(place.path(), "x-");
        assert!(pipe.exists() && elsewhere.exists());
        assert!(alive.exists());
        assert!(!dead.exists());
        assert!(kept.exists());
        assert!(other.exists());
    }
}
