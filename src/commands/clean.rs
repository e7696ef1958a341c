// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible clean`

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use crucible_artefacts::Cache;

use crate::context::Context;
use crate::exit;
use crate::stdout;

/// The options of `crucible clean`.
#[derive(Debug, Args)]
pub struct CleanArgs {
    /// Number of artefacts of each kind to keep
    #[arg(long, default_value_t = 3, conflicts_with = "all")]
    keep: usize,
    /// Remove everything that crucible has made in the cache, including the kernel's source and
    /// build trees
    #[arg(long)]
    all: bool,
    /// Do not ask before --all
    #[arg(long, requires = "all")]
    yes: bool,
}

/// Removes artefacts.
pub fn run(args: &CleanArgs, context: &Context) -> Result<ExitCode> {
    let cache = context.cache()?;
    if args.all {
        if !(args.yes || confirm(&cache)?) {
            return Ok(exit::PASS.into());
        }
        cache.remove(context.progress())?;
        stdout::line(format_args!("{}", cache.root().display()))?;
        return Ok(exit::PASS.into());
    }
    for path in cache.prune(args.keep, context.progress())? {
        stdout::line(format_args!("{}", path.display()))?;
    }
    Ok(exit::PASS.into())
}

/// Asks for confirmation on the terminal.
///
/// # Errors
///
/// There is no terminal.
fn confirm(cache: &Cache) -> Result<bool> {
    let place = cache.root().display();
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        let why = format!("removing {place} has to be confirmed; run it again with --yes");
        return Err(exit::Usage(why).into());
    }
    let question = format!(
        "Remove everything that crucible has made in {place}? The next run builds it again, in \
         about ten minutes. [y/N] "
    );
    let mut terminal = io::stderr().lock();
    terminal.write_all(question.as_bytes())?;
    terminal.flush()?;
    drop(terminal);
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
