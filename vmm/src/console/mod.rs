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
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};

use crate::{Error, HostFault, Result};

/// The text before the token of a mark, which the guest prints on request.
pub const CONSOLE_MARK: &str = "crucible: mark ";

/// Number of last lines of the console that are kept in memory.
const TAIL: usize = 500;

/// Maximum length of a line in bytes; longer ones are split. A guest may never end a line; the
/// kernel's own lines are shorter.
const LINE: usize = 4096;

/// Maximum size of the log in bytes. The console is monitored beyond it.
const LOG: u64 = 256 << 20;

/// Maximum number of lines of a capture, at which a kernel prints some thousand tasks.
const CAPTURE: usize = 20_000;

/// Maximum number of alerts that are kept. The first panic is kept in any case, because it is the
/// end of the guest.
const ALERTS: usize = 256;

/// Maximum size of all alerts in bytes. Beyond that, only the headlines of reports are kept, and
/// the first panic in full.
const ALERT_BYTES: usize = 8 << 20;

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
    /// Locked while a piece of the console moves from the socket to the state.
    reading: Mutex<()>,
}

#[derive(Default)]
struct State {
    alerts: Vec<Alert>,
    subscribers: Vec<Sender<Alert>>,
    tail: VecDeque<String>,
    /// Bytes in `alerts`.
    alert_bytes: usize,
    capture: Option<Capture>,
    restarting: bool,
    panicked: bool,
    /// The token of the last mark.
    mark: String,
    /// The first failure to write the log.
    fault: Option<HostFault>,
    ended: bool,
}

/// Lines that are kept for a while.
#[derive(Default)]
struct Capture {
    lines: Vec<String>,
    /// Texts of lines that callers wait for, each with a flag that it has been printed.
    answers: Vec<(&'static str, bool)>,
}

impl Capture {
    fn add(&mut self, line: &str) {
        for (text, found) in &mut self.answers {
            *found |= line.contains(*text);
        }
        match self.lines.len() {
            0..CAPTURE => self.lines.push(line.to_owned()),
            CAPTURE => self.lines.push(format!(
                "crucible: the guest has printed more than {CAPTURE} lines; the rest is left out"
            )),
            _ => {}
        }
    }
}

impl Console {
    /// Starts a thread that logs the bytes from `stream` in the file `log`, up to a limit.
    pub fn start(stream: UnixStream, log: &Path) -> Result<Self> {
        Self::start_limited(stream, log, LOG)
    }

    fn start_limited(stream: UnixStream, log: &Path, limit: u64) -> Result<Self> {
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
                    left: limit,
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

    /// Returns true when an alert of this kind was raised.
    pub fn has_alert(&self, kind: AlertKind) -> bool {
        self.shared.lock().alerts.iter().any(|a| a.kind == kind)
    }

    /// Returns true when the guest's kernel has announced that it shuts down or restarts.
    pub fn announced_shutdown(&self) -> bool {
        self.shared.lock().restarting
    }

    /// Returns a handle with which another thread can wait for the end of the guest.
    pub fn ending(&self) -> Result<Ending> {
        let input = self.input.try_clone().map_err(|source| Error::Io {
            what: "duplicate the console's socket",
            source,
        })?;
        Ok(Ending {
            shared: Arc::clone(&self.shared),
            input,
        })
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

    /// Starts to capture the lines from now on, and to look for `answers` in them.
    pub fn begin_capture(&self, answers: Vec<&'static str>) {
        self.shared.lock().capture = Some(Capture {
            lines: Vec::new(),
            answers: answers.into_iter().map(|text| (text, false)).collect(),
        });
    }

    /// Waits until a line since the beginning of the capture contains `answer`, which must be one
    /// of those given to the start of the capture. Returns false after `deadline` or at the
    /// console's end.
    pub fn wait_captured(&self, answer: &str, deadline: Instant) -> bool {
        let mut found = false;
        let left = deadline.saturating_duration_since(Instant::now());
        let goes_on = |state: &mut State| {
            let answers = state.capture.iter().flat_map(|capture| &capture.answers);
            found = answers
                .filter(|(_, found)| *found)
                .any(|(text, _)| *text == answer);
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

    /// Ends the capture and returns its lines, up to a limit.
    pub fn end_capture(&self) -> Vec<String> {
        let capture = self.shared.lock().capture.take();
        capture.unwrap_or_default().lines
    }

    /// Waits until the console has been read to its end. The machine must have ended or be about
    /// to.
    pub fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            // The thread does not panic; if it did, the state would hold the bytes read until then.
            let _ = reader.join();
        }
    }
}

/// The end of a guest, as far as its console shows it.
pub struct Ending {
    shared: Arc<Shared>,
    input: UnixStream,
}

impl Ending {
    /// Returns true when the guest, which no longer runs, has announced that it shuts down or
    /// restarts, and has not panicked. Waits until all that it has printed has been read.
    pub fn is_in_order(&self) -> bool {
        let mut state = self.shared.lock();
        while !state.ended && !self.all_read() {
            state = self
                .shared
                .changed
                .wait_timeout(state, LONGEST_READ)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.restarting && !state.panicked
    }

    /// Returns true when no byte of the console is in the socket, or in flight from it.
    /// The reader takes these locks in the other order, so this does not wait for the second one.
    fn all_read(&self) -> bool {
        match self.shared.reading.try_lock() {
            Ok(_idle) => ioctl_fionread(&self.input).is_ok_and(|bytes| bytes == 0),
            Err(_) => false,
        }
    }
}

/// Interval of [`Ending`]'s checks. Usually it is notified earlier of a piece that has been read.
const LONGEST_READ: Duration = Duration::from_millis(10);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file to which the console is logged.
struct Log {
    file: File,
    path: PathBuf,
    /// Number of bytes that may still be written, before the final note.
    left: u64,
}

impl Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX);
        let now = &bytes[..bytes.len().min(fits)];
        self.left -= now.len() as u64;
        self.file.write_all(now)?;
        if self.left == 0 {
            self.file.write_all(LOG_END)?;
        }
        Ok(())
    }
}

/// The last line of a log that has reached its limit.
const LOG_END: &[u8] = b"\ncrucible: this log is full; further output of the guest is lost\n";

/// Runs one input of the fuzz target `classify`: a guest's output. The first byte divides the
/// rest.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    use rustix::fs::{MemfdFlags, memfd_create};

    const LIMIT: u64 = 1000;
    let Some((&size, data)) = data.split_first() else {
        return;
    };
    let file = memfd_create("crucible-fuzz", MemfdFlags::CLOEXEC).expect("a file in memory");
    let log = Log {
        file: File::from(file),
        path: PathBuf::new(),
        left: LIMIT,
    };
    let shared = Shared::default();
    let (sender, alerts) = mpsc::channel();
    shared.lock().subscribers.push(sender);
    shared.lock().capture = Some(Capture {
        lines: Vec::new(),
        answers: vec![("sysrq: ", false)],
    });
    let mut reader = Reader::new(&shared, log);
    for part in data.chunks(usize::from(size).max(1)) {
        reader.take(part);
    }
    let length = |reader: &Reader<'_>| reader.log.file.metadata().expect("a file").len();
    assert!(length(&reader) <= LIMIT + LOG_END.len() as u64);
    reader.finish();
    let state = shared.lock();
    assert!(state.tail.len() <= TAIL && state.alerts.len() <= ALERTS + 1);
    // A byte that is not UTF-8 becomes three.
    assert!(state.tail.iter().all(|line| line.len() <= 3 * LINE));
    let capture = state.capture.as_ref().expect("a capture");
    assert!(capture.lines.len() <= CAPTURE + 1);
    let asked = data.windows(7).any(|bytes| bytes == b"sysrq: ");
    assert!(asked || !capture.answers[0].1);
    // A subscriber gets the kept lines.
    assert!(alerts.try_iter().eq(state.alerts.iter().cloned()));
    for alert in &state.alerts {
        assert!(!alert.headline.contains('\n'));
        assert!(alert.lines.len() <= 400 && !alert.lines.is_empty());
    }
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
            // A duration that is too long is ignored.
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut input = [PollFd::new(&stream, PollFlags::IN)];
            match poll(&mut input, left.as_ref()) {
                Ok(0) => {
                    let alert = self.classifier.expire(Instant::now());
                    self.raise(alert);
                    continue;
                }
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => break,
            }
            let shared = self.shared;
            let _reading = shared.reading.lock();
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => self.take(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.finish();
    }

    fn take(&mut self, bytes: &[u8]) {
        // A full disk must not stop the monitoring of the guest.
        if let Err(error) = self.log.write(bytes) {
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
            state.panicked |= classify::is_panic(message(text));
            if state.tail.len() == TAIL {
                state.tail.pop_front();
            }
            state.tail.push_back(text.to_owned());
            if let Some(capture) = &mut state.capture {
                capture.add(text);
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
        let Some(mut alert) = alert else { return };
        let mut state = self.shared.lock();
        let kept = |kind| state.alerts.iter().any(|alert| alert.kind == kind);
        let wanted = alert.kind == AlertKind::Panic && !kept(AlertKind::Panic);
        if state.alerts.len() >= ALERTS && !wanted {
            return;
        }
        let size: usize = alert.lines.iter().map(String::len).sum();
        if state.alert_bytes.saturating_add(size) > ALERT_BYTES && !wanted {
            let note = format!(
                "crucible: the {} lines of this report are left out",
                alert.lines.len()
            );
            alert.lines = vec![alert.headline.clone(), note];
        } else {
            state.alert_bytes += size;
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

    /// Runs a console to its end, with a log of at most `limit` bytes; returns it, and the log.
    fn read_all(output: &[u8], limit: u64, capture: &[&'static str]) -> (Console, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("console.log");
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut console = Console::start_limited(ours, &log, limit).unwrap();
        console.begin_capture(capture.to_vec());
        theirs.write_all(output).unwrap();
        drop(theirs);
        console.join();
        let log = std::fs::read(&log).unwrap();
        (console, log)
    }

    #[test]
    fn an_end_is_in_order_if_it_is_announced_and_no_panic() {
        for (output, expected) in [
            ("reboot: Restarting system\n", true),
            ("[   1.0] reboot: Power down\n", true),
            (
                "reboot: Restarting system\nKernel panic - not syncing: Oh\n",
                false,
            ),
            ("Kernel panic - not syncing: Oh\n", false),
            ("", false),
        ] {
            let (mut theirs, ours) = UnixStream::pair().unwrap();
            let mut console = Console::start(ours, Path::new("/dev/null")).unwrap();
            // The answer must not depend on whether the thread has read this yet.
            theirs.write_all(&b"x\n".repeat(10_000)).unwrap();
            theirs.write_all(output.as_bytes()).unwrap();
            let ending = console.ending().unwrap();
            assert_eq!(ending.is_in_order(), expected, "{output}");
            drop(theirs);
            console.join();
            assert_eq!(ending.is_in_order(), expected, "{output}");
        }
    }

    #[test]
    fn a_log_has_a_limit_and_says_so() {
        let output = b"0123456789\nKernel panic - not syncing: Oh\n";
        for limit in 0..output.len() + 2 {
            let (console, log) = read_all(output, limit as u64, &[]);
            let expected = match limit {
                0 => Vec::new(),
                _ if limit <= output.len() => [&output[..limit], LOG_END].concat(),
                _ => output.to_vec(),
            };
            assert_eq!(log, expected, "{limit}");
            // Output that is not logged is still monitored.
            assert!(console.has_alert(AlertKind::Panic));
            assert_eq!(console.host_fault(), None);
        }
    }

    #[test]
    fn a_capture_has_a_limit_and_still_finds_the_answers() {
        let flood = "line\n".repeat(CAPTURE + 100) + "the answer\n";
        let (console, _) = read_all(flood.as_bytes(), LOG, &["the answer", "another"]);
        assert!(console.wait_captured("the answer", Instant::now()));
        assert!(!console.wait_captured("another", Instant::now()));
        let lines = console.end_capture();
        assert_eq!(lines.len(), CAPTURE + 1);
        assert!(lines[CAPTURE].starts_with("crucible: "));
    }

    #[test]
    fn alerts_use_bounded_memory() {
        // Reports of the maximum size, and more of them than are kept.
        let line = format!("{}\n", "x".repeat(LINE - 1));
        let report = format!("WARNING: {line}{}", line.repeat(300));
        let report = format!("{report}---[ end trace 0 ]---\n");
        let panic = format!("Kernel panic - not syncing: Oh\n{}", line.repeat(300));
        let output = report.repeat(20) + &panic;
        let (console, _) = read_all(output.as_bytes(), LOG, &[]);
        let alerts: Vec<_> = console.alerts().iter().collect();
        assert_eq!(alerts.len(), 21);
        let size = |alert: &Alert| alert.lines.iter().map(String::len).sum::<usize>();
        let all: usize = alerts[..20].iter().map(size).sum();
        assert!(all <= ALERT_BYTES + 20 * 2 * LINE, "{all}");
        assert!(alerts[19].lines[1].contains("are left out"));
        assert!(alerts[19].headline.starts_with("WARNING: "));
        assert_eq!(alerts[20].kind, AlertKind::Panic);
        assert!(!alerts[20].lines[1].contains("are left out"));
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
