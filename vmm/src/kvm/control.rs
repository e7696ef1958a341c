// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The parent's end of a monitor's control socket.

use std::io::{BufReader, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::wire::{self, Config, Ended, Message, Reply, Request};
use crate::control::{Answers, ControlSocket, Exchange, LONGEST, Notes, gone};
use crate::{Error, HostFault, Phase, Result};

/// A connection to a monitor.
pub(super) struct Control {
    socket: ControlSocket<Answer, Noted>,
    phases: Vec<Phase>,
}

/// The unsolicited reports of a monitor.
#[derive(Debug, Clone, Default)]
struct Noted {
    ended: Option<Ended>,
    /// The first of the faults.
    fault: Option<HostFault>,
}

enum Answer {
    Started(Vec<Phase>),
    Reply(Reply),
}

impl Control {
    /// Makes the monitor at the other end start a guest. Returns when the first vCPU runs.
    pub fn start(stream: UnixStream, config: &Config) -> Result<Self> {
        let mut control = Self {
            socket: ControlSocket::open(stream, read)?,
            phases: Vec::new(),
        };
        let started = {
            let exchange = control.socket.exchange();
            send(&exchange, "start", config)?;
            exchange.answer("start")
        };
        match (started, control.ended()) {
            (Ok(Answer::Started(phases)), _) => control.phases = phases,
            (Ok(Answer::Reply(_)), _) => {}
            (Err(_), Some(Ended::Monitor { detail })) => {
                return Err(Error::Refused {
                    command: "start".into(),
                    reason: detail,
                });
            }
            (Err(error), _) => return Err(error),
        }
        Ok(control)
    }

    /// Returns the phases of the monitor's start.
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// Sends a request and waits for its reply.
    pub fn ask(&self, what: &str, request: &Request) -> Result<Reply> {
        self.ask_and(what, request, || Ok(()))
            .map(|(reply, ())| reply)
    }

    /// Sends a request like [`ask`](Self::ask), and calls `meanwhile` before it waits for the
    /// reply.
    pub fn ask_and<T>(
        &self,
        what: &str,
        request: &Request,
        meanwhile: impl FnOnce() -> Result<T>,
    ) -> Result<(Reply, T)> {
        tracing::debug!(target: "monitor", "> {what}");
        let exchange = self.socket.exchange();
        send(&exchange, what, request)?;
        let done = meanwhile();
        // Always read the reply, so that it is not taken for the reply to a later request.
        let reply = reply(&exchange, what);
        // An error of `meanwhile` is more specific than the monitor's, so report it first.
        let done = done?;
        Ok((reply?, done))
    }

    /// Returns the reason why the guest ended, or `None` if the monitor has not reported an
    /// end.
    pub fn ended(&self) -> Option<Ended> {
        self.socket.noted().ended
    }

    /// Waits until the guest has ended. Returns `None` if the monitor has exited first.
    pub fn wait_ended(&self) -> Option<Ended> {
        self.socket.wait_ended(|noted| noted.ended.is_some())?.ended
    }

    /// Returns the first failure of the host's disk that the monitor has reported.
    pub fn host_fault(&self) -> Option<HostFault> {
        self.socket.noted().fault
    }

    /// Waits until the monitor closes the connection. Returns false when it did not within
    /// `timeout`.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        self.socket.wait_closed(timeout)
    }
}

fn send(exchange: &Exchange<'_, Answer>, what: &str, value: &impl serde::Serialize) -> Result<()> {
    wire::send(exchange.stream(), value).map_err(|_| gone(what))
}

fn reply(exchange: &Exchange<'_, Answer>, what: &str) -> Result<Reply> {
    match exchange.answer(what)? {
        Answer::Reply(Reply::Failed(reason)) => Err(Error::Refused {
            command: what.into(),
            reason,
        }),
        Answer::Reply(reply) => Ok(reply),
        Answer::Started(_) => Ok(Reply::Done),
    }
}

fn read(mut input: BufReader<UnixStream>, answers: &Answers<Answer>, notes: &Notes<Noted>) {
    // A message that cannot be parsed comes from a broken or compromised monitor: treat it like a
    // monitor that has exited.
    while let Ok(Some(message)) = wire::receive(&mut (&mut input).take(LONGEST)) {
        tracing::debug!(target: "monitor", "< {message:?}");
        let answer = match message {
            Message::Started(phases) => Answer::Started(phases),
            Message::Reply(reply) => Answer::Reply(reply),
            Message::Ended(ended) => {
                notes.note(|noted| noted.ended = Some(ended));
                continue;
            }
            Message::HostFault(fault) => {
                notes.note(|noted| {
                    noted.fault.get_or_insert(fault);
                });
                continue;
            }
        };
        if !answers.add(answer) {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread;

    use super::*;
    use crate::control::ANSWER;

    #[test]
    fn an_endless_line_closes_the_connection() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = ControlSocket::open(ours, read).unwrap();
        let talks = thread::spawn(move || while theirs.write_all(&[b'['; 4096]).is_ok() {});
        assert!(socket.wait_closed(ANSWER));
        // The writer ends only when our end is closed.
        drop(socket);
        talks.join().unwrap();
    }
}
