// SPDX-License-Identifier: Apache-2.0 OR MIT
//! virtio-console with two ports (virtio 1.2, section 5.3): the channel to the
//! agent and the terminal. Neither is a console for the guest's kernel.
//!
//! A port's bytes go straight between its socket and the guest's buffers, and
//! either side makes the other wait:
//! - To the guest: the socket is read only while the guest has the port open
//!   and has a buffer for what is read.
//! - To the host: while the socket takes no more, the guest's chain stays
//!   where it is, with a note of how much of it has been sent.
//!
//! So no byte is lost or overtaken, and there are no buffers of our own. Only
//! for a snapshot, what the host has sent and the guest has not yet got is
//! taken out of the socket, to be part of it.
//!
//! When the host's end is closed, the guest is told once it has read everything
//! (PORT_OPEN 0), and what it writes from then on goes nowhere.

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

/// The names of the ports, by their ids.
const NAMES: [&str; PORTS] = [CHANNEL_PORT, TERMINAL_PORT];
const PORTS: usize = 2;

/// Linux gives each queue that it receives on a page for each of its entries.
const QUEUE_SIZE: u16 = 32;

/// To and from port 0, control, to and from port 1 (5.3.2).
const QUEUES: usize = 2 * (PORTS + 1);
const CONTROL_RECEIVE: usize = 2;
const CONTROL_TRANSMIT: usize = 3;

/// Messages that wait for the guest to give buffers for them. When there are so
/// many, its own messages wait.
const PENDING_MAX: usize = 32;

/// The most messages that one of the guest's is answered with.
const REPLIES_MAX: usize = 2;

/// The two ports.
pub struct Console {
    ports: [Port; PORTS],
    /// Messages for the guest.
    pending: VecDeque<Message>,
    /// Whether the driver knows of more than the first port.
    multiport: bool,
}

/// A console's part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleState {
    pending: Vec<Message>,
    ports: Vec<PortState>,
}

impl Console {
    /// The ports' host ends, which become non-blocking.
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

    /// Moves what can be moved through a port.
    fn pump(&mut self, index: usize, rings: &mut Rings<'_>) -> Result<()> {
        let Some(port) = self.ports.get_mut(index) else {
            return Ok(());
        };
        // Without the control queues, the only port is always open.
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

    /// Hears what the driver has to say, and answers.
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

    /// Sends the messages that the driver has buffers for.
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

/// What follows from a message of the driver's, as in QEMU's virtio-serial-bus.
fn hear(message: Message, ports: &mut [Port], pending: &mut VecDeque<Message>) {
    let yes = message.value != 0;
    if message.event == Event::DeviceReady {
        // A driver that is not ready will not get any further.
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

/// Tells whether the host's end of a port is open. What is no longer true
/// need not be told, so these cannot pile up, however often that changes.
fn announce(pending: &mut VecDeque<Message>, port: usize, open: bool) {
    pending.retain(|old| (old.port as usize, old.event) != (port, Event::PortOpen));
    pending.push_back(Message::new(port, Event::PortOpen, open.into()));
}

/// The queues of a port: to the guest, and to the host.
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
        // Columns and rows, which are not offered, and max_nr_ports.
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
            return Err(Error::State("it is another device's"));
        };
        if state.ports.len() != PORTS || !state.ports.iter().all(PortState::is_valid) {
            return Err(Error::State("its ports are not this console's"));
        }
        // Each port's end may be announced, whatever else is pending.
        if state.pending.len() > PENDING_MAX + PORTS || !state.pending.iter().all(Message::is_ours)
        {
            return Err(Error::State("its messages are not a console's"));
        }
        self.pending = state.pending.iter().copied().collect();
        for (id, (port, state)) in self.ports.iter_mut().zip(&state.ports).enumerate() {
            port.restore(state);
            // The new host end is open, whatever became of the old one.
            if !state.host_open {
                announce(&mut self.pending, id, true);
            }
        }
        Ok(())
    }
}
