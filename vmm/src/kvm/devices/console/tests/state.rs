// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests of the console's part of a snapshot.

use std::io::Write;

use vm_memory::{Bytes, GuestAddress};

use super::super::{PENDING_MAX, PORTS};
use super::{Guest, console, guest};
use crate::kvm::devices::harness::MEMORY;

#[test]
fn a_saved_console_continues_in_both_machines() {
    let mut guest = guest();
    guest.control(0, 0, 1);
    guest.open(1);
    guest.hosts[1].write_all(b"under way").unwrap();
    while {
        guest.put(5, &[3; 0x4000]);
        guest.queues[5].used().is_some()
    } {}
    let state = guest.fixture.transport.save();
    let json = serde_json::to_string(&state).unwrap();
    let state = serde_json::from_str(&json).unwrap();
    // Copy the memory, because both machines continue.
    let mut bytes = vec![0; MEMORY];
    let start = GuestAddress(0);
    guest.fixture.memory.read_slice(&mut bytes, start).unwrap();

    let (mut fixture, hosts) = console();
    fixture.fill(&bytes);
    fixture.transport.restore(&state).unwrap();
    assert_eq!(fixture.transport.save(), state);
    fixture.transport.resume();
    let queues = guest.queues.iter().map(|queue| queue.over(&fixture));
    let mut other = Guest {
        queues: queues.collect(),
        fixture,
        hosts,
    };
    for guest in [&mut guest, &mut other] {
        guest.hosts[1].write_all(b" and after").unwrap();
        guest.give(4, 256);
        assert_eq!(guest.take(4).unwrap(), b"under way");
        guest.give(4, 256);
        guest.fixture.turn();
        assert_eq!(guest.take(4).unwrap(), b" and after");
        assert_eq!(guest.hear().unwrap()[..5], [0, 0, 0, 0, 1]);
        assert_eq!(guest.hear().unwrap()[..5], [1, 0, 0, 0, 1]);
        assert_eq!(guest.hear(), None);
    }
    // The old and the new host end together have received each byte once.
    guest.host(1);
    guest.fixture.turn();
    let rest = guest.host(1);
    assert_eq!(other.host(1), rest);
    assert!(other.queues[5].used().is_some());
}

#[test]
fn data_that_arrives_during_a_pause_is_received_afterwards() {
    let mut guest = guest();
    guest.open(0);
    guest.give(0, 256);
    guest.hosts[0].write_all(b"hello").unwrap();
    guest.fixture.transport.save();
    assert_eq!((guest.fixture.turn(), guest.take(0)), (0, None));
    guest.fixture.transport.resume();
    assert_eq!(guest.take(0).unwrap(), b"hello");
}

#[test]
fn a_new_host_end_is_open() {
    let mut guest = guest();
    guest.open(0);
    guest.hosts.remove(0);
    guest.give(0, 256);
    let state = guest.fixture.transport.save();
    let (fixture, hosts) = console();
    let mut other = Guest {
        queues: guest
            .queues
            .iter()
            .map(|queue| queue.over(&fixture))
            .collect(),
        fixture,
        hosts,
    };
    let mut bytes = vec![0; MEMORY];
    let start = GuestAddress(0);
    guest.fixture.memory.read_slice(&mut bytes, start).unwrap();
    other.fixture.fill(&bytes);
    other.fixture.transport.restore(&state).unwrap();
    other.fixture.transport.resume();
    assert_eq!(other.hear().unwrap(), [0, 0, 0, 0, 6, 0, 1, 0]);
    other.hosts[0].write_all(b"again").unwrap();
    other.fixture.turn();
    assert_eq!(other.take(0).unwrap(), b"again");
}

#[test]
fn hostile_states_are_refused() {
    let mut guest = guest();
    let good = serde_json::to_value(guest.fixture.transport.save()).unwrap();
    let message = |port: u32, event: &str, value: u16| serde_json::json!({"port": port, "event": event, "value": value});
    let many = vec![message(0, "port-open", 1); PENDING_MAX + PORTS + 1];
    for (path, value) in [
        ("/device/console/ports", serde_json::json!([])),
        (
            "/device/console/ports/1/backlog",
            vec![0u8; (1 << 20) + 1].into(),
        ),
        ("/device/console/pending", many.into()),
        (
            "/device/console/pending",
            vec![message(2, "port-open", 1)].into(),
        ),
        (
            "/device/console/pending",
            vec![message(0, "port-ready", 1)].into(),
        ),
        (
            "/device/console/pending",
            vec![message(0, "port-open", 2)].into(),
        ),
        ("/device", serde_json::json!({"rng": {}})),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(path).unwrap() = value;
        let bad = serde_json::from_value(bad).unwrap();
        assert!(guest.fixture.transport.restore(&bad).is_err(), "{path}");
    }
    // The number of sent bytes may exceed the chain's length.
    let mut odd = good;
    odd["device"]["console"]["ports"][0]["sent"] = u32::MAX.into();
    let odd = serde_json::from_value(odd).unwrap();
    guest.fixture.transport.restore(&odd).unwrap();
    guest.put(1, b"gone");
    guest.put(1, b"here");
    assert_eq!(guest.host(0), b"here");
}
