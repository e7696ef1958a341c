// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The queue of a guest's messages: answers, kernel reports, the end of the channel.

use std::{
    io,
    os::unix::net::UnixStream,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use crucible_protocol::{Envelope, Reply, frame};
use crucible_vmm::Alert;

/// A message from a guest.
pub(super) enum Incoming {
    /// An answer.
    Reply(Envelope<Reply>),
    /// The kernel reports a fault.
    Alert(Alert),
    /// The channel is closed.
    Closed,
}

/// Starts the threads that fill the queue.
pub(super) fn listen(
    channel_to_agent: UnixStream,
    alerts: Receiver<Alert>,
) -> io::Result<Receiver<Incoming>> {
    let (sender, incoming) = channel();
    read_replies(channel_to_agent, sender.clone())?;
    forward_alerts(alerts, sender)?;
    Ok(incoming)
}

fn read_replies(mut from: UnixStream, to: Sender<Incoming>) -> io::Result<()> {
    let read = move || {
        while let Ok(reply) = frame::read(&mut from) {
            if to.send(Incoming::Reply(reply)).is_err() {
                return;
            }
        }
        // The receiver may have been dropped.
        let _ = to.send(Incoming::Closed);
    };
    thread::Builder::new().name("replies".into()).spawn(read)?;
    Ok(())
}

fn forward_alerts(from: Receiver<Alert>, to: Sender<Incoming>) -> io::Result<()> {
    let forward = move || {
        for alert in from {
            if to.send(Incoming::Alert(alert)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("alerts".into())
        .spawn(forward)?;
    Ok(())
}
