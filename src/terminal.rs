// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The user's terminal, for a guest that is used through it.

use std::io::{self, IsTerminal};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::termios::{self, OptionalActions, Termios};

/// Limit for the agent's first answer; long, because such guests also boot broken kernels.
pub const BOOT: Duration = Duration::from_secs(120);

/// Returns the numbers of lines and columns of this terminal; 24 and 80 if they are unknown.
pub fn size() -> (u16, u16) {
    termios::tcgetwinsize(io::stdout())
        .map(|size| (size.ws_row, size.ws_col))
        .ok()
        .filter(|&(rows, columns)| rows > 0 && columns > 0)
        .unwrap_or((24, 80))
}

/// Raw mode of the terminal; restored when dropped.
pub struct RawTerminal(Option<Termios>);

impl RawTerminal {
    /// Enters raw mode if standard input is a terminal.
    pub fn enter() -> Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self(None));
        }
        let before = termios::tcgetattr(io::stdin()).context("cannot read the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Flush, &raw)
            .context("cannot set the terminal's mode")?;
        Ok(Self(Some(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // This only fails if the terminal has been closed.
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}
