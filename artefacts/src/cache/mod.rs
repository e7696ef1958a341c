// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cache of artefacts: one directory for each, named by a hash of everything it was
//! made from. A directory is complete or does not exist, one with changed files is rebuilt, and a
//! lock keeps two processes from making the same one.
//!
//! | file | job |
//! |---|---|
//! | `owner` | the directory's owner, and its mark as a cache |
//! | `lock` | locks of the artefacts that are in use or being made |
//! | `lookup` | finding, making and replacing artefacts |
//! | `stand_ins` | artefacts that stand in for others |
//! | `clean` | removal |

mod clean;
mod lock;
mod lookup;
mod owner;
mod stand_ins;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use self::lock::Lock;
use self::owner::PRIVATE;
use crate::{Error, Result};

/// Directory for temporary files of commands, such as the disks of their guests.
const RUNS: &str = "runs";

/// The cache.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Kinds of artefacts that are pruned.
    pub const KINDS: [&str; 9] = [
        "kernel",
        "kernel-source",
        "kernel-tree",
        "debian",
        "agent",
        "cargo",
        "scratch",
        "reach",
        "warm",
    ];

    /// Returns the directory of the cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns a directory for temporary files of commands, which only this user may enter.
    /// It is on a disk; `/tmp` may be in memory. Creates it if it does not exist.
    pub fn runs(&self) -> Result<PathBuf> {
        self.make(RUNS)
    }

    /// Returns the path of a directory for unfinished files.
    fn temporary(&self, name: &str) -> Result<PathBuf> {
        Ok(self.make("tmp")?.join(name))
    }

    /// Creates a directory of the cache, and returns its path.
    pub(crate) fn make(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        let mode = if PRIVATE.contains(&name) {
            0o700
        } else {
            0o755
        };
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&path)
            .map_err(Error::file("make the directory", &path))?;
        Ok(path)
    }
}

fn list(directory: &Path) -> Result<Vec<(PathBuf, SystemTime)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("list", directory)(error)),
    };
    entries
        .map(|entry| {
            let entry = entry?;
            Ok((entry.path(), entry.metadata()?.modified()?))
        })
        .collect::<io::Result<_>>()
        .map_err(Error::file("list", directory))
}

/// Removes a directory tree, if it exists.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("remove", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache")).unwrap();
        (dir, cache)
    }

    pub fn fill(path: &Path) -> Result<()> {
        fs::write(path.join("f"), "x").map_err(Error::file("write", path))
    }
}
