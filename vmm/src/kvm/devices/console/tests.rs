// SPDX-License-Identifier: Apache-2.0 OR MIT
mod state;

use std::io::{ErrorKind, Read, Write};

use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::kvm::devices::driver::Driver;
use crate::kvm::devices::harness::{BUFFERS, Bench};

/// A guest with a buffer of 256 bytes for each queue that it receives on, and
/// the hosts' ends.
struct Guest {
    bench: Bench,
    queues: Vec<Driver>,
    hosts: Vec<UnixStream>,
}

fn console() -> (Bench, Vec<UnixStream>) {
    let (channel, host) = UnixStream::pair().unwrap();
    let (terminal, other) = UnixStream::pair().unwrap();
    let hosts = vec![host, other];
    for host in &hosts {
        host.set_nonblocking(true).unwrap();
    }
    let bench = Bench::new(|events| Box::new(Console::new(channel, terminal, &events).unwrap()));
    (bench, hosts)
}

fn guest() -> Guest {
    let (mut bench, hosts) = console();
    bench.start();
    let queues = (0..QUEUES as u32).map(|n| Driver::new(&bench, n, QUEUE_SIZE));
    let queues = queues.collect();
    Guest {
        bench,
        queues,
        hosts,
    }
}

/// The buffer of a queue.
fn buffer(queue: usize) -> u64 {
    BUFFERS + 0x4000 * queue as u64
}

impl Guest {
    fn give(&mut self, queue: usize, len: u32) {
        self.queues[queue].add(&[(buffer(queue), len, true)]);
        self.bench.notify(queue as u32);
    }

    /// The bytes of the chain that was used on a queue, if one was.
    fn take(&mut self, queue: usize) -> Option<Vec<u8>> {
        let (_, len) = self.queues[queue].used()?;
        let mut bytes = vec![0; len as usize];
        let memory = &self.bench.memory;
        memory
            .read_slice(&mut bytes, GuestAddress(buffer(queue)))
            .unwrap();
        Some(bytes)
    }

    /// Sends bytes, many of them in three parts.
    fn put(&mut self, queue: usize, bytes: &[u8]) {
        let memory = &self.bench.memory;
        memory
            .write_slice(bytes, GuestAddress(buffer(queue)))
            .unwrap();
        let (at, len) = (buffer(queue), bytes.len() as u32);
        if len < 100 {
            self.queues[queue].add(&[(at, len, false)]);
            return self.bench.notify(queue as u32);
        }
        let parts = [3, len / 2];
        let rest = len - parts[0] - parts[1];
        self.queues[queue].add(&[
            (at, parts[0], false),
            (at + u64::from(parts[0]), parts[1], false),
            (at + u64::from(len - rest), rest, false),
        ]);
        self.bench.notify(queue as u32);
    }

    fn control(&mut self, port: u32, event: u16, value: u16) {
        let mut bytes = port.to_le_bytes().to_vec();
        bytes.extend([event, value].map(u16::to_le_bytes).concat());
        self.put(CONTROL_TRANSMIT, &bytes);
    }

    /// The next control message, for which it gives a buffer.
    fn hear(&mut self) -> Option<Vec<u8>> {
        self.give(CONTROL_RECEIVE, 256);
        self.take(CONTROL_RECEIVE)
    }

    /// Opens a port and gives it no buffer.
    fn open(&mut self, port: u32) {
        self.control(port, 6, 1);
    }

    /// What the host has been sent.
    fn host(&mut self, port: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.hosts[port].read_to_end(&mut bytes) {
            Ok(_) => bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => bytes,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn says_how_many_ports() {
    let (mut bench, _hosts) = console();
    assert_eq!(bench.get(VIRTIO_MMIO_DEVICE_ID), 3);
    assert_eq!(bench.offered() & 0xff_ffff, MULTIPORT);
    let mut config = [0xff; 12];
    bench.transport.read(0x100, &mut config);
    assert_eq!(config, [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn shakes_hands() {
    let mut guest = guest();
    guest.control(u32::MAX, 0, 1);
    // No buffer yet, so the messages wait; each goes when there is one.
    assert_eq!(guest.hear().unwrap(), [0, 0, 0, 0, 1, 0, 1, 0]);
    assert_eq!(guest.hear().unwrap(), [1, 0, 0, 0, 1, 0, 1, 0]);
    assert_eq!(guest.hear(), None);
    guest.control(1, 3, 1);
    let name = guest.take(CONTROL_RECEIVE).unwrap();
    assert_eq!(name[..8], [1, 0, 0, 0, 7, 0, 1, 0]);
    assert_eq!(name[8..], *b"org.crucible.terminal\0");
    assert_eq!(guest.hear().unwrap(), [1, 0, 0, 0, 6, 0, 1, 0]);
    guest.control(0, 3, 1);
    assert_eq!(guest.hear().unwrap()[8..], *b"org.crucible.channel\0");
    // What it says of ports that do not exist, or with no meaning, is not answered.
    for (port, event, value) in [
        (2, 3, 1),
        (u32::MAX, 6, 1),
        (0, 3, 0),
        (0, 99, 1),
        (0, 0, 0),
    ] {
        guest.control(port, event, value);
    }
    assert_eq!(guest.hear().unwrap(), [0, 0, 0, 0, 6, 0, 1, 0]);
    assert_eq!(guest.hear(), None);
    assert!(guest.bench.transport.broken().is_none());
}

#[test]
fn carries_bytes_both_ways_on_each_port() {
    for port in 0..PORTS {
        let mut guest = guest();
        let (receive, transmit) = queues_of(port);
        guest.open(port as u32);
        guest.give(receive, 256);
        guest.hosts[port].write_all(b"ping").unwrap();
        assert_eq!(guest.bench.turn(), 1);
        assert_eq!(guest.take(receive).unwrap(), b"ping");
        guest.put(transmit, b"pong");
        assert_eq!(guest.queues[transmit].used().unwrap().1, 0);
        assert_eq!(guest.host(port), b"pong");
        assert_eq!(guest.host(1 - port), b"");
        assert_eq!(guest.bench.turn(), 0);
    }
}

#[test]
fn the_host_waits_for_the_guest() {
    let mut guest = guest();
    guest.hosts[0].write_all(b"abcdefgh").unwrap();
    // Not open, and a buffer; open, and no buffer: nobody is woken for that.
    guest.give(0, 3);
    assert_eq!((guest.bench.turn(), guest.take(0)), (0, None));
    guest.open(0);
    assert_eq!(guest.take(0).unwrap(), b"abc");
    assert_eq!(guest.bench.turn(), 0);
    guest.give(0, 3);
    assert_eq!(guest.take(0).unwrap(), b"def");
    // Closed again: the rest stays where it is.
    guest.control(0, 6, 0);
    guest.give(0, 256);
    assert_eq!((guest.bench.turn(), guest.take(0)), (0, None));
    guest.open(0);
    assert_eq!(guest.take(0).unwrap(), b"gh");
    assert_eq!(guest.bench.turn(), 0);
}

#[test]
fn a_buffer_in_parts_is_filled_in_order() {
    let mut guest = guest();
    guest.open(1);
    let base = buffer(4);
    guest.queues[4].add(&[(base, 2, true), (base + 2, 0, true), (base + 2, 5, true)]);
    guest.hosts[1].write_all(b"abcdefgh").unwrap();
    guest.bench.notify(4);
    assert_eq!(guest.take(4).unwrap(), b"abcdefg");
}

#[test]
fn the_guest_waits_for_the_host() {
    let mut guest = guest();
    let mut sent = Vec::new();
    let mut next = 0u8;
    // Until the socket is full: the chain stays with the device.
    loop {
        let bytes: Vec<u8> = (0..0x3ffd).map(|n: u32| (n as u8) ^ next).collect();
        next = next.wrapping_add(1);
        guest.put(1, &bytes);
        sent.extend(&bytes);
        if guest.queues[1].used().is_none() {
            break;
        }
    }
    // Others behind it wait too. Nothing spins meanwhile.
    let queue = guest.queues[1].add(&[(buffer(1) + 5, 1000, false)]);
    guest.bench.notify(1);
    assert_eq!(guest.bench.turn(), 0);
    let mut tail = vec![0; 1000];
    let place = GuestAddress(buffer(1) + 5);
    guest.bench.memory.read_slice(&mut tail, place).unwrap();
    sent.extend(tail);

    let mut got = guest.host(0);
    assert!(got.len() < sent.len());
    assert_eq!(guest.bench.turn(), 1);
    got.extend(guest.host(0));
    assert_eq!(got.len(), sent.len());
    assert!(got == sent);
    assert!(guest.queues[1].used().is_some());
    assert_eq!(guest.queues[1].used().unwrap().0, queue);
    assert_eq!(guest.bench.turn(), 0);
}

#[test]
fn a_closed_host_end_is_told_after_its_last_byte() {
    let mut guest = guest();
    guest.open(0);
    guest.hosts[0].write_all(b"bye").unwrap();
    guest.hosts.remove(0);
    guest.give(0, 256);
    assert_eq!(guest.take(0).unwrap(), b"bye");
    assert_eq!(guest.hear(), None);
    guest.give(0, 256);
    assert_eq!(guest.take(0), None);
    assert_eq!((guest.bench.turn(), guest.bench.turn()), (1, 0));
    assert_eq!(
        guest.take(CONTROL_RECEIVE).unwrap(),
        [0, 0, 0, 0, 6, 0, 0, 0]
    );
    // The guest's bytes go nowhere, and do not come back to haunt it.
    for _ in 0..100 {
        guest.put(1, &[1; 0x3000]);
        assert!(guest.queues[1].used().is_some());
    }
    // The other port does not care.
    guest.put(5, b"here");
    assert_eq!(guest.host(0), b"here");
    assert_eq!(guest.bench.turn(), 0);
    guest.control(0, 3, 1);
    assert_eq!(guest.hear().unwrap()[4], 7);
    assert_eq!(guest.hear(), None);
}

#[test]
fn a_host_end_that_closes_while_the_guest_waits_for_it_is_noticed() {
    let mut guest = guest();
    guest.open(0);
    guest.give(0, 256);
    guest.give(CONTROL_RECEIVE, 256);
    while {
        guest.put(1, &[7; 0x4000]);
        guest.queues[1].used().is_some()
    } {}
    guest.hosts.remove(0);
    assert_eq!(guest.bench.turn(), 1);
    assert_eq!(guest.take(CONTROL_RECEIVE).unwrap()[4], 6);
    assert!(guest.queues[1].used().is_some());
    assert_eq!(guest.bench.turn(), 0);
}

#[test]
fn a_driver_that_asks_and_does_not_listen_waits() {
    let mut guest = guest();
    let mut heard = 0;
    for _ in 0..QUEUE_SIZE {
        guest.control(0, 0, 1);
        heard += usize::from(guest.queues[3].used().is_some());
    }
    assert_eq!(heard, PENDING_MAX / REPLIES_MAX);
    let mut messages = 0;
    while guest.hear().is_some() {
        messages += 1;
    }
    assert_eq!(messages, usize::from(QUEUE_SIZE) * 2);
    assert!(guest.bench.transport.broken().is_none());
}

#[test]
fn chains_without_sense_break_it() {
    type Chain<'a> = &'a [(u64, u32, bool)];
    let (some, none) = ((BUFFERS, 8, true), (BUFFERS, 0, true));
    let (out, nowhere) = ((BUFFERS, 8, false), (1 << 40, 8, false));
    let chains: [(usize, Chain<'_>); 9] = [
        (0, &[out]),                // to be read where it writes
        (0, &[none]),               // no room
        (0, &[(1 << 40, 8, true)]), // not in memory
        (1, &[some]),               // to be written where it reads
        (1, &[nowhere]),
        (2, &[(BUFFERS, 7, true)]), // no room for a message
        (2, &[out]),
        (3, &[(BUFFERS, 7, false)]), // not a message
        (5, &[out, (u64::MAX, 2, false)]),
    ];
    for (queue, chain) in chains {
        let mut guest = guest();
        guest.open(0);
        guest.control(0, 0, 1);
        guest.hosts[0].write_all(b"something").unwrap();
        guest.queues[queue].add(chain);
        guest.bench.notify(queue as u32);
        assert!(
            guest.bench.transport.broken().is_some(),
            "{queue} {chain:x?}"
        );
        // Events still come, and are left alone.
        guest.bench.turn();
        guest.bench.set(VIRTIO_MMIO_STATUS, 0);
        guest.bench.turn();
    }
}

#[test]
fn works_without_control_queues() {
    let (mut bench, mut hosts) = console();
    bench.start_with(1 << 32);
    let mut receive = Driver::new(&bench, 0, QUEUE_SIZE);
    receive.add(&[(BUFFERS, 16, true)]);
    bench.notify(0);
    hosts[0].write_all(b"hello").unwrap();
    assert_eq!(bench.turn(), 1);
    assert_eq!(receive.used().unwrap().1, 5);
}
