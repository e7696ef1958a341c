// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible shell`

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::thread;

use anyhow::{Context as _, Result};
use clap::Args;
use crucible_engine::guest::{Guest, GuestError};

use crate::boot_artefacts::{BootArtefacts, GuestArgs};
use crate::context::Context;
use crate::exit;
use crate::stdout;
use crate::temporary::Temporary;
use crate::terminal::{self, RawTerminal};

/// The key that, typed three times in a row, ends a guest that does not answer.
const ESCAPE: u8 = 0x1d;

/// Text that is sent at the end of the input if that is not a terminal.
const END_OF_INPUT: u8 = 0x04;

/// The options of `crucible shell`.
#[derive(Debug, Args)]
pub struct ShellArgs {
    #[command(flatten)]
    guest: GuestArgs,
}

enum Event {
    Ended(Result<Box<Guest>, GuestError>),
    Escape,
}

/// Boots a guest and connects this terminal to a shell in it.
pub fn run(args: &ShellArgs, context: &Context) -> Result<ExitCode> {
    let images = BootArtefacts::prepare(context, &args.guest)?;
    let directory = Temporary::with_room("shell", &context.cache()?)?;
    let mut guest = images.boot(context, directory.path(), terminal::BOOT)?;
    let stream = guest.machine().terminal()?;

    if io::stdin().is_terminal() {
        stdout::message(format_args!(
            "crucible: to end the guest, exit the shell or type Ctrl-] three times"
        ));
    }
    let raw = RawTerminal::enter()?;
    let (sender, events) = mpsc::channel();
    let output = pump_output(stream.try_clone()?);
    pump_input(stream, sender.clone());
    let (rows, columns) = terminal::size();
    let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".into());
    thread::spawn(move || {
        let result = guest.terminal(rows, columns, &term);
        let result = result.map(|_| Box::new(guest));
        // The receiver is dropped once the user has typed the escape.
        let _ = sender.send(Event::Ended(result));
    });
    let event = events
        .recv()
        .context("the threads of the shell have ended")?;
    match event {
        Event::Ended(Ok(guest)) => {
            guest.shutdown()?;
            // The machine has ended, so its terminal is closed.
            let _ = output.join();
            drop(raw);
            Ok(exit::PASS.into())
        }
        Event::Ended(Err(error)) => {
            drop(raw);
            Err(error.into())
        }
        Event::Escape => {
            drop(raw);
            stdout::message(format_args!("crucible: ended"));
            Ok(exit::PASS.into())
        }
    }
}

fn pump_output(mut from: UnixStream) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        let mut stdout = io::stdout();
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let shown = stdout.write_all(&buffer[..n]);
            if shown.and_then(|()| stdout.flush()).is_err() {
                break;
            }
        }
    })
}

fn pump_input(mut to: UnixStream, events: Sender<Event>) {
    thread::spawn(move || {
        let mut stdin = io::stdin();
        let terminal = stdin.is_terminal();
        let mut buffer = [0; 4096];
        let mut escapes = 0;
        while let Ok(n @ 1..) = stdin.read(&mut buffer) {
            for &byte in &buffer[..n] {
                escapes = if byte == ESCAPE { escapes + 1 } else { 0 };
                if terminal && escapes == 3 {
                    // The receiver is dropped once the shell has ended.
                    let _ = events.send(Event::Escape);
                    return;
                }
            }
            if to.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
        // The guest may have ended.
        let _ = to.write_all(&[END_OF_INPUT]);
    });
}
