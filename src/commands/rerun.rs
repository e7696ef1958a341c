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
use crate::stdout;

/// The options of `crucible rerun`.
#[derive(Debug, Args)]
pub struct RerunArgs {
    /// The run: its directory in results/, or its record.json
    run: PathBuf,
    /// Further options of the run's command, such as `--jobs 2`
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<String>,
}

/// Runs the command of a record again, without the units that passed.
pub fn run(args: &RerunArgs, context: &Context) -> Result<ExitCode> {
    let earlier = Earlier::load(&args.run).map_err(Usage)?;
    if earlier.complete {
        stdout::message(format_args!("crucible: nothing of this run failed"));
        return Ok(exit::PASS.into());
    }
    let words = earlier.words.iter().chain(&args.options);
    let cli = Cli::try_parse_from(std::iter::once(&"crucible".to_owned()).chain(words));
    let cli = cli.map_err(|error| Usage(format!("the run's command is refused: {error}")))?;
    if matches!(cli.command, Command::Rerun(_)) {
        return Err(Usage("the record is of no experiment".into()).into());
    }
    context.follow(earlier);
    cli.command.run(context)
}
