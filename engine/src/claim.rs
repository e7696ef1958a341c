// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Directories that processes work in, told from those that they have left behind.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

/// The file in each that its process holds a lock on, for as long as it lives.
const LOCK: &str = ".lock";

/// That a directory is this process's.
#[derive(Debug)]
pub struct Claim {
    _lock: File,
}

impl Claim {
    /// Claims a directory that was just made. `None`: it looked left behind until now, and
    /// is gone.
    pub fn new(directory: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(LOCK);
        let lock = match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        lock.lock()?;
        match fs::metadata(&path) {
            Ok(there) if there.ino() == lock.metadata()?.ino() => Ok(Some(Self { _lock: lock })),
            _ => Ok(None),
        }
    }

    /// Leaves the directory there for good: nobody takes it for one that was left behind.
    pub fn release(self, directory: &Path) -> io::Result<()> {
        fs::remove_file(directory.join(LOCK))
    }
}

/// Removes the directories in `place` whose names begin with `prefix` and whose process is
/// gone. What cannot be looked at or removed is another user's.
pub fn sweep(place: &Path, prefix: &str) {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(prefix.as_bytes()) {
            continue;
        }
        match File::options().write(true).open(entry.path().join(LOCK)) {
            Ok(lock) => match lock.try_lock() {
                Ok(()) => {
                    let _ = fs::remove_dir_all(entry.path());
                }
                Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
            },
            // Whoever has made it may not have claimed it yet. It is removed only if
            // there is nothing in it; then it is made again.
            Err(_) => {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

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
            Claim::new(path).unwrap().unwrap()
        };
        let alive = make("x-alive");
        let _held = claim(&alive);
        let dead = make("x-dead");
        drop(claim(&dead));
        let kept = make("x-kept");
        claim(&kept).release(&kept).unwrap();
        let other = make("other");
        drop(claim(&other));
        let unclaimed = make("x-unclaimed");
        sweep(place.path(), "x-");
        assert!(alive.exists());
        assert!(!dead.exists());
        assert!(kept.exists());
        assert!(other.exists());
        assert!(!unclaimed.exists());
        assert!(Claim::new(&unclaimed).unwrap().is_none());
    }
}
