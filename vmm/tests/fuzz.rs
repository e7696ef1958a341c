// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs the seeds of the fuzz targets as tests. The seeds are generated here: with
//! `CRUCIBLE_WRITE_SEEDS=1` these tests write them instead of comparing them.
//!
//! A fuzzer's finding is added as a file to the seeds, and runs as a test from then on.

use std::env;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crucible_vmm::kvm::devices::block::Block;
use crucible_vmm::kvm::devices::console::Console;
use crucible_vmm::kvm::devices::fuzz::{DISK, TARGETS, Writer};
use crucible_vmm::kvm::devices::harness::{Fixture, Line};
use crucible_vmm::kvm::devices::rng::Rng;
use crucible_vmm::kvm::devices::serial::{Output, Serial};

/// A descriptor's flags.
const NEXT: u8 = 1;
const WRITE: u8 = 2;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

/// Adds a chain of a header, data and a status, offers it and notifies the queue.
fn request(script: Writer, kind: u8, sector: u8, data: u8) -> Writer {
    let mut header = [0; 16];
    header[0] = kind;
    header[8] = sector;
    let written = if kind == 0 || kind == 8 { WRITE } else { 0 };
    script
        .fill(0, &header)
        .descriptor(0, 0, 0, 16, NEXT, 1)
        .descriptor(0, 1, 8, data, NEXT | written, 2)
        .wild(0, 2, 0x2_8000, 1, WRITE, 0)
        .offer(0, 0)
        .notify(0)
}

fn block_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let read = request(Writer::new(&[0]), 0, 1, 0);
    let read = read.wild(0, 1, 0x2_1000, 4096, NEXT | WRITE, 2);
    // Eight sectors from the first; discard allows no flag, and writing zeros allows one: unmap.
    let range = |flags: u8| [0u8, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, flags, 0, 0, 0];
    vec![
        ("read", read.offer(0, 0).notify(0).save().notify(0).finish()),
        (
            "write",
            request(Writer::new(&[0]), 1, 2, 0)
                .wild(0, 1, 0x2_1000, 1024, NEXT, 2)
                .offer(0, 0)
                .notify(0)
                .finish(),
        ),
        (
            "write-readonly",
            request(Writer::new(&[1]), 1, 0, 0).turn().finish(),
        ),
        ("flush", request(Writer::new(&[0]), 4, 0, 0).finish()),
        ("identify", request(Writer::new(&[0]), 8, 0, 20).finish()),
        (
            "discard",
            request(Writer::new(&[0]).fill(8, &range(0)), 11, 0, 16).finish(),
        ),
        (
            "zeros",
            request(Writer::new(&[0]).fill(8, &range(1)), 13, 0, 16).finish(),
        ),
        (
            "beyond",
            Writer::new(&[0])
                .wild(0, 0, u64::MAX - 4, u32::MAX, NEXT, 0)
                .offer(0, 0)
                .notify(0)
                .start(0xff)
                .available(0, 0x8000)
                .notify(0)
                .finish(),
        ),
    ]
}

fn console_seeds() -> Vec<(&'static str, Vec<u8>)> {
    // Buffers for the control queue, followed by its messages: ready, port ready, port open.
    let hello = |mut script: Writer| {
        for at in 0..8 {
            script = script.descriptor(2, at, at, 64, WRITE, 0).offer(2, at);
        }
        script = script.notify(2);
        for (at, (port, event)) in [(0, 0), (0, 3), (1, 3), (0, 6), (1, 6)]
            .into_iter()
            .enumerate()
        {
            let at = at as u8;
            script = script
                .fill(16 + at, &[port, 0, 0, 0, event, 0, 1, 0])
                .descriptor(3, at, 16 + at, 8, 0, 0)
                .offer(3, at)
                .notify(3);
        }
        script
    };
    let receive = |script: Writer, queue: u8| {
        script
            .descriptor(queue, 0, 32, 128, WRITE, 0)
            .offer(queue, 0)
            .notify(queue)
    };
    let transmit = |script: Writer, queue: u8| {
        script
            .fill(40, b"to the host")
            .descriptor(queue, 0, 40, 11, 0, 0)
            .offer(queue, 0)
            .notify(queue)
    };
    let port = |port: u8, what: u8| port << 7 | what;
    vec![
        ("hello", hello(Writer::default()).finish()),
        (
            "both-ways",
            transmit(
                receive(
                    hello(Writer::default()).host(&[port(0, 0), 5, 1, 2, 3, 4, 5]),
                    0,
                ),
                1,
            )
            .host(&[port(0, 1)])
            .turn()
            .finish(),
        ),
        (
            "saved-with-bytes",
            receive(
                hello(Writer::default())
                    .host(&[port(1, 0), 3, 9, 8, 7])
                    .save(),
                4,
            )
            .turn()
            .save()
            .finish(),
        ),
        (
            "host-gone",
            transmit(
                receive(hello(Writer::default()).host(&[port(0, 2)]), 0).turn(),
                1,
            )
            .finish(),
        ),
        (
            "one-port",
            transmit(receive(Writer::default().start(2), 0), 1).finish(),
        ),
    ]
}

fn rng_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let ask = Writer::default()
        .descriptor(0, 0, 0, 64, NEXT | WRITE, 1)
        .descriptor(0, 1, 4, 200, WRITE, 0)
        .offer(0, 0)
        .notify(0);
    vec![
        ("ask", ask.save().finish()),
        (
            "loop",
            Writer::default()
                .descriptor(0, 0, 0, 8, NEXT | WRITE, 0)
                .offer(0, 0)
                .notify(0)
                .finish(),
        ),
        (
            "over-its-ring",
            Writer::default()
                .wild(0, 0, 0x2000, 64, WRITE, 0)
                .offer(0, 0)
                .notify(0)
                .turn()
                .turn()
                .finish(),
        ),
    ]
}

fn serial_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let write = |port: u8, value: u8| [port << 3 | 2, value];
    vec![
        (
            "text",
            [&write(1, 3)[..], &write(0, b'a'), &write(0, b'\n'), &[6]].concat(),
        ),
        (
            "input",
            [
                &write(2, 1)[..],
                &write(1, 1),
                &[4, 2, b'x', b'y', 5, 0, 0, 0x28],
            ]
            .concat(),
        ),
        (
            "loopback",
            [&write(4, 0x1f)[..], &write(0, b'z'), &[7, 0, 0x30]].concat(),
        ),
        ("string", [&[3, 6][..], b"hello\n", &[1, 7]].concat()),
    ]
}

fn register_seeds() -> Vec<(&'static str, Vec<u8>)> {
    // The initialisation of a device by a driver, with rings of 8 entries at the beginning of
    // memory.
    let started = |device: u8| {
        let mut bytes = vec![device];
        for (offset, value) in [
            (0x70, 0u32),
            (0x70, 3),
            (0x24, 1),
            (0x20, 1),
            (0x70, 0xb),
            (0x30, 0),
            (0x38, 8),
            (0x80, 0x1000),
            (0x90, 0x2000),
            (0xa0, 0x3000),
            (0x44, 1),
            (0x70, 0xf),
            (0x50, 0),
            (0x64, 1),
            (0x70, 0),
        ] {
            bytes.extend((0x4000u16 | offset).to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes
    };
    vec![
        ("disk", started(0)),
        ("readonly", started(1)),
        ("rng", started(2)),
        ("console", started(3)),
    ]
}

fn restore_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let disk = || {
        let file = tempfile::tempfile().unwrap();
        file.set_len(DISK).unwrap();
        Fixture::new(|_| Box::new(Block::new(file, false, "disk").unwrap()))
    };
    let console = || {
        let (mut host, channel) = UnixStream::pair().unwrap();
        let (_gone, terminal) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut host, b"unread").unwrap();
        Fixture::new(|events| Box::new(Console::new(channel, terminal, &events).unwrap()))
    };
    let save = |fixture: &mut Fixture| serde_json::to_vec(&fixture.transport.save()).unwrap();
    let started = |mut fixture: Fixture| {
        fixture.start();
        fixture.notify_all();
        save(&mut fixture)
    };
    let mut uart = Serial::new(Arc::new(Line::default()), Output::sink(std::io::sink()));
    uart.send(b"key");
    vec![
        ("disk-new", save(&mut disk())),
        ("disk", started(disk())),
        ("console", started(console())),
        ("rng", started(Fixture::new(|_| Box::new(Rng::new())))),
        ("serial", serde_json::to_vec(&uart.save()).unwrap()),
    ]
}

fn saved_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let id = "0123456789abcdef".repeat(2);
    let whole = format!(
        r#"{{"id":"{id}","memory_mib":1,"pages":{{"length":1048576,"modified":[1,2],"hash":3}},"changes":null}}"#
    );
    let changes = format!(
        r#"{{"id":"{id}","memory_mib":1,"pages":{{"length":12288,"modified":[1,2],"hash":3}},"changes":{{"base":"{id}","base_hash":4,"runs":[[1,1],[254,2]]}}}}"#
    );
    let number = |number: u64| number.to_le_bytes();
    let page = |first| [b"P".as_slice(), &number(first), &number(1), &[7; 4096]].concat();
    let stream = [
        b"S".as_slice(),
        &number(2),
        b"{}",
        &page(1),
        &page(63),
        b"F",
        &number(3),
        b"why",
    ];
    // A header without the parts that it describes.
    let mut state = b"CRUCIVM\n\x02\0\0\0".to_vec();
    state.resize(40, 0);
    vec![
        ("whole", whole.into_bytes()),
        ("changes", changes.into_bytes()),
        ("said", stream.concat()),
        ("state", state),
    ]
}

fn classify_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seed = |size: u8, text: &str| [&[size], text.as_bytes()].concat();
    let oops = "[    1.5][  T42] ok\nBUG: unable to handle page fault\nOops: 0002\nRIP: x\n\
                ---[ end trace 0 ]---\nKernel panic - not syncing: Fatal\n\
                ---[ end Kernel panic - not syncing ]---\nreboot: Restarting system\n";
    let kasan = format!(
        "{0}\nBUG: KASAN: use-after-free in x\n{0}\n",
        "=".repeat(40)
    );
    let others = "WARNING: possible circular locking dependency\nWARNING: a-safe -> b\n\
                  INFO: task x:1 blocked for more than 120 seconds.\nrcu: INFO: stall\n\
                  kmemleak: 3 new suspected memory leaks\nsysrq: Show State\r\n";
    vec![
        ("oops", seed(7, oops)),
        ("kasan", seed(255, &kasan)),
        ("others", seed(30, others)),
        ("endless", seed(255, &"WARNING: x".repeat(900))),
    ]
}

fn qmp_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let greeting = r#"{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":"x"},"capabilities":["oob"]}}"#;
    let seed = |lines: &[&str]| lines.join("\r\n").into_bytes();
    vec![
        (
            "session",
            seed(&[
                greeting,
                r#"{"return":{}}"#,
                r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"RESUME"}"#,
                r#"{"error":{"class":"GenericError","desc":"no such chardev"}}"#,
                r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}}"#,
                "",
            ]),
        ),
        (
            "events",
            seed(&[
                r#"{"event":"MIGRATION","data":{"status":"completed"}}"#,
                r#"{"event":"BLOCK_IO_ERROR","data":{"node-name":"disk2","operation":"write","action":"report","nospace":true,"reason":"No space left on device"}}"#,
                r#"{"event":"BLOCK_IO_ERROR","data":null}"#,
                "",
            ]),
        ),
        ("flood", seed(&vec![r#"{"return":[]}"#; 20])),
        ("cut", greeting.as_bytes().to_vec()),
    ]
}

#[test]
fn the_seeds_match_the_generated_ones() {
    let all = [
        ("block", block_seeds()),
        ("console", console_seeds()),
        ("rng", rng_seeds()),
        ("serial", serial_seeds()),
        ("registers", register_seeds()),
        ("restore", restore_seeds()),
        ("saved", saved_seeds()),
        ("classify", classify_seeds()),
        ("qmp", qmp_seeds()),
    ];
    for (target, seeds) in all {
        let directory = corpus().join(target);
        for (name, bytes) in seeds {
            let path = directory.join(name);
            if env::var_os("CRUCIBLE_WRITE_SEEDS").is_some() {
                fs::create_dir_all(&directory).unwrap();
                fs::write(&path, bytes).unwrap();
            } else {
                let there = fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
                assert_eq!(there, bytes, "{path:?} differs from the generated seed");
            }
        }
    }
}

#[test]
fn every_seed_of_every_target_passes() {
    for (target, play) in TARGETS {
        let mut seeds = 0;
        for entry in fs::read_dir(corpus().join(target)).unwrap() {
            let path = entry.unwrap().path();
            // Print the path first: a panic of the target does not mention it.
            println!("{}", path.display());
            play(&fs::read(&path).unwrap());
            seeds += 1;
        }
        assert!(seeds > 2, "{target} has no seeds");
    }
}
