//! A monitor's control socket, from its parent's side.

use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::wire::{self, Config, Ended, Message, Reply, Request};
use crate::console::Console;
use crate::states::Probe;
use crate::{Error, Phase, Result};

/// How long a monitor may take to answer. It is the host that is slow then, so this is
/// generous.
pub(super) const ANSWER: Duration = Duration::from_secs(60);

/// A connection to a monitor.
pub(super) struct Control {
    stream: UnixStream,
    answers: Receiver<Answer>,
    shared: Arc<Shared>,
    phases: Vec<Phase>,
}

enum Answer {
    Started(Vec<Phase>),
    Reply(Reply),
}

#[derive(Default)]
struct Shared {
    end: Mutex<End>,
    changed: Condvar,
}

#[derive(Default)]
struct End {
    ended: Option<Ended>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control {
    /// Has the monitor at the other end start a guest. Returns when its first vCPU runs.
    pub fn start(stream: UnixStream, config: &Config) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (sender, answers) = mpsc::channel();
        let input = stream.try_clone().map_err(|source| Error::Io {
            what: "share the control socket",
            source,
        })?;
        thread::Builder::new()
            .name("monitor".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || read(input, &sender, &shared)
            })
            .map_err(|source| Error::Io {
                what: "start the control socket's thread",
                source,
            })?;
        let mut control = Self {
            stream,
            answers,
            shared,
            phases: Vec::new(),
        };
        control.send("start", config)?;
        match (control.answer("start"), control.ended()) {
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
        match self.answer(what)? {
            Answer::Reply(Reply::Failed(words)) => Err(Error::Refused {
                command: what.into(),
                words,
            }),
            Answer::Reply(reply) => Ok(reply),
            Answer::Started(_) => Ok(Reply::Done),
        }
    }

    fn send(&self, what: &str, value: &impl serde::Serialize) -> Result<()> {
        wire::send(&self.stream, value).map_err(|_| Error::Gone {
            command: what.into(),
        })
    }

    fn answer(&self, what: &str) -> Result<Answer> {
        self.answers
            .recv_timeout(ANSWER)
            .map_err(|error| match error {
                RecvTimeoutError::Disconnected => Error::Gone {
                    command: what.into(),
                },
                RecvTimeoutError::Timeout => Error::Silent {
                    command: what.into(),
                    after: ANSWER,
                },
            })
    }

    /// Why the guest ended, where the monitor has said so.
    pub fn ended(&self) -> Option<Ended> {
        self.shared.lock().ended.clone()
    }

    /// Waits until the monitor closes the connection, which it does as it ends. False if
    /// it did not within `timeout`.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut end = self.shared.lock();
        while !end.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            end = self
                .shared
                .changed
                .wait_timeout(end, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

impl Probe for &Control {
    fn registers(&mut self) -> Result<Vec<String>> {
        match self.ask("registers", &Request::Registers)? {
            Reply::Registers(lines) => Ok(lines),
            _ => Ok(Vec::new()),
        }
    }

    fn press(&mut self, _: &Console, key: u8) -> Result<()> {
        self.ask("sysrq", &Request::SysRq(key)).map(|_| ())
    }
}

fn read(input: UnixStream, answers: &Sender<Answer>, shared: &Shared) {
    let mut input = BufReader::new(input);
    // What is not understood comes from a monitor that is out of its mind, which is as
    // good as gone.
    while let Ok(Some(message)) = wire::receive(&mut input) {
        let answer = match message {
            Message::Started(phases) => Answer::Started(phases),
            Message::Reply(reply) => Answer::Reply(reply),
            Message::Ended(ended) => {
                shared.lock().ended = Some(ended);
                continue;
            }
        };
        if answers.send(answer).is_err() {
            break;
        }
    }
    shared.lock().closed = true;
    shared.changed.notify_all();
}
