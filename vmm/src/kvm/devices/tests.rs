// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests all devices with malformed input.

use std::os::unix::net::UnixStream;

use tempfile::tempfile;
use vm_memory::{Bytes, GuestAddress};

use super::block::Block;
use super::console::Console;
use super::harness::{self, Fixture, MEMORY};
use super::mmio::Transport;
use super::rng::Rng;
use super::serial::{Output, Serial, SerialState};

/// Reproducible pseudo-random numbers (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// The direction of a queue's chains, as the device sees it.
#[derive(Clone, Copy)]
enum Shape {
    Reads,
    Writes,
    Both,
}

/// Writes chains that are mostly valid: first buffers to read, then buffers to write, with an
/// occasional random field.
fn scribble(fixture: &Fixture, queue: u32, is: Shape, numbers: &mut Numbers) {
    let put = |address: u64, bytes: &[u8]| {
        let place = GuestAddress(address);
        fixture.memory.write_slice(bytes, place).unwrap();
    };
    let [descriptors, available, _] = harness::queue(queue);
    let buffers = MEMORY as u64 - harness::BUFFERS;
    let (mut entry, mut chains) = (0u16, 0u16);
    while chains < 6 {
        let mut count = || 1 + numbers.next(3);
        let (reads, writes) = match is {
            Shape::Reads => (count(), 0),
            Shape::Writes => (0, count()),
            Shape::Both => (count(), count()),
        };
        let (reads, writes) = match numbers.next(20) {
            0 => (writes, reads),
            _ => (reads, writes),
        };
        put(available + 4 + 2 * u64::from(chains), &entry.to_le_bytes());
        for n in 0..reads + writes {
            // The first buffer is a header or a message, the last one a status.
            let mut len = match n {
                0 if reads > 0 => [16, 8][numbers.next(2) as usize],
                _ if n + 1 == reads + writes => [1, 512][numbers.next(2) as usize],
                _ => [16, 0, 512, 1024, 2048][numbers.next(5) as usize],
            };
            let mut address = harness::BUFFERS + numbers.next(buffers - 4096);
            let mut flags = u16::from(n + 1 < reads + writes) | if n < reads { 0 } else { 2 };
            let mut next = entry + 1;
            match numbers.next(150) {
                0 => address = numbers.0,
                1 => len = numbers.0 as u32,
                2 => flags = numbers.next(8) as u16,
                3 => next = numbers.next(130) as u16,
                _ => {}
            }
            let place = descriptors + 16 * u64::from(entry);
            put(place, &address.to_le_bytes());
            put(place + 8, &len.to_le_bytes());
            put(place + 12, &flags.to_le_bytes());
            put(place + 14, &next.to_le_bytes());
            if n == 0 && address < MEMORY as u64 - 16 {
                // A request's type and sector; or a message's port, event and value.
                let kind = [0, 1, 4, 8, 11, 13, numbers.0 as u8][numbers.next(7) as usize];
                let mut header = [0; 16];
                header[0] = if queue == 3 { kind & 1 } else { kind };
                header[4] = [0, 3, 6, kind][numbers.next(4) as usize];
                header[6] = 1;
                header[8] = numbers.next(9) as u8;
                put(address, &header);
            }
            entry += 1;
        }
        chains += 1;
    }
    let count = match numbers.next(50) {
        0 => numbers.0 as u16,
        _ => numbers.next(7) as u16,
    };
    put(available + 2, &count.to_le_bytes());
}

fn stress(mut fixture: Fixture, queues: &[Shape], numbers: &mut Numbers) {
    for _ in 0..20 {
        fixture.start();
        for (queue, &is) in queues.iter().enumerate() {
            scribble(&fixture, queue as u32, is, numbers);
        }
        fixture.notify_all();
        let state = fixture.transport.save();
        if numbers.next(4) == 0 {
            fixture.transport.restore(&state).unwrap();
        }
        fixture.transport.resume();
        fixture.turn();
        for _ in 0..20 {
            let (register, value) = (numbers.next(0x104), numbers.0 as u32);
            fixture.transport.write(register & !3, &value.to_le_bytes());
        }
        fixture.notify_all();
    }
}

#[test]
fn devices_survive_malformed_input() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20 {
        stress(
            Fixture::new(|_| Box::new(Rng::new())),
            &[Shape::Writes],
            &mut numbers,
        );

        let disk = tempfile().unwrap();
        disk.set_len(1 << 20).unwrap();
        let readonly = numbers.next(2) == 0;
        let block = Block::new(disk, readonly, "nonsense").unwrap();
        stress(
            Fixture::new(|_| Box::new(block)),
            &[Shape::Both],
            &mut numbers,
        );

        let (channel, host) = UnixStream::pair().unwrap();
        let (terminal, other) = UnixStream::pair().unwrap();
        if numbers.next(2) == 0 {
            drop(other);
        }
        std::io::Write::write_all(&mut &host, &[7; 10_000]).unwrap();
        let console = |events| Box::new(Console::new(channel, terminal, &events).unwrap()) as _;
        let queues = [Shape::Writes, Shape::Reads].repeat(3);
        stress(Fixture::new(console), &queues, &mut numbers);
    }
}

#[test]
fn a_uart_survives_malformed_input() {
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let line = std::sync::Arc::new(harness::Line::default());
    let mut serial = Serial::new(line, Output::sink(std::io::sink()));
    for _ in 0..100_000 {
        let port = numbers.next(9) as u8;
        match numbers.next(8) {
            0 => drop(serial.send(&[numbers.0 as u8])),
            1 => drop(serial.send_break()),
            2..5 => serial.read(port, &mut [0; 2]),
            _ => serial.write(port, &[numbers.0 as u8]),
        }
    }
    let state: SerialState = serial.save();
    serial.restore(&state).unwrap();
}

#[test]
fn devices_can_be_sent_between_threads() {
    fn check<T: Send>() {}
    check::<Transport>();
    check::<Serial>();
}
