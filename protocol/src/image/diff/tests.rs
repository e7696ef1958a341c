// SPDX-License-Identifier: Apache-2.0 OR MIT
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

use super::*;
use crate::image::damage::{Forged, put_together, take_apart};
use crate::image::layout;
use crate::image::record::Kind;
use crate::image::samples;

fn record(kind: Kind, objref: u32, payload: &[u8]) -> Forged {
    Forged {
        kind: kind.number(),
        objref,
        payload: payload.to_vec(),
    }
}

fn zeroed(kind: Kind) -> Vec<u8> {
    vec![0; table::shape(kind).size]
}

const PAGE: usize = 4096;

/// Returns records of each type, of two tasks that share their descriptors.
fn rich() -> Vec<Forged> {
    let image = samples::shared(2, 0, 1);
    let mut records = take_apart(image.as_slice()).unwrap();
    records.truncate(3);
    records[1].payload = zeroed_element(Kind::Schema);
    let file = |kind: u32, inode: u32| layout::File {
        kind,
        inode,
        ..layout::File::new_zeroed()
    };
    let with = |kind: Kind, tail: &[u8]| [zeroed(kind), tail.to_vec()].concat();
    let pages = |addr: u64, nr: u64| {
        let pages = layout::Pages { addr, nr };
        pages.as_bytes().to_vec()
    };
    let vma = |start: u64, end: u64| layout::Vma {
        start,
        end,
        kind: 1,
        ..layout::Vma::new_zeroed()
    };
    let fd = |fd: u32, file: u32| layout::Fd {
        fd,
        cloexec: 0,
        file,
        pad: 0,
    };
    let fds = [fd(0, 4), fd(3, 6), fd(5, 8)];
    let message = layout::Message {
        socket: 8,
        nr_files: 1,
        len: 2,
        ..layout::Message::new_zeroed()
    };
    let mut task = layout::Task::new_zeroed();
    (task.cred, task.fs, task.files, task.mm, task.seccomp) = (1, 2, 9, 10, 11);
    task.comm[..4].copy_from_slice(b"cell");
    let timer = |id: u32| layout::PosixTimer {
        id,
        ..layout::PosixTimer::new_zeroed()
    };
    records.extend([
        record(Kind::Cred, 1, &with(Kind::Cred, &[0; 8])),
        record(Kind::Fs, 2, &with(Kind::Fs, b"/")),
        record(Kind::Pipe, 3, &zeroed(Kind::Pipe)),
        record(Kind::PipeBuf, 0, &with(Kind::PipeBuf, b"in it")),
        record(Kind::File, 4, file(3, 3).as_bytes()),
        record(Kind::Inode, 5, &with(Kind::Inode, b"/gone")),
        record(Kind::Data, 0, &with(Kind::Data, b"content")),
        record(Kind::File, 6, file(2, 5).as_bytes()),
        record(Kind::Sockets, 7, &with(Kind::Sockets, b"@name")),
        record(Kind::File, 8, file(13, 7).as_bytes()),
        record(Kind::Eventfd, 0, &zeroed(Kind::Eventfd)),
        record(Kind::Signalfd, 0, &zeroed(Kind::Signalfd)),
        record(Kind::Timerfd, 0, &zeroed(Kind::Timerfd)),
        record(Kind::Inotify, 0, &zeroed(Kind::Inotify)),
        record(Kind::Watch, 0, &with(Kind::Watch, b"/watched")),
        record(Kind::InotifyEvent, 0, &with(Kind::InotifyEvent, b"name")),
        record(Kind::Tty, 12, &with(Kind::Tty, b"typed")),
        record(Kind::Files, 9, fds.as_bytes()),
        record(
            Kind::Epoll,
            0,
            &[zeroed(Kind::Epoll), zeroed_element(Kind::Epoll)].concat(),
        ),
        record(
            Kind::Message,
            0,
            &[message.as_bytes(), &6u32.to_le_bytes(), b"hi"].concat(),
        ),
        record(Kind::Mm, 10, &with(Kind::Mm, &[1; 16])),
        record(Kind::Vma, 0, vma(0x1000, 0x5000).as_bytes()),
        record(
            Kind::Pages,
            0,
            &[pages(0x1000, 2), vec![7; 2 * PAGE]].concat(),
        ),
        record(Kind::Same, 0, &pages(0x4000, 1)),
        record(Kind::Vma, 0, vma(0x8000, 0x9000).as_bytes()),
        record(Kind::MmEnd, 0, &[]),
        record(Kind::Rlimits, 0, &zeroed_element(Kind::Rlimits).repeat(16)),
        record(Kind::Signal, 0, &zeroed(Kind::Signal)),
        record(Kind::Sighand, 0, &zeroed_element(Kind::Sighand).repeat(64)),
        record(Kind::PosixTimer, 0, timer(1).as_bytes()),
        record(Kind::PosixTimer, 0, timer(2).as_bytes()),
        record(Kind::Siginfo, 0, &zeroed(Kind::Siginfo)),
        record(Kind::Timers, 0, &zeroed(Kind::Timers)),
        record(Kind::Regs, 0, &zeroed(Kind::Regs)),
        record(Kind::Debugregs, 0, &zeroed(Kind::Debugregs)),
        record(Kind::Xstate, 0, &[0; 1000]),
        record(Kind::Ptrace, 0, &zeroed(Kind::Ptrace)),
        record(Kind::Seccomp, 11, &with(Kind::Seccomp, &[0; 8])),
        record(Kind::Task, 0, task.as_bytes()),
        record(Kind::TaskEnd, 0, &[]),
        record(Kind::Cred, 13, &with(Kind::Cred, &[])),
        record(Kind::Regs, 0, &zeroed(Kind::Regs)),
        record(Kind::Task, 0, task.as_bytes()),
        record(Kind::TaskEnd, 0, &[]),
    ]);
    let trailer = layout::Trailer {
        nr_records: records.len() as u64 + 1,
        nr_objects: 13,
    };
    records.push(record(Kind::Trailer, 0, trailer.as_bytes()));
    records
}

fn zeroed_element(kind: Kind) -> Vec<u8> {
    match table::shape(kind).tail {
        table::Tail::Elements { size, .. } => vec![0; size],
        table::Tail::Bytes(_) => Vec::new(),
    }
}

/// Corrects the number of records in the trailer.
fn image(records: &[Forged]) -> Vec<u8> {
    let mut records = records.to_vec();
    let count = records.len() as u64;
    let trailer = records.last_mut().unwrap();
    trailer.payload[..8].copy_from_slice(&count.to_le_bytes());
    put_together(&records)
}

fn compared(one: &[Forged], other: &[Forged]) -> Comparison {
    compare(image(one).as_slice(), image(other).as_slice(), true).unwrap()
}

fn words(found: &Comparison) -> Vec<String> {
    found.differences.iter().map(ToString::to_string).collect()
}

#[test]
fn an_image_equals_itself() {
    let records = rich();
    let kinds: std::collections::BTreeSet<_> = records.iter().map(|record| record.kind).collect();
    assert_eq!(kinds.len(), Kind::ALL.len(), "each type occurs");
    let found = compared(&records, &records);
    assert_eq!(words(&found), [""; 0]);
    assert_eq!(found.records, (records.len() as u64, records.len() as u64));
    assert_eq!(found.bytes.0, image(&records).len() as u64);
}

#[test]
fn every_byte_of_every_payload_is_compared() {
    let records = rich();
    let whole = image(&records);
    for at in 0..records.len() - 1 {
        for byte in 0..records[at].payload.len() {
            let mut other = records.clone();
            other[at].payload[byte] ^= 0x80;
            let found = compare(whole.as_slice(), image(&other).as_slice(), true);
            // Not compared: the magic, the version, and pages without content.
            let Ok(found) = found else {
                assert_eq!(at, 0, "byte {byte}");
                continue;
            };
            assert!(!found.is_equal(), "record {at}, byte {byte}");
        }
    }
}

#[test]
fn a_lost_record_is_one_difference() {
    let records = rich();
    for at in 3..records.len() - 1 {
        let kind = Kind::from(records[at].kind);
        // TASK records divide the sections.
        if kind == Kind::TaskEnd {
            continue;
        }
        let mut other = records.clone();
        other.remove(at);
        // Without a mapping there are no pages.
        while kind == Kind::Vma && align::belongs(other[at].kind.into(), kind) {
            other.remove(at);
        }
        for (one, two, which) in [(&records, &other, "first"), (&other, &records, "second")] {
            let found = compared(one, two);
            let words = words(&found);
            assert_eq!(words.len(), 1, "{kind:?} {at}: {words:#?}");
            let word = match kind {
                Kind::Pages | Kind::Same if which == "first" => ", then nothing".to_owned(),
                Kind::Pages | Kind::Same => ": nothing, then".to_owned(),
                _ => format!("only in the {which} image"),
            };
            assert!(words[0].contains(&word), "{words:?}");
        }
    }
}

/// Increases the numbers of all objects from `from` on by one.
fn renumbered(records: &mut [Forged], from: u32) {
    for record in records {
        if record.objref >= from {
            record.objref += 1;
        }
        let kind = Kind::from(record.kind);
        let shape = table::shape(kind);
        let mut fields: Vec<_> = shape.head.iter().map(|field| (0, field)).collect();
        if let table::Tail::Elements {
            size, fields: of, ..
        } = &shape.tail
        {
            let count = (record.payload.len() - shape.size) / size;
            let all = (0..count).flat_map(|n| of.iter().map(move |field| (n * size, field)));
            fields.extend(all.map(|(at, field)| (at + shape.size, field)));
        }
        let numbers = fields
            .into_iter()
            .filter(|(_, field)| table::is_reference(kind, &field.name))
            .map(|(at, field)| at + field.at)
            .chain((kind == Kind::Message).then_some(shape.size));
        for at in numbers {
            let bytes: &mut [u8; 4] = (&mut record.payload[at..at + 4]).try_into().unwrap();
            let number = u32::from_le_bytes(*bytes);
            if number >= from {
                *bytes = (number + 1).to_le_bytes();
            }
        }
    }
}

#[test]
fn a_new_object_does_not_make_the_later_ones_differ() {
    let records = rich();
    let mut other = records.clone();
    renumbered(&mut other, 3);
    other.insert(5, record(Kind::Tty, 3, &zeroed(Kind::Tty)));
    let found = compared(&records, &other);
    assert_eq!(
        words(&found),
        ["task 2 (cell), Tty: only in the second image"]
    );
}

#[test]
fn sharing_is_compared() {
    let records = rich();
    let mut other = records.clone();
    // The second task has a table of its own.
    let at = other.len() - 5;
    assert_eq!(Kind::from(other[at].kind), Kind::Cred);
    other.insert(at, record(Kind::Files, 14, &[]));
    let task = other.len() - 3;
    let files = std::mem::offset_of!(layout::Task, files);
    other[task].payload[files..files + 4].copy_from_slice(&14u32.to_le_bytes());
    assert_eq!(
        words(&compared(&records, &other)),
        [
            "task 3 (cell), Files: only in the second image",
            "task 3 (cell), Task files: <9>, then <14>",
        ]
    );
}

#[test]
fn a_difference_says_where_it_is() {
    let records = rich();
    let find = |kind: Kind| {
        records
            .iter()
            .position(|record| record.kind == kind.number())
    };
    let but = |kind: Kind, byte: usize, value: u8| {
        let mut other = records.clone();
        other[find(kind).unwrap()].payload[byte] = value;
        words(&compared(&records, &other)).join("\n")
    };
    assert_eq!(
        but(Kind::Pages, 16 + PAGE + 5, 8),
        "task 2 (cell), mapping 0x1000-0x5000 of anonymous, Pages memory at 0x2005: \
         07070707070707070707070707070707, then 08070707070707070707070707070707"
    );
    assert_eq!(but(Kind::Regs, 8, 3), "task 2 (cell), Regs r14: 0, then 3");
    assert_eq!(
        but(Kind::PipeBuf, 8, b'I'),
        "task 2 (cell), PipeBuf data at byte 8: `in it`, then `In it`"
    );
    assert_eq!(
        but(Kind::Pipe, 0, 2),
        "task 2 (cell), descriptor 0, pipe, Pipe ring_size: 0, then 2"
    );
    assert_eq!(
        but(Kind::Files, 16 + 4, 1),
        "task 2 (cell), Files fd[3].cloexec: 0, then 1"
    );
    assert_eq!(
        but(Kind::Sighand, 32 * 9, 1),
        "task 2 (cell), Sighand action[9].handler: 0, then 1"
    );
}

#[test]
fn pages_are_equal_however_they_are_divided() {
    let records = rich();
    let at = records
        .iter()
        .position(|record| record.kind == Kind::Pages.number())
        .unwrap();
    let one = |addr: u64| {
        let pages = layout::Pages { addr, nr: 1 };
        record(Kind::Pages, 0, &[pages.as_bytes(), &[7; PAGE]].concat())
    };
    let mut other = records.clone();
    other.splice(at..=at, [one(0x1000), one(0x2000)]);
    assert_eq!(words(&compared(&records, &other)), [""; 0]);
    other.remove(at + 1);
    assert_eq!(
        words(&compared(&records, &other)),
        [
            "task 2 (cell), mapping 0x1000-0x5000 of anonymous, Pages pages at 0x2000: \
             `1 pages`, then nothing"
        ]
    );
}

#[test]
fn a_lost_task_is_one_difference() {
    let records = rich();
    let mut other = records.clone();
    let size = size_of::<layout::Tree>();
    other[2].payload.truncate(size);
    let from = other.len() - 5;
    other.drain(from..from + 4);
    assert_eq!(
        words(&compared(&records, &other)),
        ["Tree task[3]: only in the first image"]
    );
}

#[test]
fn a_list_of_differences_is_bounded() {
    let records = rich();
    let mut other = records.clone();
    for record in &mut other[3..] {
        if record.kind == Kind::Sighand.number() {
            record.payload.fill(1);
        }
    }
    let found = compared(&records, &other);
    assert_eq!(found.differences.len(), MOST);
    assert_eq!(found.more, 4 * 64 - MOST as u64);
}

#[test]
fn an_image_that_is_none_is_told_from_the_other() {
    let image = image(&rich());
    let error = compare(image.as_slice(), &image[..100], false).unwrap_err();
    assert_eq!(error.which, Which::Second);
    let error = compare(&image[..5], image.as_slice(), false).unwrap_err();
    assert_eq!(error.which, Which::First);
}

/// Returns an image with these clocks.
fn at(records: &[Forged], seconds: u64) -> Vec<Forged> {
    let mut records = records.to_vec();
    for (name, base) in [
        ("mono_ns", 0),
        ("boot_ns", 0),
        ("real_ns", 100),
        ("tai_ns", 100),
    ] {
        set(&mut records, Kind::Header, name, (base + seconds) * SECOND);
    }
    records
}

const SECOND: u64 = 1_000_000_000;

/// Sets a field of the first record of a type.
fn set(records: &mut [Forged], kind: Kind, name: &str, value: u64) {
    let shape = table::shape(kind);
    let field = shape.head.iter().find(|field| field.name == name).unwrap();
    let record = records
        .iter_mut()
        .find(|record| record.kind == kind.number())
        .unwrap();
    record.payload[field.at..field.at + field.size]
        .copy_from_slice(&value.to_le_bytes()[..field.size]);
}

/// Compares two images, 7 s apart, that differ in these values of a field.
fn apart(kind: Kind, name: &str, first: u64, second: u64) -> Comparison {
    let (mut one, mut other) = (at(&rich(), 10), at(&rich(), 17));
    set(&mut one, kind, name, first);
    set(&mut other, kind, name, second);
    compare(image(&one).as_slice(), image(&other).as_slice(), false).unwrap()
}

#[test]
fn time_passes_on_all_clocks_alike() {
    let (one, other) = (at(&rich(), 10), at(&rich(), 17));
    let found = compare(image(&one).as_slice(), image(&other).as_slice(), false).unwrap();
    assert!(found.is_equal());
    assert_eq!(found.rules, BTreeMap::from([(Rule::Clocks, 4)]));
    let back = compare(image(&other).as_slice(), image(&one).as_slice(), false).unwrap();
    assert_eq!(back.differences.len(), 4);
    assert!(!apart(Kind::Header, "tai_ns", 0, 9 * SECOND).is_equal());
}

#[test]
fn each_rule_ignores_differences_within_its_bound_only() {
    let good = |kind, name, first, second| {
        let found = apart(kind, name, first, second);
        assert!(found.is_equal(), "{name}: {:?}", words(&found));
    };
    let bad = |kind, name, first, second| {
        let found = apart(kind, name, first, second);
        assert!(!found.is_equal(), "{name} {first} {second}");
    };
    good(Kind::Task, "utime", 5, 5 + 7 * SECOND);
    bad(Kind::Task, "utime", 5, 4);
    bad(Kind::Task, "utime", 5, 6 + 7 * SECOND);
    bad(Kind::Task, "start_ns", 5, 4);
    good(Kind::Task, "nvcsw", 5, 8);
    bad(Kind::Task, "nvcsw", 5, 4);
    bad(Kind::Signal, "nvcsw", 5, 6);
    good(Kind::Pipe, "ino", 5, 6);
    bad(Kind::Mm, "hiwater_rss", 5, 6);
    good(Kind::Timers, "real_value", 9 * SECOND, 2 * SECOND);
    bad(Kind::Timers, "real_value", 9 * SECOND, SECOND);
    bad(Kind::Timers, "real_value", SECOND, 2 * SECOND);
    good(Kind::Timers, "prof_value", 9 * SECOND, 2 * SECOND);
    bad(Kind::Timers, "virt_value", SECOND, 2 * SECOND);
    bad(Kind::Timers, "real_interval", 2, 1);
    bad(Kind::Timerfd, "ticks", 0, 1);
}

#[test]
fn a_timer_may_expire_only_when_it_is_due() {
    let compared = |left: u64, ticks: u64| {
        let (mut one, mut other) = (at(&rich(), 10), at(&rich(), 17));
        set(&mut one, Kind::Timerfd, "flags", 1);
        set(&mut one, Kind::Timerfd, "value", left);
        set(&mut other, Kind::Timerfd, "flags", 2);
        set(
            &mut other,
            Kind::Timerfd,
            "value",
            left.wrapping_sub(7 * SECOND),
        );
        set(&mut other, Kind::Timerfd, "ticks", ticks);
        compare(image(&one).as_slice(), image(&other).as_slice(), false).unwrap()
    };
    assert!(compared(6 * SECOND, 1).is_equal());
    assert!(!compared(6 * SECOND, 2).is_equal());
    assert!(!compared(8 * SECOND, 1).is_equal());
}

#[test]
fn the_signal_of_a_timer_that_is_due_may_be_new() {
    let with_signal = |left: u64, signo: u32, queued: u32, timer: u32| {
        let (mut one, mut other) = (at(&rich(), 10), at(&rich(), 17));
        set(&mut one, Kind::PosixTimer, "flags", 1);
        set(&mut one, Kind::PosixTimer, "value", left);
        set(
            &mut other,
            Kind::PosixTimer,
            "value",
            left.wrapping_sub(7 * SECOND),
        );
        set(&mut one, Kind::Timers, "real_value", left);
        let mut signal = layout::Siginfo::new_zeroed();
        (signal.shared, signal.signo, signal.queued) = (1, signo, queued);
        signal.info[16..20].copy_from_slice(&timer.to_le_bytes());
        let place = |record: &Forged| record.kind == Kind::Siginfo.number();
        let place = other.iter().position(place).unwrap();
        other.insert(place, record(Kind::Siginfo, 0, signal.as_bytes()));
        compare(image(&one).as_slice(), image(&other).as_slice(), false).unwrap()
    };
    // The timer that the samples have first is number 1.
    assert_eq!(words(&with_signal(6 * SECOND, 34, 2, 1)), [""; 0]);
    assert!(!with_signal(6 * SECOND, 34, 2, 2).is_equal());
    assert!(!with_signal(6 * SECOND, 34, 1, 1).is_equal());
    assert!(!with_signal(8 * SECOND, 34, 2, 1).is_equal());
    assert_eq!(words(&with_signal(6 * SECOND, 14, 1, 0)), [""; 0]);
    assert!(!with_signal(8 * SECOND, 14, 1, 0).is_equal());
}

#[test]
fn a_sleep_must_be_moved_by_the_same_time_for_all() {
    let compared = |moved: [u64; 2]| {
        let (mut one, mut other) = (at(&rich(), 10), at(&rich(), 17));
        for (records, moved) in [(&mut one, [0; 2]), (&mut other, moved)] {
            let tasks = records
                .iter_mut()
                .filter(|record| record.kind == Kind::Task.number());
            for (record, moved) in tasks.zip(moved) {
                let mut task = layout::Task::read_from_bytes(&record.payload).unwrap();
                (task.restart_kind, task.restart[0]) = (1, 1);
                task.restart[3] = 20 * SECOND + moved;
                record.payload = task.as_bytes().to_vec();
            }
        }
        compare(image(&one).as_slice(), image(&other).as_slice(), false).unwrap()
    };
    assert_eq!(words(&compared([3 * SECOND, 3 * SECOND])), [""; 0]);
    assert!(!compared([3 * SECOND, 4 * SECOND]).is_equal());
    assert!(!compared([8 * SECOND, 8 * SECOND]).is_equal());
    let stands = words(&compared([0, 0])).join("\n");
    assert!(
        stands.contains("then `the same, although time has passed`"),
        "{stands}"
    );
}

#[test]
fn a_mapping_may_belong_to_another_open_file_of_the_same_path() {
    let with_file = |path: &[u8]| {
        let mut records = rich();
        let mut file = layout::File::new_zeroed();
        (file.kind, file.ino) = (1, 7);
        let mapped = |path: &[u8]| [file.as_bytes(), path].concat();
        let mm = records
            .iter()
            .position(|record| record.kind == Kind::Mm.number())
            .unwrap();
        records.insert(mm + 1, record(Kind::File, 20, &mapped(b"/lib")));
        records.insert(mm + 2, record(Kind::File, 21, &mapped(path)));
        set(&mut records, Kind::Vma, "file", 21);
        records
    };
    let one = at(&with_file(b"/lib"), 10);
    let mut other = at(&with_file(b"/lib"), 17);
    set(&mut other, Kind::Vma, "file", 20);
    let at = other.iter().position(|record| record.objref == 21).unwrap();
    other.remove(at);
    let found = compare(image(&one).as_slice(), image(&other).as_slice(), false).unwrap();
    assert_eq!(words(&found), [""; 0]);
    assert_eq!(found.rules[&Rule::MappedFiles], 2);
    let one = self::at(&with_file(b"/other"), 10);
    let found = compare(image(&one).as_slice(), image(&other).as_slice(), false).unwrap();
    assert_eq!(found.differences.len(), 2, "{:?}", words(&found));
}

#[test]
fn another_machine_may_have_started_after_the_tasks() {
    let compared = |first: u64, second: u64| {
        let (mut one, mut other) = (at(&rich(), 10), at(&rich(), 17));
        for name in ["mono_ns", "boot_ns"] {
            set(&mut other, Kind::Header, name, 3 * SECOND);
        }
        set(&mut one, Kind::Task, "start_ns", first);
        set(&mut other, Kind::Task, "start_ns", second);
        compare(image(&one).as_slice(), image(&other).as_slice(), false).unwrap()
    };
    assert_eq!(words(&compared(5 * SECOND, 2 * SECOND)), [""; 0]);
    assert!(!compared(5 * SECOND, 6 * SECOND).is_equal());
    assert!(!compared(5 * SECOND, 0).is_equal());
}
