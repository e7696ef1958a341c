// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::commands::{
    bisect, cache, clean, clones, completions, diff, doctor, exec, inspect, kernel, list, matrix,
    nested, nightly, provenance, report, rerun, results, rootfs, scenario, shell, speed, sweep,
    torture,
};
use crate::context::{Context, Global};

/// A laboratory for in-kernel checkpoint/restart on Linux.
///
/// Exit codes: 0 good; 1 bad; 125 cannot tell (`git bisect run` skips it); 128 usage error;
/// 129 the host lacks something (`crucible doctor` says what).
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
    Scenario(scenario::ScenarioArgs),
    /// Checkpoint a scenario at each of its events in turn
    Sweep(sweep::SweepArgs),
    /// Find the commit that broke a restart
    Bisect(bisect::BisectArgs),
    /// Run everything within a budget of time, and say what has changed
    Nightly(nightly::NightlyArgs),
    /// Write the page of a night: what has changed, each failure, maps and trends
    Report(report::ReportArgs),
    /// Merge the shards of a night, and show what the history says
    Results(results::ResultsCommand),
    /// Run again what failed or never ran in an earlier run
    Rerun(rerun::RerunArgs),
    /// List the scenarios
    List(list::ListArgs),
    /// Show the contents of a checkpoint image
    Inspect(inspect::InspectArgs),
    /// Compare two checkpoint images: what a restart has lost, and what it has changed
    Diff(diff::DiffArgs),
    /// Check this host, and say how to fix what is missing
    Doctor(doctor::DoctorArgs),
    /// Feed damaged and forged images to restart(2), and look for kernel reports
    Torture(torture::TortureArgs),
    /// Checkpoint tracees in every kind of ptrace stop, and compare what their tracers see
    Matrix(matrix::MatrixArgs),
    /// Build the guest's kernel, or export its patch series
    Kernel(kernel::KernelCommand),
    /// Build the guest's root file systems
    Rootfs(rootfs::RootfsCommand),
    /// Print hashes and versions of everything that a guest consists of, as JSON
    Provenance(provenance::ProvenanceArgs),
    /// Boot a guest and run a command in it, with its exit status
    Exec(exec::ExecArgs),
    /// Boot a guest and open a shell in it
    Shell(shell::ShellArgs),
    /// Run crucible in an emulated Linux that has KVM
    Nested(nested::NestedArgs),
    /// Measure how fast guests start in our own VMM and in QEMU
    Speed(speed::SpeedArgs),
    /// Start N guests from one snapshot, and check that each has its own identity
    #[command(hide = true)]
    Clones(clones::ClonesArgs),
    /// Take cached artefacts to a machine without network
    Cache(cache::CacheCommand),
    /// Remove cached artefacts that have not been used recently
    Clean(clean::CleanArgs),
    /// Print a shell's completion script, or write man pages
    Completions(completions::CompletionsArgs),
}

impl Command {
    /// Runs the command. Returns the exit code.
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::Scenario(args) => scenario::run(&args, context),
            Self::Sweep(args) => sweep::run(&args, context),
            Self::Bisect(args) => bisect::run(&args, context),
            Self::Nightly(args) => nightly::run(&args, context),
            Self::Report(args) => report::run(&args, context),
            Self::Results(args) => results::run(&args, context),
            Self::Rerun(args) => rerun::run(&args, context),
            Self::List(args) => list::run(&args, context),
            Self::Inspect(args) => inspect::run(&args),
            Self::Diff(args) => diff::run(&args),
            Self::Doctor(args) => doctor::run(&args, context),
            Self::Torture(args) => torture::run(&args, context),
            Self::Matrix(args) => matrix::run(&args, context),
            Self::Kernel(args) => kernel::run(&args, context),
            Self::Rootfs(args) => rootfs::run(&args, context),
            Self::Provenance(args) => provenance::run(&args, context),
            Self::Exec(args) => exec::run(&args, context),
            Self::Shell(args) => shell::run(&args, context),
            Self::Nested(args) => nested::run(&args, context),
            Self::Speed(args) => speed::run(&args, context),
            Self::Clones(args) => clones::run(&args, context),
            Self::Cache(args) => cache::run(&args, context),
            Self::Clean(args) => clean::run(&args, context),
            Self::Completions(args) => completions::run(&args, context),
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
