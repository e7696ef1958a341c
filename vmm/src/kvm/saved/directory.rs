// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The directory that holds a snapshot. One snapshot replaces the previous one by a single rename,
//! so that a process may be killed at any time.
//!
//! The file `state` names the file with the pages, whose name is unique to the snapshot. Both are
//! created beside the old ones, and are complete and synced to disk, before the new state replaces
//! the old one. Files that a killed process has left are removed by the next process that saves in
//! the directory, or that starts a guest to be saved there.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::format::{self, STATE};
use crate::{Error, Result};

/// Prefixes of the names of possible leftovers; the snapshot's `id` follows.
const OURS: [&str; 3] = ["state.new-", "memory-", "changes-"];

/// A directory that this process has locked for saving.
pub struct Directory {
    path: PathBuf,
    /// The directory itself; it holds the lock, which ends with this process.
    file: File,
}

impl Drop for Directory {
    /// Unlocks: a process that another thread is just creating has the directory open, too, until
    /// its exec.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl Directory {
    /// Locks the directory, which must exist, and removes leftovers.
    pub fn take(path: &Path) -> Result<Self> {
        let failed = |source| Error::File {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Saving {
                    directory: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let directory = Self {
            path: path.to_owned(),
            file,
        };
        directory.sweep().map_err(failed)?;
        Ok(directory)
    }

    /// Returns the `id` of the snapshot in the directory, or `None` if there is none or it cannot
    /// be read.
    pub fn current(&self) -> Option<String> {
        let mut file = File::open(self.path.join(STATE)).ok()?;
        let bytes = format::read(&mut file).ok()?;
        Some(format::open_any(&bytes).ok()?.manifest.id)
    }

    /// Creates a file in the directory.
    pub fn create(&self, name: &str) -> Result<New> {
        let path = self.path.join(name);
        match File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
        {
            Ok(file) => Ok(New {
                path,
                file,
                stays: false,
            }),
            Err(source) => Err(Error::File { path, source }),
        }
    }

    /// Makes `state` the directory's snapshot, together with the file `pages` that it names. Both
    /// must be completely written.
    pub fn commit(&self, mut state: New, mut pages: New) -> Result<()> {
        // If the rename survived a crash of the host but the new files did not, both the old and
        // the new snapshot would be lost.
        for new in [&state, &pages] {
            new.file.sync_all().map_err(|source| new.error(source))?;
        }
        let failed = |source| Error::File {
            path: self.path.clone(),
            source,
        };
        self.file.sync_all().map_err(failed)?;
        fs::rename(&state.path, self.path.join(STATE)).map_err(failed)?;
        state.stays = true;
        pages.stays = true;
        self.file.sync_all().map_err(failed)?;
        self.sweep().map_err(failed)
    }

    /// Removes files that belong to no snapshot.
    fn sweep(&self) -> io::Result<()> {
        let path = self.path.join(STATE);
        let current = match File::open(&path) {
            Ok(mut file) => match format::open_any(&format::read(&mut file)?) {
                Ok(parts) => Some(parts.manifest.file_name()),
                // A state of unknown format may need the other files.
                Err(_) => return Ok(()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if is_ours(&name) && Some(name.as_os_str()) != current.as_ref().map(AsRef::as_ref) {
                fs::remove_file(self.path.join(name))?;
            }
        }
        Ok(())
    }
}

fn is_ours(name: &OsStr) -> bool {
    let name = name.to_str().unwrap_or_default();
    let mut ids = OURS.iter().filter_map(|ours| name.strip_prefix(ours));
    ids.any(format::is_id)
}

/// A new file, which is removed when this is dropped unless it was committed.
pub struct New {
    path: PathBuf,
    /// The open file, for writing.
    pub file: File,
    stays: bool,
}

impl New {
    /// Returns the error for a failed operation on this file.
    pub fn error(&self, source: io::Error) -> Error {
        Error::File {
            path: self.path.clone(),
            source,
        }
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if !self.stays {
            // If the removal fails, the next process that saves here removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_removed_and_other_files_stay() {
        let directory = tempfile::tempdir().unwrap();
        let id = "0123456789abcdef".repeat(2);
        let mut others = ["changes-", "memory", "memory-of-old-times", "other"].map(String::from);
        for name in &others {
            fs::write(directory.path().join(name), "").unwrap();
        }
        for ours in OURS {
            fs::write(directory.path().join(format!("{ours}{id}")), "").unwrap();
        }
        let taken = Directory::take(directory.path()).unwrap();
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        others.sort();
        assert_eq!(names, others);
        drop(taken);
        // A state of a different format may need the other files.
        fs::write(directory.path().join(STATE), "of a later version").unwrap();
        let memory = directory.path().join(format!("memory-{id}"));
        fs::write(&memory, "").unwrap();
        Directory::take(directory.path()).unwrap();
        assert!(memory.exists());
    }

    #[test]
    fn a_directory_is_locked_while_a_guest_is_saved() {
        let directory = tempfile::tempdir().unwrap();
        let first = Directory::take(directory.path()).unwrap();
        let second = Directory::take(directory.path()).err();
        assert!(matches!(second, Some(Error::Saving { .. })), "{second:?}");
        drop(first);
        Directory::take(directory.path()).unwrap();
    }

    #[test]
    fn an_uncommitted_file_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let taken = Directory::take(directory.path()).unwrap();
        let new = taken.create("new").unwrap();
        assert!(directory.path().join("new").exists());
        drop(new);
        assert!(!directory.path().join("new").exists());
    }
}
