// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible watch`

use std::io::{self, IsTerminal, Read as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use crucible_engine::interrupt;
use crucible_protocol::shown;
use jiff::Timestamp;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::widgets::Widget as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::context::Context;
use crate::exit::{self, Usage};
use crate::screens::watch::ansi;
use crate::stdout;
use crate::terminal::{RawTerminal, size};
use crate::watching::Watched;

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Escape sequences that switch to a terminal's alternate screen, without a cursor, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Ctrl-C in raw mode.
const CTRL_C: u8 = 3;

/// The options of `crucible watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// A night, or the directory of a run; without it, the newest night
    what: Option<String>,
}

/// Shows the progress of a night or a run, until it ends.
pub fn run(args: &WatchArgs, context: &Context) -> Result<ExitCode> {
    let results = context.results()?;
    let Some(watched) = Watched::find(&results, args.what.as_deref()) else {
        let why = "there is no such night, and no run with events there";
        return Err(Usage(why.into()).into());
    };
    match io::stdin().is_terminal() && io::stdout().is_terminal() {
        true => on_terminal(&watched)?,
        false => in_lines(&watched)?,
    }
    Ok(exit::PASS.into())
}

/// The alternate screen; left when dropped.
struct Screen;

impl Drop for Screen {
    fn drop(&mut self) {
        // There is no other place to report the error.
        let _ = stdout::print(LEAVE);
    }
}

fn on_terminal(watched: &Watched) -> Result<()> {
    let raw = RawTerminal::enter()?;
    stdout::print(ENTER)?;
    let screen = Screen;
    let progress = loop {
        let progress = watched.progress(Timestamp::now())?;
        let (rows, columns) = size();
        let area = Rect::new(0, 0, columns, rows);
        let mut buffer = Buffer::empty(area);
        progress.render(area, &mut buffer);
        stdout::print(&ansi(&buffer))?;
        if progress.is_over() || interrupt::requested() || is_asked_to_end()? {
            break progress;
        }
    };
    drop(screen);
    drop(raw);
    for line in progress.lines() {
        stdout::line(format_args!("{}", shown(&line)))?;
    }
    Ok(())
}

/// Waits for a key, or until the next update is due.
fn is_asked_to_end() -> Result<bool> {
    let stdin = io::stdin();
    let period = Timespec::try_from(PERIOD).context("a period of a second")?;
    let ready = match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&period)) {
        Err(rustix::io::Errno::INTR) => 0,
        ready => ready.context("cannot wait for a key")?,
    };
    if ready == 0 {
        return Ok(false);
    }
    let mut keys = [0; 64];
    let count = stdin.lock().read(&mut keys).context("cannot read a key")?;
    // If this fails, the terminal is closed.
    Ok(count == 0
        || keys[..count]
            .iter()
            .any(|&key| key == b'q' || key == CTRL_C))
}

/// Prints new lines.
fn in_lines(watched: &Watched) -> Result<()> {
    let mut known = Vec::new();
    loop {
        let progress = watched.progress(Timestamp::now())?;
        let lines = progress.lines();
        for line in lines.iter().filter(|line| !known.contains(*line)) {
            stdout::line(format_args!("{}", shown(line)))?;
        }
        known = lines;
        if progress.is_over() || interrupt::requested() {
            return Ok(());
        }
        std::thread::sleep(PERIOD);
    }
}
