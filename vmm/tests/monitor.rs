// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests the real, confined monitor, with guests of a few instructions.
//!
//! They run on any /dev/kvm, even one that cannot run a kernel. Without one each test reports that
//! it was not run.

mod fixture;
mod forced;
mod guests;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crucible_vmm::kvm::saved;
use crucible_vmm::{Exit, FaultKind, Machine, Start};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use fixture::{Fixture, PATIENCE, monitor, register};
use guests::Guest;

#[test]
fn console_output_arrives_and_a_reset_is_reported() {
    let Some(mut fixture) = Fixture::start(Guest::Reset) else {
        return;
    };
    assert_eq!(fixture.exit(), Exit::Reset);
    assert_eq!(fixture.console(), "first line\nsecond line");
}

#[test]
fn a_triple_fault_is_reported_with_the_registers() {
    let Some(mut fixture) = Fixture::start(Guest::TripleFault) else {
        return;
    };
    let exit = fixture.exit();
    let Exit::TripleFault { registers } = exit else {
        panic!("{exit:?}");
    };
    assert_eq!(register(&registers, "RBX"), "0000000012345678");
}

#[test]
fn a_looping_guest_can_be_examined_paused_and_killed() {
    let Some(mut fixture) = Fixture::start(Guest::Loop) else {
        return;
    };
    fixture.wait_for("looping");
    let machine = &mut fixture.machine;
    for _ in 0..3 {
        machine.pause().unwrap();
        machine.resume().unwrap();
    }
    // The guest does not answer keys, so this always takes the whole timeout.
    let states = machine.task_states(Duration::from_millis(10)).unwrap();
    assert!(!states.answered);
    assert_eq!(states.registers[0], "CPU#0");
    assert_eq!(register(&states.registers, "RBX"), "0000000012345678");
    let rip = u64::from_str_radix(register(&states.registers, "RIP"), 16).unwrap();
    assert_eq!(rip >> 12, guests::ADDRESS >> 12);
    assert_eq!(machine.try_exit().unwrap(), None);
    machine.kill().unwrap();
    assert_eq!(machine.try_exit().unwrap(), Some(Exit::Killed));
}

#[test]
fn a_second_vcpu_that_never_starts_is_paused_too() {
    let Some(mut fixture) = Fixture::with(Guest::Loop, 2) else {
        return;
    };
    fixture.wait_for("looping");
    fixture.machine.pause().unwrap();
    fixture.machine.resume().unwrap();
    let states = fixture.machine.task_states(Duration::from_millis(10));
    assert!(states.unwrap().registers.contains(&"CPU#1".into()));
}

#[test]
fn one_vcpu_of_two_ends_the_machine() {
    let Some(mut fixture) = Fixture::with(Guest::Reset, 2) else {
        return;
    };
    assert_eq!(fixture.exit(), Exit::Reset);
}

#[test]
fn a_saved_guest_continues_in_a_new_machine() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut fixture) = Fixture::at(Guest::Loop, 2, directory, Start::BootForSnapshot) else {
        return;
    };
    fixture.wait_for("looping");
    fixture.machine.save().unwrap();
    fixture.machine.kill().unwrap();
    let mut fixture = Fixture::at(Guest::Loop, 2, fixture.directory, Start::Saved).unwrap();
    let states = fixture.machine.task_states(Duration::from_millis(10));
    let registers = states.unwrap().registers;
    assert_eq!(register(&registers, "RBX"), "0000000012345678");
    assert_eq!(fixture.machine.try_exit().unwrap(), None);
    // It prints nothing, because it continues after that point.
    assert_eq!(fixture.console(), "");
}

#[test]
fn the_monitor_survives_malformed_device_accesses() {
    for guest in [Guest::Noise, Guest::Driver] {
        let Some(mut fixture) = Fixture::start(guest) else {
            return;
        };
        assert_eq!(fixture.exit(), Exit::Reset, "{guest:?}");
        assert_eq!(fixture.console(), "still here", "{guest:?}");
    }
}

#[test]
fn every_thread_of_the_monitor_is_confined() {
    let Some(mut fixture) = Fixture::with(Guest::Loop, 2) else {
        return;
    };
    fixture.wait_for("looping");
    // Each vCPU's thread handles this, so each has completed its confinement.
    fixture.machine.pause().unwrap();
    let process = Path::new("/proc").join(fixture.pid().to_string());
    let mut names = Vec::new();
    for thread in fs::read_dir(process.join("task")).unwrap() {
        let thread = thread.unwrap().path();
        let status = fs::read_to_string(thread.join("status")).unwrap();
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name}")).trim()
        };
        // A filter, and the settings that go with it.
        assert_eq!(value("Seccomp:"), "2");
        assert_eq!(value("NoNewPrivs:"), "1");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(value(set), "0000000000000000");
        }
        names.push(value("Name:").to_owned());
    }
    names.sort();
    assert!(names.ends_with(&["vcpu0".into(), "vcpu1".into()]));
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    for name in ["Max core file size", "Max open files", "Max locked memory"] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let values: Vec<_> = line.unwrap().split_whitespace().take(2).collect();
        assert_eq!(values, ["0", "0"], "{name}");
    }
}

#[test]
fn a_forbidden_system_call_is_reported_as_such() {
    let Some(mut fixture) = Fixture::start(Guest::Loop) else {
        return;
    };
    fixture.wait_for("looping");
    let pid = fixture.pid().as_raw_nonzero().get();
    forced::system_call(pid, libc::SYS_getppid);
    let exit = fixture.exit();
    let Exit::HostError { detail, signal } = exit else {
        panic!("{exit:?}");
    };
    assert_eq!(signal, Some(Signal::SYS.as_raw()));
    assert!(detail.contains("a system call that its filter forbids"));
}

#[test]
fn a_failure_of_the_hosts_disk_is_reported_while_the_guest_runs() {
    let Some(mut fixture) = Fixture::start(Guest::Reads) else {
        return;
    };
    fixture.wait_for("reading");
    assert_eq!(fixture.machine.host_fault(), None);
    let disk = fixture.directory.path().join("disk");
    let file = fs::OpenOptions::new().write(true).open(&disk).unwrap();
    file.set_len(0).unwrap();
    fixture.wait_for("failed");
    // The monitor reports it in addition to the guest's console.
    let deadline = Instant::now() + PATIENCE;
    let fault = loop {
        assert!(Instant::now() < deadline, "no fault was reported");
        match fixture.machine.host_fault() {
            Some(fault) => break fault,
            None => std::thread::yield_now(),
        }
    };
    assert_eq!(fault.kind, FaultKind::Io);
    let path = disk.display().to_string();
    assert!(fault.detail.starts_with(&path), "{fault}");
    assert_eq!(fixture.machine.try_exit().unwrap(), None);
    fixture.machine.kill().unwrap();
    assert_eq!(fixture.machine.host_fault(), Some(fault));
}

const PARENT: &str = "CRUCIBLE_MONITOR_PARENT";

/// Runs the process that [`a_monitor_ends_with_its_parent`] kills. It is not a test by itself.
#[test]
fn parent() {
    if env::var_os(PARENT).is_none() {
        return;
    }
    let mut fixture = Fixture::start(Guest::Loop).expect("KVM");
    fixture.wait_for("looping");
    println!("\nmonitor {}", fixture.pid());
    // Wait to be killed.
    let _ = fixture.machine.wait(PATIENCE);
}

#[test]
fn a_monitor_ends_with_its_parent() {
    // Dropping privileges can clear a process's parent-death signal.
    let Some(fixture) = Fixture::start(Guest::Reset) else {
        return;
    };
    drop(fixture);
    let mut parent = Command::new(env::current_exe().unwrap())
        .args(["--exact", "parent", "--nocapture"])
        .env(PARENT, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let pid = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("monitor ")?.parse().ok())
        .expect("a monitor");
    let monitor = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    parent.kill().unwrap();
    parent.wait().unwrap();
    let mut wait = [PollFd::new(&monitor, PollFlags::IN)];
    let ended = poll(&mut wait, Some(&PATIENCE.try_into().unwrap())).unwrap();
    assert_eq!(ended, 1, "the monitor still runs");
}

#[test]
fn a_truncated_memory_file_is_the_hosts() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut fixture) = Fixture::at(Guest::Marked(1), 1, directory, Start::BootForSnapshot)
    else {
        return;
    };
    fixture.wait_for("marked");
    fixture.machine.save().unwrap();
    fixture.machine.kill().unwrap();
    let mut fixture = Fixture::at(Guest::Marked(1), 1, fixture.directory, Start::Saved).unwrap();
    let saved = fixture.directory.path().join("saved");
    let pages = saved::verify(&saved, &monitor()).unwrap().pages;
    let file = fs::OpenOptions::new().write(true).open(pages).unwrap();
    file.set_len(0).unwrap();
    let exit = fixture.exit();
    let Exit::HostError { detail, signal } = exit else {
        panic!("{exit:?}");
    };
    // A vCPU gets an error from KVM; a device is killed by the kernel.
    let told = signal.is_none() && detail.contains("has been shortened");
    assert!(told || signal == Some(libc::SIGBUS), "{detail}");
}
