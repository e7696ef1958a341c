// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Confines a machine's process from its first instruction, between `fork` and `exec`.
//!
//! A guest that escapes from its machine, and a snapshot or kernel that exploits a parser, controls
//! that process. `docs/design/host-threats.md` lists the limits of such a guest.
//!
//! | mechanism | QEMU | our monitor | protects |
//! |---|---|---|---|
//! | an empty environment | yes, except `LD_LIBRARY_PATH` | yes | the secrets in it |
//! | only the promised descriptors (`child`) | yes | yes | files and sockets that the caller had open |
//! | no new privileges | yes | yes | rights of set-user-ID programs |
//! | Landlock | yes | yes | all files but those that it boots from, and other processes |
//! | no capabilities, an empty bounding set | yes | by itself, later | privileges of root |
//! | its own network namespace | yes | no | the network |
//! | seccomp: no `socket`, no `connect`, no io_uring | yes | by itself, later | services behind Unix sockets |
//! | `RLIMIT_CORE` 0 | yes | by itself, later | the guest's memory, in a core dump |
//!
//! The monitor opens its files with root's privileges, and drops them before the guest runs
//! (`kvm::monitor::confine`). Its filters then allow less than any of this.
//!
//! A host without Landlock, or that does not let this user make a network namespace, runs guests
//! without it; [`confinement`] reports that, and so does `crucible doctor`.

use std::env;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};
use libc::{EPERM, SYS_connect, SYS_io_uring_setup, SYS_landlock_restrict_self, SYS_socket};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs, unshare_unsafe,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::{Error, Result};

/// The version of Landlock whose restrictions are used, as far as the host's kernel has them.
const VERSION: ABI = ABI::V10;

/// Directories of shared libraries, and the loader's own files.
const LIBRARIES: [&str; 10] = [
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
];

/// The loader's additional directories. QEMU outside of the usual directories needs it, as in an
/// outer Linux.
const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// The program of a machine's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// QEMU, which adds only a list of forbidden system calls.
    Emulator,
    /// Our monitor, which confines itself further.
    Monitor,
}

/// The files that a process may use, apart from its shared libraries.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// Programs to execute.
    pub execute: Vec<PathBuf>,
    /// Files and directories to read.
    pub read: Vec<PathBuf>,
    /// Files and devices to read and write.
    pub write: Vec<PathBuf>,
}

/// A confinement that is ready to be entered.
pub(crate) struct Confinement {
    role: Role,
    /// `None` if the host has no Landlock.
    landlock: Option<OwnedFd>,
    no_sockets: BpfProgram,
}

impl Confinement {
    /// Prepares the confinement of a process that may use `files`, as far as they exist.
    pub fn prepare(role: Role, files: &Files) -> Result<Self> {
        Ok(Self {
            role,
            landlock: ruleset(files).map_err(|source| Error::Io {
                what: "prepare the confinement of the machine's process",
                source,
            })?,
            no_sockets: no_sockets().map_err(|source| Error::Io {
                what: "prepare the system call filter of the machine's process",
                source: io::Error::other(source),
            })?,
        })
    }

    /// Makes `command` run confined, and without this process's environment.
    pub fn apply(self, command: &mut Command) {
        command.env_clear();
        if self.role == Role::Emulator
            && let Some(directories) = env::var_os(LIBRARY_PATH)
        {
            command.env(LIBRARY_PATH, directories);
        }
        // SAFETY: between fork and exec only async-signal-safe calls are made: `enter` makes system
        // calls and does not allocate.
        unsafe {
            command.pre_exec(move || self.enter());
        }
    }

    /// Confines this process. It must have one thread.
    fn enter(&self) -> io::Result<()> {
        if self.role == Role::Emulator {
            // Without the permission to do this, the process keeps the network that its user may
            // use anyway; it cannot make sockets, though.
            let _ = leave_network();
            drop_capabilities()?;
            let nothing = Rlimit {
                current: Some(0),
                maximum: Some(0),
            };
            setrlimit(Resource::Core, nothing)?;
        }
        set_no_new_privs(true)?;
        if let Some(ruleset) = &self.landlock {
            restrict(ruleset)?;
        }
        if self.role == Role::Emulator {
            match seccompiler::apply_filter(&self.no_sockets) {
                Ok(()) => {}
                Err(seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error)) => {
                    return Err(error);
                }
                Err(_) => return Err(Errno::INVAL.into()),
            }
        }
        Ok(())
    }
}

/// Moves this process, which must have one thread, to a new network namespace, in which no
/// interface is up. Sockets that it has stay connected, and a debugger's listening socket still
/// listens in the host's network.
fn leave_network() -> rustix::io::Result<()> {
    // SAFETY: the flags do not unshare the table of file descriptors.
    let unshare = |flags| unsafe { unshare_unsafe(flags) };
    // Only root may make a network namespace, but anyone may be root in a user namespace.
    unshare(UnshareFlags::NEWNET).or_else(|_| unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET))
}

/// Gives up all capabilities of this thread, including those that it could gain.
pub(crate) fn drop_capabilities() -> rustix::io::Result<()> {
    for capability in CapabilitySet::all() {
        match remove_capability_from_bounding_set(capability) {
            // Only a privileged thread needs to do this and may (EPERM); older kernels have fewer
            // capabilities (EINVAL).
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    // This also empties the ambient set.
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none)
}

/// Enforces a Landlock ruleset on this thread.
fn restrict(ruleset: &OwnedFd) -> io::Result<()> {
    // SAFETY: the call takes a descriptor and flags, and touches no memory.
    match unsafe { libc::syscall(SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns a ruleset that allows only the use of `files` and of shared libraries. Returns `None` if
/// the host has no Landlock.
fn ruleset(files: &Files) -> io::Result<Option<OwnedFd>> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let write = make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev});
    let more = env::var_os(LIBRARY_PATH).unwrap_or_default();
    let more = env::split_paths(&more).filter(|path| path.is_absolute());
    let libraries: Vec<_> = LIBRARIES.iter().map(PathBuf::from).chain(more).collect();
    let create = || {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(VERSION))?
            .handle_access(AccessNet::from_all(VERSION))?
            .scope(Scope::from_all(VERSION))?
            .create()?;
        for path in libraries {
            // The loader is executed like a program, and is among them.
            rules = allow(rules, &path, read | AccessFs::Execute)?;
        }
        for path in &files.execute {
            rules = allow(rules, path, read | AccessFs::Execute)?;
        }
        for path in &files.read {
            // A disk may be a block device.
            rules = allow(rules, path, read | AccessFs::IoctlDev)?;
        }
        for path in &files.write {
            rules = allow(rules, path, write)?;
        }
        Ok(Option::<OwnedFd>::from(rules))
    };
    let fd = create().map_err(|error: RulesetError| io::Error::other(error))?;
    // The child's own descriptors are placed at low numbers before it uses this one.
    fd.map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, LOWEST))
        .transpose()
        .map_err(io::Error::from)
}

/// Lowest number of a descriptor that a child needs only until it executes its program.
const LOWEST: i32 = 64;

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(file) => rules.add_rule(PathBeneath::new(file, access)),
        // Paths that do not exist need no rule.
        Err(_) => Ok(rules),
    }
}

/// Returns a filter that makes `socket` and `connect` fail, and io_uring, which can do both.
/// Landlock and the namespace leave the Unix sockets of the file system, and a process that runs as
/// root may use them: a container engine's socket gives root's rights. QEMU needs none of the
/// three.
fn no_sockets() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = [SYS_socket, SYS_connect, SYS_io_uring_setup].map(|call| (call, Vec::new()));
    SeccompFilter::new(
        rules.into(),
        SeccompAction::Allow,
        SeccompAction::Errno(EPERM as u32),
        TargetArch::x86_64,
    )
    .and_then(BpfProgram::try_from)
}

/// The host's means of confining a machine's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostConfinement {
    /// True when the process can be kept from files that it does not need.
    pub files: bool,
    /// True when the process can get its own network namespace.
    pub network: bool,
}

/// Returns the host's means of confining a machine's process. Runs a process to find out.
pub fn confinement() -> io::Result<HostConfinement> {
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: the closure only makes system calls.
    unsafe {
        command.pre_exec(|| leave_network().map_err(io::Error::from));
    }
    Ok(HostConfinement {
        files: ruleset(&Files::default())?.is_some(),
        network: command.status().is_ok(),
    })
}

/// Returns the files that QEMU itself consists of: its program, and the directories in which it may
/// look for its firmware and its modules. They need not exist.
pub(crate) fn of_emulator(program: &Path) -> Files {
    let mut files = Files {
        execute: vec![program.to_owned()],
        ..Files::default()
    };
    // QEMU finds its own files relative to its path, with and without the links in it.
    let real = program
        .canonicalize()
        .unwrap_or_else(|_| program.to_owned());
    for path in [program, &real] {
        let Some(directory) = path.parent() else {
            continue;
        };
        // That of a build tree.
        files.read.push(directory.join("qemu-bundle"));
        files.read.push(directory.join("pc-bios"));
        let Some(prefix) = directory.parent() else {
            continue;
        };
        files.read.push(prefix.join("pc-bios"));
        for name in ["qemu", "seabios", "qemu-firmware"] {
            files.read.push(prefix.join("share").join(name));
        }
        for name in ["lib", "lib64"] {
            files.read.push(prefix.join(name));
        }
    }
    // The number of CPUs and the memory's nodes; files that cryptographic libraries read, or
    // require, when they are loaded; and the source of random numbers.
    let others = [
        "/sys/devices/system/cpu",
        "/sys/devices/system/node",
        "/proc/sys/crypto/fips_enabled",
        "/etc/gnutls",
        "/etc/crypto-policies",
        "/usr/share/crypto-policies",
        "/dev/urandom",
        "/dev/random",
    ];
    files.read.extend(others.map(PathBuf::from));
    files.write.push("/dev/null".into());
    files
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::child;

    /// Runs a shell command that may use `files` and the shell's own; returns its output.
    fn confined(role: Role, mut files: Files, script: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("output");
        files.execute.extend(["/bin".into(), "/usr/bin".into()]);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command.stdout(fs::File::create(&output).unwrap());
        command.stderr(fs::File::create(&output).unwrap());
        let confinement = Confinement::prepare(role, &files).unwrap();
        confinement.apply(&mut command);
        let mut child = child::spawn(command, "sh").unwrap();
        child.wait().unwrap();
        fs::read_to_string(output).unwrap()
    }

    /// Returns true, after a message, if this host has no Landlock.
    fn no_landlock() -> bool {
        let none = ruleset(&Files::default()).unwrap().is_none();
        if none {
            eprintln!("not run: this host has no Landlock");
        }
        none
    }

    #[test]
    fn files_that_are_not_listed_are_out_of_reach() {
        if no_landlock() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["read", "write", "other"] {
            fs::write(path(name), "old\n").unwrap();
        }
        for role in [Role::Emulator, Role::Monitor] {
            let files = Files {
                read: vec![path("read")],
                write: vec![path("write")],
                ..Files::default()
            };
            let script = format!(
                "cd {}
                 cat read; cat write; cat other
                 echo new 2>&1 > write; echo new > read; echo new > other; echo new > fresh
                 rm write; ln write linked; cat /etc/passwd",
                directory.path().display()
            );
            let output = confined(role, files, &script);
            assert_eq!(fs::read_to_string(path("write")).unwrap(), "new\n");
            for name in ["read", "other"] {
                assert_eq!(fs::read_to_string(path(name)).unwrap(), "old\n", "{name}");
            }
            assert!(!path("fresh").exists() && !path("linked").exists());
            for denied in ["other", "read", "fresh", "/etc/passwd"] {
                let denial = format!("{denied}: Permission denied");
                assert!(output.contains(&denial), "{denial} in {output}");
            }
            assert!(!output.contains("root:"), "{output}");
            fs::write(path("write"), "old\n").unwrap();
        }
    }

    #[test]
    fn qemu_can_make_no_socket() {
        let python = "import ctypes, socket
call = ctypes.CDLL(None, use_errno=True).syscall
for number in (41, 42, 425):  # socket, connect, io_uring_setup
    call(number, -1, 0, 0)
    print(ctypes.get_errno())
socket.socket(socket.AF_UNIX)";
        let script = format!("exec /usr/bin/python3 -c '{python}'");
        if !Path::new("/usr/bin/python3").exists() {
            eprintln!("not run: there is no python3");
            return;
        }
        let files = || Files {
            read: vec!["/usr".into(), "/etc".into()],
            ..Files::default()
        };
        let output = confined(Role::Emulator, files(), &script);
        assert!(output.starts_with("1\n1\n1\n"), "{output}");
        assert!(output.contains("PermissionError"), "{output}");
        // The monitor installs its own filters later.
        let output = confined(Role::Monitor, files(), &script);
        assert!(!output.contains("PermissionError"), "{output}");
    }

    #[test]
    fn another_process_is_out_of_reach() {
        if no_landlock() {
            return;
        }
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        let script = format!("kill {} 2>&1; echo $?", other.id());
        let output = confined(Role::Monitor, Files::default(), &script);
        let running = other.try_wait().unwrap().is_none();
        other.kill().unwrap();
        other.wait().unwrap();
        // Landlock blocks signals since Linux 6.12; an older kernel delivers this one.
        assert_eq!(running, output.contains("ermitted"), "{output}");
    }
}
