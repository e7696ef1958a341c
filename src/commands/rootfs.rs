// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible rootfs`

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use crucible_artefacts::rootfs;

use crate::context::Context;
use crate::embedded;
use crate::exit;
use crate::stdout;

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
    /// Build the userland from the newest packages of the archive, and pin their versions in
    /// rootfs/userland.lock
    Lock,
}

/// Runs the subcommand.
pub fn run(command: &RootfsCommand, context: &Context) -> Result<ExitCode> {
    match command.action {
        Action::Build => {
            context.host()?;
            let (cache, sources) = (context.cache()?, context.sources()?);
            let agent = rootfs::agent(&cache, &sources, context.progress())?;
            let debian = rootfs::debian(&cache, &sources, context.progress())?;
            stdout::line(format_args!("{}\n{}", agent.display(), debian.display()))?;
        }
        Action::Lock => {
            context.host()?;
            let (cache, sources) = (context.cache()?, context.sources()?);
            if embedded::in_use() {
                let why = "the lock file of an installed program is a part of it; run this in a \
                           checkout";
                return Err(exit::Usage(why.into()).into());
            }
            match rootfs::lock_debian(&cache, &sources, context.progress())? {
                Some(difference) => {
                    stdout::line(format_args!("rootfs/userland.lock: {difference}"))?;
                }
                None => stdout::line(format_args!("rootfs/userland.lock is up to date"))?,
            }
        }
    }
    Ok(exit::PASS.into())
}
