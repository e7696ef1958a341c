// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Machines as the engine uses them: their ends, and their reports.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::time::{Duration, Instant};

use common::{LONG, boot, spec};
use crucible_engine::guest::{Guest, GuestError};
use crucible_vmm::qemu::{Options, QemuMachine};
use crucible_vmm::{AlertKind, Disk, Error, Exit, FaultKind, Machine};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(String::from).to_vec()
}

#[test]
fn a_guest_runs_debian_and_shuts_down() {
    let (_directory, mut guest) = boot();
    let run = guest
        .exec(
            &sh("gcc --version | head -n 1; make --version | head -n 1"),
            &BTreeMap::new(),
            "/",
            LONG,
        )
        .unwrap();
    let text = run.stdout;
    assert!(text.contains("gcc"), "{text}");
    assert!(text.contains("GNU Make"), "{text}");
    guest.shutdown().unwrap();
}

#[test]
fn a_panic_is_reported_within_a_second() {
    let (_directory, mut guest) = boot();
    let began = Instant::now();
    let error = guest
        .exec(
            &sh("echo c > /proc/sysrq-trigger"),
            &BTreeMap::new(),
            "/",
            LONG,
        )
        .unwrap_err();
    let took = began.elapsed();
    let GuestError::Alert { alerts, .. } = error else {
        panic!("not an alert: {error:?}");
    };
    let panic = alerts
        .iter()
        .find(|alert| alert.kind == AlertKind::Panic)
        .expect("a panic among the alerts");
    assert!(panic.headline.contains("sysrq triggered crash"));
    assert!(
        panic
            .lines
            .iter()
            .any(|line| line.contains(&panic.headline))
    );
    // After an alert the engine waits two seconds for the lines that may follow it.
    assert!(took < Duration::from_secs(10), "{took:?}");
    let exit = guest.machine().wait(LONG).unwrap();
    assert_eq!(exit, Some(Exit::Panic));
}

#[test]
fn a_busy_guest_reports_the_states_of_its_tasks() {
    let (_directory, mut guest) = boot();
    let states = guest.machine().task_states(LONG).unwrap();
    assert!(states.answered, "{:?}", guest.machine().console_tail(20));
    let task = |name: &str| {
        states
            .lines
            .iter()
            .any(|l| l.contains(&format!("task:{name}")))
    };
    assert!(task("agent"), "{:#?}", states.lines);
    assert!(task("kthreadd"), "{:#?}", states.lines);
    assert!(states.registers.iter().any(|line| line.contains("RIP=")));
    guest.shutdown().unwrap();
}

#[test]
fn a_killed_machine_does_not_answer() {
    let (_directory, mut guest) = boot();
    guest.machine().kill().unwrap();
    assert_eq!(guest.machine().try_exit().unwrap(), Some(Exit::Killed));
}

#[test]
fn a_machine_that_is_killed_from_outside_reports_the_signal() {
    let (_directory, mut guest) = boot();
    assert_eq!(guest.machine().host_fault(), None);
    let pid = Pid::from_raw(guest.machine().pid().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let exit = guest.machine().wait(LONG).unwrap();
    let Some(Exit::HostError { detail, signal }) = exit else {
        panic!("{exit:?}");
    };
    assert_eq!(signal, Some(Signal::KILL.as_raw()));
    assert!(detail.contains("signal: 9"), "{detail}");
}

#[test]
fn a_full_disk_of_the_host_is_reported() {
    let (directory, mut spec) = spec();
    // A file system without room for the disk. It disappears with the machine.
    let small = directory.path().join("small");
    fs::create_dir(&small).unwrap();
    mount("none", &small, "tmpfs", MountFlags::empty(), c"size=1m").unwrap();
    let disk = small.join("disk");
    File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    spec.disks.push(Disk::writable(&disk));
    let machine = QemuMachine::start(&spec, &Options::default());
    unmount(&small, UnmountFlags::DETACH).unwrap();
    let machine = machine.unwrap();
    let mut guest = Guest::connect(Box::new(machine), LONG).unwrap();
    assert_eq!(guest.machine().host_fault(), None);
    let script = "dd if=/dev/urandom of=/dev/vdd bs=1M count=8 oflag=direct";
    let run = guest.exec(&sh(script), &BTreeMap::new(), "/", LONG);
    // The guest sees an I/O error, which is the host's fault, whether the guest has already
    // answered or not.
    if let Ok(run) = &run {
        assert!(run.stderr.contains("Input/output error"), "{run:?}");
    }
    let error = run.and_then(|_| guest.settle()).unwrap_err();
    let GuestError::Host(fault) = error else {
        panic!("{error:?}");
    };
    assert_eq!(fault.kind, FaultKind::DiskFull, "{fault}");
    // The machine still runs.
    assert_eq!(guest.machine().try_exit().unwrap(), None);
    guest.machine().kill().unwrap();
}

#[test]
fn a_kernel_without_a_root_panics_at_once() {
    let (directory, mut spec) = spec();
    spec.disks.clear();
    let mut machine = QemuMachine::start(&spec, &Options::default()).unwrap();
    assert_eq!(machine.wait(LONG).unwrap(), Some(Exit::Panic));
    let alerts: Vec<_> = machine.alerts().iter().collect();
    assert_eq!(alerts.last().unwrap().kind, AlertKind::Panic);
    let log = fs::read_to_string(directory.path().join("console.log")).unwrap();
    assert!(log.contains("Unable to mount root fs"), "{log}");
}

#[test]
fn an_emulator_that_cannot_run_the_machine_reports_why() {
    let (directory, spec) = spec();
    let nothing = Options {
        binary: "no-such-emulator".into(),
        ..Options::default()
    };
    let error = QemuMachine::start(&spec, &nothing).err().unwrap();
    assert!(matches!(error, Error::NoEmulator { .. }), "{error}");

    // Eight disks and two more devices need more slots than the machine has.
    let mut many = spec.clone();
    let disk = Disk::readonly(many.disks[0].path.clone());
    many.disks = vec![disk; 8];
    let error = QemuMachine::start(&many, &Options::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("virtio-mmio-bus"), "{error}");

    let mut missing = spec;
    missing.kernel = directory.path().join("nothing");
    let error = QemuMachine::start(&missing, &Options::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("nothing"), "{error}");
}
