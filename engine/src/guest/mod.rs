// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A running guest: requests to its agent, answers, and kernel reports.

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
use crucible_vmm::{Alert, Machine};

pub use self::error::GuestError;
use self::incoming::Incoming;
use crate::identity;

/// Time beyond the guest's own limit that an answer may take.
const GRACE: Duration = Duration::from_secs(30);

/// Time that a kernel report may take to be complete on the console.
const ALERT_SETTLE: Duration = Duration::from_secs(2);

/// Limit for requests that the agent answers at once, in a guest that is not slowed down. To read
/// 10,000 descriptors of a task is one of them.
const PROMPT: Duration = Duration::from_secs(120);

/// Limit of an interactive session.
const SESSION: Duration = Duration::from_secs(7 * 24 * 3600);

/// What the agent reports about its guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct GuestInfo {
    /// Release of the kernel (uname -r).
    pub kernel: String,
    /// Build of the kernel (uname -v).
    pub build: String,
    /// True if the kernel has checkpoint/restart.
    pub checkpoint: bool,
    /// Time from the start of the kernel to the first answer, in milliseconds.
    pub uptime_ms: u64,
}

/// A guest whose agent answers.
pub struct Guest {
    machine: Box<dyn Machine>,
    to: UnixStream,
    incoming: Receiver<Incoming>,
    alerts: Vec<Alert>,
    next: u64,
    info: GuestInfo,
    identity: Identity,
    /// True if a debugger may stop it: then limits do not apply.
    is_debugged: bool,
    /// Limit for requests that the agent answers at once.
    prompt: Duration,
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
        let incoming =
            incoming::listen(machine.channel()?, machine.alerts()).map_err(GuestError::Thread)?;
        let mut guest = Self {
            to: machine.channel()?,
            is_debugged: machine.is_debugged(),
            machine,
            incoming,
            alerts: Vec::new(),
            next: 0,
            info: GuestInfo::default(),
            identity: Identity::default(),
            prompt: PROMPT,
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
    /// limit for requests that the agent answers at once.
    pub fn set_slowness(&mut self, slowness: u32) {
        self.prompt = PROMPT * slowness.max(1);
    }

    /// What the agent reports about the guest.
    pub fn info(&self) -> &GuestInfo {
        &self.info
    }

    /// The identity of the guest; not set after [`greet`](Self::greet).
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The machine that runs the guest.
    pub fn machine(&mut self) -> &mut dyn Machine {
        self.machine.as_mut()
    }

    /// Returns the limit for something that should take no longer than `limit`.
    fn limit(&self, usual: Duration) -> Duration {
        match self.is_debugged {
            true => SESSION,
            false => usual,
        }
    }

    /// Sends a request and waits for the answer, a kernel report, or the end.
    fn ask(
        &mut self,
        body: Request,
        what: &'static str,
        limit: Duration,
    ) -> Result<Reply, GuestError> {
        let limit = self.limit(limit);
        let deadline = Instant::now() + limit + GRACE;
        self.next += 1;
        let id = self.next;
        match frame::write(&mut self.to, &Envelope { id, body }) {
            // The incoming messages have the reason.
            Err(FrameError::Io(_)) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.incoming.recv_timeout(left) {
                Ok(Incoming::Reply(reply)) if reply.id == id => {
                    return match reply.body {
                        Reply::Failed { message } => Err(GuestError::Failed(message)),
                        reply => Ok(reply),
                    };
                }
                // The answer to an earlier request that timed out.
                Ok(Incoming::Reply(_)) => {}
                Ok(Incoming::Alert(alert)) => {
                    self.alerts.push(alert);
                    self.collect_alerts();
                    return Err(GuestError::Alert(std::mem::take(&mut self.alerts)));
                }
                Ok(Incoming::Closed) | Err(RecvTimeoutError::Disconnected) => {
                    self.collect_alerts();
                    if !self.alerts.is_empty() {
                        return Err(GuestError::Alert(std::mem::take(&mut self.alerts)));
                    }
                    return Err(GuestError::Ended(self.machine.wait(GRACE)?));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let states = self.machine.task_states(GRACE)?;
                    return Err(GuestError::Silent {
                        what,
                        limit,
                        states: Box::new(states),
                    });
                }
            }
        }
    }

    /// Collects the reports that follow a report at once: a panic often follows an oops.
    fn collect_alerts(&mut self) {
        let deadline = Instant::now() + ALERT_SETTLE;
        while let Ok(incoming) = self
            .incoming
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if let Incoming::Alert(alert) = incoming {
                self.alerts.push(alert);
            }
        }
    }

    /// Takes the kernel reports that arrived outside of a request.
    pub fn check_alerts(&mut self) -> Result<(), GuestError> {
        while let Ok(incoming) = self.incoming.try_recv() {
            if let Incoming::Alert(alert) = incoming {
                self.alerts.push(alert);
            }
        }
        if self.alerts.is_empty() {
            Ok(())
        } else {
            Err(GuestError::Alert(std::mem::take(&mut self.alerts)))
        }
    }
}
