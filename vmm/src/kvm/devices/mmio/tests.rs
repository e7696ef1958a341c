// SPDX-License-Identifier: Apache-2.0 OR MIT
use vm_memory::GuestMemoryBackend;

use super::*;
use crate::kvm::devices::driver::Driver;
use crate::kvm::devices::harness::{self, BUFFERS, Fixture};
use crate::kvm::devices::rng::Rng;

const SIZE: u16 = 8;

fn fixture() -> Fixture {
    Fixture::new(|_| Box::new(Rng::new()))
}

fn started() -> (Fixture, Driver) {
    let mut fixture = fixture();
    fixture.start();
    let driver = Driver::new(&fixture, 0, SIZE);
    (fixture, driver)
}

fn status(fixture: &Fixture) -> u32 {
    fixture.get(VIRTIO_MMIO_STATUS)
}

#[test]
fn registers_read_by_words_only() {
    let mut fixture = fixture();
    assert_eq!(fixture.get(VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(fixture.get(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(fixture.get(VIRTIO_MMIO_DEVICE_ID), 4);
    for size in [0, 1, 2, 3, 5, 8, 64] {
        let mut data = vec![0xff; size];
        fixture.transport.read(0, &mut data);
        assert_eq!(data, vec![0; size]);
        fixture
            .transport
            .write(VIRTIO_MMIO_STATUS.into(), &vec![1; size]);
        assert_eq!(status(&fixture), 0);
    }
    // Between registers, beyond them, and beyond the address range.
    for offset in [2, 0x3c, 0xfc, 0x100, 0xfff, 0x1000, u64::MAX] {
        let mut data = [0xff; 4];
        fixture.transport.read(offset, &mut data);
        assert_eq!(data, [0; 4]);
        fixture.transport.write(offset, &[0xff; 4]);
    }
    assert_eq!(fixture.get(VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    fixture.set(VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(fixture.get(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    assert_eq!(fixture.get(VIRTIO_MMIO_QUEUE_READY), 0);
    fixture.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(fixture.get(VIRTIO_MMIO_DEVICE_FEATURES), 0);
    assert_eq!(fixture.offered(), 1 << 32 | 1 << 29);
}

#[test]
fn status_only_advances_in_order() {
    let mut fixture = fixture();
    for (write, read) in [
        (0b0010, 0),      // DRIVER before ACKNOWLEDGE
        (0b0001, 0b0001), // ACKNOWLEDGE
        (0b1001, 0b0001), // FEATURES_OK before DRIVER
        (0b0011, 0b0011), // DRIVER
        (0b0010, 0b0011), // bits are not cleared
        (0b1011, 0b0011), // FEATURES_OK without VERSION_1
        (0b0111, 0b0011), // DRIVER_OK before FEATURES_OK
        (0x43, 0b0011),   // the driver cannot set NEEDS_RESET
        (0x100, 0b0011),  // nor are other bits
    ] {
        fixture.set(VIRTIO_MMIO_STATUS, write);
        assert_eq!(status(&fixture), read, "{write:#x}");
    }
    fixture.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    fixture.set(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    // A feature that is not offered.
    fixture.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    fixture.set(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    fixture.set(VIRTIO_MMIO_STATUS, 0b1011);
    assert_eq!(status(&fixture), 0b0011);
    fixture.set(VIRTIO_MMIO_DRIVER_FEATURES, 0);
    fixture.set(VIRTIO_MMIO_STATUS, 0b1011);
    assert_eq!(status(&fixture), 0b1011);
    // Features cannot be changed now.
    fixture.set(VIRTIO_MMIO_DRIVER_FEATURES, 1 << 29);
    assert_eq!(fixture.transport.driver_features, 1 << 32);
    fixture.set(VIRTIO_MMIO_STATUS, 0b1111);
    assert_eq!(status(&fixture), 0b1111);
    // A driver that has failed cannot proceed.
    fixture.set(VIRTIO_MMIO_STATUS, 0x8f);
    assert_eq!(status(&fixture), 0x8f);
    fixture.set(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(status(&fixture), 0);
    fixture.set(VIRTIO_MMIO_STATUS, 0x81);
    fixture.set(VIRTIO_MMIO_STATUS, 0x83);
    assert_eq!(status(&fixture), 0x80);
}

#[test]
fn features_beyond_the_last_are_not_accepted() {
    let mut fixture = fixture();
    fixture.set(VIRTIO_MMIO_STATUS, 0b0011);
    fixture.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    fixture.set(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    fixture.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 2);
    fixture.set(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    fixture.set(VIRTIO_MMIO_STATUS, 0b1011);
    assert_eq!(status(&fixture), 0b0011);
}

#[test]
fn queues_are_set_up_between_features_and_driver_ok() {
    let (mut fixture, mut driver) = started();
    assert_eq!(fixture.get(VIRTIO_MMIO_QUEUE_READY), 1);
    fixture.set(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(fixture.get(VIRTIO_MMIO_QUEUE_READY), 0);
    fixture.set(VIRTIO_MMIO_QUEUE_NUM, 4);
    fixture.set(VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(fixture.get(VIRTIO_MMIO_QUEUE_READY), 0);
    assert_eq!(fixture.transport.rings[0].queue.size(), SIZE);
    // A queue that is not ready is ignored, and so is one that does not exist.
    driver.add(&[(BUFFERS, 8, true)]);
    fixture.notify(0);
    fixture.notify(1);
    fixture.notify(u32::MAX);
    assert_eq!((driver.used(), status(&fixture)), (None, 0xf));

    fixture.set(VIRTIO_MMIO_STATUS, 0);
    fixture.set(VIRTIO_MMIO_QUEUE_NUM, 4);
    assert_eq!(fixture.transport.rings[0].queue.size(), SIZE);
}

#[test]
fn a_ring_outside_of_memory_breaks_the_device_when_it_is_set_up() {
    let mut fixture = fixture();
    fixture.start();
    for register in [
        VIRTIO_MMIO_QUEUE_DESC_HIGH,
        VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
        VIRTIO_MMIO_QUEUE_USED_HIGH,
    ] {
        fixture.set(VIRTIO_MMIO_STATUS, 0);
        fixture.set(VIRTIO_MMIO_STATUS, 0b0011);
        fixture.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
        fixture.set(VIRTIO_MMIO_DRIVER_FEATURES, 1);
        fixture.set(VIRTIO_MMIO_STATUS, 0b1011);
        fixture.set(VIRTIO_MMIO_QUEUE_NUM, 3); // not a power of two
        fixture.set(VIRTIO_MMIO_QUEUE_NUM, 0x1_0008); // not 16 bits
        fixture.set(VIRTIO_MMIO_QUEUE_DESC_LOW, 8); // not aligned
        assert_eq!(fixture.transport.rings[0].queue.size(), SIZE);
        assert_eq!(fixture.transport.rings[0].queue.desc_table(), 0);
        fixture.set(register, 0xffff_ffff);
        fixture.set(VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!(fixture.get(VIRTIO_MMIO_QUEUE_READY), 0);
        // Without DRIVER_OK there is no interrupt (2.1.2).
        assert_eq!((status(&fixture), fixture.line.take()), (0x4b, 0));
        fixture.set(VIRTIO_MMIO_STATUS, 0b1111);
        assert_eq!(status(&fixture), 0x4b);
    }
}

#[test]
fn event_indices_avoid_interrupts_and_notifications() {
    let (mut fixture, mut driver) = started();
    for _ in 0..3 * SIZE {
        driver.add(&[(BUFFERS, 8, true)]);
        assert!(driver.wants_notification());
        driver.add(&[(BUFFERS, 8, true)]);
        assert!(!driver.wants_notification());
        fixture.notify(0);
        assert_eq!(fixture.line.take(), 1);
        assert_eq!(fixture.get(VIRTIO_MMIO_INTERRUPT_STATUS), 1);
        fixture.set(VIRTIO_MMIO_INTERRUPT_ACK, 1);
        assert_eq!(fixture.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
        // The driver has not read the used ring, so it has not requested the next interrupt.
        driver.add(&[(BUFFERS, 8, true)]);
        fixture.notify(0);
        assert_eq!(fixture.line.take(), 0);
        for _ in 0..3 {
            assert!(driver.used().is_some());
        }
        assert_eq!(driver.used(), None);
    }
}

#[test]
fn without_event_indices_each_notification_raises_an_interrupt() {
    let mut fixture = fixture();
    fixture.start_with(1 << 32);
    let mut driver = Driver::new(&fixture, 0, SIZE);
    for _ in 0..3 {
        driver.add(&[(BUFFERS, 8, true)]);
        fixture.notify(0);
        assert_eq!(fixture.line.take(), 1);
    }
    fixture.notify(0);
    assert_eq!(fixture.line.take(), 0);
}

#[test]
fn invalid_rings_break_the_device() {
    let lies: [fn(&mut Driver); 5] = [
        |driver| driver.set_available(SIZE + 1),
        |driver| driver.set_available(u16::MAX),
        |driver| driver.offer(SIZE),
        |driver| {
            driver.descriptor(0, BUFFERS, 8, 3, SIZE);
            driver.offer(0);
        },
        |driver| {
            // An indirect table that contains an indirect descriptor.
            driver.descriptor(0, harness::queue(0)[0], 16, 4, 0);
            driver.offer(0);
        },
    ];
    for (n, lie) in lies.iter().enumerate() {
        let (mut fixture, mut driver) = started();
        lie(&mut driver);
        fixture.notify(0);
        assert_eq!(
            (status(&fixture), fixture.line.take()),
            (0x4f, 1),
            "lie {n}"
        );
        fixture.transport.resume();
        assert_eq!(driver.used(), None);
    }
}

#[test]
fn a_saved_transport_continues_in_a_new_machine() {
    let (mut fixture, mut driver) = started();
    driver.add(&[(BUFFERS, 8, true)]);
    fixture.notify(0);
    // Add a chain without a notification: the restored device finds it.
    driver.add(&[(BUFFERS, 8, true)]);
    let state = fixture.transport.save();
    let json = serde_json::to_string(&state).unwrap();
    let state = serde_json::from_str(&json).unwrap();

    let mut restored = Fixture::over(fixture.memory.clone(), |_| Box::new(Rng::new()));
    restored.transport.restore(&state).unwrap();
    assert_eq!(restored.transport.save(), state);
    assert_eq!(restored.line.take(), 0);
    restored.transport.resume();
    // The interrupt that was not acknowledged is raised again.
    assert_eq!(restored.line.take(), 1);
    assert_eq!(restored.get(VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    assert!(driver.used().is_some() && driver.used().is_some());
    driver.add(&[(BUFFERS, 8, true)]);
    restored.notify(0);
    assert!(driver.used().is_some());
    assert_eq!(restored.line.take(), 1);
}

#[test]
fn hostile_states_are_refused() {
    let (mut fixture, _) = started();
    let good = serde_json::to_value(fixture.transport.save()).unwrap();
    let far = fixture.memory.last_addr().0 + 1;
    for (path, value) in [
        ("/status", 2),
        ("/status", 0x1f),
        ("/status", 0b0111),
        ("/status", 0), // a ready queue without a driver
        ("/interrupt_status", 4),
        ("/driver_features", 0),
        ("/driver_features", 1 << 32 | 1),
        ("/driver_features", 1 << 32), // queues have event indices
        ("/queues/0/max_size", 16),
        ("/queues/0/size", 0),
        ("/queues/0/size", 7),
        ("/queues/0/size", 16),
        ("/queues/0/desc_table", 8),
        ("/queues/0/avail_ring", 1),
        ("/queues/0/used_ring", 2),
        ("/queues/0/desc_table", far),
        ("/queues/0/avail_ring", far - 2),
        ("/queues/0/used_ring", u64::MAX - 3),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(path).unwrap() = value.into();
        let bad = serde_json::from_value(bad).unwrap();
        let error = fixture.transport.restore(&bad).unwrap_err();
        assert!(matches!(error, Error::State(_)), "{path} {value}");
    }
    let mut bad = good.clone();
    bad["queues"].as_array_mut().unwrap().clear();
    let bad = serde_json::from_value(bad).unwrap();
    assert!(fixture.transport.restore(&bad).is_err());
    let mut bad = good.clone();
    bad["device"] = serde_json::json!({"block": {"sectors": 0, "readonly": true}});
    let bad = serde_json::from_value(bad).unwrap();
    assert!(fixture.transport.restore(&bad).is_err());
    // No failed attempt has changed the state.
    assert_eq!(
        serde_json::to_value(fixture.transport.save()).unwrap(),
        good
    );
    // Any index is accepted.
    let mut odd = good;
    odd["queues"][0]["next_avail"] = 0xfff0.into();
    odd["queues"][0]["next_used"] = 0xffff.into();
    let odd = serde_json::from_value(odd).unwrap();
    fixture.transport.restore(&odd).unwrap();
    fixture.transport.resume();
    assert_eq!(status(&fixture), 0x4f);
}
