// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A client of gdb's remote protocol, as far as the tests need it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crucible_vmm::DebuggerAddress;

/// Offsets of the program counter and RBX in the reply to `g`.
const RIP: usize = 16 * 8;
const RBX: usize = 8;

/// Returns a packet with its frame and its sum.
fn framed(packet: &str) -> String {
    let sum = packet.bytes().fold(0u8, u8::wrapping_add);
    format!("${packet}#{sum:02x}")
}

/// A connection of a debugger.
pub struct Gdb {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl Gdb {
    /// Connects to a machine that listens at `address`. While an earlier connection is not closed at
    /// the machine's end, another one is refused.
    pub fn connect(address: &DebuggerAddress, patience: Duration) -> Self {
        let deadline = Instant::now() + patience;
        let mut gdb = loop {
            if let Some(gdb) = Self::greet(address, patience) {
                break gdb;
            }
            assert!(Instant::now() < deadline, "each connection is refused");
        };
        let features = gdb.receive().expect("an answer");
        assert!(features.contains("swbreak+"), "{features}");
        gdb
    }

    /// Connects and asks for the features; returns `None` if the machine closes the connection.
    fn greet(address: &DebuggerAddress, patience: Duration) -> Option<Self> {
        let mut stream: UnixStream = match address {
            DebuggerAddress::Socket(path) => UnixStream::connect(path).unwrap(),
            DebuggerAddress::Port(port) => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).unwrap();
                // The operations used here are the same for both kinds of sockets.
                OwnedFd::from(stream).into()
            }
        };
        stream.set_read_timeout(Some(patience)).unwrap();
        let packet = framed("qSupported:swbreak+;hwbreak+;vContSupported+");
        stream.write_all(packet.as_bytes()).ok()?;
        let mut first = [0];
        stream.read_exact(&mut first).ok()?;
        Some(Self {
            stream,
            unread: first.to_vec(),
        })
    }

    /// Sends a packet.
    pub fn send(&mut self, packet: &str) {
        self.stream.write_all(framed(packet).as_bytes()).unwrap();
    }

    /// Sends the byte that interrupts the guest.
    pub fn interrupt(&mut self) {
        self.stream.write_all(&[3]).unwrap();
    }

    /// Returns the next packet, or `None` at the end of the connection.
    pub fn receive(&mut self) -> Option<String> {
        loop {
            let start = self.unread.iter().position(|&byte| byte == b'$');
            let end = self.unread.iter().position(|&byte| byte == b'#');
            if let (Some(start), Some(end)) = (start, end)
                && self.unread.len() >= end + 3
            {
                let packet = String::from_utf8(self.unread[start + 1..end].to_vec()).unwrap();
                self.unread.drain(..end + 3);
                // The other end may have closed the connection after its last packet.
                let _ = self.stream.write_all(b"+");
                return Some(expand(&packet));
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.unread.extend(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    /// Sends a packet and returns the reply.
    pub fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive().expect("an answer")
    }

    /// Sends a request and checks that it succeeded.
    pub fn done(&mut self, packet: &str) {
        assert_eq!(self.ask(packet), "OK", "{packet}");
    }

    /// Sets (`Z0`, `Z1`, `Z2`) or removes (`z0`, …) a breakpoint.
    pub fn point(&mut self, kind: &str, address: u64, length: u64) {
        self.done(&format!("{kind},{address:x},{length}"));
    }

    /// Returns bytes of memory.
    pub fn memory(&mut self, address: u64, length: usize) -> Vec<u8> {
        let answer = self.ask(&format!("m{address:x},{length:x}"));
        bytes(&answer)
    }

    /// Returns the program counter and EBX of the first vCPU.
    pub fn state(&mut self) -> (u64, u32) {
        self.done("Hg1");
        let registers = bytes(&self.ask("g"));
        let at = |offset: usize| {
            let bytes = registers[offset..offset + 8].try_into().unwrap();
            u64::from_le_bytes(bytes)
        };
        (at(RIP), at(RBX) as u32)
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .unwrap_or_else(|| panic!("not hexadecimal: {hex}"))
        })
        .collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

/// Expands the run-length encoding: `0*"` is `0000`.
fn expand(packet: &str) -> String {
    let mut expanded = String::new();
    let mut chars = packet.chars();
    while let Some(next) = chars.next() {
        match (next, expanded.chars().last()) {
            ('*', Some(last)) => {
                let more = chars.next().unwrap() as usize - 29;
                expanded.extend(std::iter::repeat_n(last, more));
            }
            _ => expanded.push(next),
        }
    }
    expanded
}
