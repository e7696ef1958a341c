// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The context of a command: the global options, cache, sources and progress.

use std::path::PathBuf;

use anyhow::Result;
use crucible_artefacts::{Cache, Progress, Sources, host};

use crate::bundle::Bundle;
use crate::cli::Global;
use crate::progress::Terminal;

/// The context of a command.
pub struct Context {
    install: bool,
    progress: Terminal,
}

impl Context {
    /// Creates the context from the global options.
    pub fn new(global: &Global) -> Self {
        Self {
            install: !global.no_install,
            progress: Terminal::new(global.quiet),
        }
    }

    /// Receiver of progress.
    pub fn progress(&self) -> &dyn Progress {
        &self.progress
    }

    /// The cache.
    pub fn cache(&self) -> Result<Cache> {
        Ok(Cache::from_env()?)
    }

    /// The checkout that guests are built from.
    pub fn sources(&self) -> Result<Sources> {
        Ok(Sources::find()?)
    }

    /// Directory with `scenarios/` and `results/`: this program's bundle, or the checkout.
    pub fn root(&self) -> Result<PathBuf> {
        Ok(match Bundle::of_this_program()? {
            Some(bundle) => bundle.root().to_owned(),
            None => self.sources()?.root().to_owned(),
        })
    }

    /// Installs missing host packages, or fails with their names after `--no-install`.
    pub fn host(&self) -> Result<()> {
        Ok(host::ensure(self.install, self.progress())?)
    }
}
