//! All devices, given nonsense.

use std::os::unix::net::UnixStream;

use tempfile::tempfile;
use vm_memory::{Bytes, GuestAddress};

use super::block::Block;
use super::console::Console;
use super::harness::{self, Bench, MEMORY};
use super::mmio::Transport;
use super::rng::Rng;
use super::serial::{Output, Serial, SerialState};

/// Numbers that look random and are the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Descriptors with addresses, lengths and links that are often good.
fn scribble(bench: &Bench, queue: u32, numbers: &mut Numbers) {
    let put = |address: u64, bytes: &[u8]| {
        let place = GuestAddress(address);
        bench.memory.write_slice(bytes, place).unwrap();
    };
    let [descriptors, available, _] = harness::queue(queue);
    for n in 0..128 {
        let address = match numbers.next(8) {
            0 => numbers.0,
            _ => numbers.next(MEMORY as u64),
        };
        let len = match numbers.next(8) {
            0 => numbers.0 as u32,
            1 => 16,
            2 => 1,
            _ => 512 * numbers.next(9) as u32,
        };
        let flags = match numbers.next(16) {
            0 => 4,
            _ => numbers.next(4) as u16,
        };
        let next = match numbers.next(8) {
            0 => numbers.next(130) as u16,
            _ => n + 1,
        };
        let entry = descriptors + 16 * u64::from(n);
        put(entry, &address.to_le_bytes());
        put(entry + 8, &len.to_le_bytes());
        put(entry + 12, &flags.to_le_bytes());
        put(entry + 14, &next.to_le_bytes());
        let head = numbers.next(if numbers.0 & 64 == 0 { 9 } else { 130 }) as u16;
        put(available + 4 + 2 * u64::from(n), &head.to_le_bytes());
    }
    let count = numbers.next(10) as u16;
    put(available + 2, &count.to_le_bytes());
    // Many a buffer begins like a request or a message.
    for _ in 0..64 {
        let at = numbers.next(MEMORY as u64 - 32) & !15;
        if at < descriptors || at >= harness::BUFFERS {
            let kind = numbers.next(16) as u8;
            put(
                at,
                &[kind, 0, 0, 0, kind / 2, 0, 1, 0, kind, 0, 0, 0, 0, 0, 0, 0],
            );
        }
    }
}

fn torment(mut bench: Bench, queues: u32, numbers: &mut Numbers) {
    for _ in 0..20 {
        bench.start();
        for queue in 0..queues {
            scribble(&bench, queue, numbers);
        }
        bench.notify_all();
        let state = bench.transport.save();
        if numbers.next(4) == 0 {
            bench.transport.restore(&state).unwrap();
        }
        bench.transport.resume();
        bench.turn();
        for _ in 0..20 {
            let (register, value) = (numbers.next(0x104), numbers.0 as u32);
            bench.transport.write(register & !3, &value.to_le_bytes());
        }
        bench.notify_all();
    }
}

#[test]
fn nonsense_is_survived() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20 {
        torment(Bench::new(|_| Box::new(Rng::new())), 1, &mut numbers);

        let disk = tempfile().unwrap();
        disk.set_len(1 << 20).unwrap();
        let readonly = numbers.next(2) == 0;
        let block = Block::new(disk, readonly, "nonsense").unwrap();
        torment(Bench::new(|_| Box::new(block)), 1, &mut numbers);

        let (channel, host) = UnixStream::pair().unwrap();
        let (terminal, other) = UnixStream::pair().unwrap();
        if numbers.next(2) == 0 {
            drop(other);
        }
        std::io::Write::write_all(&mut &host, &[7; 10_000]).unwrap();
        let console = |events| Box::new(Console::new(channel, terminal, &events).unwrap()) as _;
        torment(Bench::new(console), 6, &mut numbers);
    }
}

#[test]
fn a_uart_survives_nonsense() {
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
fn threads_can_share_them() {
    fn check<T: Send>() {}
    check::<Transport>();
    check::<Serial>();
}
