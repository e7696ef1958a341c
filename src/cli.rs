//! The command line.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::commands::{
    clean, clones, doctor, inspect, kernel, list, matrix, nested, rootfs, scenario, shell, speed,
    sweep, torture,
};
use crate::context::Context;

/// A laboratory for in-kernel checkpoint/restart on Linux.
///
/// Exit codes: 0 the same; 1 diverged; 125 nothing can be said; 128 a wrong
/// command line; 129 this host has to be set up first.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    /// What all commands share.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The options that all commands share.
#[derive(Debug, Args)]
pub struct Global {
    /// Do not install missing host packages; name them and refuse
    #[arg(long, global = true)]
    pub no_install: bool,
    /// Say nothing about progress
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// The commands, a file each in `commands/`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run scenarios: checkpoint, kill, restart, and compare
    Scenario(scenario::ScenarioArgs),
    /// Checkpoint a scenario at every single event, one after the other
    Sweep(sweep::SweepArgs),
    /// List the scenarios
    List(list::ListArgs),
    /// Show what is in a checkpoint image, task by task
    Inspect(inspect::InspectArgs),
    /// Tell what this host has, what it lacks, and how to mend that
    Doctor(doctor::DoctorArgs),
    /// Feed damaged and forged images to restart(2), and look for what breaks
    Torture(torture::TortureArgs),
    /// Checkpoint tracees in every ptrace stop there is, and compare what is seen
    Matrix(matrix::MatrixArgs),
    /// Build the guest's kernel, or write its series as mails
    Kernel(kernel::KernelCommand),
    /// Build the guest's read-only disks
    Rootfs(rootfs::RootfsCommand),
    /// Boot a guest and open a shell in it
    Shell(shell::ShellArgs),
    /// Run crucible in a Linux that has KVM, whatever this host has
    Nested(nested::NestedArgs),
    /// Measure how fast guests start, in our own monitor and in QEMU on the same KVM
    Speed(speed::SpeedArgs),
    /// Run many guests at once that begin as the same saved one, and compare who they are
    #[command(hide = true)]
    Clones(clones::ClonesArgs),
    /// Remove artefacts that were not used lately
    Clean(clean::CleanArgs),
}

impl Command {
    /// Does it.
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::Scenario(args) => scenario::run(&args, context),
            Self::Sweep(args) => sweep::run(&args, context),
            Self::List(args) => list::run(&args, context),
            Self::Inspect(args) => inspect::run(&args),
            Self::Doctor(args) => doctor::run(&args, context),
            Self::Torture(args) => torture::run(&args, context),
            Self::Matrix(args) => matrix::run(&args, context),
            Self::Kernel(args) => kernel::run(&args, context),
            Self::Rootfs(args) => rootfs::run(&args, context),
            Self::Shell(args) => shell::run(&args, context),
            Self::Nested(args) => nested::run(&args, context),
            Self::Speed(args) => speed::run(&args, context),
            Self::Clones(args) => clones::run(&args, context),
            Self::Clean(args) => clean::run(&args, context),
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
