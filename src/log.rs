// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The log: the commands that crucible runs, the messages of machines and agents.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{FmtSpan, Writer};
use tracing_subscriber::fmt::time::FormatTime;

use crate::stdout::message;

/// Name of the file in the run's directory.
const NAME: &str = "crucible.log";

/// Maximum number of bytes that are kept until there is a file.
const EARLY: usize = 1 << 20;

/// The destination of the log.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    verbose: bool,
    early: Vec<u8>,
    file: Option<File>,
}

impl Log {
    /// Makes this the log of the process. If `verbose`, it goes to standard error, too.
    pub fn install(verbose: bool) -> Self {
        let log = Self::default();
        log.lock().verbose = verbose;
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_ansi(false)
            .with_level(false)
            .with_span_events(FmtSpan::NONE)
            .with_timer(Uptime(std::time::Instant::now()))
            .with_writer(log.clone())
            .finish();
        // Fails only if the process already has a log, from a different context.
        let _ = tracing::subscriber::set_global_default(subscriber);
        log
    }

    /// Keeps the log in this directory, from the beginning on.
    pub fn keep(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let mut file = File::create(directory.join(NAME))?;
        file.write_all(&std::mem::take(&mut state.early))?;
        state.file = Some(file);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since the start of the process.
struct Uptime(std::time::Instant);

impl FormatTime for Uptime {
    fn format_time(&self, to: &mut Writer<'_>) -> std::fmt::Result {
        write!(to, "{:9.3}", self.0.elapsed().as_secs_f64())
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let state = &mut *self.lock();
        if state.verbose {
            message(format_args!("{}", String::from_utf8_lossy(line).trim_end()));
        }
        match &mut state.file {
            // The log only helps to find a reason. A full disk is reported elsewhere.
            Some(file) => drop(file.write_all(line)),
            None if state.early.len() < EARLY => state.early.extend_from_slice(line),
            None => {}
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_precedes_the_file_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::default();
        log.write_all(b"early\n").unwrap();
        log.keep(directory.path()).unwrap();
        log.write_all(b"late\n").unwrap();
        let text = std::fs::read_to_string(directory.path().join(NAME)).unwrap();
        assert_eq!(text, "early\nlate\n");
    }
}
