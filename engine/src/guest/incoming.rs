// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What comes from a guest, in one queue: answers, its kernel's alerts, the end.

use std::{
    io,
    os::unix::net::UnixStream,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use crucible_protocol::{Envelope, Reply, frame};
use crucible_vmm::Alert;

/// Something that came.
pub(super) enum Incoming {
    /// An answer.
    Reply(Envelope<Reply>),
    /// The kernel reports a fault.
    Alert(Alert),
    /// No answers will come any more.
    Closed,
}

/// The queue of what comes from here on.
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
        // Nobody may be left to hear it.
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
