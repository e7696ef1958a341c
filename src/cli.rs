// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::commands;
use crate::context::{Context, Global};

/// A laboratory for in-kernel checkpoint/restart on Linux.
///
/// Exit codes: 0 good; 1 bad; 125 unknown (`git bisect run` skips it); 128 usage error;
/// 129 the host lacks something (`crucible doctor` lists it).
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    /// The options that all commands share.
    #[command(flatten)]
    pub global: Global,
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands; each has a file in `commands/`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run scenarios: checkpoint a workload, kill it, restart it, and compare
    Scenario(commands::scenario::ScenarioArgs),
    /// Checkpoint a scenario at each of its events in turn
    Sweep(commands::sweep::SweepArgs),
    /// Find the commit that broke a restart
    Bisect(commands::bisect::BisectArgs),
    /// Run everything within a budget of time, and report changes
    Nightly(commands::nightly::NightlyArgs),
    /// Show the progress of a night or a run, until it ends
    Watch(commands::watch::WatchArgs),
    /// Write the page of a night: changes, failures, maps and trends
    Report(commands::report::ReportArgs),
    /// Merge the shards of a night, and show its results
    Results(commands::results::ResultsCommand),
    /// Run again the units that failed or never ran in an earlier run
    Rerun(commands::rerun::RerunArgs),
    /// Execute the instructions of a recorded guest again, and let gdb watch
    Replay(commands::replay::ReplayArgs),
    /// Show when each step of a run started and how long it took
    Trace(commands::trace::TraceArgs),
    /// List the scenarios
    List(commands::list::ListArgs),
    /// Show the contents of a checkpoint image
    Inspect(commands::inspect::InspectArgs),
    /// Compare two checkpoint images: the state that a restart has lost or changed
    Diff(commands::diff::DiffArgs),
    /// Check this host, and print how to fix problems
    Doctor(commands::doctor::DoctorArgs),
    /// Feed damaged and forged images to restart(2), and look for kernel reports
    Torture(commands::torture::TortureArgs),
    /// Forge images guided by the kernel's coverage, and look for kernel reports
    Fuzz(commands::fuzz::FuzzArgs),
    /// Checkpoint tracees in every kind of ptrace stop, and compare what their tracers see
    Matrix(commands::matrix::MatrixArgs),
    /// Leave out, negate or skew pieces of the kernel's code, and count noticed changes
    Mutate(commands::mutate::MutateArgs),
    /// Build the guest's kernel, or export its patch series
    Kernel(commands::kernel::KernelCommand),
    /// Build the guest's root file systems
    Rootfs(commands::rootfs::RootfsCommand),
    /// Print hashes and versions of everything that a guest consists of, as JSON
    Provenance(commands::provenance::ProvenanceArgs),
    /// Boot a guest and run a command in it, with its exit status
    Exec(commands::exec::ExecArgs),
    /// Boot a guest and open a shell in it
    Shell(commands::shell::ShellArgs),
    /// Run crucible in an emulated Linux that has KVM
    Nested(commands::nested::NestedArgs),
    /// Measure how fast guests start in our own VMM and in QEMU
    Speed(commands::speed::SpeedArgs),
    /// Start N guests from one snapshot, and check that each has its own identity
    #[command(hide = true)]
    Clones(commands::clones::ClonesArgs),
    /// Take cached artefacts to a machine without network
    Cache(commands::cache::CacheCommand),
    /// Remove cached artefacts that have not been used recently
    Clean(commands::clean::CleanArgs),
    /// Print a shell's completion script, or write man pages
    Completions(commands::completions::CompletionsArgs),
}

impl Command {
    /// Runs the command. Returns the exit code.
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::Scenario(args) => commands::scenario::run(&args, context),
            Self::Sweep(args) => commands::sweep::run(&args, context),
            Self::Bisect(args) => commands::bisect::run(&args, context),
            Self::Nightly(args) => commands::nightly::run(&args, context),
            Self::Watch(args) => commands::watch::run(&args, context),
            Self::Report(args) => commands::report::run(&args, context),
            Self::Results(args) => commands::results::run(&args, context),
            Self::Rerun(args) => commands::rerun::run(&args, context),
            Self::Replay(args) => commands::replay::run(&args, context),
            Self::Trace(args) => commands::trace::run(&args, context),
            Self::List(args) => commands::list::run(&args, context),
            Self::Inspect(args) => commands::inspect::run(&args),
            Self::Diff(args) => commands::diff::run(&args),
            Self::Doctor(args) => commands::doctor::run(&args, context),
            Self::Torture(args) => commands::torture::run(&args, context),
            Self::Fuzz(args) => commands::fuzz::run(&args, context),
            Self::Matrix(args) => commands::matrix::run(&args, context),
            Self::Mutate(args) => commands::mutate::run(&args, context),
            Self::Kernel(args) => commands::kernel::run(&args, context),
            Self::Rootfs(args) => commands::rootfs::run(&args, context),
            Self::Provenance(args) => commands::provenance::run(&args, context),
            Self::Exec(args) => commands::exec::run(&args, context),
            Self::Shell(args) => commands::shell::run(&args, context),
            Self::Nested(args) => commands::nested::run(&args, context),
            Self::Speed(args) => commands::speed::run(&args, context),
            Self::Clones(args) => commands::clones::run(&args, context),
            Self::Cache(args) => commands::cache::run(&args, context),
            Self::Clean(args) => commands::clean::run(&args, context),
            Self::Completions(args) => commands::completions::run(&args, context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
