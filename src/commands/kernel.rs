//! `crucible kernel`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use crucible_artefacts::kernel;

use crate::context::Context;
use crate::exit;
use crate::images::{FlavourArg, KernelArgs};

/// `crucible kernel`
#[derive(Debug, Args)]
pub struct KernelCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build the kernel if it is not there; print where it is
    Build(KernelArgs),
    /// Print where the kernel is; build nothing
    Path {
        /// Which build of it
        #[arg(long, value_enum, default_value_t)]
        flavour: FlavourArg,
    },
    /// Write the series to DIR as patches that can be mailed
    Export {
        /// The directory; it is made if it is not there
        dir: PathBuf,
    },
}

/// Does it.
pub fn run(command: &KernelCommand, context: &Context) -> Result<ExitCode> {
    let (cache, sources) = (context.cache()?, context.sources()?);
    match &command.action {
        Action::Build(args) => {
            context.host()?;
            let kernel = kernel::kernel(
                &cache,
                &sources,
                &args.origin(),
                args.flavour.into(),
                context.progress(),
            )?;
            println!("{}", kernel.image.display());
        }
        Action::Path { flavour } => match kernel::cached(&cache, &sources, (*flavour).into())? {
            Some(kernel) => println!("{}", kernel.image.display()),
            None => bail!("it is not built; `crucible kernel build` does that"),
        },
        Action::Export { dir } => {
            context.host()?;
            let signer = kernel::Signer::from_git(sources.root())?;
            let export = kernel::export(&cache, &sources, dir, &signer, context.progress())?;
            for patch in export.patches {
                println!("{}", patch.display());
            }
        }
    }
    Ok(exit::PASS.into())
}
