// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc;

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use tempfile::{NamedTempFile, tempfile};
use virtio_bindings::virtio_mmio::*;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::*;
use crate::kvm::devices::driver::{Driver, NEXT};
use crate::kvm::devices::harness::{BUFFERS, Fixture};

const HEADER: u64 = BUFFERS;
const DATA: u64 = BUFFERS + 0x1000;
const STATUS: u64 = BUFFERS + 0xf00;

/// Number of sectors of the test's disk.
const SECTORS: u64 = 64;

struct Disk {
    fixture: Fixture,
    driver: Driver,
    image: NamedTempFile,
}

/// Returns a disk, each byte of which is its sector's number, followed by half a sector.
fn disk(readonly: bool) -> Disk {
    let mut image = NamedTempFile::new().unwrap();
    for sector in 0..SECTORS {
        image.write_all(&[sector as u8; 512]).unwrap();
    }
    image.write_all(&[0xff; 256]).unwrap();
    let block = Block::open(image.path(), readonly, "a serial number of 22").unwrap();
    let mut fixture = Fixture::new(|_| Box::new(block));
    fixture.start();
    let driver = Driver::new(&fixture, 0, QUEUE_SIZE);
    Disk {
        fixture,
        driver,
        image,
    }
}

impl Disk {
    fn header(&self, kind: u32, sector: u64) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.put(HEADER, &header);
        self.put(STATUS, &[0xee]);
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        let memory = &self.fixture.memory;
        memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let memory = &self.fixture.memory;
        memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    /// Makes a request; returns its status and the number of bytes written.
    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u32, u32) {
        self.header(kind, sector);
        let mut chain = vec![(HEADER, 16, false)];
        chain.extend(data);
        chain.push((STATUS, 1, true));
        let head = self.driver.add(&chain);
        self.fixture.notify(0);
        let used = self.driver.used().expect("a used chain");
        assert_eq!(used.0, head);
        (self.get(STATUS, 1)[0].into(), used.1)
    }

    fn image(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut file = File::open(self.image.path()).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn range(&self, sector: u64, sectors: u32, flags: u32) -> [(u64, u32, bool); 1] {
        let mut range = [0; 16];
        range[..8].copy_from_slice(&sector.to_le_bytes());
        range[8..12].copy_from_slice(&sectors.to_le_bytes());
        range[12..].copy_from_slice(&flags.to_le_bytes());
        self.put(DATA, &range);
        [(DATA, 16, false)]
    }
}

#[test]
fn describes_itself() {
    let Disk { mut fixture, .. } = disk(false);
    assert_eq!(fixture.get(VIRTIO_MMIO_DEVICE_ID), 2);
    let mut capacity = [0; 8];
    fixture.transport.read(0x100, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), SECTORS);
    let mut seg_max = [0; 4];
    fixture.transport.read(0x100 + 12, &mut seg_max);
    assert_eq!(u32::from_le_bytes(seg_max), SEG_MAX);
    let writable = 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
    assert_eq!(
        fixture.offered() & (writable | 1 << VIRTIO_BLK_F_RO),
        writable
    );
    let Disk { mut fixture, .. } = disk(true);
    let offered = fixture.offered() & (writable | 1 << VIRTIO_BLK_F_RO);
    assert_eq!(offered, 1 << VIRTIO_BLK_F_RO);
}

#[test]
fn reads_into_segments_and_marks_them_dirty() {
    let mut disk = disk(true);
    let data = [(DATA, 512, true), (DATA + 0x8000, 1024, true)];
    let done = disk.request(VIRTIO_BLK_T_IN, 3, &data);
    assert_eq!(done, (VIRTIO_BLK_S_OK, 1537));
    assert_eq!(disk.get(DATA, 513), [vec![3; 512], vec![0]].concat());
    let second = [vec![4; 512], vec![5; 512]].concat();
    assert_eq!(disk.get(DATA + 0x8000, 1024), second);
    // The next request continues this one and needs no seek; the one after it does.
    let done = disk.request(VIRTIO_BLK_T_IN, 6, &[(DATA, 512, true)]);
    assert_eq!((done.0, disk.get(DATA, 1)), (VIRTIO_BLK_S_OK, vec![6]));
    let done = disk.request(VIRTIO_BLK_T_IN, 63, &[(DATA, 512, true)]);
    assert_eq!((done.0, disk.get(DATA, 1)), (VIRTIO_BLK_S_OK, vec![63]));

    let region = disk.fixture.memory.find_region(GuestAddress(0)).unwrap();
    let dirty = |address: u64| region.bitmap().dirty_at(address as usize);
    assert!(dirty(DATA) && dirty(DATA + 0x8000) && dirty(STATUS));
    assert!(!dirty(DATA + 0x1000));
}

#[test]
fn writes() {
    let mut disk = disk(false);
    disk.put(DATA, &[0xaa; 1024]);
    let data = [(DATA, 700, false), (DATA + 700, 324, false)];
    let done = disk.request(VIRTIO_BLK_T_OUT, 62, &data);
    assert_eq!(done, (VIRTIO_BLK_S_OK, 1));
    let image = disk.image();
    assert!(
        image[..62 * 512]
            .chunks(512)
            .enumerate()
            .all(|(n, s)| s == [n as u8; 512])
    );
    assert_eq!(image[62 * 512..64 * 512], [0xaa; 1024]);
    assert_eq!(image[64 * 512..], [0xff; 256]);
    // A read after a write at the file's current offset.
    let done = disk.request(VIRTIO_BLK_T_IN, 0, &[(DATA, 512, true)]);
    assert_eq!((done.0, disk.get(DATA, 1)), (VIRTIO_BLK_S_OK, vec![0]));
    let done = disk.request(VIRTIO_BLK_T_FLUSH, 0, &[]);
    assert_eq!(done, (VIRTIO_BLK_S_OK, 1));
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let mut disk = disk(true);
    let before = disk.image();
    let done = disk.request(VIRTIO_BLK_T_OUT, 0, &[(DATA, 512, false)]);
    assert_eq!(done, (VIRTIO_BLK_S_IOERR, 1));
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        let range = disk.range(0, 8, 0);
        assert_eq!(disk.request(kind, 0, &range), (VIRTIO_BLK_S_IOERR, 1));
    }
    assert_eq!(disk.image(), before);
}

#[test]
fn requests_beyond_the_disk_fail() {
    let mut disk = disk(false);
    let before = disk.image();
    let sector = |write| [(DATA, 512, write)];
    for place in [SECTORS, SECTORS + 1, u64::MAX / 512, u64::MAX, 1 << 55] {
        let done = disk.request(VIRTIO_BLK_T_IN, place, &sector(true));
        assert_eq!(done.0, VIRTIO_BLK_S_IOERR);
        let done = disk.request(VIRTIO_BLK_T_OUT, place, &sector(false));
        assert_eq!(done.0, VIRTIO_BLK_S_IOERR);
    }
    let two = [(DATA, 1024, true)];
    let done = disk.request(VIRTIO_BLK_T_IN, SECTORS - 1, &two);
    assert_eq!(done.0, VIRTIO_BLK_S_IOERR);
    // A partial sector; a segment that is too large; an address outside of memory.
    for bad in [
        (DATA, 511, true),
        (DATA, SIZE_MAX + 512, true),
        (1 << 40, 512, true),
    ] {
        let done = disk.request(VIRTIO_BLK_T_IN, 0, &[bad]);
        assert_eq!(done.0, VIRTIO_BLK_S_IOERR, "{bad:x?}");
    }
    let (start, end) = (u64::MAX - 100, (1 << 20) - 256);
    for bad in [(start, 512, false), (end, 512, false)] {
        let done = disk.request(VIRTIO_BLK_T_OUT, 0, &[bad]);
        assert_eq!(done.0, VIRTIO_BLK_S_IOERR, "{bad:x?}");
    }
    assert_eq!(disk.image()[512..], before[512..]);
    assert!(disk.fixture.transport.broken().is_none());
    // If the file of a disk shrinks, requests fail.
    disk.image.as_file().set_len(1024).unwrap();
    let done = disk.request(VIRTIO_BLK_T_IN, 8, &sector(true));
    assert_eq!(done.0, VIRTIO_BLK_S_IOERR);
    let done = disk.request(VIRTIO_BLK_T_IN, 1, &sector(true));
    assert_eq!((done.0, disk.get(DATA, 1)), (VIRTIO_BLK_S_OK, vec![1]));
}

#[test]
fn returns_its_serial_and_refuses_unknown_requests() {
    let mut disk = disk(false);
    let done = disk.request(VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 20, true)]);
    assert_eq!(done, (VIRTIO_BLK_S_OK, 21));
    assert_eq!(disk.get(DATA, 21), b"a serial number of 2\0");
    for kind in [2, 3, 14, 16, u32::MAX] {
        let done = disk.request(kind, 0, &[(DATA, 512, true)]);
        assert_eq!(done.0, VIRTIO_BLK_S_UNSUPP);
    }
}

#[test]
fn discards_and_zeroes() {
    for (kind, flags) in [
        (VIRTIO_BLK_T_DISCARD, 0),
        (VIRTIO_BLK_T_WRITE_ZEROES, 0),
        (VIRTIO_BLK_T_WRITE_ZEROES, 1),
    ] {
        let mut disk = disk(false);
        let range = disk.range(8, 16, flags);
        match disk.request(kind, 0, &range) {
            (VIRTIO_BLK_S_OK, 1) => {
                let image = disk.image();
                assert_eq!(image.len() as u64, SECTORS * 512 + 256);
                assert_eq!(image[8 * 512 - 1], 7);
                assert!(image[8 * 512..24 * 512].iter().all(|&byte| byte == 0));
                assert_eq!(image[24 * 512], 24);
            }
            // The tests' file system may support neither mode.
            done => assert_eq!(done, (VIRTIO_BLK_S_UNSUPP, 1)),
        }
        let empty = disk.range(64, 0, flags);
        assert_eq!(disk.request(kind, 0, &empty).0, VIRTIO_BLK_S_OK);
        for (sector, sectors) in [(60, 5), (u64::MAX, 1), (0, ZERO_MAX + 1), (0, u32::MAX)] {
            let range = disk.range(sector, sectors, flags);
            assert_eq!(disk.request(kind, 0, &range).0, VIRTIO_BLK_S_IOERR);
        }
        let range = disk.range(0, 8, 2);
        assert_eq!(disk.request(kind, 0, &range).0, VIRTIO_BLK_S_UNSUPP);
        let short = disk.request(kind, 0, &[(DATA, 15, false)]);
        assert_eq!(short.0, VIRTIO_BLK_S_IOERR);
    }
    let mut disk = disk(false);
    let unmap = disk.range(0, 8, 1);
    let done = disk.request(VIRTIO_BLK_T_DISCARD, 0, &unmap);
    assert_eq!(done.0, VIRTIO_BLK_S_UNSUPP);
}

#[test]
fn requests_may_be_divided_into_descriptors_arbitrarily() {
    let mut disk = disk(false);
    disk.header(VIRTIO_BLK_T_OUT, 1);
    disk.put(HEADER + 16, &[0x55; 512]);
    // The header in three parts, the last one with data; an empty buffer after the status.
    disk.driver.add(&[
        (HEADER, 3, false),
        (HEADER + 3, 0, false),
        (HEADER + 3, 10, false),
        (HEADER + 13, 515, false),
        (STATUS, 1, true),
        (STATUS, 0, true),
    ]);
    disk.fixture.notify(0);
    assert!(disk.driver.used().is_some());
    assert_eq!(disk.get(STATUS, 1), [VIRTIO_BLK_S_OK as u8]);
    assert_eq!(disk.image()[512..1024], [0x55; 512]);
}

#[test]
fn invalid_chains_break_the_device() {
    let header = (HEADER, 16, false);
    let status = (STATUS, 1, true);
    let much = (0, u32::MAX, true);
    let chains: [&[(u64, u32, bool)]; 7] = [
        &[header, much, much, status],  // exceeds the maximum length of a chain
        &[header],                      // no status
        &[header, (STATUS, 0, true)],   // no room for it
        &[(HEADER, 15, false), status], // no header
        &[status, header],              // readable after writable
        &[header, (1 << 50, 1, true)],  // a status not in memory
        &[header, (u64::MAX, 0xffff_ffff, true)], // and one beyond the address space
    ];
    for chain in chains {
        let mut disk = disk(false);
        disk.header(VIRTIO_BLK_T_FLUSH, 0);
        disk.driver.add(chain);
        disk.fixture.notify(0);
        assert_eq!(disk.driver.used(), None);
        assert!(disk.fixture.transport.broken().is_some(), "{chain:x?}");
        assert_eq!(disk.fixture.get(VIRTIO_MMIO_STATUS), 0x4f);
        assert_eq!(disk.fixture.get(VIRTIO_MMIO_INTERRUPT_STATUS), 2);
        assert_eq!(disk.fixture.line.take(), 1);
        // The device does nothing until it is reset, and works afterwards.
        disk.fixture.notify(0);
        assert_eq!(disk.fixture.line.take(), 0);
        disk.fixture.start();
        assert_eq!(disk.fixture.get(VIRTIO_MMIO_STATUS), 0xf);
    }
}

#[test]
fn a_looping_chain_breaks_the_device() {
    let mut disk = disk(false);
    disk.header(VIRTIO_BLK_T_IN, 0);
    disk.driver.descriptor(0, HEADER, 16, NEXT, 1);
    disk.driver.descriptor(1, DATA, 512, NEXT | 2, 1);
    disk.driver.offer(0);
    disk.fixture.notify(0);
    assert!(disk.fixture.transport.broken().is_some());
}

#[test]
fn requests_beyond_the_budget_are_deferred() {
    let mut disk = disk(false);
    let big = tempfile().unwrap();
    big.set_len(BUDGET).unwrap();
    disk.fixture = Fixture::new(|_| Box::new(Block::new(big, false, "").unwrap()));
    disk.fixture.start();
    disk.driver = Driver::new(&disk.fixture, 0, QUEUE_SIZE);
    // Three requests of 3/8 of the budget each; the file is a hole.
    let count = (BUDGET * 3 / 8 / u64::from(SIZE_MAX)) as u32;
    disk.header(VIRTIO_BLK_T_IN, 0);
    disk.put(STATUS, &[0; 3]);
    let table = BUFFERS + 0x8000;
    for n in 0..3 {
        // An indirect table is not offered, but is followed: this is the only way to have three
        // such chains in one queue.
        let entry = |at: u32, address: u64, len: u32, flags: u16| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&address.to_le_bytes());
            bytes[8..12].copy_from_slice(&len.to_le_bytes());
            bytes[12..14].copy_from_slice(&flags.to_le_bytes());
            bytes[14..].copy_from_slice(&(at as u16 + 1).to_le_bytes());
            disk.put(table + n * 0x1000 + u64::from(at) * 16, &bytes);
        };
        entry(0, HEADER, 16, NEXT);
        for at in 1..=count {
            entry(at, BUFFERS + 0x2_0000, SIZE_MAX, NEXT | 2);
        }
        entry(count + 1, STATUS + n, 1, 2);
        disk.driver
            .descriptor(n as u16, table + n * 0x1000, (count + 2) * 16, 4, 0);
        disk.driver.offer(n as u16);
    }
    disk.fixture.notify(0);
    assert!(disk.driver.used().is_some());
    assert!(disk.driver.used().is_some());
    assert_eq!(disk.driver.used(), None);
    assert_eq!(disk.fixture.turn(), 1);
    assert!(disk.driver.used().is_some());
    assert_eq!(disk.fixture.turn(), 0);
    assert_eq!(disk.get(STATUS, 3), [0; 3]);
}

#[test]
fn restores_only_the_same_disk() {
    let mut here = disk(false);
    let state = here.fixture.transport.save();
    assert!(disk(false).fixture.transport.restore(&state).is_ok());
    assert!(disk(true).fixture.transport.restore(&state).is_err());
    let small = tempfile().unwrap();
    small.set_len((SECTORS - 1) * 512).unwrap();
    let mut other = Fixture::new(|_| Box::new(Block::new(small, false, "").unwrap()));
    assert!(other.transport.restore(&state).is_err());
}

/// Returns a file of this many sectors, and the file system that contains it, which has room for
/// only some of them. Returns `None` after a message if this process may not mount one.
fn on_full_disk(sectors: u64) -> Option<(File, OwnedFd)> {
    let mount = || -> rustix::io::Result<OwnedFd> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "size", "16k")?;
        fsconfig_create(&context)?;
        // The file system is not attached, so it disappears with its descriptor.
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        fsmount(&context, flags, MountAttrFlags::empty())
    };
    let mount = match mount() {
        Ok(mount) => mount,
        Err(error) => {
            let text = format!("not run: cannot mount a tmpfs: {error}\n");
            std::io::stderr().write_all(text.as_bytes()).unwrap();
            return None;
        }
    };
    let flags = OFlags::RDWR | OFlags::CREATE;
    let file = File::from(openat(&mount, "disk", flags, Mode::RUSR | Mode::WUSR).unwrap());
    file.set_len(sectors * 512).unwrap();
    Some((file, mount))
}

#[test]
fn a_full_disk_of_the_host_is_reported_once() {
    let Some((file, _mount)) = on_full_disk(SECTORS) else {
        return;
    };
    let (sender, faults) = mpsc::channel();
    let report = move |fault| sender.send(fault).unwrap();
    let mut disk = disk(false);
    let block = Block::new(file, false, "").unwrap().on_fault(report);
    disk.fixture = Fixture::new(|_| Box::new(block));
    disk.fixture.start();
    disk.driver = Driver::new(&disk.fixture, 0, QUEUE_SIZE);
    let mut write = |sector| {
        let status = disk.request(VIRTIO_BLK_T_OUT, sector, &[(DATA, 512, false)]);
        status.0
    };
    // Requests that are the guest's own mistakes are not faults of the host.
    assert_eq!(write(0), VIRTIO_BLK_S_OK);
    assert_eq!(write(SECTORS), VIRTIO_BLK_S_IOERR);
    assert_eq!(faults.try_iter().count(), 0);
    let failed = (0..SECTORS).filter(|&sector| write(sector) == VIRTIO_BLK_S_IOERR);
    assert_eq!(failed.count() as u64, SECTORS - 32);
    let faults: Vec<_> = faults.try_iter().collect();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].kind, FaultKind::DiskFull);
    assert!(faults[0].detail.starts_with("cannot write: "));
    assert!(disk.fixture.transport.broken().is_none());
}

#[test]
fn a_disk_that_the_host_has_truncated_is_reported() {
    let mut disk = disk(false);
    let (sender, faults) = mpsc::channel();
    let file = File::options().read(true).open(disk.image.path()).unwrap();
    let block = Block::new(file, false, "").unwrap();
    let block = block.on_fault(move |fault| sender.send(fault).unwrap());
    disk.fixture = Fixture::new(|_| Box::new(block));
    disk.fixture.start();
    disk.driver = Driver::new(&disk.fixture, 0, QUEUE_SIZE);
    disk.image.as_file().set_len(1024).unwrap();
    for sector in [8, 9] {
        let done = disk.request(VIRTIO_BLK_T_IN, sector, &[(DATA, 512, true)]);
        assert_eq!(done.0, VIRTIO_BLK_S_IOERR);
    }
    let kinds: Vec<_> = faults.try_iter().map(|fault| fault.kind).collect();
    assert_eq!(kinds, [FaultKind::Io]);
}
