// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests run by QEMU's `microvm`: no PCI, no firmware tables, devices on
//! virtio-mmio, the kernel entered directly by PVH.
//!
mod command;
mod probe;
mod qmp;
mod snapshot;
mod tsc;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use self::qmp::Qmp;
use crate::child::{self, fd};
use crate::host;
use crate::process::{Kind, ProcessMachine};
use crate::{Changes, Error, Exit, MachineSpec, Phase, Result, Start};

/// Debian's name of the emulator.
const BINARY: &str = "qemu-system-x86_64";

/// What executes the guest's code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Accel {
    /// Emulation. Works everywhere.
    #[default]
    Tcg,
    /// The host's KVM. That `/dev/kvm` can be opened does not mean that it can
    /// run a kernel; so this is for those who know that theirs does.
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

/// How to run QEMU.
#[derive(Debug, Clone)]
pub struct Options {
    /// The emulator: a path, or a name to be found in `PATH`.
    pub binary: PathBuf,
    /// What executes the guest's code.
    pub accel: Accel,
    /// Whether the guest finds a CPU with virtualisation, AMD's. With emulation only.
    pub nested: bool,
    /// Features that the guest's CPU does not have, by QEMU's names.
    pub without: Vec<String>,
    /// The first words of the kernel's command line, instead of those that our machines
    /// have.
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

/// What must be the same for a guest that QEMU has saved to be started by it: the
/// program, and the machine but for the content of its disks.
pub fn identity(spec: &MachineSpec, options: &Options) -> Result<String> {
    let program = find(&options.binary)?;
    let stamp = host::stamp(&program)?;
    // Paths tell what is on a disk that may only be read, and nothing of the others.
    let mut disks = spec.disks.clone();
    for disk in disks.iter_mut().filter(|disk| !disk.readonly) {
        disk.path = PathBuf::new();
    }
    let spec = MachineSpec {
        disks,
        start: Start::Boot,
        ..spec.clone()
    };
    // The guest was told the rate of this host's clock, which another boot may change.
    Ok(format!(
        "{} {stamp}\n{}{}",
        program.display(),
        host::boot()?,
        command::arguments(&spec, options, &[]).join("\n")
    ))
}

/// The program itself: what stands in `PATH` under this name, or at this path.
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

fn unsupported(what: &'static str) -> Error {
    Error::Unsupported { kind: "QEMU", what }
}

/// What only QEMU's machines have.
pub struct Qemu {
    qmp: Qmp,
    accel: Accel,
    /// The directory that the guest can be saved in: its memory is there already.
    promised: Option<PathBuf>,
    saved: bool,
}

/// A guest in a QEMU process.
pub type QemuMachine = ProcessMachine<Qemu>;

impl QemuMachine {
    /// Starts the guest that `spec` describes.
    pub fn start(spec: &MachineSpec, options: &Options) -> Result<Self> {
        if spec.track_changes || matches!(spec.start, Start::Changed { .. }) {
            return Err(unsupported("note what a guest changes"));
        }
        child::check_files(spec)?;
        // A guest that was saved knows it already; it takes a while to find out.
        let timing = match (options.accel, &spec.start) {
            (Accel::Tcg, Start::Boot | Start::ToBeSaved(_)) => tsc::kernel_words(),
            _ => Vec::new(),
        };
        snapshot::ready(&spec.start)?;
        let mut command = Command::new(&options.binary);
        command.args(command::arguments(spec, options, &timing));
        let state = snapshot::state_to_load(spec)?;
        let files = state.map(|file| (fd::STATE, file)).into_iter().collect();
        Self::launch(spec, command, files, |sockets| {
            let qmp = Qmp::connect(sockets.control)?;
            snapshot::load(&qmp, spec)?;
            Ok(Qemu {
                qmp,
                accel: options.accel,
                promised: match &spec.start {
                    Start::ToBeSaved(directory) => Some(directory.clone()),
                    _ => None,
                },
                saved: false,
            })
        })
    }
}

impl Kind for Qemu {
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

    fn end(&self, said_goodbye: bool) -> Result<Exit, String> {
        match self.qmp.reason().as_deref() {
            Some("guest-shutdown") => Ok(Exit::Shutdown),
            Some("guest-reset") if said_goodbye => Ok(Exit::Shutdown),
            Some("guest-reset") => Ok(Exit::Reset),
            Some("guest-panic") => Ok(Exit::Panic),
            other => Err(other.unwrap_or("it gave no reason").to_owned()),
        }
    }

    fn phases(&self) -> &[Phase] {
        &[]
    }

    fn pause(&mut self) -> Result<()> {
        self.qmp.execute("stop", json!({})).map(|_| ())
    }

    fn resume(&mut self) -> Result<()> {
        if self.saved {
            return Err(Error::Refused {
                command: "cont".into(),
                words: "its memory is that of the saved guest".into(),
            });
        }
        self.qmp.execute("cont", json!({})).map(|_| ())
    }

    fn save_in(&mut self, directory: &Path) -> Result<()> {
        if self.promised.as_deref() != Some(directory) {
            return Err(unsupported(
                "save a guest where it was not started for that",
            ));
        }
        // Also where it fails: then it may have been saved all the same.
        self.saved = true;
        snapshot::save(&self.qmp, directory)
    }

    fn save_changes(&mut self, _: &Path) -> Result<Changes> {
        Err(unsupported("save what has changed only"))
    }
}
