// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `matrix`: runs cells of the matrix of ptrace stops and reports the result of each.
//!
//! A cell is a program with a tracer and a tracee (`rootfs/matrix`). It runs undisturbed, frozen
//! and thawed where its tracer parks, and restarted at the same place. The last two runs must
//! observe the same. The output has one line of JSON per cell.

mod run;
mod second;
mod verdict;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;

use run::CellRunner;

/// Run cells of the matrix of ptrace stops.
///
/// Exit status: 0 each cell has its line, 1 an error occurred, 2 wrong usage.
#[derive(Parser)]
struct Options {
    /// Path of the cell program.
    #[arg(long)]
    program: PathBuf,
    /// Working directory of the cells; created for each run.
    #[arg(long, default_value = "/work/matrix")]
    directory: PathBuf,
    /// Print the observations of each run instead.
    #[arg(long)]
    logs: bool,
    /// Do not checkpoint restarted cells once more to compare the images.
    #[arg(long)]
    no_second_image: bool,
    /// Factor for all time limits.
    #[arg(long, default_value_t = 1)]
    patience: u32,
    /// Names of the cells to run.
    #[arg(required = true)]
    cells: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("matrix: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    run::set_patience(options.patience);
    let eye = !options.no_second_image;
    let runner = CellRunner::new(&options.program, &options.directory, eye);
    let mut stdout = io::stdout();
    for name in &options.cells {
        if options.logs {
            writeln!(stdout, "{}", verdict::logs(&runner, name)?)?;
            continue;
        }
        let cell = verdict::judge(&runner, name).with_context(|| format!("cell {name}"))?;
        writeln!(stdout, "{}", serde_json::to_string(&cell)?)?;
    }
    Ok(())
}
