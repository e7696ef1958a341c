// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What every command has at hand.

use std::path::PathBuf;

use anyhow::Result;
use crucible_artefacts::{Cache, Progress, Sources, host};

use crate::bundle::Bundle;
use crate::cli::Global;
use crate::progress::Terminal;

/// The options that all commands share, made into things.
pub struct Context {
    install: bool,
    progress: Terminal,
}

impl Context {
    /// From the command line.
    pub fn new(global: &Global) -> Self {
        Self {
            install: !global.no_install,
            progress: Terminal::new(global.quiet),
        }
    }

    /// Where long steps are told.
    pub fn progress(&self) -> &dyn Progress {
        &self.progress
    }

    /// The cache.
    pub fn cache(&self) -> Result<Cache> {
        Ok(Cache::from_env()?)
    }

    /// The checkout that guests are made from.
    pub fn sources(&self) -> Result<Sources> {
        Ok(Sources::find()?)
    }

    /// The directory that scenarios and results lie in: this program's bundle, or else
    /// the checkout.
    pub fn root(&self) -> Result<PathBuf> {
        Ok(match Bundle::of_this_program()? {
            Some(bundle) => bundle.root().to_owned(),
            None => self.sources()?.root().to_owned(),
        })
    }

    /// Sees to it that this host has the packages that are needed.
    pub fn host(&self) -> Result<()> {
        Ok(host::ensure(self.install, self.progress())?)
    }
}
