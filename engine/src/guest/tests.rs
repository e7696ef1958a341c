// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::{io::Write, thread};

use crucible_vmm::HostFault;

use super::*;
use crate::{
    abort::{Abort, Phase},
    blame::Condition,
    played::Played,
};

/// Greets a guest whose agent answers the first request with these bytes.
fn greet(answer: &'static [u8], fault: Option<HostFault>) -> Abort {
    greet_by(answer, |ours| Played::new(ours, fault))
}

/// Greets a guest of this machine, whose agent answers the first request with these bytes.
fn greet_by(answer: &'static [u8], machine: impl FnOnce(UnixStream) -> Played) -> Abort {
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    let agent = thread::spawn(move || {
        let hello: Result<Envelope<Request>, _> = frame::read(&mut theirs);
        hello.expect("a request");
        theirs.write_all(answer).expect("an answer");
        theirs
    });
    let machine = Box::new(machine(ours));
    let error = Guest::greet(machine, Duration::from_secs(60)).err();
    drop(agent.join().expect("the agent"));
    Abort::guest(Phase::After, error.expect("no guest"))
}

#[test]
fn a_message_that_is_none_breaks_the_channel() {
    let garbage = greet(b"\x05\x00\x00\x00hello", None);
    assert_eq!(garbage.condition, Condition::ChannelBroken, "{garbage:?}");
    let long = greet(b"\xff\xff\xff\xff", None);
    assert_eq!(long.condition, Condition::ChannelBroken, "{long:?}");
}

#[test]
fn a_report_about_a_disk_that_the_host_has_failed_is_the_hosts() {
    let report = |fault| {
        let abort = greet_by(b"", |ours| Played {
            // The fault arrives after the report that it has caused.
            unaware: 1,
            alert: Some(Alert {
                kind: AlertKind::Bug,
                headline: "EXT4-fs error (device vdc): ext4_find_entry".into(),
                lines: Vec::new(),
            }),
            ..Played::new(ours, fault)
        });
        abort.condition
    };
    let fault = HostFault {
        kind: crucible_vmm::FaultKind::Io,
        detail: "cannot read the disk".into(),
    };
    assert_eq!(report(Some(fault)), Condition::HostIo);
    assert_eq!(report(None), Condition::EarlyReport);
}

#[test]
fn a_fault_of_the_host_is_seen_while_an_answer_is_waited_for() {
    let fault = HostFault {
        kind: crucible_vmm::FaultKind::DiskFull,
        detail: "no space".into(),
    };
    let full = greet(b"", Some(fault));
    assert_eq!(full.condition, Condition::DiskFull, "{full:?}");
}

#[test]
fn a_guest_that_reads_nothing_holds_nobody_up() {
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    let agent = thread::spawn(move || {
        let hello: Envelope<Request> = frame::read(&mut theirs).expect("a request");
        let body = Reply::Hello {
            version: VERSION,
            kernel: String::new(),
            build: String::new(),
            checkpoint: true,
            uptime_ms: 1,
        };
        frame::write(&mut theirs, &Envelope { id: hello.id, body }).expect("an answer");
        // The program stops reading, and keeps the socket.
        theirs
    });
    let machine = Box::new(Played::new(ours, None));
    let mut guest = Guest::greet(machine, Duration::from_secs(60)).expect("a guest");
    let theirs = agent.join().expect("the agent");
    guest.prompt = Duration::from_millis(10);
    // More than the socket's buffer holds.
    let request = Request::Mark {
        token: "x".repeat(8 << 20),
    };
    guest
        .post(request)
        .expect("the answer, or its absence, is the result");
    drop(theirs);
}
