// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The directory that a guest is saved in, and how it changes from one saved guest to the
//! next: by one rename, whatever ends us and when.
//!
//! The file `state` names the file with the pages, whose name no other guest has. So both
//! are made beside the old ones and are whole, and on the disk, before the new state takes
//! the old one's place. What somebody who was killed has left is removed by the next one
//! who saves there, or who starts a guest to be saved there.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::format::{self, STATE};
use crate::{Error, Result};

/// Beginnings of the names of what may be left over; a guest's `id` follows.
const OURS: [&str; 3] = ["state.new-", "memory-", "changes-"];

/// A directory that only we save to.
pub struct Directory {
    path: PathBuf,
    /// The directory itself; it carries the lock, which ends with this process.
    file: File,
}

impl Directory {
    /// Takes the directory, which must be there, and cleans it.
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

    /// The name of the guest that is saved there, if one is and can be told.
    pub fn current(&self) -> Option<String> {
        let mut file = File::open(self.path.join(STATE)).ok()?;
        let bytes = format::read(&mut file).ok()?;
        Some(format::open_any(&bytes).ok()?.manifest.id)
    }

    /// Makes a file in it.
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

    /// Makes `state` the directory's, and with it `pages`, which it names. Both are
    /// written.
    pub fn commit(&self, mut state: New, mut pages: New) -> Result<()> {
        // A rename that outlived a crash of the host, without what it names, would be the
        // end of both.
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

    /// Removes what belongs to no saved guest.
    fn sweep(&self) -> io::Result<()> {
        let path = self.path.join(STATE);
        let current = match File::open(&path) {
            Ok(mut file) => match format::open_any(&format::read(&mut file)?) {
                Ok(parts) => Some(parts.manifest.file_name()),
                // Whatever this is, it may need what is there.
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

/// A file that is removed again unless it comes to stay.
pub struct New {
    path: PathBuf,
    /// To be written.
    pub file: File,
    stays: bool,
}

impl New {
    /// What went wrong with it.
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
            // The next one to save here removes it, if we cannot.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_and_what_is_not_ours_stays() {
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
        // What is there and no state of ours may need what lies beside it.
        fs::write(directory.path().join(STATE), "of a later version").unwrap();
        let memory = directory.path().join(format!("memory-{id}"));
        fs::write(&memory, "").unwrap();
        Directory::take(directory.path()).unwrap();
        assert!(memory.exists());
    }

    #[test]
    fn one_at_a_time_saves_in_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = Directory::take(directory.path()).unwrap();
        let second = Directory::take(directory.path()).err();
        assert!(matches!(second, Some(Error::Saving { .. })), "{second:?}");
        drop(first);
        Directory::take(directory.path()).unwrap();
    }

    #[test]
    fn what_does_not_come_to_stay_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let taken = Directory::take(directory.path()).unwrap();
        let new = taken.create("new").unwrap();
        assert!(directory.path().join("new").exists());
        drop(new);
        assert!(!directory.path().join("new").exists());
    }
}
