// SPDX-License-Identifier: Apache-2.0 OR MIT
mod state;

use std::io::{ErrorKind, Read, Write};

use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::kvm::devices::driver::Driver;
use crate::kvm::devices::harness::{BUFFERS, Fixture};

/// A guest with a buffer area for each queue, and the host's ends of the ports.
struct Guest {
    fixture: Fixture,
    queues: Vec<Driver>,
    hosts: Vec<UnixStream>,
}

fn console() -> (Fixture, Vec<UnixStream>) {
    let (channel, host) = UnixStream::pair().unwrap();
    let (terminal, other) = UnixStream::pair().unwrap();
    let hosts = vec![host, other];
    for host in &hosts {
        host.set_nonblocking(true).unwrap();
    }
    let fixture =
        Fixture::new(|events| Box::new(Console::new(channel, terminal, &events).unwrap()));
    (fixture, hosts)
}

fn guest() -> Guest {
    let (mut fixture, hosts) = console();
    fixture.start();
    let queues = (0..QUEUES as u32).map(|n| Driver::new(&fixture, n, QUEUE_SIZE));
    let queues = queues.collect();
    Guest {
        fixture,
        queues,
        hosts,
    }
}

/// Returns the address of a queue's buffer.
fn buffer(queue: usize) -> u64 {
    BUFFERS + 0x4000 * queue as u64
}

impl Guest {
    fn give(&mut self, queue: usize, len: u32) {
        self.queues[queue].add(&[(buffer(queue), len, true)]);
        self.fixture.notify(queue as u32);
    }

    /// Returns the bytes of the next used chain of a queue, if there is one.
    fn take(&mut self, queue: usize) -> Option<Vec<u8>> {
        let (_, len) = self.queues[queue].used()?;
        let mut bytes = vec![0; len as usize];
        let memory = &self.fixture.memory;
        memory
            .read_slice(&mut bytes, GuestAddress(buffer(queue)))
            .unwrap();
        Some(bytes)
    }

    /// Sends bytes, in three segments if there are many.
    fn put(&mut self, queue: usize, bytes: &[u8]) {
        let memory = &self.fixture.memory;
        memory
            .write_slice(bytes, GuestAddress(buffer(queue)))
            .unwrap();
        let (at, len) = (buffer(queue), bytes.len() as u32);
        if len < 100 {
            self.queues[queue].add(&[(at, len, false)]);
            return self.fixture.notify(queue as u32);
        }
        let parts = [3, len / 2];
        let rest = len - parts[0] - parts[1];
        self.queues[queue].add(&[
            (at, parts[0], false),
            (at + u64::from(parts[0]), parts[1], false),
            (at + u64::from(len - rest), rest, false),
        ]);
        self.fixture.notify(queue as u32);
    }

    fn control(&mut self, port: u32, event: u16, value: u16) {
        let mut bytes = port.to_le_bytes().to_vec();
        bytes.extend([event, value].map(u16::to_le_bytes).concat());
        self.put(CONTROL_TRANSMIT, &bytes);
    }

    /// Provides a buffer and returns the next control message, if there is one.
    fn hear(&mut self) -> Option<Vec<u8>> {
        self.give(CONTROL_RECEIVE, 256);
        self.take(CONTROL_RECEIVE)
    }

    /// Opens a port without providing a buffer.
    fn open(&mut self, port: u32) {
        self.control(port, 6, 1);
    }

    /// Returns the bytes that the host has received.
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
fn the_configuration_has_the_number_of_ports() {
    let (mut fixture, _hosts) = console();
    assert_eq!(fixture.get(VIRTIO_MMIO_DEVICE_ID), 3);
    assert_eq!(fixture.offered() & 0xff_ffff, MULTIPORT);
    let mut config = [0xff; 12];
    fixture.transport.read(0x100, &mut config);
    assert_eq!(config, [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn the_control_handshake_succeeds() {
    let mut guest = guest();
    guest.control(u32::MAX, 0, 1);
    // Without a buffer the messages wait; each is sent when there is a buffer.
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
    // Messages about ports that do not exist, or without a meaning, are not answered.
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
    assert!(guest.fixture.transport.broken().is_none());
}

#[test]
fn carries_bytes_both_ways_on_each_port() {
    for port in 0..PORTS {
        let mut guest = guest();
        let (receive, transmit) = queues_of(port);
        guest.open(port as u32);
        guest.give(receive, 256);
        guest.hosts[port].write_all(b"ping").unwrap();
        assert_eq!(guest.fixture.turn(), 1);
        assert_eq!(guest.take(receive).unwrap(), b"ping");
        guest.put(transmit, b"pong");
        assert_eq!(guest.queues[transmit].used().unwrap().1, 0);
        assert_eq!(guest.host(port), b"pong");
        assert_eq!(guest.host(1 - port), b"");
        assert_eq!(guest.fixture.turn(), 0);
    }
}

#[test]
fn the_host_waits_for_the_guest() {
    let mut guest = guest();
    guest.hosts[0].write_all(b"abcdefgh").unwrap();
    // Neither a buffer without an open port nor an open port without a buffer wakes the event loop.
    guest.give(0, 3);
    assert_eq!((guest.fixture.turn(), guest.take(0)), (0, None));
    guest.open(0);
    assert_eq!(guest.take(0).unwrap(), b"abc");
    assert_eq!(guest.fixture.turn(), 0);
    guest.give(0, 3);
    assert_eq!(guest.take(0).unwrap(), b"def");
    // After the port is closed, the rest stays in the socket.
    guest.control(0, 6, 0);
    guest.give(0, 256);
    assert_eq!((guest.fixture.turn(), guest.take(0)), (0, None));
    guest.open(0);
    assert_eq!(guest.take(0).unwrap(), b"gh");
    assert_eq!(guest.fixture.turn(), 0);
}

#[test]
fn a_buffer_in_parts_is_filled_in_order() {
    let mut guest = guest();
    guest.open(1);
    let base = buffer(4);
    guest.queues[4].add(&[(base, 2, true), (base + 2, 0, true), (base + 2, 5, true)]);
    guest.hosts[1].write_all(b"abcdefgh").unwrap();
    guest.fixture.notify(4);
    assert_eq!(guest.take(4).unwrap(), b"abcdefg");
}

#[test]
fn the_guest_waits_for_the_host() {
    let mut guest = guest();
    let mut sent = Vec::new();
    let mut next = 0u8;
    // Send until the socket is full and the device keeps the chain.
    loop {
        let bytes: Vec<u8> = (0..0x3ffd).map(|n: u32| (n as u8) ^ next).collect();
        next = next.wrapping_add(1);
        guest.put(1, &bytes);
        sent.extend(&bytes);
        if guest.queues[1].used().is_none() {
            break;
        }
    }
    // The next chains wait too. The event loop does not spin meanwhile.
    let queue = guest.queues[1].add(&[(buffer(1) + 5, 1000, false)]);
    guest.fixture.notify(1);
    assert_eq!(guest.fixture.turn(), 0);
    let mut tail = vec![0; 1000];
    let place = GuestAddress(buffer(1) + 5);
    guest.fixture.memory.read_slice(&mut tail, place).unwrap();
    sent.extend(tail);

    let mut got = guest.host(0);
    assert!(got.len() < sent.len());
    assert_eq!(guest.fixture.turn(), 1);
    got.extend(guest.host(0));
    assert_eq!(got.len(), sent.len());
    assert!(got == sent);
    assert!(guest.queues[1].used().is_some());
    assert_eq!(guest.queues[1].used().unwrap().0, queue);
    assert_eq!(guest.fixture.turn(), 0);
}

#[test]
fn a_closed_host_end_is_reported_after_its_last_byte() {
    let mut guest = guest();
    guest.open(0);
    guest.hosts[0].write_all(b"bye").unwrap();
    guest.hosts.remove(0);
    guest.give(0, 256);
    assert_eq!(guest.take(0).unwrap(), b"bye");
    assert_eq!(guest.hear(), None);
    guest.give(0, 256);
    assert_eq!(guest.take(0), None);
    assert_eq!((guest.fixture.turn(), guest.fixture.turn()), (1, 0));
    assert_eq!(
        guest.take(CONTROL_RECEIVE).unwrap(),
        [0, 0, 0, 0, 6, 0, 0, 0]
    );
    // The guest's bytes are discarded, and their chains are used.
    for _ in 0..100 {
        guest.put(1, &[1; 0x3000]);
        assert!(guest.queues[1].used().is_some());
    }
    // The other port still works.
    guest.put(5, b"here");
    assert_eq!(guest.host(0), b"here");
    assert_eq!(guest.fixture.turn(), 0);
    guest.control(0, 3, 1);
    assert_eq!(guest.hear().unwrap()[4], 7);
    assert_eq!(guest.hear(), None);
}

#[test]
fn a_host_end_that_closes_while_the_guest_waits_is_noticed() {
    let mut guest = guest();
    guest.open(0);
    guest.give(0, 256);
    guest.give(CONTROL_RECEIVE, 256);
    while {
        guest.put(1, &[7; 0x4000]);
        guest.queues[1].used().is_some()
    } {}
    guest.hosts.remove(0);
    assert_eq!(guest.fixture.turn(), 1);
    assert_eq!(guest.take(CONTROL_RECEIVE).unwrap()[4], 6);
    assert!(guest.queues[1].used().is_some());
    assert_eq!(guest.fixture.turn(), 0);
}

#[test]
fn a_driver_without_receive_buffers_must_wait() {
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
    assert!(guest.fixture.transport.broken().is_none());
}

#[test]
fn invalid_chains_break_the_device() {
    type Chain<'a> = &'a [(u64, u32, bool)];
    let (some, none) = ((BUFFERS, 8, true), (BUFFERS, 0, true));
    let (out, nowhere) = ((BUFFERS, 8, false), (1 << 40, 8, false));
    let chains: [(usize, Chain<'_>); 9] = [
        (0, &[out]),                // not writable
        (0, &[none]),               // no room
        (0, &[(1 << 40, 8, true)]), // not in memory
        (1, &[some]),               // not readable
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
        guest.fixture.notify(queue as u32);
        assert!(
            guest.fixture.transport.broken().is_some(),
            "{queue} {chain:x?}"
        );
        // Events still occur, and are ignored.
        guest.fixture.turn();
        guest.fixture.set(VIRTIO_MMIO_STATUS, 0);
        guest.fixture.turn();
    }
}

#[test]
fn works_without_control_queues() {
    let (mut fixture, mut hosts) = console();
    fixture.start_with(1 << 32);
    let mut receive = Driver::new(&fixture, 0, QUEUE_SIZE);
    receive.add(&[(BUFFERS, 16, true)]);
    fixture.notify(0);
    hosts[0].write_all(b"hello").unwrap();
    assert_eq!(fixture.turn(), 1);
    assert_eq!(receive.used().unwrap().1, 5);
}
