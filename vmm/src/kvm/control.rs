// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A monitor's control socket, from its parent's side.

use std::io::{BufReader, Read};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::wire::{self, Config, Ended, Message, Reply, Request};
use crate::control::{ControlSocket, Notes, gone};
use crate::{Error, Phase, Result};

/// A connection to a monitor.
pub(super) struct Control {
    socket: ControlSocket<Answer, Option<Ended>>,
    phases: Vec<Phase>,
}

/// The longest line that a monitor has to say: registers of all vCPUs, and the like. One
/// that was taken over by its guest must not make us take more memory than that.
const LONGEST: u64 = 1 << 20;

enum Answer {
    Started(Vec<Phase>),
    Reply(Reply),
}

impl Control {
    /// Has the monitor at the other end start a guest. Returns when its first vCPU runs.
    pub fn start(stream: UnixStream, config: &Config) -> Result<Self> {
        let mut control = Self {
            socket: ControlSocket::open(stream, read)?,
            phases: Vec::new(),
        };
        control.send("start", config)?;
        match (control.socket.answer("start"), control.ended()) {
            (Ok(Answer::Started(phases)), _) => control.phases = phases,
            (Ok(Answer::Reply(_)), _) => {}
            (Err(_), Some(Ended::Monitor { detail })) => {
                return Err(Error::Refused {
                    command: "start".into(),
                    words: detail,
                });
            }
            (Err(error), _) => return Err(error),
        }
        Ok(control)
    }

    /// What the monitor did before the guest ran.
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// Has the monitor do something, and waits until it has.
    pub fn ask(&self, what: &str, request: &Request) -> Result<Reply> {
        self.ask_and(what, request, || Ok(()))
            .map(|(reply, ())| reply)
    }

    /// The same; `meanwhile` is done before its answer is waited for.
    pub fn ask_and<T>(
        &self,
        what: &str,
        request: &Request,
        meanwhile: impl FnOnce() -> Result<T>,
    ) -> Result<(Reply, T)> {
        self.send(what, request)?;
        let done = meanwhile();
        // Its answer comes in any case, and must not be taken for that to another question.
        let reply = self.reply(what);
        // What went wrong meanwhile says more.
        let done = done?;
        Ok((reply?, done))
    }

    fn reply(&self, what: &str) -> Result<Reply> {
        match self.socket.answer(what)? {
            Answer::Reply(Reply::Failed(words)) => Err(Error::Refused {
                command: what.into(),
                words,
            }),
            Answer::Reply(reply) => Ok(reply),
            Answer::Started(_) => Ok(Reply::Done),
        }
    }

    fn send(&self, what: &str, value: &impl serde::Serialize) -> Result<()> {
        wire::send(self.socket.stream(), value).map_err(|_| gone(what))
    }

    /// Why the guest ended, where the monitor has said so.
    pub fn ended(&self) -> Option<Ended> {
        self.socket.noted()
    }

    /// Waits until the monitor closes the connection. False if it did not within `timeout`.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        self.socket.wait_closed(timeout)
    }
}

fn read(mut input: BufReader<UnixStream>, answers: &Sender<Answer>, notes: &Notes<Option<Ended>>) {
    // What is not understood comes from a monitor that is out of its mind, which is as
    // good as gone.
    while let Ok(Some(message)) = wire::receive(&mut (&mut input).take(LONGEST)) {
        let answer = match message {
            Message::Started(phases) => Answer::Started(phases),
            Message::Reply(reply) => Answer::Reply(reply),
            Message::Ended(ended) => {
                notes.note(|noted| *noted = Some(ended));
                continue;
            }
        };
        if answers.send(answer).is_err() {
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
    fn a_line_without_an_end_is_given_up() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = ControlSocket::open(ours, read).unwrap();
        let talks = thread::spawn(move || while theirs.write_all(&[b'['; 4096]).is_ok() {});
        assert!(socket.wait_closed(ANSWER));
        // Only with us it ends.
        drop(socket);
        talks.join().unwrap();
    }
}
