// SPDX-License-Identifier: Apache-2.0 OR MIT
//! As much of gdb's remote protocol as a test needs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crucible_vmm::DebuggerAddress;

/// Where the program counter and EBX are among the registers of `g`.
const RIP: usize = 16 * 8;
const RBX: usize = 8;

/// A debugger.
pub struct Gdb {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl Gdb {
    /// Connects; a machine that was started listens.
    pub fn connect(address: &DebuggerAddress, patience: Duration) -> Self {
        let stream = match address {
            DebuggerAddress::Socket(path) => UnixStream::connect(path).unwrap(),
            DebuggerAddress::Port(port) => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).unwrap();
                // What is done with it is the same with both.
                OwnedFd::from(stream).into()
            }
        };
        stream.set_read_timeout(Some(patience)).unwrap();
        let mut gdb = Self {
            stream,
            unread: Vec::new(),
        };
        let features = gdb.ask("qSupported:swbreak+;hwbreak+;vContSupported+");
        assert!(features.contains("swbreak+"), "{features}");
        gdb
    }

    /// Sends a packet.
    pub fn send(&mut self, words: &str) {
        let sum = words.bytes().fold(0u8, u8::wrapping_add);
        write!(self.stream, "${words}#{sum:02x}").unwrap();
    }

    /// Sends a byte that interrupts the guest.
    pub fn interrupt(&mut self) {
        self.stream.write_all(&[3]).unwrap();
    }

    /// The next packet; `None` at the end of the connection.
    pub fn receive(&mut self) -> Option<String> {
        loop {
            let start = self.unread.iter().position(|&byte| byte == b'$');
            let end = self.unread.iter().position(|&byte| byte == b'#');
            if let (Some(start), Some(end)) = (start, end)
                && self.unread.len() >= end + 3
            {
                let words = String::from_utf8(self.unread[start + 1..end].to_vec()).unwrap();
                self.unread.drain(..end + 3);
                // Whoever has said the last word may be gone.
                let _ = self.stream.write_all(b"+");
                return Some(expand(&words));
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

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, words: &str) -> String {
        self.send(words);
        self.receive().expect("an answer")
    }

    /// Asks for something that is to be done.
    pub fn done(&mut self, words: &str) {
        assert_eq!(self.ask(words), "OK", "{words}");
    }

    /// Sets (`Z0`, `Z1`, `Z2`) or takes back (`z0`, …) a breakpoint.
    pub fn point(&mut self, kind: &str, address: u64, length: u64) {
        self.done(&format!("{kind},{address:x},{length}"));
    }

    /// Memory.
    pub fn memory(&mut self, address: u64, length: usize) -> Vec<u8> {
        let answer = self.ask(&format!("m{address:x},{length:x}"));
        bytes(&answer)
    }

    /// The program counter and EBX of the first vCPU.
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
                .unwrap_or_else(|| panic!("no bytes: {hex}"))
        })
        .collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

/// Undoes the run-length encoding: `0*"` is `0000`.
fn expand(words: &str) -> String {
    let mut expanded = String::new();
    let mut chars = words.chars();
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
