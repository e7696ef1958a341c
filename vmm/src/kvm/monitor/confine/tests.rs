// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests the calls that a confined thread may make, and those that kill it. Each case runs in a
//! separate process: this program, with the case's name in its environment.

use std::env;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::ptr::null_mut;
use std::sync::mpsc;
use std::thread;

use libc::{SIGABRT, SIGSYS};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::process::{Pid, test_kill_process};

use super::*;

const CASE: &str = "CRUCIBLE_CONFINE_CASE";

/// A case: its name, and the function that its process runs.
type Case = (&'static str, fn());

/// Actions that are forbidden in both kinds of thread.
const FORBIDDEN: [Case; 10] = [
    ("open", || drop(File::open("/dev/null"))),
    ("connect", || drop(UdpSocket::bind("127.0.0.1:0"))),
    // A connection is accepted only if a debugger may connect.
    ("accept", || drop(rustix::net::accept(std::io::stdin()))),
    ("start a thread", || {
        drop(thread::Builder::new().spawn(|| ()));
    }),
    ("execute", || drop(Command::new("/bin/true").status())),
    ("signal", || {
        let _ = test_kill_process(Pid::INIT);
    }),
    ("dump", || {
        let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    }),
    ("map code", || {
        let code = ProtFlags::READ | ProtFlags::EXEC;
        // SAFETY: this maps new memory, which nothing uses.
        let _ = unsafe { mmap_anonymous(null_mut(), 4096, code, MapFlags::PRIVATE) };
    }),
    ("unlisted ioctl", || {
        let _ = rustix::io::ioctl_fionread(std::io::stdin());
    }),
    ("grow a disk", || {
        let _ = fallocate(std::io::stderr(), FallocateFlags::empty(), 0, 1);
    }),
];

/// Actions that both kinds of threads must be able to do.
fn work() {
    let (sender, receiver) = mpsc::channel();
    sender.send(vec![1u8; 8 << 20]).unwrap();
    let mut bytes = receiver.recv().unwrap();
    bytes.resize(64 << 20, 2);
    assert_eq!(bytes[63 << 20], 2);
}

/// Uses files that were opened before the confinement, which allows no new ones.
fn use_files(role: Role) {
    let (mut near, mut far) = UnixStream::pair().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    process(&config()).unwrap();
    super::thread(role, false).unwrap();
    near.write_all(b"bytes").unwrap();
    let mut bytes = [0; 5];
    far.read_exact(&mut bytes).unwrap();
    file.write_all(&bytes).unwrap();
    file.seek(SeekFrom::Start(1)).unwrap();
    file.read_exact(&mut bytes[1..]).unwrap();
    assert_eq!(&bytes, b"bytes");
}

fn config() -> Config {
    Config {
        kernel: "/kernel".into(),
        cmdline: String::new(),
        vcpus: 1,
        memory_mib: 16,
        saved: false,
        began: 0,
        changes: None,
        track: false,
        debugger: false,
        dump: false,
        build: String::new(),
        disks: Vec::new(),
    }
}

/// Runs a case in this process, confined as `role`.
fn play(name: &str, role: Role) {
    abort_on_panic();
    match name {
        "files" => return use_files(role),
        "panic" => {
            super::thread(role, false).unwrap();
            panic!("first\nsecond");
        }
        _ => super::thread(role, false).unwrap(),
    }
    match FORBIDDEN.iter().find(|(known, _)| *known == name) {
        Some((_, act)) => act(),
        None => work(),
    }
}

/// Runs a case in a separate process.
fn run(name: &str, role: Role) -> Output {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("kvm::monitor::confine::tests::case")
        .env(CASE, format!("{role:?} {name}"))
        .output()
        .unwrap()
}

/// Runs the case that the environment names, in a case's process. Does nothing without one.
#[test]
fn case() {
    let Ok(wanted) = env::var(CASE) else {
        return;
    };
    let (role, name) = wanted.split_once(' ').unwrap();
    let role = [Role::Vcpu, Role::Loop]
        .into_iter()
        .find(|known| format!("{known:?}") == role)
        .unwrap();
    play(name, role);
    process::exit(0);
}

#[test]
fn a_forbidden_action_kills_the_process() {
    for role in [Role::Vcpu, Role::Loop] {
        for (name, _) in FORBIDDEN {
            let output = run(name, role);
            assert_eq!(
                output.status.signal(),
                Some(SIGSYS),
                "{role:?}, {name}: {output:?}"
            );
        }
    }
}

#[test]
fn needed_actions_are_allowed() {
    for role in [Role::Vcpu, Role::Loop] {
        for name in ["work", "files"] {
            let output = run(name, role);
            assert!(output.status.success(), "{role:?}, {name}: {output:?}");
        }
    }
}

#[test]
fn a_panic_prints_one_line_and_aborts() {
    let output = run("panic", Role::Vcpu);
    assert_eq!(output.status.signal(), Some(SIGABRT), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("crucible: the monitor panicked at "));
    assert!(stderr.ends_with(": first; second\n"), "{stderr}");
}

#[test]
fn a_file_may_grow_to_the_size_of_the_largest_disk() {
    assert_eq!(largest_file(&config()), ROOM);
}
