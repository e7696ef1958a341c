// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible clean`

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::context::Context;
use crate::exit;

/// The options of `crucible clean`.
#[derive(Debug, Args)]
pub struct CleanArgs {
    /// Number of artefacts of each kind to keep
    #[arg(long, default_value_t = 3, conflicts_with = "all")]
    keep: usize,
    /// Remove the whole cache, including the kernel's source and build trees
    #[arg(long)]
    all: bool,
}

/// Removes artefacts.
pub fn run(args: &CleanArgs, context: &Context) -> Result<ExitCode> {
    let cache = context.cache()?;
    if args.all {
        std::fs::remove_dir_all(cache.root())
            .with_context(|| format!("cannot remove {}", cache.root().display()))?;
        println!("{}", cache.root().display());
        return Ok(exit::PASS.into());
    }
    for path in cache.prune(args.keep, context.progress())? {
        println!("{}", path.display());
    }
    Ok(exit::PASS.into())
}
