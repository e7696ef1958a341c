// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Our end of the control socket of a machine's process: requests and their replies in order, and
//! unsolicited messages from the process.

use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::child::share;
use crate::{Error, Result};

/// Timeout for a reply. Only the host can be slow to reply, not the guest, so this is generous.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);

/// Maximum length in bytes of a line from a machine's process: registers of all vCPUs and the like.
/// It bounds the memory that a process compromised by its guest can make this process allocate.
pub(crate) const LONGEST: u64 = 1 << 20;

/// Maximum number of unread replies. A process sends one for each request, so more come from one
/// that is compromised.
const UNREAD: usize = 16;

/// A control connection. `A` is the type of a reply; `N` accumulates the content of unsolicited
/// messages.
pub(crate) struct ControlSocket<A, N> {
    stream: UnixStream,
    answers: Mutex<Receiver<A>>,
    notes: Arc<Notes<N>>,
}

/// The right to send a request and to receive its reply. Threads that share a connection wait for
/// each other.
pub(crate) struct Exchange<'a, A> {
    stream: &'a UnixStream,
    answers: MutexGuard<'a, Receiver<A>>,
}

impl<A> Exchange<'_, A> {
    /// Returns the stream to which requests are written.
    pub fn stream(&self) -> &UnixStream {
        self.stream
    }

    /// Returns the reply to `command`, which must be the last request that was sent.
    pub fn answer(&self, command: &str) -> Result<A> {
        self.answers
            .recv_timeout(ANSWER)
            .map_err(|error| match error {
                RecvTimeoutError::Disconnected => gone(command),
                RecvTimeoutError::Timeout => Error::Silent {
                    command: command.into(),
                    after: ANSWER,
                },
            })
    }
}

/// The queue into which the reader of a connection puts the replies.
pub(crate) struct Answers<A>(SyncSender<A>);

impl<A> Answers<A> {
    /// Returns a queue for replies, and its other end.
    pub fn new() -> (Self, Receiver<A>) {
        let (sender, answers) = mpsc::sync_channel(UNREAD);
        (Self(sender), answers)
    }

    /// Adds a reply. Returns false when the connection must be closed: its other end is gone, or
    /// sends unsolicited replies.
    #[must_use]
    pub fn add(&self, answer: A) -> bool {
        self.0.try_send(answer).is_ok()
    }
}

/// State accumulated from unsolicited messages.
#[derive(Default)]
pub(crate) struct Notes<N> {
    state: Mutex<State<N>>,
    changed: Condvar,
}

#[derive(Default)]
struct State<N> {
    noted: N,
    closed: bool,
}

impl<N> Notes<N> {
    /// Updates the state with `note`, and wakes all waiters.
    pub fn note(&self, note: impl FnOnce(&mut N)) {
        note(&mut self.lock().noted);
        self.changed.notify_all();
    }

    /// Returns the current state.
    pub fn noted(&self) -> N
    where
        N: Clone,
    {
        self.lock().noted.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State<N>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: Send + 'static, N: Clone + Default + Send + 'static> ControlSocket<A, N> {
    /// Starts a thread that runs `read` on the incoming bytes until they end or cannot be parsed.
    pub fn open(
        stream: UnixStream,
        read: impl FnOnce(BufReader<UnixStream>, &Answers<A>, &Notes<N>) + Send + 'static,
    ) -> Result<Self> {
        let input = BufReader::new(share(&stream)?);
        let notes = Arc::new(Notes::default());
        let (sender, answers) = Answers::new();
        thread::Builder::new()
            .name("control".into())
            .spawn({
                let notes = Arc::clone(&notes);
                move || {
                    read(input, &sender, &notes);
                    notes.lock().closed = true;
                    notes.changed.notify_all();
                }
            })
            .map_err(|source| Error::Io {
                what: "start the control socket's thread",
                source,
            })?;
        Ok(Self {
            stream,
            answers: Mutex::new(answers),
            notes,
        })
    }

    /// Begins an exchange once the exchange of another thread is over.
    pub fn exchange(&self) -> Exchange<'_, A> {
        Exchange {
            stream: &self.stream,
            answers: self.answers.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Returns the current state.
    pub fn noted(&self) -> N {
        self.notes.noted()
    }

    /// Waits until the state satisfies `wanted`, as `command` requires, and returns it.
    pub fn wait_noted(&self, command: &str, wanted: impl Fn(&N) -> bool) -> Result<N> {
        let state = self.wait(ANSWER, |state| state.closed || wanted(&state.noted));
        if wanted(&state.noted) {
            return Ok(state.noted.clone());
        }
        Err(match state.closed {
            true => gone(command),
            false => Error::Silent {
                command: command.into(),
                after: ANSWER,
            },
        })
    }

    /// Waits, without a limit, until the state satisfies `wanted`, and returns it. Returns `None`
    /// if the process closes the connection first.
    pub fn wait_ended(&self, wanted: impl Fn(&N) -> bool) -> Option<N> {
        let goes_on = |state: &mut State<N>| !state.closed && !wanted(&state.noted);
        let state = self
            .notes
            .changed
            .wait_while(self.notes.lock(), goes_on)
            .unwrap_or_else(PoisonError::into_inner);
        wanted(&state.noted).then(|| state.noted.clone())
    }

    /// Waits until the process closes the connection, which it does when it exits. Returns false
    /// when it did not within `timeout`.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        self.wait(timeout, |state| state.closed).closed
    }

    fn wait(
        &self,
        timeout: Duration,
        done: impl Fn(&State<N>) -> bool,
    ) -> MutexGuard<'_, State<N>> {
        self.notes
            .changed
            .wait_timeout_while(self.notes.lock(), timeout, |state| !done(state))
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

/// Returns the error for a process that closed its end before it completed `command`.
pub(crate) fn gone(command: &str) -> Error {
    Error::Gone {
        command: command.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Write};

    use super::*;

    /// Lines with a number are replies; the last other line is the state.
    fn open(stream: UnixStream) -> ControlSocket<u32, String> {
        ControlSocket::open(stream, |input, answers, notes| {
            for line in input.lines().map_while(Result::ok) {
                match line.parse() {
                    Ok(number) => {
                        if !answers.add(number) {
                            break;
                        }
                    }
                    Err(_) => notes.note(|noted| *noted = line),
                }
            }
        })
        .unwrap()
    }

    #[test]
    fn unwanted_answers_end_the_connection() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let control = open(ours);
        theirs.write_all(&b"1\n".repeat(UNREAD + 1)).unwrap();
        assert!(control.wait_closed(ANSWER));
    }

    #[test]
    fn answers_and_notes_arrive_before_the_end_does() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let control = open(ours);
        assert!(!control.wait_closed(Duration::ZERO));
        theirs.write_all(b"1\nbusy\n2\nready\n").unwrap();
        assert_eq!(
            control.wait_noted("x", |it| it == "ready").unwrap(),
            "ready"
        );
        assert_eq!(control.exchange().answer("x").unwrap(), 1);
        assert_eq!(control.exchange().answer("x").unwrap(), 2);
        drop(theirs);
        assert!(control.wait_closed(ANSWER));
        assert!(matches!(
            control.exchange().answer("x"),
            Err(Error::Gone { .. })
        ));
        let never = control.wait_noted("x", |it| it == "never");
        assert!(matches!(never, Err(Error::Gone { .. })));
        // The state outlasts the connection.
        assert_eq!(
            control.wait_noted("x", |it| it == "ready").unwrap(),
            "ready"
        );
        assert_eq!(control.noted(), "ready");
    }
}
