// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The agent, PID 1 of the guest: serves requests of the host on a virtio port until the host
//! requests a shutdown. The request `begin` completes the guest.
//!
//! The agent has one thread. Every wait is bounded by the limit of its request, and the agent
//! is never in a cgroup that may be frozen.

mod attach;
mod boot;
mod channel;
mod container;
mod files;
mod network;
mod observe;
mod reaper;
mod second;
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

use crate::channel::Channel;

/// The guest's first process.
#[derive(Parser)]
struct Options {
    /// Serve a login shell on this port instead.
    #[arg(long)]
    terminal: Option<PathBuf>,
    /// Run a program with its standard streams on this port instead; the arguments are the
    /// program's command line.
    #[arg(long)]
    attach: Option<PathBuf>,
    /// Working directory of that program.
    #[arg(long, default_value = "/")]
    cwd: String,
    /// Give that program a terminal.
    #[arg(long)]
    on_terminal: bool,
    /// Number of lines of that terminal.
    #[arg(long, default_value_t = 24)]
    rows: u16,
    /// Number of columns of that terminal.
    #[arg(long, default_value_t = 80)]
    columns: u16,
    /// Words of the kernel command line that the kernel passes on.
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

fn main() {
    let options = Options::parse();
    let size = (options.rows, options.columns);
    let result = match (options.terminal, options.attach) {
        (Some(port), _) => terminal::serve(&port, options.rows, options.columns),
        (None, Some(port)) => {
            let terminal = options.on_terminal.then_some(size);
            attach::serve(&port, &options.rest, &options.cwd, terminal)
        }
        (None, None) => run(),
    };
    if let Err(error) = result {
        eprintln!("crucible-agent: {error:#}");
        if std::process::id() != 1 {
            std::process::exit(1);
        }
    }
    if std::process::id() == 1 {
        sync();
        // `serve` returns only on failure. Then PID 1 ends, and the host reports the kernel's
        // panic.
        let _ = reboot(RebootMode::RB_AUTOBOOT);
    }
}

fn run() -> Result<()> {
    boot::mount_common().context("cannot set up the guest's disks")?;
    let channel = Channel::open(crucible_protocol::PORT_NAME)?;
    serve::Agent::new()?.serve(channel)
}
