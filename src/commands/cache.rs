// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible cache`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use crucible_artefacts::transfer;

use crate::context::Context;
use crate::exit;
use crate::stdout;

/// `crucible cache`
#[derive(Debug, Args)]
pub struct CacheCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write the artefacts of guests to FILE, for a machine without network: kernels and their
    /// source, userland and agent
    Export {
        /// The archive (.tar.gz)
        file: PathBuf,
    },
    /// Add the artefacts in FILE to the cache, after checking their hashes
    Import {
        /// The archive
        file: PathBuf,
    },
}

/// Runs the subcommand.
pub fn run(command: &CacheCommand, context: &Context) -> Result<ExitCode> {
    let cache = context.cache()?;
    let names = match &command.action {
        Action::Export { file } => {
            context.host()?;
            transfer::export(&cache, &context.sources()?, file, context.progress())?
        }
        Action::Import { file } => transfer::import(&cache, file, context.progress())?,
    };
    for name in names {
        stdout::line(format_args!("{name}"))?;
    }
    Ok(exit::PASS.into())
}
