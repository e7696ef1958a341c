// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The agent, PID 1 of the guest: serves the host over a virtio port until it is told to
//! shut down. The host's first words make the guest complete.
//!
//! It has one thread. Every wait in it is bounded by the limit of the request that
//! caused it, and nothing here is ever in a container that may be frozen.

mod boot;
mod container;
mod files;
mod network;
mod observe;
mod reaper;
mod serve;
mod terminal;
mod tool;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use nix::{
    sys::reboot::{RebootMode, reboot},
    unistd::sync,
};

/// The guest's first process.
#[derive(Parser)]
struct Options {
    /// Serve a login shell on this port instead.
    #[arg(long)]
    terminal: Option<PathBuf>,
    /// Lines of that terminal.
    #[arg(long, default_value_t = 24)]
    rows: u16,
    /// Columns of that terminal.
    #[arg(long, default_value_t = 80)]
    columns: u16,
    /// What the kernel passes on of its command line.
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _rest: Vec<String>,
}

fn main() {
    let options = Options::parse();
    let result = match options.terminal {
        Some(port) => terminal::serve(&port, options.rows, options.columns),
        None => run(),
    };
    if let Err(error) = result {
        eprintln!("crucible-agent: {error:#}");
    }
    if std::process::id() == 1 {
        sync();
        // Comes back on failure only; the kernel panics when PID 1 ends, which the host sees.
        let _ = reboot(RebootMode::RB_AUTOBOOT);
    }
}

fn run() -> Result<()> {
    boot::mount_common().context("the guest's disks are not as they should be")?;
    let channel = boot::open_port(crucible_protocol::PORT_NAME)?;
    serve::Agent::new()?.serve(channel)
}
