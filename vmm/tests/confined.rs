// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests that a machine's process inherits no descriptor, variable or privilege.
//!
//! The tests run QEMU, and our monitor if there is a /dev/kvm.

mod fixture;
mod guests;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crucible_vmm::qemu::{Options, QemuMachine};
use crucible_vmm::{DebuggerAddress, Disk, Machine, MachineSpec, confinement};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::geteuid;
use tempfile::TempDir;

use fixture::{Fixture, PATIENCE};
use guests::Guest;

/// Starts a guest that loops, in QEMU.
fn qemu(debugger: Option<DebuggerAddress>) -> (TempDir, QemuMachine) {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    fs::write(&disk, vec![0x5a; 1 << 20]).unwrap();
    let spec = MachineSpec {
        memory_mib: fixture::MEMORY_MIB,
        disks: vec![Disk::writable(&disk)],
        debugger,
        ..MachineSpec::new(Guest::Loop.write(directory.path()), directory.path())
    };
    let machine = QemuMachine::start(&spec, &Options::default()).unwrap();
    (directory, machine)
}

/// Waits until the guest has printed `text`.
fn wait_for(machine: &QemuMachine, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !machine.console_tail(10).join("\n").contains(text) {
        assert!(Instant::now() < deadline, "the guest never printed {text}");
        std::thread::yield_now();
    }
}

fn process(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// Returns the files that a process has open, as /proc names them.
fn open_files(process: &Path) -> BTreeSet<PathBuf> {
    let fds = fs::read_dir(process.join("fd")).unwrap();
    fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .collect()
}

/// A file that each child inherits unless this is prevented.
struct Inherited {
    _files: [OwnedFd; 2],
    path: PathBuf,
    _directory: TempDir,
}

impl Inherited {
    fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let file = File::create(&path).unwrap();
        fcntl_setfd(&file, FdFlags::empty()).unwrap();
        let second = fcntl_dupfd_cloexec(&file, 500).unwrap();
        fcntl_setfd(&second, FdFlags::empty()).unwrap();
        Self {
            _files: [file.into(), second],
            path,
            _directory: directory,
        }
    }

    fn assert_not_in(&self, pid: u32) {
        let files = open_files(&process(pid));
        assert!(!files.is_empty());
        assert!(!files.contains(&self.path), "{files:?}");
    }
}

/// Checks that a process has none of this process's variables but those in `allowed`.
fn assert_no_variables(pid: u32, allowed: &[&str]) {
    // Cargo sets the first one, and a shell the second.
    for name in ["CARGO_PKG_NAME", "PATH"] {
        assert!(std::env::var_os(name).is_some(), "{name}");
    }
    let variables = fs::read(process(pid).join("environ")).unwrap();
    for variable in String::from_utf8_lossy(&variables).split_terminator('\0') {
        let name = variable.split('=').next().unwrap();
        assert!(allowed.contains(&name), "{variable}");
    }
}

#[test]
fn qemu_inherits_neither_descriptors_nor_variables() {
    let inherited = Inherited::open();
    let (_directory, machine) = qemu(None);
    inherited.assert_not_in(machine.pid());
    assert_no_variables(machine.pid(), &["LD_LIBRARY_PATH"]);
}

#[test]
fn the_monitor_inherits_neither_descriptors_nor_variables() {
    let inherited = Inherited::open();
    let Some(mut fixture) = Fixture::start(Guest::Loop) else {
        return;
    };
    fixture.wait_for("looping");
    let pid = fixture.machine.pid();
    inherited.assert_not_in(pid);
    assert_no_variables(pid, &[]);
}

#[test]
fn qemu_has_no_privileges() {
    let (_directory, machine) = qemu(None);
    wait_for(&machine, "looping");
    let process = process(machine.pid());
    for thread in fs::read_dir(process.join("task")).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name}")).trim()
        };
        assert_eq!(value("Seccomp:"), "2");
        assert_eq!(value("NoNewPrivs:"), "1");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(value(set), "0000000000000000", "{set}");
        }
        // Only a privileged process can give up the right to gain privileges.
        if geteuid().is_root() {
            assert_eq!(value("CapBnd:"), "0000000000000000");
        }
    }
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.contains("core file size"));
    assert_eq!(core.unwrap().split_whitespace().nth(4), Some("0"));
}

#[test]
fn qemu_is_not_in_the_hosts_network() {
    let (_directory, machine) = qemu(None);
    let namespace = |process: &Path| fs::read_link(process.join("ns/net")).unwrap();
    let theirs = namespace(&process(machine.pid()));
    let ours = namespace(Path::new("/proc/self"));
    assert_eq!(theirs != ours, confinement().unwrap().network);
}

#[test]
fn a_debugger_reaches_a_guest_without_a_network() {
    // A port that was free just now.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let (_directory, machine) = qemu(Some(DebuggerAddress::Port(address.port())));
    let mut debugger = std::net::TcpStream::connect(address).unwrap();
    debugger.set_read_timeout(Some(PATIENCE)).unwrap();
    // The reason of the stop, and "continue".
    std::io::Write::write_all(&mut debugger, b"$?#3f").unwrap();
    let mut answer = [0; 2];
    std::io::Read::read_exact(&mut debugger, &mut answer).unwrap();
    assert_eq!(answer, *b"+$");
    std::io::Write::write_all(&mut debugger, b"+$c#63").unwrap();
    wait_for(&machine, "looping");
}

#[test]
fn paths_relative_to_this_process_are_found() {
    let directory = tempfile::tempdir_in(".").unwrap();
    let name = PathBuf::from(directory.path().file_name().unwrap());
    let spec = MachineSpec {
        memory_mib: fixture::MEMORY_MIB,
        ..MachineSpec::new(Guest::Loop.write(&name), &name)
    };
    assert!(spec.kernel.is_relative());
    let machine = QemuMachine::start(&spec, &Options::default()).unwrap();
    wait_for(&machine, "looping");
    let cwd = fs::read_link(process(machine.pid()).join("cwd")).unwrap();
    assert_eq!(cwd, Path::new("/"));
}
