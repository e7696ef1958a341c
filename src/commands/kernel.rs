// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible kernel`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use crucible_artefacts::kernel::census::{self, Census};
use crucible_artefacts::kernel::{self, Flavour};
use crucible_artefacts::{Cache, Sources};
use crucible_protocol::census::{Class, entries};

use crate::boot_artefacts::{FlavourArg, KernelArgs};
use crate::context::Context;
use crate::exit;
use crate::stdout;

/// `crucible kernel`
#[derive(Debug, Args)]
pub struct KernelCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build the kernel unless it is cached, and print its path
    Build(KernelArgs),
    /// Print the path of the cached kernel
    Path {
        /// Configuration of the guest's kernel
        #[arg(long, value_enum, default_value_t)]
        flavour: FlavourArg,
    },
    /// Write the series to DIR, as patches for git am and git send-email
    Export {
        /// The directory; created if missing
        dir: PathBuf,
    },
    /// Compare the list of places at which a task can sleep (guest-kernel/census) with the
    /// built kernels
    Census,
}

/// Runs the subcommand.
pub fn run(command: &KernelCommand, context: &Context) -> Result<ExitCode> {
    let (cache, sources) = (context.cache()?, context.sources()?);
    match &command.action {
        Action::Build(args) => {
            let custom = args.custom()?;
            context.host()?;
            let kernel = kernel::custom(
                &cache,
                &sources,
                &args.origin(),
                args.flavour.into(),
                &custom,
                context.progress(),
            )?;
            stdout::line(format_args!("{}", kernel.image.display()))?;
        }
        Action::Path { flavour } => match kernel::cached(&cache, &sources, (*flavour).into())? {
            Some(kernel) => stdout::line(format_args!("{}", kernel.image.display()))?,
            None => bail!("the kernel is not built; run `crucible kernel build`"),
        },
        Action::Export { dir } => {
            context.host()?;
            let signer = kernel::Signer::from_git(sources.root())?;
            let export = kernel::export(&cache, &sources, dir, &signer, context.progress())?;
            for patch in export.patches {
                stdout::line(format_args!("{}", patch.display()))?;
            }
        }
        Action::Census => return census(&cache, &sources, context),
    }
    Ok(exit::PASS.into())
}

/// Reports differences between the lists and the two flavours of the kernel, with the lines that
/// the lists should have; without differences, the number of entries per class.
fn census(cache: &Cache, sources: &Sources, context: &Context) -> Result<ExitCode> {
    context.host()?;
    let entries = entries().map_err(|why| anyhow!("guest-kernel/census: {why}"))?;
    let primitives = census::primitives(&entries);
    let of = |flavour| census::census(cache, sources, flavour, &primitives, context.progress());
    let (base, debug): (Census, Census) = (of(Flavour::Base)?, of(Flavour::Debug)?);
    let mut differ = false;
    for (flavour, census) in [(Flavour::Base, &base), (Flavour::Debug, &debug)] {
        for difference in census::compare(&entries, census, flavour) {
            stdout::line(format_args!("{}: {difference}", flavour.name()))?;
            differ = true;
        }
    }
    if differ {
        stdout::line(format_args!(
            "\nLines for the lists; fill in class, locks and reason:"
        ))?;
        for (function, calls) in census::merged(&base, &debug) {
            let listed = entries.iter().find(|entry| entry.function == function);
            let same = listed.is_some_and(|entry| calls == entry.calls());
            if !same {
                stdout::line(format_args!(
                    "{}:\n{} | {calls} | ? | ? | ?",
                    function.file, function.name
                ))?;
            }
        }
        return Ok(exit::DIVERGED.into());
    }
    for class in Class::ALL {
        let of_class: Vec<_> = entries.iter().filter(|e| e.class == class).collect();
        let pairs: usize = of_class.iter().map(|entry| entry.pairs()).sum();
        let (name, places) = (class.name(), of_class.len());
        stdout::line(format_args!(
            "{name:10} {places:4} functions, {pairs:4} pairs of function and primitive"
        ))?;
    }
    Ok(exit::PASS.into())
}
