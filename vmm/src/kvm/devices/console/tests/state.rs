// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a snapshot keeps.

use std::io::Write;

use vm_memory::{Bytes, GuestAddress};

use super::super::{PENDING_MAX, PORTS};
use super::{Guest, console, guest};
use crate::kvm::devices::harness::MEMORY;

#[test]
fn a_saved_console_goes_on_elsewhere_and_here() {
    let mut guest = guest();
    guest.control(0, 0, 1);
    guest.open(1);
    guest.hosts[1].write_all(b"under way").unwrap();
    while {
        guest.put(5, &[3; 0x4000]);
        guest.queues[5].used().is_some()
    } {}
    let state = guest.bench.transport.save();
    let json = serde_json::to_string(&state).unwrap();
    let state = serde_json::from_str(&json).unwrap();
    // A copy of memory, since both go on.
    let mut bytes = vec![0; MEMORY];
    let start = GuestAddress(0);
    guest.bench.memory.read_slice(&mut bytes, start).unwrap();

    let (mut bench, hosts) = console();
    bench.fill(&bytes);
    bench.transport.restore(&state).unwrap();
    assert_eq!(bench.transport.save(), state);
    bench.transport.resume();
    let queues = guest.queues.iter().map(|queue| queue.over(&bench));
    let mut other = Guest {
        queues: queues.collect(),
        bench,
        hosts,
    };
    for guest in [&mut guest, &mut other] {
        guest.hosts[1].write_all(b" and after").unwrap();
        guest.give(4, 256);
        assert_eq!(guest.take(4).unwrap(), b"under way");
        guest.give(4, 256);
        guest.bench.turn();
        assert_eq!(guest.take(4).unwrap(), b" and after");
        assert_eq!(guest.hear().unwrap()[..5], [0, 0, 0, 0, 1]);
        assert_eq!(guest.hear().unwrap()[..5], [1, 0, 0, 0, 1]);
        assert_eq!(guest.hear(), None);
    }
    // Old and new end have got each byte once, between them.
    guest.host(1);
    guest.bench.turn();
    let rest = guest.host(1);
    assert_eq!(other.host(1), rest);
    assert!(other.queues[5].used().is_some());
}

#[test]
fn what_comes_while_the_machine_rests_is_found_when_it_goes_on() {
    let mut guest = guest();
    guest.open(0);
    guest.give(0, 256);
    guest.hosts[0].write_all(b"hello").unwrap();
    guest.bench.transport.save();
    assert_eq!((guest.bench.turn(), guest.take(0)), (0, None));
    guest.bench.transport.resume();
    assert_eq!(guest.take(0).unwrap(), b"hello");
}

#[test]
fn a_new_host_end_is_open() {
    let mut guest = guest();
    guest.open(0);
    guest.hosts.remove(0);
    guest.give(0, 256);
    let state = guest.bench.transport.save();
    let (bench, hosts) = console();
    let mut other = Guest {
        queues: guest
            .queues
            .iter()
            .map(|queue| queue.over(&bench))
            .collect(),
        bench,
        hosts,
    };
    let mut bytes = vec![0; MEMORY];
    let start = GuestAddress(0);
    guest.bench.memory.read_slice(&mut bytes, start).unwrap();
    other.bench.fill(&bytes);
    other.bench.transport.restore(&state).unwrap();
    other.bench.transport.resume();
    assert_eq!(other.hear().unwrap(), [0, 0, 0, 0, 6, 0, 1, 0]);
    other.hosts[0].write_all(b"again").unwrap();
    other.bench.turn();
    assert_eq!(other.take(0).unwrap(), b"again");
}

#[test]
fn hostile_states_are_refused() {
    let mut guest = guest();
    let good = serde_json::to_value(guest.bench.transport.save()).unwrap();
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
        assert!(guest.bench.transport.restore(&bad).is_err(), "{path}");
    }
    // How much was sent may be more than there is.
    let mut odd = good;
    odd["device"]["console"]["ports"][0]["sent"] = u32::MAX.into();
    let odd = serde_json::from_value(odd).unwrap();
    guest.bench.transport.restore(&odd).unwrap();
    guest.put(1, b"gone");
    guest.put(1, b"here");
    assert_eq!(guest.host(0), b"here");
}
