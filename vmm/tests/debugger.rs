// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests the debugger of the real, confined monitor, with guests of a few instructions.
//!
//! They run on any /dev/kvm that supports debugging. Otherwise each test reports that it was not
//! run.

mod guests;
mod rsp;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crucible_vmm::kvm::{KvmMachine, Options};
use crucible_vmm::{DebuggerAddress, Exit, Machine, MachineSpec};
use kvm_ioctls::{Cap, Kvm};
use tempfile::TempDir;

use guests::{COUNTER, Guest, function};
use rsp::Gdb;

/// Timeout for a slow host; no assertion depends on elapsed time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sufficient for these guests.
const MEMORY_MIB: u32 = 16;

/// The first bytes of the function: `push %eax`, `inc %ebx`, and the first byte of a longer
/// instruction.
const FUNCTION: [u8; 3] = [0x50, 0x43, 0x89];

/// A machine with a debugger's socket, and its files.
struct Fixture {
    machine: KvmMachine,
    address: DebuggerAddress,
    directory: TempDir,
}

impl Fixture {
    /// Starts a guest. Returns `None` after a message if KVM does not support this.
    fn start(guest: Guest, vcpus: u8) -> Option<Self> {
        Self::at(guest, vcpus, |directory| {
            DebuggerAddress::Socket(directory.path().join("gdb"))
        })
    }

    fn at(
        guest: Guest,
        vcpus: u8,
        address: impl FnOnce(&TempDir) -> DebuggerAddress,
    ) -> Option<Self> {
        let able = Kvm::new()
            .map_err(|error| format!("cannot open /dev/kvm: {error}"))
            .and_then(|kvm| match kvm.check_extension(Cap::SetGuestDebug) {
                true => Ok(()),
                false => Err("this KVM does not support debugging".to_owned()),
            });
        if let Err(why) = able {
            skip(&why);
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let address = address(&directory);
        let spec = spec(&directory, guest, vcpus, Some(&address));
        let machine = KvmMachine::start(&spec, &options()).unwrap();
        Some(Self {
            machine,
            address,
            directory,
        })
    }

    fn gdb(&self) -> Gdb {
        Gdb::connect(&self.address, PATIENCE)
    }

    fn console(&self) -> String {
        self.machine.console_tail(100).join("\n")
    }
}

/// Reports that this test was not run.
fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    // The test harness would capture the output of `eprintln`.
    let text = format!("not run: {test}: {why}\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

fn spec(
    directory: &TempDir,
    guest: Guest,
    vcpus: u8,
    debugger: Option<&DebuggerAddress>,
) -> MachineSpec {
    MachineSpec {
        vcpus,
        memory_mib: MEMORY_MIB,
        debugger: debugger.cloned(),
        ..MachineSpec::new(guest.write(directory.path()), directory.path())
    }
}

fn options() -> Options {
    Options {
        program: env!("CARGO_BIN_EXE_crucible-monitor").into(),
        arguments: Vec::new(),
    }
}

/// Returns true when the reply reports a vCPU at a breakpoint.
fn at_breakpoint(reply: &str) -> bool {
    reply.starts_with("T05") && reply.contains("swbreak:")
}

#[test]
fn a_breakpoint_stops_the_guest_repeatedly() {
    let Some(mut fixture) = Fixture::start(Guest::Count, 1) else {
        return;
    };
    let mut gdb = fixture.gdb();
    // The guest waits for the debugger before it runs.
    assert_eq!(fixture.console(), "");
    assert!(gdb.ask("?").contains("05"));
    for _ in 0..2 {
        gdb.point("Z0", function(), 1);
    }
    let mut count = None;
    for round in 0..3 {
        let reply = gdb.ask("vCont;c");
        assert!(at_breakpoint(&reply), "{reply}");
        let (pc, ebx) = gdb.state();
        assert_eq!((pc, ebx), (function(), round));
        // The trap must not be visible.
        assert_eq!(gdb.memory(function(), 3), FUNCTION);
        // Continue as gdb does: one step without the breakpoint, while no other vCPU runs.
        gdb.point("z0", function(), 1);
        let reply = gdb.ask("vCont;s:1");
        assert!(reply.starts_with("T05"), "{reply}");
        assert_eq!(gdb.state(), (function() + 1, round));
        // With the breakpoint in memory, the vCPU would now continue in the middle of the trap.
        gdb.point("Z0", function(), 1);
        if round == 2 {
            let reply = gdb.ask("vCont;s:1;c");
            assert!(reply.starts_with("T05"), "{reply}");
            count = Some(gdb.state());
        }
    }
    assert_eq!(count, Some((function() + 2, 3)));
    fixture.wait_for("counting");
    assert_eq!(fixture.console(), "counting");
    assert_eq!(gdb.memory(COUNTER.into(), 4), 2u32.to_le_bytes());
}

#[test]
fn memory_accesses_and_breakpoints_succeed_or_are_refused() {
    let Some(fixture) = Fixture::start(Guest::Count, 2) else {
        return;
    };
    let mut gdb = fixture.gdb();
    assert_eq!(gdb.ask("qfThreadInfo"), "m01,02");
    let end = u64::from(MEMORY_MIB) << 20;
    assert_eq!(
        gdb.memory(end - 2, 4).len(),
        2,
        "truncated at the end of memory"
    );
    for nothing in [end, 0xd000_0000, u64::MAX - 1] {
        let reply = gdb.ask(&format!("m{nothing:x},2"));
        assert!(reply.starts_with('E'), "{reply}");
        let reply = gdb.ask(&format!("M{nothing:x},1:00"));
        assert!(reply.starts_with('E'), "{reply}");
        let reply = gdb.ask(&format!("Z0,{nothing:x},1"));
        assert!(reply.starts_with('E'), "{reply}");
    }
    gdb.done(&format!("M{COUNTER:x},4:78563412"));
    assert_eq!(gdb.memory(COUNTER.into(), 4), [0x78, 0x56, 0x34, 0x12]);
    // A write at a breakpoint keeps the trap and changes the byte that it replaces.
    gdb.point("Z0", function(), 1);
    gdb.done(&format!("M{:x},1:40", function()));
    assert_eq!(gdb.memory(function(), 1), [0x40]);
    assert!(at_breakpoint(&gdb.ask("vCont;c")));
    gdb.point("z0", function(), 1);
    let reply = gdb.ask("vCont;s:1");
    assert!(reply.starts_with("T05"), "{reply}");
    assert_eq!(gdb.state().0, function() + 1);
    let reply = gdb.ask(&format!("z0,{:x},1", function()));
    assert!(reply.starts_with('E'), "{reply}");
}

#[test]
fn a_debugger_interrupts_detaches_and_disconnects() {
    let Some(mut fixture) = Fixture::start(Guest::Count, 2) else {
        return;
    };
    let mut gdb = fixture.gdb();
    gdb.send("vCont;c");
    fixture.wait_for("counting");
    gdb.interrupt();
    let reply = gdb.receive().expect("a stop");
    assert!(reply.contains("02"), "{reply}");
    let (_, before) = gdb.state();
    // Disconnect without detaching while a breakpoint is set.
    gdb.point("Z0", function(), 1);
    drop(gdb);
    let mut gdb = fixture.gdb();
    assert_eq!(gdb.memory(function(), 3), FUNCTION);
    gdb.point("Z0", function(), 1);
    assert!(at_breakpoint(&gdb.ask("vCont;c")));
    let (_, after) = gdb.state();
    assert!(after >= before, "{after} {before}");
    // A second debugger is refused while the first is connected.
    let mut other = UnixStream::connect(fixture.directory.path().join("gdb")).unwrap();
    let end = other.read(&mut [0]);
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    // Requests of the parent do not resume the guest.
    let states = fixture.machine.task_states(Duration::from_millis(10));
    assert_eq!(states.unwrap().registers[0], "CPU#0");
    fixture.machine.pause().unwrap();
    fixture.machine.resume().unwrap();
    assert_eq!(gdb.state(), (function(), after));
    gdb.done("D");
    assert_eq!(gdb.receive(), None);
    // The guest continues: the count changes, and no breakpoint is left.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut gdb = fixture.gdb();
        let (_, now) = gdb.state();
        if now > after {
            break;
        }
        assert!(Instant::now() < deadline, "the count stays at {now}");
    }
    assert_eq!(fixture.machine.try_exit().unwrap(), None);
}

#[test]
fn hardware_breakpoints_work() {
    let Some(fixture) = Fixture::start(Guest::Count, 1) else {
        return;
    };
    let mut gdb = fixture.gdb();
    gdb.point("Z1", function() + 1, 1);
    let reply = gdb.ask("vCont;c");
    assert!(reply.contains("hwbreak:"), "{reply}");
    assert_eq!(gdb.state(), (function() + 1, 0));
    gdb.point("z1", function() + 1, 1);
    // Only set and remove watchpoints: some KVMs that emulate code never report that one was hit.
    gdb.point("Z2", COUNTER.into(), 4);
    gdb.point("z2", COUNTER.into(), 4);
    for reply in ["Z2,300001,4", "Z2,300000,3"].map(|text| gdb.ask(text)) {
        assert!(reply.starts_with('E'), "{reply}");
    }
}

#[test]
fn the_guests_own_traps_are_delivered_to_it() {
    let Some(mut fixture) = Fixture::start(Guest::Traps, 1) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let undebugged = spec(&directory, Guest::Traps, 1, None);
    let mut machine = KvmMachine::start(&undebugged, &options()).unwrap();
    let exit = machine.wait(PATIENCE).unwrap();
    let output = machine.console_tail(1);
    if exit != Some(Exit::Reset) || output != ["trapped twice"] {
        return skip("this KVM cannot run the guest without a debugger either");
    }
    let mut gdb = fixture.gdb();
    // This makes KVM intercept all debug exceptions.
    gdb.point("Z1", COUNTER.into(), 1);
    assert_eq!(gdb.ask("vCont;c"), "W00");
    let exit = fixture.machine.wait(PATIENCE).unwrap();
    assert_eq!(exit, Some(Exit::Reset));
    assert_eq!(fixture.console(), "trapped twice");
}

#[test]
fn the_guests_end_is_reported_to_the_debugger() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let port = |_: &TempDir| DebuggerAddress::Port(port);
    let Some(mut fixture) = Fixture::at(Guest::Reset, 1, port) else {
        return;
    };
    let mut gdb = fixture.gdb();
    assert_eq!(gdb.ask("vCont;c"), "W00");
    assert_eq!(gdb.receive(), None);
    let exit = fixture.machine.wait(PATIENCE).unwrap();
    assert_eq!(exit, Some(Exit::Reset));
}

#[test]
fn an_address_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let path = directory.path().join("taken");
    let _other = UnixListener::bind(&path).unwrap();
    for (address, name) in [
        (DebuggerAddress::Port(port), port.to_string()),
        (
            DebuggerAddress::Socket(path.clone()),
            path.display().to_string(),
        ),
    ] {
        let spec = spec(&directory, Guest::Loop, 1, Some(&address));
        let error = KvmMachine::start(&spec, &options()).err().unwrap();
        let message = error.to_string();
        assert!(
            message.contains("debugger") && message.contains(&name),
            "{message}"
        );
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("in use"), "{cause}");
    }
    assert!(fs::exists(&path).unwrap());
}

impl Fixture {
    /// Waits until the guest has printed `text`.
    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.console().contains(text) {
            assert!(Instant::now() < deadline, "the guest never printed {text}");
            let exit = self.machine.wait(Duration::from_millis(10)).unwrap();
            assert_eq!(exit, None);
        }
    }
}
