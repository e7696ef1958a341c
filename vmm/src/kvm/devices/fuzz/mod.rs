// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The entry points for the fuzz targets of `fuzz/`, and for this crate's tests with each
//! target's seeds. A panic or a long run time is a finding.

mod input;
mod script;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};

use super::block::Block;
use super::console::Console;
use super::harness::{Fixture, Line, MEMORY};
use super::mmio::TransportState;
use super::rng::Rng;
use super::serial::{Output, Serial, SerialState};
use input::Input;
pub use script::Writer;

/// A target: its name, and the function that runs an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 9] = [
    ("block", block),
    ("console", console),
    ("rng", rng),
    ("serial", serial),
    ("registers", registers),
    ("restore", restore),
    ("saved", saved),
    ("classify", classify),
    ("qmp", qmp),
];

/// The size of the fuzzed disk in bytes. It is small because an access beyond the end fails in the
/// same way on a disk of any size.
pub const DISK: u64 = 64 << 10;

/// Runs a driver's script ([`Writer`]) with a disk.
pub fn block(data: &[u8]) {
    let mut input = Input(data);
    let readonly = input.u8().is_some_and(|flags| flags & 1 != 0);
    script::run(&mut disk(readonly), input, |_| ());
}

/// Runs a driver's script with a console; the host's ends send, receive and close.
pub fn console(data: &[u8]) {
    let (mut fixture, ends) = ports();
    let mut ends = ends.map(Some);
    script::run(&mut fixture, Input(data), |input| {
        let Some(what) = input.u8() else { return };
        let end = &mut ends[usize::from(what >> 7)];
        match (what & 3, end.as_mut()) {
            // A full socket is not a finding.
            (0, Some(end)) => drop(end.write(input.bytes())),
            (1, Some(end)) => drop(end.read(&mut [0; 4096])),
            (2, _) => *end = None,
            _ => {}
        }
    });
}

/// Runs a driver's script with a random number generator.
pub fn rng(data: &[u8]) {
    let mut fixture = Fixture::new(|_| Box::new(Rng::new()));
    script::run(&mut fixture, Input(data), |_| ());
}

/// Performs accesses to a UART, and operations of the host on it.
pub fn serial(data: &[u8]) {
    let mut uart = uart();
    let mut input = Input(data);
    while let Some(step) = input.u8() {
        let port = step >> 3 & 7;
        match step & 7 {
            0 => uart.read(port, &mut [0]),
            1 => uart.read(port, &mut [0; 9]),
            2 => uart.write(port, &[input.u8().unwrap_or(0)]),
            3 => uart.write(port, input.bytes()),
            4 => drop(uart.send(input.bytes())),
            5 => drop(uart.send_break()),
            6 => uart.flush(),
            _ => {
                let state = uart.save();
                assert_eq!(state, again(&state));
                uart.restore(&state).expect("its own state");
                uart.resume();
            }
        }
    }
}

/// Performs arbitrary accesses to a transport's registers. The input selects the device, then a
/// width, offset and value for each access. The memory is filled with the same bytes, so that rings
/// can be anywhere.
pub fn registers(data: &[u8]) {
    let mut input = Input(data);
    // The host's ends of the console's ports stay open.
    let (mut fixture, _ends) = match input.u8().unwrap_or(0) % 4 {
        0 => (disk(false), None),
        1 => (disk(true), None),
        2 => (Fixture::new(|_| Box::new(Rng::new())), None),
        _ => {
            let (fixture, ends) = ports();
            (fixture, Some(ends))
        }
    };
    fill(&mut fixture, data);
    while let (Some(offset), Some(value)) = (input.u16(), input.u32()) {
        // Registers are at multiples of 4 below 0x120.
        let width = usize::from(offset >> 12 & 7);
        let offset = u64::from(offset & 0xfff);
        let mut bytes = u64::from(value).to_le_bytes();
        fixture.transport.write(offset, &bytes[..width]);
        fixture.transport.read(offset, &mut bytes[..width]);
        fixture.turn();
    }
}

/// Restores saved states, in JSON. After a state was accepted, the device must work, and its own
/// state must be valid.
pub fn restore(data: &[u8]) {
    if let Ok(state) = serde_json::from_slice::<SerialState>(data) {
        let mut uart = uart();
        if uart.restore(&state).is_ok() {
            uart.resume();
            uart.write(0, b"text\n");
            uart.read(0, &mut [0; 4]);
            let state = again(&uart.save());
            uart.restore(&state).expect("its own state");
        }
    }
    let Ok(state) = serde_json::from_slice::<TransportState>(data) else {
        return;
    };
    let (console, _ends) = ports();
    let rng = Fixture::new(|_| Box::new(Rng::new()));
    for mut fixture in [disk(false), disk(true), rng, console] {
        fill(&mut fixture, data);
        if fixture.transport.restore(&state).is_ok() {
            fixture.transport.resume();
            fixture.notify_all();
            let state = again(&fixture.transport.save());
            // Of the memory that the device has changed since, only the rings' addresses are
            // validated against its state, and these have not changed.
            fixture.transport.restore(&state).expect("its own state");
            fixture.transport.resume();
            fixture.notify_all();
            fixture.start();
            fixture.notify_all();
        }
    }
}

/// Parses a snapshot's file, and the stream of a monitor that saves a guest.
pub fn saved(data: &[u8]) {
    crate::kvm::saved::fuzz::play(data);
}

/// Reads a guest's console.
pub fn classify(data: &[u8]) {
    crate::console::fuzz(data);
}

/// Reads QEMU's bytes.
pub fn qmp(data: &[u8]) {
    crate::qemu::qmp::fuzz(data);
}

fn disk(readonly: bool) -> Fixture {
    let file = memfd_create("crucible-fuzz", MemfdFlags::CLOEXEC).expect("a file in memory");
    let file = File::from(file);
    file.set_len(DISK).expect("a file in memory");
    let disk = Block::new(file, readonly, "disk").expect("a disk");
    Fixture::new(|_| Box::new(disk))
}

/// Returns a console, and the host's ends of its ports.
fn ports() -> (Fixture, [UnixStream; 2]) {
    let pair = || {
        let (host, guest) = UnixStream::pair().expect("a pair of sockets");
        host.set_nonblocking(true).expect("a socket");
        (host, guest)
    };
    let ((first, channel), (second, terminal)) = (pair(), pair());
    let console = |events| {
        let console = Console::new(channel, terminal, &events).expect("a console");
        Box::new(console) as _
    };
    (Fixture::new(console), [first, second])
}

fn uart() -> Serial {
    Serial::new(Arc::new(Line::default()), Output::sink(std::io::sink()))
}

/// Fills the whole memory with `bytes`, repeatedly.
fn fill(fixture: &mut Fixture, bytes: &[u8]) {
    fixture.fill(&bytes.repeat(MEMORY / bytes.len().max(1)));
}

/// Returns a state after serialising and parsing it.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(state: &T) -> T {
    let bytes = serde_json::to_vec(state).expect("a state as JSON");
    serde_json::from_slice(&bytes).expect("a state from JSON")
}
