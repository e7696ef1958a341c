// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible exec`

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result};
use clap::Args;
use crucible_engine::abort::{Abort, Phase};
use crucible_engine::guest::{Attached, Guest, GuestError, Program, Sender, Streams};
use crucible_protocol::stdio::Last;
use crucible_protocol::{Terminal, WORK_DIR};
use crucible_vmm::Alert;
use signal_hook::consts::SIGWINCH;
use signal_hook::iterator::Signals;

use crate::boot_artefacts::{BootArtefacts, GuestArgs};
use crate::context::Context;
use crate::exit::{self, Usage};
use crate::guest_files::Copy;
use crate::stdout;
use crate::temporary::Temporary;
use crate::terminal::{self, RawTerminal};

/// The options of `crucible exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Copy this file or directory of the host into the guest first, to GUEST or to /work
    #[arg(long, help_heading = "Files", value_name = "HOST[:GUEST]")]
    copy_in: Vec<Copy>,
    /// Afterwards copy GUEST, by default the file in /work with HOST's name, from the guest to HOST
    #[arg(long, help_heading = "Files", value_name = "HOST[:GUEST]")]
    copy_out: Vec<Copy>,
    #[command(flatten)]
    guest: GuestArgs,
    /// Program to run in the guest, with its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Boots a guest, runs a command in it, and exits with its status.
pub fn run(args: &ExecArgs, context: &Context) -> Result<ExitCode> {
    let wrong_in = args.copy_in.iter().find_map(Copy::cannot_enter);
    let wrong_out = args.copy_out.iter().find_map(Copy::cannot_leave);
    if let Some(wrong) = wrong_in.or(wrong_out) {
        return Err(Usage(wrong).into());
    }
    let images = BootArtefacts::prepare(context, &args.guest)?;
    let directory = Temporary::with_room("exec", &context.cache()?)?;
    let mut guest = images.boot(context, directory.path(), terminal::BOOT)?;
    // The command may checkpoint, so the kernel is to blame for any report.
    guest.mark_used();
    let mut reports = Vec::new();
    let status = in_guest(args, &mut guest, &mut reports);
    let status = status.and_then(|status| {
        // Reports during the shutdown count, too.
        guest.settle()?;
        guest.shutdown()?;
        Ok(status)
    });
    match status {
        Err(error) => Ok(failed(error, context)),
        Ok(_) if !reports.is_empty() => Ok(exit::DIVERGED.into()),
        Ok(status) => Ok(status.into()),
    }
}

/// Copies files into the guest, runs the command, and copies files out. Returns the command's
/// status.
fn in_guest(args: &ExecArgs, guest: &mut Guest, reports: &mut Vec<Alert>) -> Result<u8> {
    for copy in &args.copy_in {
        copy.enter(guest)?;
    }
    let Attached { last, unwritten } = attach(&args.command, guest, reports)?;
    let status = match last {
        Last::Ended(ended) => ended.shell_status(),
        Last::NotRun { status, message } => {
            stdout::message(format_args!(
                "crucible: cannot run {} in the guest: {message}",
                args.command[0]
            ));
            status
        }
    };
    for copy in &args.copy_out {
        match copy.leave(guest) {
            // A command that fails need not leave its output files.
            Err(error) if status != 0 && !broken(&error) => {
                stdout::message(format_args!("crucible: {}", exit::chain(&error)));
            }
            result => result?,
        }
    }
    if let Some(error) = unwritten {
        return Err(error).context("cannot copy the command's output");
    }
    // A status has eight bits.
    Ok(status as u8)
}

/// Returns true when the guest can no longer be used.
fn broken(error: &anyhow::Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|it| it.downcast_ref::<GuestError>());
    causes.any(|error| !error.guest_usable())
}

/// Runs the command with the streams of this process, or on a terminal if they are one.
fn attach(command: &[String], guest: &mut Guest, reports: &mut Vec<Alert>) -> Result<Attached> {
    let on_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let (rows, columns) = terminal::size();
    let program = Program {
        argv: command.to_vec(),
        cwd: WORK_DIR.into(),
        terminal: on_terminal.then(|| Terminal {
            rows,
            columns,
            term: std::env::var("TERM").unwrap_or_else(|_| "dumb".into()),
        }),
    };
    // Do not use the standard library's streams, which buffer lines.
    let own = |stream: &dyn AsFd| -> io::Result<File> {
        stream.as_fd().try_clone_to_owned().map(File::from)
    };
    let streams = Streams {
        input: Box::new(own(&io::stdin())?),
        output: Box::new(own(&io::stdout())?),
        error: Box::new(own(&io::stderr())?),
    };
    let raw = match on_terminal {
        true => Some(RawTerminal::enter()?),
        false => None,
    };
    let mut began = |sender: Sender| {
        if on_terminal {
            follow_size(sender);
        }
    };
    let mut reported = |alerts: &[Alert]| {
        for alert in alerts {
            report(&alert.headline, &alert.lines, raw.is_some());
        }
        reports.extend_from_slice(alerts);
    };
    Ok(guest.attach(program, streams, &mut began, &mut reported)?)
}

/// Passes each new size of this terminal to the guest's.
fn follow_size(sender: Sender) {
    let Ok(mut signals) = Signals::new([SIGWINCH]) else {
        // The terminal keeps its size.
        return;
    };
    thread::spawn(move || {
        for _ in signals.forever() {
            let (rows, columns) = terminal::size();
            sender.resize(rows, columns);
        }
    });
}

/// Shows a report of the guest's kernel.
fn report(headline: &str, lines: &[String], raw: bool) {
    let last = format!("crucible: the guest's kernel reported: {headline}");
    for line in lines.iter().chain([&last]) {
        match raw {
            true => stdout::message_raw(format_args!("{line}")),
            false => stdout::message(format_args!("{line}")),
        }
    }
}

/// Prints the reason why the command has no status, with the kernel's report if there is one.
/// Returns the exit code.
fn failed(error: anyhow::Error, context: &Context) -> ExitCode {
    context.progress().end();
    match error.downcast::<GuestError>() {
        Ok(error) => {
            let abort = Abort::guest(Phase::After, error);
            for line in &abort.lines {
                stdout::message(format_args!("{line}"));
            }
            stdout::message(format_args!("crucible: {}", abort.why));
            abort.condition.exit_code().into()
        }
        Err(error) => {
            stdout::message(format_args!("crucible: {}", exit::chain(&error)));
            exit::of_error(&error).into()
        }
    }
}
