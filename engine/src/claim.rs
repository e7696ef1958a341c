// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Directories that processes work in, told from those that they have left behind.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;

/// The file in each that its process holds a lock on, for as long as it lives.
const LOCK: &str = ".lock";

/// That a directory is this process's.
#[derive(Debug)]
pub struct Claim {
    _lock: File,
}

impl Claim {
    /// Claims a directory that was just made. `None`: somebody has swept it meanwhile.
    pub fn new(directory: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(LOCK);
        let lock = File::create_new(&path)?;
        lock.lock()?;
        // Between the two it looked like one of a process that is gone.
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
        // Others may have put anything there: opening it must neither lead elsewhere nor wait.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let lock = File::options()
            .write(true)
            .custom_flags(flags.bits() as i32)
            .open(entry.path().join(LOCK));
        let Ok(lock) = lock else {
            continue;
        };
        match lock.try_lock() {
            Ok(()) => {
                let _ = fs::remove_dir_all(entry.path());
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
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
