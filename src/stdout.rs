// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Standard output and standard error. `println!` panics where they are closed or full.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

use anyhow::{Context as _, Result};
use crucible_protocol::{shown_json, shown_lines};

/// Prints text on standard output. A closed reader, as in `crucible list | head -1`, is not a
/// failure: the exit code remains that of the result.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Prints a screen, without control characters that a guest may have put into it.
pub fn screen(text: &str) -> Result<()> {
    print(&shown_lines(text))
}

/// Prints JSON, likewise.
pub fn json(text: &str) -> Result<()> {
    print(&shown_json(&format!("{text}\n")))
}

/// Prints a line on standard output, like [`print`].
pub fn line(text: Arguments<'_>) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Prints a line on standard error, without control characters that a guest may have put into it.
/// If that fails, there is no other place to print it.
pub fn message(text: Arguments<'_>) {
    let text = text.to_string();
    let _ = writeln!(io::stderr().lock(), "{}", shown_lines(&text));
}

/// Prints a line like [`message`], on a terminal in raw mode.
pub fn message_raw(text: Arguments<'_>) {
    let text = shown_lines(&text.to_string()).replace('\n', "\r\n");
    let _ = write!(io::stderr().lock(), "{text}\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [`screen`], [`json`] and [`message`] print the results of these functions.
    #[test]
    fn what_a_guest_printed_cannot_control_the_terminal() {
        let hostile = "a\u{1b}[2Jb\u{7}\nc";
        for shown in [shown_lines(hostile), shown_json("\"a\u{1b}[2J\"")] {
            assert!(!shown.contains(['\u{1b}', '\u{7}']), "{shown}");
        }
        assert_eq!(shown_lines(hostile).lines().count(), 2);
    }
}
