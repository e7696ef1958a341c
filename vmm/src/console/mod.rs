// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's console: logged to a file, and searched for problems that the kernel reports about
//! itself.
//!
//! A dedicated thread reads the console, so a report is noticed when it is printed and not when a
//! caller polls.

mod alert;
mod classify;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use alert::{Alert, AlertKind};
use classify::{Classifier, message};

use crate::{Error, HostFault, Result};

/// The text before the token of a mark, which the guest prints when it is asked to.
pub const CONSOLE_MARK: &str = "crucible: mark ";

/// Number of last lines of the console that are kept in memory.
const TAIL: usize = 500;

/// Maximum length of a line in bytes; longer ones are split. A guest may never end a line; the
/// kernel's own lines are shorter.
const LINE: usize = 4096;

/// Maximum number of alerts that are kept. The first panic is kept in any case, because it shows
/// how the guest ended.
const ALERTS: usize = 256;

/// The console of one machine.
pub struct Console {
    shared: Arc<Shared>,
    input: UnixStream,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    alerts: Vec<Alert>,
    subscribers: Vec<Sender<Alert>>,
    tail: VecDeque<String>,
    capture: Option<Vec<String>>,
    restarting: bool,
    /// The token of the last mark.
    mark: String,
    /// The first failure to write the log.
    fault: Option<HostFault>,
    ended: bool,
}

impl Console {
    /// Starts a thread that logs everything from `stream` in the file `log`.
    pub fn start(stream: UnixStream, log: &Path) -> Result<Self> {
        let file = File::create(log).map_err(|source| Error::File {
            path: log.to_owned(),
            source,
        })?;
        let input = stream.try_clone().map_err(|source| Error::Io {
            what: "duplicate the console's socket",
            source,
        })?;
        let shared = Arc::new(Shared::default());
        let reader = thread::Builder::new()
            .name("console".into())
            .spawn({
                let shared = Arc::clone(&shared);
                let log = Log {
                    file,
                    path: log.to_owned(),
                };
                move || Reader::new(&shared, log).run(stream)
            })
            .map_err(|source| Error::Io {
                what: "start the console's thread",
                source,
            })?;
        Ok(Self {
            shared,
            input,
            reader: Some(reader),
        })
    }

    /// Returns the alerts so far, then each new one as it is raised.
    pub fn alerts(&self) -> Receiver<Alert> {
        let (sender, receiver) = mpsc::channel();
        let mut state = self.shared.lock();
        for alert in &state.alerts {
            // The receiver still exists, so this cannot fail.
            let _ = sender.send(alert.clone());
        }
        if !state.ended {
            state.subscribers.push(sender);
        }
        receiver
    }

    /// Returns true if an alert of this kind was raised.
    pub fn has_alert(&self, kind: AlertKind) -> bool {
        self.shared.lock().alerts.iter().any(|a| a.kind == kind)
    }

    /// Returns true if the guest's kernel has announced that it shuts down or restarts.
    pub fn announced_shutdown(&self) -> bool {
        self.shared.lock().restarting
    }

    /// Returns the first failure to write the console's log.
    pub fn host_fault(&self) -> Option<HostFault> {
        self.shared.lock().fault.clone()
    }

    /// Returns the last lines, at most `lines`.
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let state = self.shared.lock();
        let skip = state.tail.len().saturating_sub(lines);
        state.tail.iter().skip(skip).cloned().collect()
    }

    /// Types `bytes` on the console.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.input).write_all(bytes)
    }

    /// Starts to capture every line from now on.
    pub fn begin_capture(&self) {
        self.shared.lock().capture = Some(Vec::new());
    }

    /// Waits until a captured line contains `needle`. Returns false after `deadline` or at the
    /// console's end.
    pub fn wait_captured(&self, needle: &str, deadline: Instant) -> bool {
        let (mut seen, mut found) = (0, false);
        let left = deadline.saturating_duration_since(Instant::now());
        let goes_on = |state: &mut State| {
            let lines = state.capture.as_deref().unwrap_or_default();
            found = lines[seen..].iter().any(|line| line.contains(needle));
            seen = lines.len();
            !found && !state.ended
        };
        drop(
            self.shared
                .changed
                .wait_timeout_while(self.shared.lock(), left, goes_on)
                .unwrap_or_else(PoisonError::into_inner),
        );
        found
    }

    /// Waits until the console has shown the mark with this token. All alerts from before it have
    /// then been raised. Returns false after `timeout` or at the console's end.
    pub fn wait_mark(&self, token: &str, timeout: Duration) -> bool {
        let goes_on = |state: &mut State| state.mark != token && !state.ended;
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), timeout, goes_on)
            .unwrap_or_else(PoisonError::into_inner);
        state.mark == token
    }

    /// Ends the capture and returns its lines.
    pub fn end_capture(&self) -> Vec<String> {
        self.shared.lock().capture.take().unwrap_or_default()
    }

    /// Waits until the console has been read to its end. The machine must have ended or be about
    /// to.
    pub fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            // The thread does not panic; if it did, the state would hold what was read until then.
            let _ = reader.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file to which the console is logged.
struct Log {
    file: File,
    path: PathBuf,
}

struct Reader<'a> {
    shared: &'a Shared,
    log: Log,
    classifier: Classifier,
    partial: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(shared: &'a Shared, log: Log) -> Self {
        Self {
            shared,
            log,
            classifier: Classifier::default(),
            partial: Vec::new(),
        }
    }

    fn run(mut self, mut stream: UnixStream) {
        let mut buffer = [0; 16 * 1024];
        loop {
            let left = self
                .classifier
                .deadline()
                .map(|at| at.saturating_duration_since(Instant::now()))
                .map(|left| left.max(Duration::from_millis(1)));
            // Fails only for a zero duration, which `max` rules out.
            let _ = stream.set_read_timeout(left);
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => self.take(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let alert = self.classifier.expire(Instant::now());
                    self.raise(alert);
                }
                Err(_) => break,
            }
        }
        self.finish();
    }

    fn take(&mut self, bytes: &[u8]) {
        // A full disk must not stop the monitoring of the guest.
        if let Err(error) = self.log.file.write_all(bytes) {
            let fault = || HostFault::new(format!("write {}", self.log.path.display()), &error);
            self.shared.lock().fault.get_or_insert_with(fault);
        }
        for &byte in bytes {
            self.partial.push(byte);
            if byte == b'\n' || self.partial.len() == LINE {
                self.line();
            }
        }
        self.shared.changed.notify_all();
    }

    fn line(&mut self) {
        let bytes = std::mem::take(&mut self.partial);
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches(['\r', '\n']);
        {
            let mut state = self.shared.lock();
            state.restarting |= message(text).starts_with("reboot: ");
            if state.tail.len() == TAIL {
                state.tail.pop_front();
            }
            state.tail.push_back(text.to_owned());
            if let Some(capture) = &mut state.capture {
                capture.push(text.to_owned());
            }
        }
        if let Some((_, token)) = message(text).split_once(CONSOLE_MARK) {
            let alert = self.classifier.close();
            self.raise(alert);
            token.clone_into(&mut self.shared.lock().mark);
            return;
        }
        for alert in self.classifier.line(text, Instant::now()) {
            self.raise(Some(alert));
        }
    }

    fn raise(&self, alert: Option<Alert>) {
        let Some(alert) = alert else { return };
        let mut state = self.shared.lock();
        let kept = |kind| state.alerts.iter().any(|alert| alert.kind == kind);
        let wanted = alert.kind == AlertKind::Panic && !kept(AlertKind::Panic);
        if state.alerts.len() >= ALERTS && !wanted {
            return;
        }
        state
            .subscribers
            .retain(|subscriber| subscriber.send(alert.clone()).is_ok());
        state.alerts.push(alert);
    }

    fn finish(mut self) {
        if !self.partial.is_empty() {
            self.line();
        }
        let alert = self.classifier.close();
        self.raise(alert);
        let mut state = self.shared.lock();
        state.ended = true;
        state.subscribers.clear();
        drop(state);
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FaultKind;

    #[test]
    fn a_log_that_cannot_be_written_is_a_fault_of_the_host() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut console = Console::start(ours, Path::new("/dev/full")).unwrap();
        assert_eq!(console.host_fault(), None);
        theirs
            .write_all(b"Kernel panic - not syncing: Oh\n")
            .unwrap();
        drop(theirs);
        console.join();
        let fault = console.host_fault().unwrap();
        assert_eq!(fault.kind, FaultKind::DiskFull);
        assert!(fault.detail.contains("/dev/full"), "{fault}");
        // The guest is monitored nevertheless.
        assert!(console.has_alert(AlertKind::Panic));
    }

    #[test]
    fn a_mark_completes_the_report_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("console.log");
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let console = Console::start(ours, &log).unwrap();
        let long = Duration::from_secs(60);
        let output = format!("[    1.0] WARNING: late\n[    1.1] {CONSOLE_MARK}a-1\n");
        theirs.write_all(output.as_bytes()).unwrap();
        assert!(console.wait_mark("a-1", long));
        let alerts = console.shared.lock().alerts.clone();
        assert_eq!(alerts.len(), 1);
        assert_eq!(alerts[0].lines.len(), 1, "{alerts:?}");
        assert!(!console.wait_mark("a-2", Duration::ZERO));
        drop(theirs);
        assert!(!console.wait_mark("a-2", long));
    }

    #[test]
    fn a_guest_that_floods_its_console_uses_bounded_memory() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("console.log");
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut console = Console::start(ours, &log).unwrap();
        let long = vec![b'x'; 3 * LINE];
        let warning = "WARNING: this is one\n---[ end trace 0 ]---\n";
        let panic = "Kernel panic - not syncing: Oh\n";
        let output = [
            long.as_slice(),
            b"\n",
            warning.repeat(2 * ALERTS).as_bytes(),
            panic.as_bytes(),
        ]
        .concat();
        theirs.write_all(&output).unwrap();
        drop(theirs);
        console.join();
        let alerts: Vec<_> = console.alerts().iter().collect();
        assert_eq!(alerts.len(), ALERTS + 1);
        assert!(console.has_alert(AlertKind::Panic));
        let state = console.shared.lock();
        assert_eq!(state.tail.len(), TAIL);
        assert!(state.tail.iter().all(|line| line.len() <= LINE));
        // The log has everything.
        assert_eq!(std::fs::read(&log).unwrap(), output);
    }
}
