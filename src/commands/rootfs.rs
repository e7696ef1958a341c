// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible rootfs`

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use crucible_artefacts::rootfs;

use crate::context::Context;
use crate::exit;

/// `crucible rootfs`
#[derive(Debug, Args)]
pub struct RootfsCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build the disks unless they are cached, and print their paths
    Build,
}

/// Runs the subcommand.
pub fn run(command: &RootfsCommand, context: &Context) -> Result<ExitCode> {
    match command.action {
        Action::Build => {
            context.host()?;
            let (cache, sources) = (context.cache()?, context.sources()?);
            let agent = rootfs::agent(&cache, &sources, context.progress())?;
            let debian = rootfs::debian(&cache, &sources, context.progress())?;
            println!("{}\n{}", agent.display(), debian.display());
        }
    }
    Ok(exit::PASS.into())
}
