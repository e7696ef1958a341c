// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The crucible command line: a laboratory for in-kernel checkpoint/restart.
//!
//! `src/main.rs` is the program. The integration tests call the parts that are public here, so
//! that a guest is booted in one way.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod bisection;
pub mod boot_artefacts;
mod breaks;
mod bundle;
mod cli;
mod command_line;
mod commands;
pub mod context;
mod coverage_report;
mod earlier;
mod embedded;
mod exit;
mod experiment_run;
mod guest_files;
mod guests;
mod host_program;
mod host_qemu;
mod images;
mod listeners;
mod log;
pub mod machines;
mod mutate_run;
mod nightly_run;
mod outer_linux;
mod provenance;
mod recordings;
mod reference;
mod screens;
mod stdout;
mod temporary;
mod terminal;
mod vm_snapshot;
mod watching;

use std::env;
use std::process::ExitCode;

use clap::Parser;
use crucible_engine::interrupt;
use crucible_vmm::kvm::monitor;

/// Runs the program with the arguments of this process, and returns its exit code.
pub fn main() -> ExitCode {
    // A monitor must start without delay, and receives its configuration on its control socket.
    if env::args_os().skip(1).eq([machines::MONITOR]) {
        return monitor::main();
    }
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // If the error cannot be printed, there is no other place to report it.
            let _ = error.print();
            return if error.use_stderr() {
                exit::USAGE.into()
            } else {
                exit::PASS.into()
            };
        }
    };
    let context = context::Context::new(&cli.global);
    let result = experiment_run::handle_signals().and_then(|()| cli.command.run(&context));
    match result {
        Ok(code) => code,
        Err(error) => {
            let why = match interrupt::requested() {
                true => "interrupted".to_owned(),
                false => exit::chain(&error),
            };
            stdout::message(format_args!("crucible: {why}"));
            exit::of_error(&error).into()
        }
    }
}
