// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible matrix`

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};
use crucible_engine::experiment::{MatrixExperiment, Setup};
use crucible_engine::results::Store;
use crucible_engine::session::Session;

use crate::boot_artefacts::{BootArtefacts, GuestArgs};
use crate::command_line::CommandLine;
use crate::context::Context;
use crate::exit;
use crate::experiment_run::{self, Command, ExperimentArgs};
use crate::guests::HostLab;
use crate::{screens, stdout};

/// A matrix of cells.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Matrix {
    /// Kind of stop × way of attaching × the tracer's next request × wait status collected or
    /// not × number of threads
    Ptrace,
}

/// The options of `crucible matrix`.
#[derive(Debug, Args)]
pub struct MatrixArgs {
    /// The matrix to run
    #[arg(value_enum)]
    matrix: Matrix,
    #[command(flatten)]
    guest: GuestArgs,
    /// Run only cells STOP/WAY/NEXT/COLLECTED/THREADS that match; `*` matches anything
    #[arg(
        long,
        help_heading = "Cells",
        value_name = "PATTERN",
        default_value = "*"
    )]
    cell: String,
    /// Run only every Kth cell
    #[arg(long, help_heading = "Cells", value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// Leave out the first N cells; with every N below K, each cell is run once
    #[arg(long, help_heading = "Cells", value_name = "N", default_value_t = 0)]
    offset: u32,
    /// Run at most N cells, spread evenly
    #[arg(long, help_heading = "Cells", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Do not count cells that checkpoint(2) refuses as failures
    #[arg(long, help_heading = "Output")]
    allow_refused: bool,
    /// Print the observations of each cell's three runs, without comparing them
    #[arg(long, help_heading = "Output", conflicts_with = "json")]
    logs: bool,
    #[command(flatten)]
    experiment: ExperimentArgs,
}

/// Runs cells in guests.
pub fn run(args: &MatrixArgs, context: &Context) -> Result<ExitCode> {
    let Matrix::Ptrace = args.matrix;
    let experiment = MatrixExperiment {
        pattern: args.cell.clone(),
        every: args.every as usize,
        offset: args.offset as usize,
        limit: args.limit.map(|limit| limit as usize),
        allow_refused: args.allow_refused,
    };
    if args.logs {
        return logs(args, context, &experiment);
    }
    let reproduce = CommandLine::new("matrix")
        .word("ptrace")
        .option("--cell", (args.cell != "*").then_some(&args.cell))
        .option("--every", (args.every > 1).then_some(args.every))
        .option("--offset", (args.offset > 0).then_some(args.offset))
        .option("--limit", args.limit)
        .flag("--allow-refused", args.allow_refused)
        .option(
            "--without",
            experiment_run::closed(&args.experiment.without),
        )
        .guest(&args.guest)
        .text();
    let command = Command {
        name: "matrix",
        what: "ptrace",
        args: &args.experiment,
        guest: &args.guest,
        break_switch: None,
        reproduce,
        journal: true,
        record: false,
        restart_kernel: None,
    };
    experiment_run::run(
        &command,
        context,
        |_| Ok(experiment),
        &screens::matrix::screen,
    )
}

/// Prints the observations of the cells.
fn logs(args: &MatrixArgs, context: &Context, experiment: &MatrixExperiment) -> Result<ExitCode> {
    let images = BootArtefacts::prepare(context, &args.guest)?;
    let store = Store::begin(&context.results()?, "matrix-logs")?;
    let lab = HostLab::new(&images, context, false);
    let mut session = Session::new(
        Setup {
            lab: &lab,
            store: &store,
            stream: context.stream(),
            jobs: 1,
            break_switch: None,
            without: &[],
            skip: None,
        },
        1,
    );
    let logs = experiment
        .logs(&mut session)
        .map_err(|stop| anyhow!(stop.why))?;
    session.close().map_err(|stop| anyhow!(stop.why))?;
    store.finish(false)?;
    stdout::print(&logs)?;
    Ok(exit::PASS.into())
}
