// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The messages on a serial line, which has a buffer of 16 bytes and loses bytes that do not fit,
//! and those that arrive before the guest has opened it.
//!
//! The guest begins. It sends [`ASKS`], and the host answers with one byte, a number of at most
//! [`MOST`], and that many bytes of its messages. Or it sends [`TELLS`], a length as a
//! little-endian `u32`, and that many bytes of its own messages.

/// The kernel parameter that names the line, such as `crucible.channel=ttyS1`.
pub const PARAMETER: &str = "crucible.channel=";

/// The guest is ready to receive [`MOST`] bytes.
pub const ASKS: u8 = 0x05;

/// The guest sends bytes.
pub const TELLS: u8 = 0x02;

/// Maximum number of bytes that the host sends in one piece, without the head.
pub const MOST: usize = 15;

/// Returns the name of the line in the kernel's parameters.
pub fn name(parameters: &str) -> Option<&str> {
    parameters
        .split_whitespace()
        .find_map(|word| word.strip_prefix(PARAMETER))
}

/// The host's state of decoding the received bytes.
#[derive(Debug, Default)]
pub struct Receiver {
    /// Received bytes of the length, if the guest sends.
    length: Option<Vec<u8>>,
    /// Number of bytes of the guest's messages that follow.
    follow: usize,
}

/// A decoded piece of the guest's bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// It is ready to receive.
    Asks,
    /// Bytes of its messages.
    Bytes(&'a [u8]),
    /// Neither: the line does not speak this protocol.
    Garbage(u8),
}

impl Receiver {
    /// Takes received bytes from the front of `bytes`, until they form a piece. Returns `None`
    /// when all bytes have been read.
    pub fn take<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Received<'a>> {
        loop {
            if self.follow > 0 && !bytes.is_empty() {
                let (taken, rest) = bytes.split_at(self.follow.min(bytes.len()));
                self.follow -= taken.len();
                *bytes = rest;
                return Some(Received::Bytes(taken));
            }
            let (&first, rest) = bytes.split_first()?;
            *bytes = rest;
            match (&mut self.length, first) {
                (Some(length), byte) => {
                    length.push(byte);
                    if let Ok(length) = <[u8; 4]>::try_from(length.as_slice()) {
                        self.follow = u32::from_le_bytes(length) as usize;
                        self.length = None;
                    }
                }
                (None, ASKS) => return Some(Received::Asks),
                (None, TELLS) => self.length = Some(Vec::new()),
                (None, other) => return Some(Received::Garbage(other)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(receiver: &mut Receiver, mut bytes: &[u8]) -> Vec<u8> {
        let mut got = Vec::new();
        while let Some(received) = receiver.take(&mut bytes) {
            match received {
                Received::Asks => got.push(b'?'),
                Received::Bytes(bytes) => got.extend(bytes),
                Received::Garbage(_) => got.push(b'!'),
            }
        }
        got
    }

    #[test]
    fn messages_are_found_wherever_the_stream_is_cut() {
        let stream = [&[ASKS, TELLS, 3, 0, 0, 0][..], b"abc", &[ASKS, 7]].concat();
        for cut in 0..=stream.len() {
            let mut receiver = Receiver::default();
            let mut got = all(&mut receiver, &stream[..cut]);
            got.extend(all(&mut receiver, &stream[cut..]));
            assert_eq!(got, b"?abc?!", "cut at {cut}");
        }
    }

    #[test]
    fn a_machine_without_a_parameter_has_a_port() {
        assert_eq!(name("console=ttyS0 crucible.channel=ttyS1"), Some("ttyS1"));
        assert_eq!(name("console=ttyS0 reboot=t"), None);
    }
}
