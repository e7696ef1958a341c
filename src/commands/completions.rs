// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible completions`: scripts for shells, man pages, and the generated pages of the reference.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::context::Context;
use crate::{exit, reference};

/// The options of `crucible completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell for which to print a completion script
    #[arg(value_enum, required_unless_present_any = ["man", "reference"])]
    shell: Option<Shell>,
    /// Write man pages to this directory instead; created if missing
    #[arg(long, value_name = "DIR", conflicts_with = "shell")]
    man: Option<PathBuf>,
    /// Write the generated pages of the reference to this directory instead
    #[arg(long, value_name = "DIR", conflicts_with_all = ["shell", "man"])]
    reference: Option<PathBuf>,
}

/// Prints a completion script, or writes pages.
pub fn run(args: &CompletionsArgs, context: &Context) -> Result<ExitCode> {
    let mut command = Cli::command();
    if let Some(dir) = &args.man {
        fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(command, dir))
            .with_context(|| format!("cannot write man pages to {}", dir.display()))?;
    } else if let Some(dir) = &args.reference {
        let pages = reference::pages(&context.sources()?.root().join("guest-kernel"))?;
        fs::create_dir_all(dir)
            .and_then(|()| {
                let mut pages = pages.iter();
                pages.try_for_each(|page| fs::write(dir.join(page.file), &page.text))
            })
            .with_context(|| format!("cannot write pages to {}", dir.display()))?;
    } else if let Some(shell) = args.shell {
        // Generate into memory first: the generator panics if it cannot write.
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, "crucible", &mut script);
        io::stdout()
            .write_all(&script)
            .context("cannot print the script")?;
    }
    Ok(exit::PASS.into())
}
