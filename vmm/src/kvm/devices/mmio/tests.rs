// SPDX-License-Identifier: Apache-2.0 OR MIT
use vm_memory::GuestMemoryBackend;

use super::*;
use crate::kvm::devices::driver::Driver;
use crate::kvm::devices::harness::{self, BUFFERS, Bench};
use crate::kvm::devices::rng::Rng;

const SIZE: u16 = 8;

fn bench() -> Bench {
    Bench::new(|_| Box::new(Rng::new()))
}

fn started() -> (Bench, Driver) {
    let mut bench = bench();
    bench.start();
    let driver = Driver::new(&bench, 0, SIZE);
    (bench, driver)
}

fn status(bench: &Bench) -> u32 {
    bench.get(VIRTIO_MMIO_STATUS)
}

#[test]
fn registers_read_by_words_only() {
    let mut bench = bench();
    assert_eq!(bench.get(VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(bench.get(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(bench.get(VIRTIO_MMIO_DEVICE_ID), 4);
    for size in [0, 1, 2, 3, 5, 8, 64] {
        let mut data = vec![0xff; size];
        bench.transport.read(0, &mut data);
        assert_eq!(data, vec![0; size]);
        bench
            .transport
            .write(VIRTIO_MMIO_STATUS.into(), &vec![1; size]);
        assert_eq!(status(&bench), 0);
    }
    // Between registers, beyond them, and beyond everything.
    for offset in [2, 0x3c, 0xfc, 0x100, 0xfff, 0x1000, u64::MAX] {
        let mut data = [0xff; 4];
        bench.transport.read(offset, &mut data);
        assert_eq!(data, [0; 4]);
        bench.transport.write(offset, &[0xff; 4]);
    }
    assert_eq!(bench.get(VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    bench.set(VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(bench.get(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    assert_eq!(bench.get(VIRTIO_MMIO_QUEUE_READY), 0);
    bench.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(bench.get(VIRTIO_MMIO_DEVICE_FEATURES), 0);
    assert_eq!(bench.offered(), 1 << 32 | 1 << 29);
}

#[test]
fn status_only_advances_in_order() {
    let mut bench = bench();
    for (write, read) in [
        (0b0010, 0),      // DRIVER before ACKNOWLEDGE
        (0b0001, 0b0001), // ACKNOWLEDGE
        (0b1001, 0b0001), // FEATURES_OK before DRIVER
        (0b0011, 0b0011), // DRIVER
        (0b0010, 0b0011), // bits are not taken back
        (0b1011, 0b0011), // FEATURES_OK without VERSION_1
        (0b0111, 0b0011), // DRIVER_OK before FEATURES_OK
        (0x43, 0b0011),   // NEEDS_RESET is not the driver's
        (0x100, 0b0011),  // nor are other bits
    ] {
        bench.set(VIRTIO_MMIO_STATUS, write);
        assert_eq!(status(&bench), read, "{write:#x}");
    }
    bench.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    bench.set(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    // A feature that is not offered.
    bench.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    bench.set(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    bench.set(VIRTIO_MMIO_STATUS, 0b1011);
    assert_eq!(status(&bench), 0b0011);
    bench.set(VIRTIO_MMIO_DRIVER_FEATURES, 0);
    bench.set(VIRTIO_MMIO_STATUS, 0b1011);
    assert_eq!(status(&bench), 0b1011);
    // Too late for others.
    bench.set(VIRTIO_MMIO_DRIVER_FEATURES, 1 << 29);
    assert_eq!(bench.transport.driver_features, 1 << 32);
    bench.set(VIRTIO_MMIO_STATUS, 0b1111);
    assert_eq!(status(&bench), 0b1111);
    // A driver that has failed stays where it is.
    bench.set(VIRTIO_MMIO_STATUS, 0x8f);
    assert_eq!(status(&bench), 0x8f);
    bench.set(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(status(&bench), 0);
    bench.set(VIRTIO_MMIO_STATUS, 0x81);
    bench.set(VIRTIO_MMIO_STATUS, 0x83);
    assert_eq!(status(&bench), 0x80);
}

#[test]
fn features_beyond_the_last_are_not_accepted() {
    let mut bench = bench();
    bench.set(VIRTIO_MMIO_STATUS, 0b0011);
    bench.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    bench.set(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    bench.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 2);
    bench.set(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    bench.set(VIRTIO_MMIO_STATUS, 0b1011);
    assert_eq!(status(&bench), 0b0011);
}

#[test]
fn queues_are_set_up_between_features_and_driver_ok() {
    let (mut bench, mut driver) = started();
    assert_eq!(bench.get(VIRTIO_MMIO_QUEUE_READY), 1);
    bench.set(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(bench.get(VIRTIO_MMIO_QUEUE_READY), 0);
    bench.set(VIRTIO_MMIO_QUEUE_NUM, 4);
    bench.set(VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(bench.get(VIRTIO_MMIO_QUEUE_READY), 0);
    assert_eq!(bench.transport.rings[0].queue.size(), SIZE);
    // A queue that is not ready is not looked at, nor one that does not exist.
    driver.add(&[(BUFFERS, 8, true)]);
    bench.notify(0);
    bench.notify(1);
    bench.notify(u32::MAX);
    assert_eq!((driver.used(), status(&bench)), (None, 0xf));

    bench.set(VIRTIO_MMIO_STATUS, 0);
    bench.set(VIRTIO_MMIO_QUEUE_NUM, 4);
    assert_eq!(bench.transport.rings[0].queue.size(), SIZE);
}

#[test]
fn a_ring_outside_of_memory_breaks_it_early() {
    let mut bench = bench();
    bench.start();
    for register in [
        VIRTIO_MMIO_QUEUE_DESC_HIGH,
        VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
        VIRTIO_MMIO_QUEUE_USED_HIGH,
    ] {
        bench.set(VIRTIO_MMIO_STATUS, 0);
        bench.set(VIRTIO_MMIO_STATUS, 0b0011);
        bench.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
        bench.set(VIRTIO_MMIO_DRIVER_FEATURES, 1);
        bench.set(VIRTIO_MMIO_STATUS, 0b1011);
        bench.set(VIRTIO_MMIO_QUEUE_NUM, 3); // not a power of two
        bench.set(VIRTIO_MMIO_QUEUE_NUM, 0x1_0008); // not 16 bits
        bench.set(VIRTIO_MMIO_QUEUE_DESC_LOW, 8); // not aligned
        assert_eq!(bench.transport.rings[0].queue.size(), SIZE);
        assert_eq!(bench.transport.rings[0].queue.desc_table(), 0);
        bench.set(register, 0xffff_ffff);
        bench.set(VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!(bench.get(VIRTIO_MMIO_QUEUE_READY), 0);
        // Without DRIVER_OK there is no interrupt (2.1.2).
        assert_eq!((status(&bench), bench.line.take()), (0x4b, 0));
        bench.set(VIRTIO_MMIO_STATUS, 0b1111);
        assert_eq!(status(&bench), 0x4b);
    }
}

#[test]
fn event_indices_spare_interrupts_and_notifications() {
    let (mut bench, mut driver) = started();
    for _ in 0..3 * SIZE {
        driver.add(&[(BUFFERS, 8, true)]);
        assert!(driver.wants_notification());
        driver.add(&[(BUFFERS, 8, true)]);
        assert!(!driver.wants_notification());
        bench.notify(0);
        assert_eq!(bench.line.take(), 1);
        assert_eq!(bench.get(VIRTIO_MMIO_INTERRUPT_STATUS), 1);
        bench.set(VIRTIO_MMIO_INTERRUPT_ACK, 1);
        assert_eq!(bench.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
        // The driver has not asked for the next, not having looked.
        driver.add(&[(BUFFERS, 8, true)]);
        bench.notify(0);
        assert_eq!(bench.line.take(), 0);
        for _ in 0..3 {
            assert!(driver.used().is_some());
        }
        assert_eq!(driver.used(), None);
    }
}

#[test]
fn without_event_indices_each_notification_is_answered() {
    let mut bench = bench();
    bench.start_with(1 << 32);
    let mut driver = Driver::new(&bench, 0, SIZE);
    for _ in 0..3 {
        driver.add(&[(BUFFERS, 8, true)]);
        bench.notify(0);
        assert_eq!(bench.line.take(), 1);
    }
    bench.notify(0);
    assert_eq!(bench.line.take(), 0);
}

#[test]
fn rings_that_lie_break_it() {
    let lies: [fn(&mut Driver); 5] = [
        |driver| driver.set_available(SIZE + 1),
        |driver| driver.set_available(u16::MAX),
        |driver| driver.offer(SIZE),
        |driver| {
            driver.descriptor(0, BUFFERS, 8, 3, SIZE);
            driver.offer(0);
        },
        |driver| {
            // An indirect table that is indirect itself.
            driver.descriptor(0, harness::queue(0)[0], 16, 4, 0);
            driver.offer(0);
        },
    ];
    for (n, lie) in lies.iter().enumerate() {
        let (mut bench, mut driver) = started();
        lie(&mut driver);
        bench.notify(0);
        assert_eq!((status(&bench), bench.line.take()), (0x4f, 1), "lie {n}");
        bench.transport.resume();
        assert_eq!(driver.used(), None);
    }
}

#[test]
fn a_saved_transport_goes_on_elsewhere() {
    let (mut bench, mut driver) = started();
    driver.add(&[(BUFFERS, 8, true)]);
    bench.notify(0);
    // Added, and not notified of: the restored device finds it.
    driver.add(&[(BUFFERS, 8, true)]);
    let state = bench.transport.save();
    let json = serde_json::to_string(&state).unwrap();
    let state = serde_json::from_str(&json).unwrap();

    let mut restored = Bench::over(bench.memory.clone(), |_| Box::new(Rng::new()));
    restored.transport.restore(&state).unwrap();
    assert_eq!(restored.transport.save(), state);
    assert_eq!(restored.line.take(), 0);
    restored.transport.resume();
    // The interrupt that was not acknowledged.
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
    let (mut bench, _) = started();
    let good = serde_json::to_value(bench.transport.save()).unwrap();
    let far = bench.memory.last_addr().0 + 1;
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
        let error = bench.transport.restore(&bad).unwrap_err();
        assert!(matches!(error, Error::State(_)), "{path} {value}");
    }
    let mut bad = good.clone();
    bad["queues"].as_array_mut().unwrap().clear();
    let bad = serde_json::from_value(bad).unwrap();
    assert!(bench.transport.restore(&bad).is_err());
    let mut bad = good.clone();
    bad["device"] = serde_json::json!({"block": {"sectors": 0, "readonly": true}});
    let bad = serde_json::from_value(bad).unwrap();
    assert!(bench.transport.restore(&bad).is_err());
    // Nothing of all that stuck.
    assert_eq!(serde_json::to_value(bench.transport.save()).unwrap(), good);
    // Any index is harmless.
    let mut odd = good;
    odd["queues"][0]["next_avail"] = 0xfff0.into();
    odd["queues"][0]["next_used"] = 0xffff.into();
    let odd = serde_json::from_value(odd).unwrap();
    bench.transport.restore(&odd).unwrap();
    bench.transport.resume();
    assert_eq!(status(&bench), 0x4f);
}
