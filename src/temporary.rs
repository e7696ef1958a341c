//! Directories for a run's own files.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// What their names begin with.
const PREFIX: &str = "crucible-";

/// The file in each that its process holds a lock on, for as long as it lives.
const LOCK: &str = ".lock";

/// A directory that is gone with this value; or, where the process was killed before it
/// could see to that, when the next one is made.
pub struct Temporary {
    directory: TempDir,
    _lock: File,
}

impl Temporary {
    /// Makes one for `what`, among the host's temporary files, and removes those of
    /// processes that are gone.
    pub fn new(what: &str) -> Result<Self> {
        let place = env::temp_dir();
        sweep(&place);
        Self::new_in(&place, what)
            .with_context(|| format!("cannot make a directory in {}", place.display()))
    }

    fn new_in(place: &Path, what: &str) -> io::Result<Self> {
        loop {
            let directory = tempfile::Builder::new()
                .prefix(&format!("{PREFIX}{what}-"))
                .tempdir_in(place)?;
            let path = directory.path().join(LOCK);
            let lock = File::create_new(&path)?;
            lock.lock()?;
            // Between the two it looked like one of a process that is gone.
            match fs::metadata(&path) {
                Ok(there) if there.ino() == lock.metadata()?.ino() => {
                    return Ok(Self {
                        directory,
                        _lock: lock,
                    });
                }
                _ => {}
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Leaves it there, for somebody to look at.
    pub fn keep(self) -> PathBuf {
        let path = self.directory.keep();
        // Without this nobody takes it for a directory of a process that is gone.
        let _ = fs::remove_file(path.join(LOCK));
        path
    }
}

/// Removes those in `place` whose process is gone. What cannot be looked at or removed
/// is another user's.
fn sweep(place: &Path) {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    for entry in entries {
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes())
        {
            continue;
        }
        let Ok(lock) = File::options().write(true).open(entry.path().join(LOCK)) else {
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
    use super::*;

    #[test]
    fn what_a_killed_process_leaves_is_swept() {
        let place = tempfile::tempdir().unwrap();
        let alive = Temporary::new_in(place.path(), "a").unwrap();
        let Temporary { directory, _lock } = Temporary::new_in(place.path(), "b").unwrap();
        let dead = directory.keep();
        drop(_lock);
        let kept = Temporary::new_in(place.path(), "c").unwrap().keep();
        let other = place.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join(LOCK), "").unwrap();
        sweep(place.path());
        assert!(alive.path().exists());
        assert!(!dead.exists());
        assert!(kept.exists());
        assert!(other.exists());
    }
}
