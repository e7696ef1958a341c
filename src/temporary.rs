// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Temporary directories.

use std::env;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use crucible_engine::dir_lock::{self, DirLock};
use tempfile::TempDir;

/// Prefix of their names.
const PREFIX: &str = "crucible-";

/// A temporary directory, removed when dropped. If the process is killed before that, the
/// creation of the next one removes it.
pub struct Temporary {
    directory: TempDir,
    claim: DirLock,
}

impl Temporary {
    /// Creates a directory whose name contains `what`, and removes those whose process has
    /// ended.
    pub fn new(what: &str) -> Result<Self> {
        let place = env::temp_dir();
        dir_lock::sweep(&place, PREFIX);
        let failed = || format!("cannot make a directory in {}", place.display());
        loop {
            let directory = tempfile::Builder::new()
                .prefix(&format!("{PREFIX}{what}-"))
                // What a guest prints and writes is not for other users of this host.
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(&place)
                .with_context(failed)?;
            if let Some(claim) = DirLock::new(directory.path()).with_context(failed)? {
                return Ok(Self { directory, claim });
            }
        }
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Keeps the directory for inspection; returns its path.
    pub fn keep(self) -> PathBuf {
        let path = self.directory.keep();
        // A later process then removes it.
        let _ = self.claim.release(&path);
        path
    }
}
