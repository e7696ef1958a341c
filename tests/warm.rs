// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests that start from a snapshot of another guest.

mod common;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use common::{LONG, cli, spec};
use crucible_engine::guest::Guest;
use crucible_vmm::qemu::{Options, QemuMachine};
use crucible_vmm::{Error, Exit, Start};

/// Permitted error of a guest's clock, in seconds: the time that a query may take on a busy host.
const CLOCK: f64 = 20.0;

fn ask(guest: &mut Guest, script: &str) -> String {
    let argv = ["/bin/sh", "-c", script].map(String::from);
    let run = guest.exec(&argv, &BTreeMap::new(), "/", LONG).unwrap();
    assert!(run.success(), "{}", run.stderr);
    run.stdout.trim().to_owned()
}

fn start(start: Start) -> (tempfile::TempDir, QemuMachine) {
    let (directory, mut spec) = spec();
    spec.start = start;
    let machine = QemuMachine::start(&spec, &Options::default()).expect("machine");
    (directory, machine)
}

#[test]
fn clones_of_one_guest_have_their_own_identities() {
    let saved = tempfile::tempdir().unwrap();
    let (_files, machine) = start(Start::BootForSnapshot(saved.path().into()));
    let mut first = Guest::greet(Box::new(machine), LONG).unwrap();
    first.machine().save().unwrap();
    first.machine().kill().unwrap();

    // All run in parallel, because they share the file of the memory.
    let mut clones: Vec<_> = (0..4)
        .map(|_| {
            let (files, machine) = start(Start::Saved(saved.path().into()));
            (files, Guest::connect(Box::new(machine), LONG).unwrap())
        })
        .collect();
    let mut seen = HashSet::new();
    for (_, guest) in &mut clones {
        let identity = guest.identity().clone();
        assert_eq!(ask(guest, "cat /run/crucible/instance"), identity.instance);
        let mac = identity.mac.expect("a kernel with TAP").to_string();
        assert_eq!(ask(guest, "cat /sys/class/net/eth0/address"), mac);
        assert_eq!(identity.random.len(), 32);
        assert!(seen.insert(format!("{:?}", identity.random)));
        for script in [
            "cat /run/crucible/instance",
            "cat /sys/class/net/eth0/address",
            "head -c 16 /dev/urandom | od -An -tx1",
            "cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id",
            "ip -o link 2>/dev/null; cat /work/mine 2>/dev/null; echo $$ > /work/mine; date +%N",
        ] {
            assert!(
                seen.insert(ask(guest, script)),
                "two guests have the same output: {script}"
            );
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let theirs: f64 = ask(guest, "date +%s.%N").parse().unwrap();
        assert!((theirs - now.as_secs_f64()).abs() < CLOCK, "{theirs}");
    }
    for (_, guest) in clones {
        guest.shutdown().unwrap();
    }
}

#[test]
fn a_directory_without_a_snapshot_is_refused() {
    let saved = tempfile::tempdir().unwrap();
    let (_files, machine) = start(Start::BootForSnapshot(saved.path().into()));
    let mut guest = Guest::greet(Box::new(machine), LONG).unwrap();
    guest.machine().save().unwrap();
    guest.machine().kill().unwrap();
    let state = saved.path().join("state");
    let whole = fs::read(&state).unwrap();
    fs::write(&state, &whole[..whole.len() / 2]).unwrap();

    let (_files, mut spec) = spec();
    spec.start = Start::Saved(saved.path().into());
    let error = QemuMachine::start(&spec, &Options::default())
        .err()
        .unwrap();
    assert!(!error.to_string().is_empty());
}

#[test]
fn a_snapshot_is_not_overwritten() {
    let saved = tempfile::tempdir().unwrap();
    let (_files, machine) = start(Start::BootForSnapshot(saved.path().into()));
    let mut guest = Guest::greet(Box::new(machine), LONG).unwrap();
    guest.machine().save().unwrap();
    // The file of the snapshot is the guest's memory, so this machine must not resume; a guest has
    // to start from the snapshot instead.
    let error = guest.machine().resume().unwrap_err().to_string();
    assert!(error.contains("the file of the snapshot"), "{error}");
    guest.machine().kill().unwrap();
    let memory = saved.path().join("memory");
    let written = |path| fs::metadata(path).unwrap().modified().unwrap();
    let before = written(&memory);
    let (_files, mut spec) = spec();
    spec.start = Start::BootForSnapshot(saved.path().into());
    let error = QemuMachine::start(&spec, &Options::default()).err();
    assert!(
        matches!(error, Some(Error::AlreadySaved { .. })),
        "{error:?}"
    );
    assert_eq!(written(&memory), before);
}

#[test]
fn a_machine_that_was_not_started_for_a_snapshot_is_not_saved() {
    let (_files, machine) = start(Start::Boot);
    let mut guest = Guest::greet(Box::new(machine), LONG).unwrap();
    let error = guest.machine().save().unwrap_err().to_string();
    assert!(error.contains("not started with a directory"), "{error}");
    // The machine continues to run.
    guest.machine().pause().unwrap();
    guest.machine().resume().unwrap();
    guest.machine().kill().unwrap();
    assert_eq!(guest.machine().try_exit().unwrap(), Some(Exit::Killed));
}

#[test]
fn the_record_has_the_kind_of_start() {
    for (option, expected) in [(None, "warm"), (Some("--cold"), "cold")] {
        let mut args = vec!["-q", "scenario", "hello", "--machine", "qemu", "--json"];
        args.extend(option);
        let record = cli::run(&args).record();
        assert_eq!(record["verdict"], "pass", "{record:#}");
        assert_eq!(record["machine"]["start"], expected);
    }
}
