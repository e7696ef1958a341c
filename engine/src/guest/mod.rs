// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A running guest: requests to its agent, answers, and kernel reports.

mod attach;
mod error;
mod incoming;
mod requests;

use std::{
    os::unix::net::UnixStream,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use crucible_protocol::{
    Envelope, Identity, Reply, Request, VERSION,
    frame::{self, FrameError},
};
use crucible_vmm::{Alert, AlertKind, Machine, MemoryDump};

pub use self::attach::{Attached, Program, Sender, Streams};
pub use self::error::GuestError;
use self::incoming::Incoming;
pub use self::requests::SecondImage;
use crate::{identity, interrupt};

/// Time that an answer may take in addition to the guest's own limit.
const GRACE: Duration = Duration::from_secs(30);

/// Interval of checks for other events than an answer: kernel reports, host faults, an
/// interruption.
const POLL: Duration = Duration::from_millis(100);

/// Time for which to wait for reports that follow a first one.
const ALERT_SETTLE: Duration = Duration::from_secs(2);

/// Limit for requests that the agent answers immediately, in a guest without slow checkers. One
/// of them reads 10,000 descriptors of a task.
const PROMPT: Duration = Duration::from_secs(120);

/// The same limit for a guest that is only needed for its files.
const HURRY: Duration = Duration::from_secs(10);

/// Limit for the end of a guest that has panicked, and for the dump of its memory.
const DUMP: Duration = Duration::from_secs(120);

/// Limit of an interactive session.
const SESSION: Duration = Duration::from_secs(7 * 24 * 3600);

/// The agent's report about its guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GuestInfo {
    /// Release of the kernel (uname -r).
    pub kernel: String,
    /// Build of the kernel (uname -v).
    pub build: String,
    /// True when the kernel has checkpoint/restart.
    pub checkpoint: bool,
    /// Time from the start of the kernel to the first answer, in milliseconds.
    pub uptime_ms: u64,
}

/// A guest whose agent answers.
pub struct Guest {
    machine: Box<dyn Machine>,
    to: UnixStream,
    incoming: Receiver<Incoming>,
    alerts_from: Receiver<Alert>,
    alerts: Vec<Alert>,
    /// True once the guest has had a trigger.
    used: bool,
    next: u64,
    info: GuestInfo,
    identity: Identity,
    /// True when a debugger may stop the guest: then limits do not apply.
    is_debugged: bool,
    /// Limit for requests that the agent answers immediately.
    prompt: Duration,
    /// The same limit in a guest that is not slowed down.
    usual: Duration,
    /// Time that an answer may take in addition to the guest's own limit.
    grace: Duration,
    /// Command of a shell that runs before each checkpoint.
    before_checkpoint: Option<String>,
}

impl Guest {
    /// Waits for the agent of a machine that was just started, and gives the guest its
    /// identity.
    pub fn connect(machine: Box<dyn Machine>, limit: Duration) -> Result<Self, GuestError> {
        let mut guest = Self::greet(machine, limit)?;
        let begin = identity::new().map_err(GuestError::Random)?;
        match guest.ask(Request::Begin(begin), "begin", PROMPT)? {
            Reply::Begun(identity) => guest.identity = identity,
            _ => return Err(GuestError::Confused("begin")),
        }
        Ok(guest)
    }

    /// Waits for the agent of a machine that was just started. Such a guest accepts no further
    /// requests, but a snapshot of its machine may be taken.
    pub fn greet(machine: Box<dyn Machine>, limit: Duration) -> Result<Self, GuestError> {
        let incoming = incoming::listen(machine.channel()?).map_err(GuestError::Thread)?;
        let alerts_from = machine.alerts();
        let mut guest = Self {
            to: machine.channel()?,
            is_debugged: machine.is_debugged(),
            machine,
            incoming,
            alerts_from,
            alerts: Vec::new(),
            used: false,
            next: 0,
            info: GuestInfo::default(),
            identity: Identity::default(),
            prompt: PROMPT,
            usual: PROMPT,
            grace: GRACE,
            before_checkpoint: None,
        };
        let hello = Request::Hello { version: VERSION };
        match guest.ask(hello, "hello", limit)? {
            Reply::Hello {
                kernel,
                build,
                checkpoint,
                uptime_ms,
                ..
            } => {
                guest.info = GuestInfo {
                    kernel,
                    build,
                    checkpoint,
                    uptime_ms,
                };
                Ok(guest)
            }
            _ => Err(GuestError::Confused("hello")),
        }
    }

    /// Sets the factor by which operations take longer than usual in this guest. It scales the
    /// limit for requests that the agent answers immediately.
    pub fn set_slowness(&mut self, slowness: u32) {
        self.prompt = self.usual * slowness.max(1);
    }

    /// Shortens the limit for requests that the agent answers immediately, for a guest that may
    /// have stopped answering. It then applies with a debugger, too.
    pub fn hurry(&mut self) {
        self.prompt = HURRY;
        self.is_debugged = false;
    }

    /// Replaces the limits for answers, for a guest that is expected to stop answering: `prompt`
    /// for requests that the agent answers immediately, and `grace` beyond the guest's own limits.
    pub fn expect_silence(&mut self, prompt: Duration, grace: Duration) {
        let slowness = self.prompt.as_millis() / self.usual.as_millis().max(1);
        self.usual = prompt;
        self.grace = grace;
        self.set_slowness(u32::try_from(slowness).unwrap_or(1));
    }

    /// Runs a shell's command before each checkpoint from now on, until this is called again.
    pub fn before_checkpoint(&mut self, command: Option<String>) {
        self.before_checkpoint = command;
    }

    /// Returns the agent's report about the guest.
    pub fn info(&self) -> &GuestInfo {
        &self.info
    }

    /// Returns the identity of the guest; not set after [`greet`](Self::greet).
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the machine that runs the guest.
    pub fn machine(&mut self) -> &mut dyn Machine {
        self.machine.as_mut()
    }

    /// Returns `limit`, or a longer one if a debugger may stop the guest.
    fn limit(&self, usual: Duration) -> Duration {
        match self.is_debugged {
            true => SESSION,
            false => usual,
        }
    }

    /// Sends a request and waits for the answer, a kernel report, the end, an interruption or a
    /// fault of the host, whichever is first.
    fn ask(
        &mut self,
        body: Request,
        what: &'static str,
        limit: Duration,
    ) -> Result<Reply, GuestError> {
        let id = self.post(body)?;
        self.answer(id, what, limit)
    }

    /// Sends a request. Returns its number.
    fn post(&mut self, body: Request) -> Result<u64, GuestError> {
        self.next += 1;
        let id = self.next;
        tracing::debug!(target: "agent", id, "> {}", brief(&body));
        match self.send(&Envelope { id, body }) {
            // The reader of messages reports the reason for a failed write.
            Err(FrameError::Io(_)) | Ok(()) => Ok(id),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the answer to a request, or for an event that comes first. After a kernel report
    /// it can be called once more.
    fn answer(
        &mut self,
        id: u64,
        what: &'static str,
        limit: Duration,
    ) -> Result<Reply, GuestError> {
        let began = Instant::now();
        let limit = self.limit(limit);
        let deadline = began + limit + self.grace;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.incoming.recv_timeout(left.min(POLL)) {
                Ok(Incoming::Reply(reply)) if reply.id == id => {
                    let ms = began.elapsed().as_millis() as u64;
                    tracing::debug!(target: "agent", id, ms, "< {}", brief(&reply.body));
                    return match reply.body {
                        Reply::Failed { message } => Err(GuestError::Failed(message)),
                        Reply::TooLarge { bytes } => Err(GuestError::TooLarge { what, bytes }),
                        reply => Ok(reply),
                    };
                }
                // The answer to an earlier request that timed out.
                Ok(Incoming::Reply(_)) => {}
                Ok(Incoming::Broken(error)) => return Err(error.into()),
                Ok(Incoming::Closed) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.ended()?);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.check()?;
                    if left.is_zero() {
                        let states = self.machine.task_states(self.grace)?;
                        return Err(GuestError::Silent {
                            what,
                            limit,
                            states: Box::new(states),
                        });
                    }
                }
            }
        }
    }

    /// Writes a request. A guest that does not read must not block the caller forever.
    fn send(&mut self, request: &Envelope<Request>) -> Result<(), FrameError> {
        // Fails only for a duration of zero.
        let _ = self.to.set_write_timeout(Some(self.limit(self.prompt)));
        frame::write(&mut self.to, request)
    }

    /// Checks for other events while no answer has come.
    fn check(&mut self) -> Result<(), GuestError> {
        if interrupt::requested() {
            return Err(GuestError::Interrupted);
        }
        if let Some(fault) = self.machine.host_fault() {
            return Err(GuestError::Host(fault));
        }
        while let Ok(alert) = self.alerts_from.try_recv() {
            self.alerts.push(alert);
        }
        if self.alerts.is_empty() {
            return Ok(());
        }
        // Wait for the reports that follow a report immediately: a panic often follows an oops.
        let deadline = Instant::now() + ALERT_SETTLE;
        let wait = || deadline.saturating_duration_since(Instant::now());
        while let Ok(alert) = self.alerts_from.recv_timeout(wait()) {
            self.alerts.push(alert);
        }
        // A report about a disk can arrive before the fault of the host that caused it.
        match self.machine.host_fault() {
            Some(fault) => Err(GuestError::Host(fault)),
            None => self.take_alerts(),
        }
    }

    /// Returns the reason why the channel has ended, once the console has been read to its
    /// end.
    fn ended(&mut self) -> Result<GuestError, GuestError> {
        // Ctrl-C reaches the machine's process, too.
        if interrupt::requested() {
            return Ok(GuestError::Interrupted);
        }
        let exit = self.machine.wait(GRACE)?;
        if exit.is_some() {
            // The console's thread ends with the machine, and drops the sender.
            while let Ok(alert) = self.alerts_from.recv_timeout(GRACE) {
                self.alerts.push(alert);
            }
        }
        if let Some(fault) = self.machine.host_fault() {
            return Ok(GuestError::Host(fault));
        }
        self.take_alerts()?;
        Ok(GuestError::Ended {
            exit,
            used: self.used,
            memory: self.machine.memory_dump(),
        })
    }

    /// Fails with the kernel reports that have arrived, if there are any.
    fn take_alerts(&mut self) -> Result<(), GuestError> {
        match std::mem::take(&mut self.alerts) {
            alerts if alerts.is_empty() => Ok(()),
            alerts => Err(GuestError::Alert {
                memory: self.memory_after(&alerts),
                alerts,
                used: self.used,
            }),
        }
    }

    /// Returns the memory of a guest that has panicked. The machine ends when it is written.
    fn memory_after(&mut self, alerts: &[Alert]) -> Option<MemoryDump> {
        if !alerts.iter().any(|alert| alert.kind == AlertKind::Panic) {
            return None;
        }
        let deadline = Instant::now() + self.limit(DUMP);
        while !interrupt::requested() && Instant::now() < deadline {
            // A machine that does not answer has no dump either.
            if !matches!(self.machine.wait(POLL), Ok(None)) {
                return self.machine.memory_dump();
            }
        }
        None
    }

    /// Waits until all that the kernel has printed so far has been read from the console, and takes
    /// its reports. The guest prints a mark after them, on request.
    ///
    /// # Errors
    /// [`GuestError::Alert`] if the kernel has reported something since the last call,
    /// [`GuestError::Host`] if the host has failed one of its disks, [`GuestError::NoMark`] if the
    /// console does not show the mark, and the errors of any request.
    pub fn settle(&mut self) -> Result<(), GuestError> {
        let token = format!("{}-{}", self.identity.instance, self.next);
        let request = Request::Mark {
            token: token.clone(),
        };
        match self.ask(request, "mark", self.prompt)? {
            Reply::Done => {}
            _ => return Err(GuestError::Confused("mark")),
        }
        let limit = self.limit(self.prompt);
        let deadline = Instant::now() + limit;
        while !self.machine.wait_mark(&token, POLL) {
            self.check()?;
            if let Some(exit) = self.machine.try_exit()? {
                return Err(GuestError::Ended {
                    exit: Some(exit),
                    used: self.used,
                    memory: self.machine.memory_dump(),
                });
            }
            if Instant::now() >= deadline {
                return Err(GuestError::NoMark(limit));
            }
        }
        while let Ok(alert) = self.alerts_from.try_recv() {
            self.alerts.push(alert);
        }
        // The kernel is not to blame for a report about a disk that the host has failed.
        match self.machine.host_fault() {
            Some(fault) => Err(GuestError::Host(fault)),
            None => self.take_alerts(),
        }
    }

    /// Marks the guest as one in which checkpoint/restart has been used: from now on it may be the
    /// cause of a kernel report. Requests with a trigger do this by themselves.
    pub fn mark_used(&mut self) {
        self.used = true;
    }
}

/// Returns the beginning of a message: file contents and observations are long.
fn brief(message: &impl std::fmt::Debug) -> String {
    const LONGEST: usize = 300;
    let mut text = String::new();
    // Fails once the text is long enough, which ends the formatting.
    let _ = std::fmt::write(&mut Short(&mut text, LONGEST), format_args!("{message:?}"));
    text
}

/// A writer that keeps text up to a length.
struct Short<'a>(&'a mut String, usize);

impl std::fmt::Write for Short<'_> {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let left = self.1.saturating_sub(self.0.len());
        if part.len() <= left {
            self.0.push_str(part);
            return Ok(());
        }
        let end = (0..=left).rev().find(|&at| part.is_char_boundary(at));
        self.0.push_str(&part[..end.unwrap_or_default()]);
        self.0.push('…');
        Err(std::fmt::Error)
    }
}

#[cfg(test)]
mod tests;
