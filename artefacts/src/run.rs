// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs programs; an error has the last lines of their output.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::{Error, Result};

/// Interval of checks for a request to end.
const PERIOD: Duration = Duration::from_millis(100);

/// Returns true when crucible is asked to end.
static INTERRUPTED: OnceLock<fn() -> bool> = OnceLock::new();

/// Sets the function that returns true when crucible is asked to end. Running programs then end,
/// too.
pub fn on_interrupt(interrupted: fn() -> bool) {
    // Later calls set the same function.
    let _ = INTERRUPTED.set(interrupted);
}

/// Number of last lines of a failed program in an error.
const LAST: usize = 30;

/// Runs `command` to its end and passes each line of its standard output to `each`.
/// Standard error is kept for the error message.
pub(crate) fn run(what: &str, command: &mut Command, each: impl FnMut(&str)) -> Result<()> {
    run_with(what, command, each, |_| {})
}

/// Like [`run`], and passes each line of standard error to `each_error`.
pub(crate) fn run_with(
    what: &str,
    command: &mut Command,
    mut each: impl FnMut(&str),
    mut each_error: impl FnMut(&str) + Send,
) -> Result<()> {
    tracing::debug!(target: "command", "{command:?}");
    let may_end = !goes_on(command);
    if may_end {
        end_with_us(command);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Program {
            program: lossy(command.get_program()),
            source,
        })?;
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let pid = Pid::from_child(&child);
    let (ended, end) = mpsc::channel::<()>();
    let mut out = VecDeque::new();
    let err = thread::scope(|scope| {
        if may_end {
            scope.spawn(move || end_if_interrupted(pid, &end));
        }
        let err = scope.spawn(|| {
            let mut last = VecDeque::new();
            if let Some(stderr) = stderr {
                for_lines(stderr, |line| {
                    each_error(line);
                    keep(&mut last, line);
                });
            }
            last
        });
        if let Some(stdout) = stdout {
            for_lines(stdout, |line| {
                each(line);
                keep(&mut out, line);
            });
        }
        let err = err.join().unwrap_or_default();
        // Its output has ended, so the program has ended or ends soon.
        drop(ended);
        err
    });
    let status = child.wait().map_err(|source| Error::Program {
        program: lossy(command.get_program()),
        source,
    })?;
    if status.success() {
        return Ok(());
    }
    // Most programs report errors on standard error, some on standard output only.
    let words = if err.is_empty() { out } else { err };
    Err(failed(what, command, status, words))
}

/// Returns true for programs that must not be interrupted: they change the host.
fn goes_on(command: &Command) -> bool {
    let is = |word: &OsStr| {
        let name = Path::new(word).file_name();
        name.is_some_and(|name| ["apt-get", "dpkg"].iter().any(|program| name == *program))
    };
    is(command.get_program()) || command.get_args().any(is)
}

/// Makes `command` end when this process ends, in whatever way: its results would be of no use.
fn end_with_us(command: &mut Command) {
    // SAFETY: prctl(2) is async-signal-safe, and the closure does nothing else.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            Ok(())
        });
    }
}

/// Ends a program when crucible is asked to end. Returns once the program has ended.
fn end_if_interrupted(pid: Pid, end: &Receiver<()>) {
    let interrupted = || INTERRUPTED.get().is_some_and(|interrupted| interrupted());
    while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(PERIOD) {
        if interrupted() {
            // The program may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, Signal::TERM);
            return;
        }
    }
}

/// Sets the umask of `command` for the modes that files in images should have, whatever the umask
/// of this process is.
pub(crate) fn with_plain_umask(command: &mut Command) -> &mut Command {
    // SAFETY: umask(2) is async-signal-safe, and the closure does nothing else.
    unsafe {
        command.pre_exec(|| {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
            Ok(())
        })
    }
}

/// Runs `command` and returns its standard output.
pub(crate) fn output(what: &str, command: &mut Command) -> Result<String> {
    let mut text = String::new();
    run(what, command, |line| {
        text.push_str(line);
        text.push('\n');
    })?;
    Ok(text)
}

fn failed(what: &str, command: &Command, status: ExitStatus, words: VecDeque<String>) -> Error {
    let mut line = vec![lossy(command.get_program())];
    line.extend(command.get_args().map(lossy));
    Error::Failed {
        what: what.into(),
        status: status.to_string(),
        command: line.join(" "),
        words: words
            .iter()
            .map(|line| format!("  | {line}"))
            .collect::<Vec<_>>()
            .join("\n"),
    }
}

fn for_lines(input: impl std::io::Read, mut each: impl FnMut(&str)) {
    let mut reader = BufReader::new(input);
    let mut bytes = Vec::new();
    // Treat a read error as the end; the exit status decides.
    while matches!(reader.read_until(b'\n', &mut bytes), Ok(n) if n > 0) {
        each(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']));
        bytes.clear();
    }
}

fn keep(last: &mut VecDeque<String>, line: &str) {
    if last.len() == LAST {
        last.pop_front();
    }
    last.push_back(line.to_owned());
}

fn lossy(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failure_shows_the_last_words() {
        let error = run("trying", &mut sh("echo out; echo why >&2; exit 3"), |_| {}).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("trying failed (exit status: 3)"), "{text}");
        assert!(text.contains("  | why"), "{text}");
    }

    #[test]
    fn only_what_changes_the_host_is_left_to_end_by_itself() {
        let of = |words: &[&str]| {
            let mut command = Command::new(words[0]);
            goes_on(command.args(&words[1..]))
        };
        assert!(of(&["apt-get", "install", "x"]));
        assert!(of(&["sudo", "/usr/bin/apt-get", "update"]));
        assert!(!of(&["make", "-j2"]));
    }

    #[test]
    fn a_program_that_is_not_there_is_host_set_up() {
        let error = run("trying", &mut Command::new("no-such-program"), |_| {}).unwrap_err();
        assert!(error.is_host_setup());
    }

    #[test]
    fn output_is_given() {
        assert_eq!(
            output("asking", &mut sh("echo a; echo b")).unwrap(),
            "a\nb\n"
        );
    }
}
