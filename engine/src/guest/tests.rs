// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::{io::Write, path::Path, sync::mpsc, thread};

use crucible_vmm::{Changes, Description, Exit, HostFault, TaskStates};

use super::*;
use crate::{
    abort::{Abort, Phase},
    blame::Condition,
};

/// A machine whose agent is a thread of the test.
struct Played {
    ours: UnixStream,
    fault: Option<HostFault>,
}

impl Machine for Played {
    fn channel(&self) -> crucible_vmm::Result<UnixStream> {
        Ok(self.ours.try_clone().expect("a socket"))
    }
    fn terminal(&self) -> crucible_vmm::Result<UnixStream> {
        self.channel()
    }
    fn alerts(&self) -> Receiver<Alert> {
        mpsc::channel().1
    }
    fn wait_mark(&self, _: &str, _: Duration) -> bool {
        true
    }
    fn console_tail(&self, _: usize) -> Vec<String> {
        Vec::new()
    }
    fn try_exit(&mut self) -> crucible_vmm::Result<Option<Exit>> {
        Ok(None)
    }
    fn wait(&mut self, _: Duration) -> crucible_vmm::Result<Option<Exit>> {
        Ok(None)
    }
    fn host_fault(&mut self) -> Option<HostFault> {
        self.fault.clone()
    }
    fn task_states(&mut self, _: Duration) -> crucible_vmm::Result<TaskStates> {
        Ok(TaskStates::default())
    }
    fn pause(&mut self) -> crucible_vmm::Result<()> {
        Ok(())
    }
    fn resume(&mut self) -> crucible_vmm::Result<()> {
        Ok(())
    }
    fn save(&mut self) -> crucible_vmm::Result<()> {
        Ok(())
    }
    fn save_in(&mut self, _: &Path) -> crucible_vmm::Result<()> {
        Ok(())
    }
    fn save_changes(&mut self, _: &Path) -> crucible_vmm::Result<Changes> {
        Ok(Changes { pages: 0, of: 0 })
    }
    fn kill(&mut self) -> crucible_vmm::Result<()> {
        Ok(())
    }
    fn pid(&self) -> u32 {
        0
    }
    fn is_debugged(&self) -> bool {
        false
    }
    fn describe(&self) -> Description {
        Description {
            kind: "played".into(),
            version: String::new(),
            accel: String::new(),
            start: "cold".into(),
            command: Vec::new(),
        }
    }
}

/// Greets a guest whose agent answers the first request with these bytes.
fn greet(answer: &'static [u8], fault: Option<HostFault>) -> Abort {
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    let agent = thread::spawn(move || {
        let hello: Result<Envelope<Request>, _> = frame::read(&mut theirs);
        hello.expect("a request");
        theirs.write_all(answer).expect("an answer");
        theirs
    });
    let machine = Box::new(Played { ours, fault });
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
    let machine = Box::new(Played { ours, fault: None });
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
