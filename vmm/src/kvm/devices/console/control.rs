// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages on the control queues (virtio 1.2, section 5.3.6.2).

use serde::{Deserialize, Serialize};

use super::{NAMES, PORTS};

/// The kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Event {
    /// The driver is initialised.
    DeviceReady,
    /// The device has a port with this ID.
    DeviceAdd,
    /// The driver has set up the port.
    PortReady,
    /// The sender's side of the port is open or closed.
    PortOpen,
    /// The port's name follows the message.
    PortName,
}

impl Event {
    fn number(self) -> u16 {
        match self {
            Self::DeviceReady => 0,
            Self::DeviceAdd => 1,
            Self::PortReady => 3,
            Self::PortOpen => 6,
            Self::PortName => 7,
        }
    }
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    pub port: u32,
    pub event: Event,
    pub value: u16,
}

impl Message {
    /// Size in bytes of a message without a name.
    pub const HEADER: usize = 8;

    pub fn new(port: usize, event: Event, value: u16) -> Self {
        let port = port as u32;
        Self { port, event, value }
    }

    /// Parses a message of the driver. Returns `None` if a driver does not send this kind.
    pub fn parse(bytes: &[u8; Self::HEADER]) -> Option<Self> {
        let [p0, p1, p2, p3, e0, e1, v0, v1] = *bytes;
        let number = u16::from_le_bytes([e0, e1]);
        let event = [Event::DeviceReady, Event::PortReady, Event::PortOpen]
            .into_iter()
            .find(|event| event.number() == number)?;
        Some(Self {
            port: u32::from_le_bytes([p0, p1, p2, p3]),
            event,
            value: u16::from_le_bytes([v0, v1]),
        })
    }

    /// Returns the message's bytes for the driver. A name ends with a zero, as QEMU's do.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.port.to_le_bytes().to_vec();
        bytes.extend(self.event.number().to_le_bytes());
        bytes.extend(self.value.to_le_bytes());
        if self.event == Event::PortName
            && let Some(name) = NAMES.get(self.port as usize)
        {
            bytes.extend(name.bytes());
            bytes.push(0);
        }
        bytes
    }

    /// Returns true when it is a valid message to the driver.
    pub fn is_ours(&self) -> bool {
        let event = matches!(
            self.event,
            Event::DeviceAdd | Event::PortName | Event::PortOpen
        );
        event && (self.port as usize) < PORTS && self.value <= 1
    }
}
