// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the fuzz targets of `vmm/fuzz` call, and this crate's tests with each target's
//! seeds. Anything that panics here, or takes long, is a finding.

mod input;
mod script;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};

use super::block::Block;
use super::console::Console;
use super::harness::{Bench, Line, MEMORY};
use super::mmio::TransportState;
use super::rng::Rng;
use super::serial::{Output, Serial, SerialState};
use input::Input;
pub use script::Writer;

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 7] = [
    ("block", block),
    ("console", console),
    ("rng", rng),
    ("serial", serial),
    ("registers", registers),
    ("restore", restore),
    ("saved", saved),
];

/// The size of the fuzzed disk in bytes. Small: what fails beyond it, fails anywhere.
pub const DISK: u64 = 64 << 10;

/// A driver's doings ([`Writer`]) with a disk.
pub fn block(data: &[u8]) {
    let mut input = Input(data);
    let readonly = input.u8().is_some_and(|flags| flags & 1 != 0);
    script::run(&mut disk(readonly), input, |_| ());
}

/// The same with a console; the host's ends send, take and close.
pub fn console(data: &[u8]) {
    let (mut bench, ends) = ports();
    let mut ends = ends.map(Some);
    script::run(&mut bench, Input(data), |input| {
        let Some(what) = input.u8() else { return };
        let end = &mut ends[usize::from(what >> 7)];
        match (what & 3, end.as_mut()) {
            // A socket that takes no more is no finding.
            (0, Some(end)) => drop(end.write(input.bytes())),
            (1, Some(end)) => drop(end.read(&mut [0; 4096])),
            (2, _) => *end = None,
            _ => {}
        }
    });
}

/// The same with a source of random numbers.
pub fn rng(data: &[u8]) {
    let mut bench = Bench::new(|_| Box::new(Rng::new()));
    script::run(&mut bench, Input(data), |_| ());
}

/// Accesses to a UART, and what the host does to it.
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

/// Accesses to a transport's registers, whatever they are: which device, then a width and
/// offset and a value each. Its memory is full of the same bytes, so that rings can be anywhere.
pub fn registers(data: &[u8]) {
    let mut input = Input(data);
    // The console's host ends stay open.
    let (mut bench, _ends) = match input.u8().unwrap_or(0) % 4 {
        0 => (disk(false), None),
        1 => (disk(true), None),
        2 => (Bench::new(|_| Box::new(Rng::new())), None),
        _ => {
            let (bench, ends) = ports();
            (bench, Some(ends))
        }
    };
    fill(&mut bench, data);
    while let (Some(offset), Some(value)) = (input.u16(), input.u32()) {
        // Registers are multiples of 4, below 0x120 all of them.
        let width = usize::from(offset >> 12 & 7);
        let offset = u64::from(offset & 0xfff);
        let mut bytes = u64::from(value).to_le_bytes();
        bench.transport.write(offset, &bytes[..width]);
        bench.transport.read(offset, &mut bytes[..width]);
        bench.turn();
    }
}

/// Saved states, as JSON. One that is accepted must not be a trap: neither for the
/// device that goes on with it, nor for the one that is saved from that.
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
    let rng = Bench::new(|_| Box::new(Rng::new()));
    for mut bench in [disk(false), disk(true), rng, console] {
        fill(&mut bench, data);
        if bench.transport.restore(&state).is_ok() {
            bench.transport.resume();
            bench.notify_all();
            let state = again(&bench.transport.save());
            // What it does since is in memory, which its state is not checked against
            // but for its rings; and these have not moved.
            bench.transport.restore(&state).expect("its own state");
            bench.transport.resume();
            bench.notify_all();
            bench.start();
            bench.notify_all();
        }
    }
}

/// The file of a saved guest, and what a monitor says while it saves one.
pub fn saved(data: &[u8]) {
    crate::kvm::saved::fuzz::play(data);
}

fn disk(readonly: bool) -> Bench {
    let file = memfd_create("crucible-fuzz", MemfdFlags::CLOEXEC).expect("a file in memory");
    let file = File::from(file);
    file.set_len(DISK).expect("a file in memory");
    let disk = Block::new(file, readonly, "disk").expect("a disk");
    Bench::new(|_| Box::new(disk))
}

/// A console, and the host's ends of its ports.
fn ports() -> (Bench, [UnixStream; 2]) {
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
    (Bench::new(console), [first, second])
}

fn uart() -> Serial {
    Serial::new(Arc::new(Line::default()), Output::sink(std::io::sink()))
}

/// Fills the whole memory with `bytes` over and over.
fn fill(bench: &mut Bench, bytes: &[u8]) {
    bench.fill(&bytes.repeat(MEMORY / bytes.len().max(1)));
}

/// A state, written to a snapshot and read from it.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(state: &T) -> T {
    let bytes = serde_json::to_vec(state).expect("a state as JSON");
    serde_json::from_slice(&bytes).expect("a state from JSON")
}
