// SPDX-License-Identifier: Apache-2.0 OR MIT
//! virtio-console with two ports (virtio 1.2, section 5.3): the channel to the agent and the
//! terminal. Neither is a console for the guest's kernel.
//!
//! The bytes of a port are transferred directly between its socket and the guest's buffers, with
//! flow control in both directions:
//! - To the guest: the socket is read only while the guest has the port open and has a buffer for
//!   the data.
//! - To the host: while the socket is full, the guest's chain stays in its queue, and the device
//!   records how much of it has been sent.
//!
//! So no byte is lost or reordered, and the device needs no buffers. Only a save reads data from
//! the socket that the host has sent and the guest has not yet received; it becomes part of the
//! snapshot.
//!
//! When the host's end is closed, the device notifies the guest after the guest has read everything
//! (PORT_OPEN 0), and discards everything that the guest writes from then on.

mod control;
mod port;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use super::queue::{self, Rings, Step};
use super::{DeviceState, Error, Events, Result, VirtioDevice};
use crate::{CHANNEL_PORT, TERMINAL_PORT};
use control::{Event, Message};
use port::{Port, PortState};

/// VIRTIO_CONSOLE_F_MULTIPORT: ports with names, and the control queues.
const MULTIPORT: u64 = 1 << 1;

/// The names of the ports, indexed by their IDs.
const NAMES: [&str; PORTS] = [CHANNEL_PORT, TERMINAL_PORT];
const PORTS: usize = 2;

/// Linux allocates a page for each entry of a receive queue, so this is small.
const QUEUE_SIZE: u16 = 32;

/// The queues to and from port 0, the control queues, the queues to and from port 1 (5.3.2).
const QUEUES: usize = 2 * (PORTS + 1);
const CONTROL_RECEIVE: usize = 2;
const CONTROL_TRANSMIT: usize = 3;

/// Maximum number of messages that wait for buffers of the guest. At this limit, the guest's own
/// messages are not processed.
const PENDING_MAX: usize = 32;

/// Maximum number of replies to one message of the guest.
const REPLIES_MAX: usize = 2;

/// The two ports.
pub struct Console {
    ports: [Port; PORTS],
    /// Messages that wait to be sent to the guest.
    pending: VecDeque<Message>,
    /// True when the driver supports more than the first port.
    multiport: bool,
}

/// A console's part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleState {
    pending: Vec<Message>,
    ports: Vec<PortState>,
}

impl Console {
    /// Returns a console with the ports' host ends, which become non-blocking.
    pub fn new(channel: UnixStream, terminal: UnixStream, events: &Events) -> Result<Self> {
        Ok(Self {
            ports: [
                Port::new(channel, events, 0)?,
                Port::new(terminal, events, 1)?,
            ],
            pending: VecDeque::new(),
            multiport: false,
        })
    }

    /// Transfers as much data as possible through a port, in both directions.
    fn pump(&mut self, index: usize, rings: &mut Rings<'_>) -> Result<()> {
        let Some(port) = self.ports.get_mut(index) else {
            return Ok(());
        };
        // Without the control queues, the first port is always open.
        let open = port.guest_open || !self.multiport && index == 0;
        let (receive, transmit) = queues_of(index);
        let was_open = port.host_open;
        port.receive(rings, receive, open)?;
        port.transmit(rings, transmit)?;
        port.arm();
        if was_open && !port.host_open && self.multiport {
            announce(&mut self.pending, index, false);
            self.send(rings)?;
        }
        Ok(())
    }

    /// Processes the driver's messages, and replies.
    fn converse(&mut self, rings: &mut Rings<'_>) -> Result<()> {
        self.send(rings)?;
        let Self { ports, pending, .. } = self;
        let mut opened = false;
        rings.drain(CONTROL_TRANSMIT, |memory, chain| {
            if pending.len() + REPLIES_MAX > PENDING_MAX {
                return Ok(Step::Keep);
            }
            let mut bytes = [0; Message::HEADER];
            queue::read(memory, chain.readable(), &mut bytes)?;
            if let Some(message) = Message::parse(&bytes) {
                opened |= message.event == Event::PortOpen;
                hear(message, ports, pending);
            }
            Ok(Step::Used(0))
        })?;
        self.send(rings)?;
        if opened {
            for port in 0..PORTS {
                self.pump(port, rings)?;
            }
        }
        Ok(())
    }

    /// Sends messages for as long as the driver has buffers.
    fn send(&mut self, rings: &mut Rings<'_>) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        rings.drain(CONTROL_RECEIVE, |memory, chain| {
            let Some(message) = self.pending.front() else {
                return Ok(Step::Keep);
            };
            let bytes = message.bytes();
            let written = queue::write(memory, chain.writable(), &bytes)?;
            if written < bytes.len() {
                return Err(Error::Protocol("a buffer is too short for a message"));
            }
            self.pending.pop_front();
            Ok(Step::Used(written as u32))
        })?;
        Ok(())
    }
}

/// Handles a message of the driver, as QEMU's virtio-serial-bus does.
fn hear(message: Message, ports: &mut [Port], pending: &mut VecDeque<Message>) {
    let yes = message.value != 0;
    if message.event == Event::DeviceReady {
        // A driver that is not ready sends no further messages.
        if yes {
            pending.extend((0..ports.len()).map(|id| Message::new(id, Event::DeviceAdd, 1)));
        }
        return;
    }
    let Some(port) = ports.get_mut(message.port as usize) else {
        return;
    };
    match message.event {
        Event::PortReady if yes => {
            let id = message.port as usize;
            pending.push_back(Message::new(id, Event::PortName, 1));
            if port.host_open {
                announce(pending, id, true);
            }
        }
        Event::PortOpen => port.guest_open = yes,
        _ => {}
    }
}

/// Queues a message that reports whether the host's end of a port is open. It replaces an outdated
/// message of the port, so such messages do not accumulate, however often the state changes.
fn announce(pending: &mut VecDeque<Message>, port: usize, open: bool) {
    pending.retain(|old| (old.port as usize, old.event) != (port, Event::PortOpen));
    pending.push_back(Message::new(port, Event::PortOpen, open.into()));
}

/// Returns the queues of a port: to the guest, and to the host.
fn queues_of(port: usize) -> (usize, usize) {
    let first = if port == 0 { 0 } else { 2 + 2 * port };
    (first, first + 1)
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    fn features(&self) -> u64 {
        MULTIPORT
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // Columns and rows, which are not offered, followed by max_nr_ports.
        let mut config = [0; 8];
        config[4..].copy_from_slice(&(PORTS as u32).to_le_bytes());
        super::read_config(&config, offset, data);
    }

    fn activate(&mut self, features: u64) {
        self.multiport = features & MULTIPORT != 0;
    }

    fn reset(&mut self) {
        self.multiport = false;
        self.pending.clear();
        for port in &mut self.ports {
            port.reset();
        }
    }

    fn notify(&mut self, queue: usize, rings: &mut Rings<'_>) -> Result<()> {
        match queue {
            CONTROL_RECEIVE | CONTROL_TRANSMIT => self.converse(rings),
            0 | 1 => self.pump(0, rings),
            _ => self.pump(queue / 2 - 1, rings),
        }
    }

    fn ready(&mut self, source: u64, rings: &mut Rings<'_>) -> Result<()> {
        let index = source as usize;
        if let Some(port) = self.ports.get_mut(index) {
            port.fired();
        }
        self.pump(index, rings)
    }

    fn save(&mut self) -> DeviceState {
        DeviceState::Console(ConsoleState {
            pending: self.pending.iter().copied().collect(),
            ports: self.ports.iter_mut().map(Port::save).collect(),
        })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<()> {
        let DeviceState::Console(state) = state else {
            return Err(Error::State("it belongs to a different device"));
        };
        if state.ports.len() != PORTS || !state.ports.iter().all(PortState::is_valid) {
            return Err(Error::State("its ports do not match this console"));
        }
        // In addition to other pending messages, there may be one announcement for each port.
        if state.pending.len() > PENDING_MAX + PORTS || !state.pending.iter().all(Message::is_ours)
        {
            return Err(Error::State("its messages are invalid"));
        }
        self.pending = state.pending.iter().copied().collect();
        for (id, (port, state)) in self.ports.iter_mut().zip(&state.ports).enumerate() {
            port.restore(state);
            // The new host end is open, even if the saved one was closed.
            if !state.host_open {
                announce(&mut self.pending, id, true);
            }
        }
        Ok(())
    }
}
