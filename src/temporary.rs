// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Directories for a run's own files.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use crucible_engine::claim::{self, Claim};
use tempfile::TempDir;

/// What their names begin with.
const PREFIX: &str = "crucible-";

/// A directory that is gone with this value; or, where the process was killed before it
/// could see to that, when the next one is made.
pub struct Temporary {
    directory: TempDir,
    claim: Claim,
}

impl Temporary {
    /// Makes one for `what`, among the host's temporary files, and removes those of
    /// processes that are gone.
    pub fn new(what: &str) -> Result<Self> {
        let place = env::temp_dir();
        claim::sweep(&place, PREFIX);
        let failed = || format!("cannot make a directory in {}", place.display());
        loop {
            let directory = tempfile::Builder::new()
                .prefix(&format!("{PREFIX}{what}-"))
                .tempdir_in(&place)
                .with_context(failed)?;
            if let Some(claim) = Claim::new(directory.path()).with_context(failed)? {
                return Ok(Self { directory, claim });
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
        // Then it is swept one day.
        let _ = self.claim.release(&path);
        path
    }
}
