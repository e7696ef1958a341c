// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The queue of an agent's messages: its answers, and the end of the channel.

use std::{
    io,
    os::unix::net::UnixStream,
    sync::mpsc::{Receiver, channel},
    thread,
};

use crucible_protocol::{
    Envelope, Reply,
    frame::{self, FrameError},
};

/// A message from an agent.
pub(super) enum Incoming {
    /// An answer.
    Reply(Envelope<Reply>),
    /// The channel is closed.
    Closed,
    /// The channel carries something that is not a message.
    Broken(FrameError),
}

/// Starts the thread that fills the queue.
pub(super) fn listen(mut from: UnixStream) -> io::Result<Receiver<Incoming>> {
    let (to, incoming) = channel();
    let read = move || {
        let last = loop {
            match frame::read(&mut from) {
                Ok(reply) => {
                    if to.send(Incoming::Reply(reply)).is_err() {
                        return;
                    }
                }
                Err(FrameError::Closed | FrameError::Io(_)) => break Incoming::Closed,
                Err(error) => break Incoming::Broken(error),
            }
        };
        // The receiver may have been dropped.
        let _ = to.send(last);
    };
    thread::Builder::new().name("replies".into()).spawn(read)?;
    Ok(incoming)
}
