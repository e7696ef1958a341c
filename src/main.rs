//! The crucible command line: a laboratory for in-kernel checkpoint/restart.

mod bundle;
mod cli;
mod commands;
mod context;
mod emulator;
mod exit;
mod images;
mod machines;
mod outer;
mod progress;
mod refusals;
mod report;
mod warm;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Where it cannot be printed, nobody reads it.
            let _ = error.print();
            return if error.use_stderr() {
                exit::USAGE.into()
            } else {
                exit::PASS.into()
            };
        }
    };
    let context = context::Context::new(&cli.global);
    match cli.command.run(&context) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("crucible: {}", exit::chain(&error));
            exit::of_error(&error).into()
        }
    }
}
