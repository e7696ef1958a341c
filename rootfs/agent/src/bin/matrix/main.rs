// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `matrix`: runs cells of the matrix of ptrace stops, and says what became of each.
//!
//! A cell is a program with a tracer and a tracee (`rootfs/matrix`). It runs undisturbed,
//! frozen and thawed where its tracer parks, and restarted there. What the last two have
//! seen must be the same. One line of JSON a cell.

mod run;
mod verdict;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;

use run::Bench;

/// Run cells of the matrix of ptrace stops.
///
/// Exit status: 0 each cell has its line, 1 not, 2 wrong usage.
#[derive(Parser)]
struct Options {
    /// The program that a cell is.
    #[arg(long)]
    program: PathBuf,
    /// Where the cells write; created anew for each run.
    #[arg(long, default_value = "/work/matrix")]
    directory: PathBuf,
    /// Print what each run has seen instead.
    #[arg(long)]
    logs: bool,
    /// The names of the cells.
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
    let bench = Bench::new(&options.program, &options.directory);
    let mut stdout = io::stdout();
    for name in &options.cells {
        if options.logs {
            writeln!(stdout, "{}", verdict::logs(&bench, name)?)?;
            continue;
        }
        let cell = verdict::judge(&bench, name).with_context(|| format!("cell {name}"))?;
        writeln!(stdout, "{}", serde_json::to_string(&cell)?)?;
    }
    Ok(())
}
