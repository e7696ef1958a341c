// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible rerun`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser};

use crate::cli::{Cli, Command};
use crate::context::Context;
use crate::earlier::Earlier;
use crate::exit::{self, Usage};
use crate::nightly_run;
use crate::stdout;

/// The options of `crucible rerun`.
#[derive(Debug, Args)]
pub struct RerunArgs {
    /// The run: its directory in results/, its record.json, or the name of a night
    run: PathBuf,
    /// Further options of the run's command, such as `--jobs 2`
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<String>,
}

/// Runs the command of a record again, without the units that passed.
pub fn run(args: &RerunArgs, context: &Context) -> Result<ExitCode> {
    if !args.run.exists()
        && let Some(words) = nightly_run::again(&args.run.to_string_lossy(), context)?
    {
        if words.is_empty() {
            stdout::message(format_args!("crucible: nothing of this night failed"));
            return Ok(exit::PASS.into());
        }
        return parse(words.iter().chain(&args.options))?.run(context);
    }
    let earlier = Earlier::load(&args.run).map_err(Usage)?;
    if earlier.complete {
        stdout::message(format_args!("crucible: nothing of this run failed"));
        return Ok(exit::PASS.into());
    }
    let command = parse(earlier.words.iter().chain(&args.options))?;
    if matches!(command, Command::Rerun(_)) {
        return Err(Usage("the record does not belong to an experiment".into()).into());
    }
    context.follow(earlier);
    command.run(context)
}

fn parse<'a>(words: impl Iterator<Item = &'a String>) -> Result<Command, Usage> {
    let words = words.map(String::as_str);
    let cli = Cli::try_parse_from(std::iter::once("crucible").chain(words));
    let cli = cli.map_err(|error| Usage(format!("the run's command is refused: {error}")))?;
    Ok(cli.command)
}
