// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use vmm_sys_util::epoll::{Epoll, EpollEvent};

use super::*;
use crate::kvm::devices::Events;
use crate::kvm::devices::harness;

const DATA: u8 = 0;
const IIR: u8 = 2;
const LCR: u8 = 3;
const MCR: u8 = 4;

/// A sink that records its bytes, and accepts a limited number of them.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<(Vec<u8>, usize)>>);

impl Sink {
    fn taking(room: usize) -> Self {
        Self(Arc::new(Mutex::new((Vec::new(), room))))
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap().0)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (taken, room) = &mut *self.0.lock().unwrap();
        let count = bytes.len().min(*room);
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        *room -= count;
        taken.extend(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn serial() -> (Serial, Arc<harness::Line>, Sink) {
    let line = Arc::new(harness::Line::default());
    let sink = Sink::taking(usize::MAX);
    let serial = Serial::new(line.clone(), Output::sink(sink.clone()));
    (serial, line, sink)
}

fn get(serial: &mut Serial, port: u8) -> u8 {
    let mut data = [0];
    serial.read(port, &mut data);
    data[0]
}

/// Reads like the 8250 driver's interrupt handler: bytes, and breaks as `None`.
fn receive(serial: &mut Serial) -> Vec<Option<u8>> {
    let mut got = Vec::new();
    loop {
        let status = get(serial, LSR);
        if status & (LSR_DATA_READY | LSR_BREAK) == 0 {
            return got;
        }
        assert_ne!(status & LSR_DATA_READY, 0);
        let byte = get(serial, DATA);
        if status & LSR_BREAK != 0 {
            assert_eq!(byte, 0);
            got.push(None);
        } else {
            got.push(Some(byte));
        }
    }
}

fn bytes(text: &[u8]) -> Vec<Option<u8>> {
    text.iter().map(|&byte| Some(byte)).collect()
}

#[test]
fn a_break_is_received_in_order() {
    let (mut serial, line, _) = serial();
    serial.write(IER, &[1]);
    assert_eq!(serial.send(b"ab"), 2);
    assert_eq!(line.take(), 1);
    assert!(serial.send_break());
    serial.send(b"t");
    assert!(serial.send_break() && serial.send_break());
    serial.send(b"\0w");
    let expected = [
        bytes(b"ab"),
        vec![None],
        bytes(b"t"),
        vec![None, None],
        bytes(b"\0w"),
    ];
    assert_eq!(receive(&mut serial), expected.concat());
    assert!(line.take() > 0);
    assert_eq!(receive(&mut serial), []);
}

#[test]
fn a_break_interrupts_and_stays_until_it_is_read() {
    let (mut serial, line, _) = serial();
    serial.send_break();
    assert_eq!(line.take(), 0);
    // Enabling the interrupt raises it.
    serial.write(IER, &[1]);
    assert_eq!(line.take(), 1);
    assert_eq!(get(&mut serial, IIR) & 0xf, 4);
    for _ in 0..3 {
        assert_eq!(get(&mut serial, LSR), 0x71);
    }
    // With the divisor latch, the same port is a different register.
    serial.write(LCR, &[0x83]);
    get(&mut serial, DATA);
    assert_eq!(get(&mut serial, LSR), 0x71);
    serial.write(LCR, &[0x03]);
    assert_eq!(get(&mut serial, DATA), 0);
    assert_eq!(get(&mut serial, LSR), 0x60);
}

#[test]
fn input_beyond_the_fifo_waits() {
    let (mut serial, _, _) = serial();
    let text: Vec<u8> = (0..=255).cycle().take(PENDING_MAX + 1000).collect();
    let sent = serial.send(&text);
    assert_eq!(sent, PENDING_MAX);
    let more = serial.send(&text[sent..]);
    assert_eq!(more, FIFO);
    assert!(!serial.send_break());
    assert_eq!(receive(&mut serial), bytes(&text[..sent + more]));
}

#[test]
fn loopback_mode_delays_input_without_losing_it() {
    let (mut serial, _, sink) = serial();
    serial.write(MCR, &[0x10]);
    serial.send_break();
    serial.send(b"k");
    serial.write(DATA, b"x");
    assert_eq!(receive(&mut serial), bytes(b"x"));
    serial.write(MCR, &[0x08]);
    assert_eq!(receive(&mut serial), [None, Some(b'k')]);
    serial.flush();
    assert_eq!(sink.take(), b"");
}

#[test]
fn output_is_written_line_by_line() {
    let (mut serial, _, sink) = serial();
    serial.write(DATA, b"abc");
    assert_eq!(sink.take(), b"");
    serial.write(DATA, b"def\n");
    assert_eq!(sink.take(), b"abcdef\n");
    // The end of a print, and an unterminated line.
    serial.write(DATA, b"# ");
    serial.write(IER, &[5]);
    assert_eq!(sink.take(), b"# ");
    for _ in 0..300 {
        serial.write(DATA, b"-");
    }
    assert_eq!(sink.take(), [b'-'; 256]);
    serial.flush();
    assert_eq!(sink.take(), [b'-'; 44]);
    serial.flush();
    assert_eq!(sink.take(), b"");
}

#[test]
fn a_full_sink_receives_a_note_about_dropped_bytes() {
    let (line, sink) = (Arc::new(harness::Line::default()), Sink::taking(10));
    let mut serial = Serial::new(line, Output::sink(sink.clone()));
    let lines = 200_000;
    for n in 0..lines {
        serial.write(DATA, format!("{n:06}\n").as_bytes());
    }
    sink.0.lock().unwrap().1 = usize::MAX;
    serial.flush();
    let text = String::from_utf8(sink.take()).unwrap();
    let (kept, note) = text.split_once("\n\n[").unwrap();
    let kept: Vec<usize> = kept.lines().map(|line| line.parse().unwrap()).collect();
    assert!(kept.iter().enumerate().all(|(n, &line)| n == line));
    let lost = (lines - kept.len()) * 7;
    assert_eq!(
        note,
        format!("{lost} bytes of the console's output are lost]\n")
    );
}

#[test]
fn the_event_loop_resumes_output_to_a_full_socket() {
    let epoll = Arc::new(Epoll::new().unwrap());
    let (stream, mut host) = UnixStream::pair().unwrap();
    host.set_nonblocking(true).unwrap();
    let output = Output::stream(stream, Events::new(epoll.clone(), 8)).unwrap();
    let mut serial = Serial::new(Arc::new(harness::Line::default()), output);
    let mut events = [EpollEvent::default(); 4];
    for _ in 0..4000 {
        serial.write(DATA, &[b'x'; 99]);
        serial.write(DATA, b"\n");
    }
    assert_eq!(epoll.wait(0, &mut events).unwrap(), 0);
    let mut got = vec![0; 1 << 20];
    let mut count = 0;
    while let Ok(read) = host.read(&mut got[count..]) {
        count += read;
    }
    assert!(count < 400_000);
    serial.ready(7);
    while epoll.wait(0, &mut events).unwrap() == 1 {
        serial.ready(events[0].data());
        while let Ok(read) = host.read(&mut got[count..]) {
            count += read;
        }
    }
    assert_eq!(count, 400_000);
    // Output to a closed socket is discarded.
    drop(host);
    serial.write(DATA, b"hello?\n");
    serial.write(DATA, b"hello?\n");
    serial.flush();
}

#[test]
fn a_saved_uart_continues_in_a_new_machine() {
    let (mut serial, ..) = self::serial();
    serial.write(IER, &[1]);
    serial.write(7, &[0x5a]);
    serial.send(b"before");
    get(&mut serial, DATA);
    serial.send_break();
    serial.send(b"t");
    let state = serial.save();
    let json = serde_json::to_string(&state).unwrap();
    let state: SerialState = serde_json::from_str(&json).unwrap();

    let (mut other, line, _) = self::serial();
    other.restore(&state).unwrap();
    assert_eq!(other.save(), state);
    line.take();
    other.resume();
    // The guest has read from the FIFO, so no interrupt is pending; a new one is possible.
    assert_eq!(line.take(), 0);
    assert_eq!(get(&mut other, 7), 0x5a);
    let expected = [bytes(b"efore"), vec![None], bytes(b"t")].concat();
    assert_eq!(receive(&mut other), expected);
    // A break that the guest has not read yet.
    other.send_break();
    let state = other.save();
    let (mut third, line, _) = self::serial();
    third.restore(&state).unwrap();
    line.take();
    third.resume();
    assert_eq!(line.take(), 1);
    assert_eq!(receive(&mut third), [None]);
}

#[test]
fn loopback_bytes_behind_a_break_can_be_restored() {
    let (mut serial, ..) = self::serial();
    serial.send_break();
    serial.write(MCR, &[0x10]);
    serial.write(DATA, b"x");
    let state = serial.save();
    let (mut other, ..) = self::serial();
    other.restore(&state).unwrap();
    assert_eq!(receive(&mut other), [None, Some(b'x')]);
}

#[test]
fn hostile_states_are_refused() {
    let (mut serial, ..) = serial();
    let good = serde_json::to_value(serial.save()).unwrap();
    let state = |changes: &[(&str, serde_json::Value)]| -> SerialState {
        let mut state = good.clone();
        for (key, value) in changes {
            state[key] = value.clone();
        }
        serde_json::from_value(state).unwrap()
    };
    let ready = ("line_status", 0x61.into());
    for bad in [
        state(&[("fifo", vec![0; FIFO + 1].into()), ready.clone()]),
        state(&[("pending", vec!["break"; PENDING_MAX + 1].into())]),
        state(&[("at_break", true.into())]),
        state(&[
            ("at_break", true.into()),
            ("fifo", vec![1].into()),
            ready.clone(),
        ]),
        state(&[("fifo", vec![1].into())]),
        state(&[ready]),
    ] {
        assert!(serial.restore(&bad).is_err(), "{bad:?}");
    }
    let mut odd: SerialState = state(&[("interrupt_identification", 0xff.into())]);
    odd.registers.line_status = 0xfe;
    serial.restore(&odd).unwrap();
    serial.send(b"x");
    assert_eq!(get(&mut serial, DATA), b'x');
}
