// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Temporary directories.

use std::env;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use crucible_artefacts::Cache;
use crucible_engine::dir_lock::{self, DirLock};
use tempfile::TempDir;

/// Prefix of their names.
const PREFIX: &str = "crucible-";

/// A temporary directory, removed when dropped. If the process is killed before that, the
/// creation of the next one removes it.
pub struct Temporary {
    directory: TempDir,
    claim: DirLock,
    /// True when the directory is not removed.
    is_kept: bool,
}

impl Drop for Temporary {
    /// Removes the lock last, so that the next process still finds the directory if this one is
    /// killed meanwhile.
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = dir_lock::remove(self.directory.path());
        }
    }
}

impl Temporary {
    /// Creates a directory whose name contains `what` among other users' (`/tmp`), and removes
    /// those whose process has ended. Use it for small files; its path is short enough for sockets.
    pub fn new(what: &str) -> Result<Self> {
        Self::create(what, &env::temp_dir())
    }

    /// Creates a directory like [`new`](Self::new) in the cache, which has room for the disks of
    /// guests. A directory for temporary files may be in memory.
    pub fn with_room(what: &str, cache: &Cache) -> Result<Self> {
        Self::create(what, &cache.runs()?)
    }

    fn create(what: &str, place: &Path) -> Result<Self> {
        dir_lock::sweep(place, PREFIX);
        let failed = || format!("cannot make a directory in {}", place.display());
        loop {
            let directory = tempfile::Builder::new()
                .prefix(&format!("{PREFIX}{what}-"))
                // The output and files of a guest are not readable by other users of this host.
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(place)
                .with_context(failed)?;
            if let Some(claim) = DirLock::new(directory.path()).with_context(failed)? {
                return Ok(Self {
                    directory,
                    claim,
                    is_kept: false,
                });
            }
        }
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Keeps the directory for inspection; returns its path.
    pub fn keep(mut self) -> PathBuf {
        self.is_kept = true;
        self.directory.disable_cleanup(true);
        let path = self.directory.path().to_owned();
        // Without a lock, no later process removes it.
        let _ = self.claim.release(&path);
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_guests_are_where_the_cache_is() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::at(place.path().join("cache")).unwrap();
        let directory = Temporary::with_room("x", &cache).unwrap();
        assert!(directory.path().starts_with(cache.root()));
        let runs = cache.runs().unwrap();
        let mode = runs.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        // The next process removes the files that a killed one has left.
        let left = runs.join("crucible-y-1");
        std::fs::create_dir(&left).unwrap();
        drop(DirLock::new(&left).unwrap().unwrap());
        let other = Temporary::with_room("z", &cache).unwrap();
        assert!(!left.exists() && directory.path().exists() && other.path().exists());
    }
}
