// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The backend that runs guests with QEMU's `microvm`: no PCI, no firmware tables, devices on
//! virtio-mmio, the kernel entered directly by PVH.
mod command;
mod dump;
mod probe;
mod qcow2;
pub(crate) mod qmp;
pub(crate) mod record;
mod replay;
mod snapshot;
mod tsc;

use std::env;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use self::dump::QemuDumper;
use self::qmp::Qmp;
pub use self::record::Recording;
pub use self::replay::{Replay, Stop};
use crate::child::{self, fd};
use crate::confine::{self, Confinement, Role};
use crate::dump::Dumper;
use crate::host;
use crate::process::{Backend, End, ProcessMachine};
use crate::{Changes, Error, Exit, HostFault, MachineSpec, Phase, Result, Start};

/// Debian's name for the emulator.
const BINARY: &str = "qemu-system-x86_64";

/// QEMU's accelerator, which executes the guest's code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Accel {
    /// Emulation. Works everywhere.
    #[default]
    Tcg,
    /// The host's KVM. Being able to open `/dev/kvm` does not mean that it can run a kernel; so
    /// select this only on hosts whose KVM can.
    Kvm,
}

impl Accel {
    fn argument(self) -> &'static str {
        match self {
            Self::Tcg => "tcg,thread=multi",
            Self::Kvm => "kvm",
        }
    }

    fn cpu(self) -> &'static str {
        match self {
            Self::Tcg => "max",
            Self::Kvm => "host",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

/// Options of QEMU.
#[derive(Debug, Clone)]
pub struct Options {
    /// The emulator: a path, or a name that is looked up in `PATH`.
    pub binary: PathBuf,
    /// The accelerator.
    pub accel: Accel,
    /// True for a guest's CPU with AMD's virtualisation. Requires emulation.
    pub nested: bool,
    /// Features to remove from the guest's CPU, by QEMU's names.
    pub without: Vec<String>,
    /// Parameters of the kernel's command line that replace the default ones.
    pub words: Option<Vec<String>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            binary: BINARY.into(),
            accel: Accel::default(),
            nested: false,
            without: Vec::new(),
            words: None,
        }
    }
}

/// Returns the inputs that a snapshot depends on: the program, the host's boot, and the machine's
/// configuration except for the content of its writable disks. A snapshot of QEMU can be started
/// only with the same identity.
pub fn identity(spec: &MachineSpec, options: &Options) -> Result<String> {
    let program = find(&options.binary)?;
    let stamp = host::stamp(&program)?;
    // The path identifies the content of a read-only disk; that of a writable one is irrelevant.
    let mut disks = spec.disks.clone();
    for disk in disks.iter_mut().filter(|disk| !disk.readonly) {
        disk.path = PathBuf::new();
    }
    let spec = MachineSpec {
        disks,
        start: Start::Boot,
        dump: None,
        record: None,
        ..spec.clone()
    };
    // The guest's command line has the rate of this host's TSC, which may change with a reboot.
    Ok(format!(
        "{} {stamp}\n{}{}",
        program.display(),
        host::boot()?,
        command::arguments(&spec, options, &[]).join("\n")
    ))
}

/// Returns the path of the program: the file of this name in `PATH`, or the given path.
pub fn find(binary: &Path) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    if binary.components().count() > 1 {
        return Ok(binary.to_owned());
    }
    env::split_paths(&path)
        .map(|directory| directory.join(binary))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Error::NoEmulator {
            binary: binary.to_string_lossy().into_owned(),
        })
}

/// Returns the error for an operation that QEMU does not support.
fn unsupported(what: &'static str) -> Error {
    Error::Unsupported { kind: "QEMU", what }
}

/// The state that only QEMU's machines have.
pub struct Qemu {
    qmp: Arc<Qmp>,
    memory_mib: u32,
    accel: Accel,
    /// The directory in which the guest can be saved: QEMU's guest memory is a file in it.
    save_directory: Option<PathBuf>,
    saved: bool,
    /// True when the guest is recorded or replayed.
    counts: bool,
}

/// A guest in a QEMU process.
pub type QemuMachine = ProcessMachine<Qemu>;

impl QemuMachine {
    /// Starts the guest that `spec` describes.
    pub fn start(spec: &MachineSpec, options: &Options) -> Result<Self> {
        if spec.track_changes || matches!(spec.start, Start::Changed { .. }) {
            return Err(unsupported("track a guest's changes"));
        }
        if spec.record.is_some() {
            record::check(spec, options)?;
        }
        let spec = &child::prepare(spec)?;
        let program = child::absolute(&find(&options.binary)?)?;
        // A restored guest already knows the rate; measuring it takes a while.
        let timing = match (options.accel, &spec.start) {
            _ if spec.record.is_some() => record::parameters(),
            (Accel::Tcg, Start::Boot | Start::BootForSnapshot(_)) => tsc::kernel_parameters(),
            _ => Vec::new(),
        };
        snapshot::ready(&spec.start)?;
        let mut files = confine::of_emulator(&program);
        files.read.push(spec.kernel.clone());
        for disk in &spec.disks {
            match disk.readonly {
                true => files.read.push(disk.path.clone()),
                false => files.write.push(disk.path.clone()),
            }
        }
        // QEMU opens this file for writing even to map it privately.
        files
            .write
            .extend(snapshot::memory(spec).map(|(memory, _)| memory));
        if options.accel == Accel::Kvm {
            files.write.push("/dev/kvm".into());
        }
        if let Some(directory) = &spec.record {
            let written = record::begin(directory, spec, options, &timing, &program)?;
            files.write.extend(written);
        }
        let confinement = Confinement::prepare(Role::Emulator, &files)?;
        let mut command = Command::new(program);
        command.args(command::arguments(spec, options, &timing));
        let state = snapshot::state_to_load(spec)?;
        let files = state.map(|file| (fd::STATE, file)).into_iter().collect();
        Self::launch(spec, command, files, confinement, |sockets| {
            let mut qemu = Qemu::connect(sockets.control, spec)?;
            qemu.accel = options.accel;
            snapshot::load(&qemu.qmp, spec)?;
            Ok(qemu)
        })
    }
}

impl Qemu {
    /// Connects to an emulator that has been started.
    fn connect(control: UnixStream, spec: &MachineSpec) -> Result<Self> {
        Ok(Self {
            qmp: Arc::new(Qmp::connect(control)?),
            memory_mib: spec.memory_mib,
            accel: Accel::Tcg,
            save_directory: match &spec.start {
                Start::BootForSnapshot(directory) => Some(directory.clone()),
                _ => None,
            },
            saved: false,
            counts: spec.record.is_some(),
        })
    }
}

impl Backend for Qemu {
    const NAME: &'static str = "qemu";
    const PROCESS: &'static str = "QEMU";
    const MESSAGES: &'static str = "qemu.log";

    fn version(&self) -> String {
        self.qmp.version().to_owned()
    }

    fn accel(&self) -> &str {
        self.accel.name()
    }

    fn wait_closed(&self, timeout: Duration) -> bool {
        self.qmp.wait_closed(timeout)
    }

    fn end(&self, announced_shutdown: bool) -> Result<End, String> {
        let exit = match self.qmp.reason().as_deref() {
            Some("guest-shutdown") => Exit::Shutdown,
            Some("guest-reset") if announced_shutdown => Exit::Shutdown,
            Some("guest-reset") => Exit::Reset,
            Some("guest-panic") => Exit::Panic,
            other => return Err(other.unwrap_or("it reported no reason").to_owned()),
        };
        Ok(End::Guest(exit))
    }

    fn host_fault(&self) -> Option<HostFault> {
        self.qmp.host_fault()
    }

    fn dumper(&self) -> Result<Arc<dyn Dumper>> {
        Ok(Arc::new(QemuDumper {
            qmp: Arc::clone(&self.qmp),
            memory_mib: self.memory_mib,
        }))
    }

    fn phases(&self) -> &[Phase] {
        &[]
    }

    fn instructions(&self) -> Option<u64> {
        match self.counts {
            true => self.replay_count().ok(),
            false => None,
        }
    }

    fn complete(&self) {
        // The log of a QEMU that is killed has no end.
        if self.counts && self.qmp.execute("quit", json!({})).is_ok() {
            self.qmp.wait_closed(record::COMPLETION);
        }
    }

    fn pause(&mut self) -> Result<()> {
        self.qmp.execute("stop", json!({})).map(|_| ())
    }

    fn resume(&mut self) -> Result<()> {
        if self.saved {
            return Err(Error::Refused {
                command: "cont".into(),
                reason: "its memory is the file of the snapshot".into(),
            });
        }
        self.qmp.execute("cont", json!({})).map(|_| ())
    }

    fn save_in(&mut self, directory: &Path) -> Result<()> {
        if self.save_directory.as_deref() != Some(directory) {
            return Err(unsupported(
                "save a guest in a directory with which it was not started",
            ));
        }
        // Set this even if the save fails: the snapshot may have been committed.
        self.saved = true;
        snapshot::save(&self.qmp, directory)
    }

    fn save_changes(&mut self, _: &Path) -> Result<Changes> {
        Err(unsupported("save only changes"))
    }
}

#[cfg(test)]
#[path = "../../tests/guests/mod.rs"]
mod guests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Disk;

    #[test]
    fn a_qemu_that_is_taken_over_reaches_no_other_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["disk", "readonly", "other"] {
            std::fs::write(path(name), [0; 512]).unwrap();
        }
        let kernel = guests::Guest::Loop.write(directory.path());
        let spec = MachineSpec {
            memory_mib: 16,
            disks: vec![
                Disk::writable(path("disk")),
                Disk::readonly(path("readonly")),
            ],
            ..MachineSpec::new(&kernel, directory.path())
        };
        let machine = QemuMachine::start(&spec, &Options::default()).unwrap();
        let open = |name: &str, file: PathBuf, readonly: bool| {
            let node = json!({
                "driver": "file", "node-name": name, "filename": file, "read-only": readonly,
                "locking": "off",
            });
            machine.backend().qmp.execute("blockdev-add", node)
        };
        open("a", path("disk"), false).unwrap();
        open("b", path("readonly"), true).unwrap();
        open("c", kernel, true).unwrap();
        if !crate::confinement().unwrap().files {
            eprintln!("not run: this host has no Landlock");
            return;
        }
        for (name, file, readonly) in [
            ("d", path("readonly"), false),
            ("e", path("other"), true),
            ("f", PathBuf::from("/etc/passwd"), true),
            ("g", PathBuf::from("/proc/self/environ"), true),
        ] {
            let error = open(name, file, readonly).unwrap_err().to_string();
            assert!(error.contains("Permission denied"), "{name}: {error}");
        }
    }
}
