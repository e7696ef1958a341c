// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The backend that runs guests with our own monitor on KVM: see [`monitor`].

mod control;
mod cpuid;
pub mod devices;
mod dump;
mod failure;
pub mod memory;
pub mod monitor;
mod phases;
pub mod probe;
pub mod saved;
mod wire;

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use self::control::Control;
use self::dump::KvmDumper;
use self::saved::format::Manifest;
use self::wire::{Config, DiskConfig, Ended, Reply, Request};
use crate::child::{self, fd};
use crate::cmdline;
use crate::confine::{Confinement, Files, Role};
use crate::console::Console;
use crate::dump::Dumper;
use crate::host;
use crate::process::{Backend, End, ProcessMachine};
use crate::states::Probe;
use crate::{Changes, Disk, Error, Exit, HostFault, MachineSpec, Phase, Result};

/// The command that runs [`monitor::main`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Path of the program.
    pub program: PathBuf,
    /// The program's arguments.
    pub arguments: Vec<OsString>,
}

/// The state that only machines of this backend have.
pub struct Kvm {
    control: Arc<Control>,
    saved: UnixStream,
    build: String,
    memory_mib: u32,
    tracked: bool,
    /// The snapshot that changes are relative to.
    base: Option<Manifest>,
    /// The files from which the guest's memory is read, with their lengths at its start.
    files: Vec<(File, u64)>,
}

impl Kvm {
    /// Returns true when a file from which the guest's memory is read has been shortened. KVM then
    /// cannot run the guest, and does not report why.
    fn is_memory_lost(&self) -> bool {
        let is_shorter = |(file, length): &(File, u64)| {
            file.metadata()
                .is_ok_and(|metadata| metadata.len() < *length)
        };
        self.files.iter().any(is_shorter)
    }
}

/// A guest in a monitor process.
pub type KvmMachine = ProcessMachine<Kvm>;

/// Returns the kernel's command line. With `reboot=k` the guest resets by the keyboard controller,
/// which distinguishes a requested reset from a triple fault.
fn kernel_cmdline(spec: &MachineSpec) -> String {
    cmdline::kernel(spec, "k", &[])
}

/// Returns the inputs that a snapshot depends on: the program, the host's boot, and the machine's
/// configuration except for the content of its writable disks. A snapshot of a monitor can be
/// started only with the same identity.
pub fn identity(spec: &MachineSpec, options: &Options) -> Result<String> {
    let disks: Vec<_> = spec
        .disks
        .iter()
        .map(|disk| match disk.readonly {
            true => disk.path.to_string_lossy().into_owned(),
            false => String::new(),
        })
        .collect();
    Ok(format!(
        "{}\n{}{}\n{} MiB, {} vCPUs\n{}\n{}",
        build(&options.program)?,
        host::boot()?,
        spec.kernel.display(),
        spec.memory_mib,
        spec.vcpus,
        kernel_cmdline(spec),
        disks.join("\n")
    ))
}

/// Returns a string that identifies the build of `program`.
fn build(program: &Path) -> Result<String> {
    let stamp = host::stamp(program)?;
    Ok(format!("{} {stamp}", env!("CARGO_PKG_VERSION")))
}

/// Returns a second descriptor of a file, and the file's length.
fn watched(file: &File) -> Result<(File, u64)> {
    let both = || Ok((file.try_clone()?, file.metadata()?.len()));
    both().map_err(|source| Error::Io {
        what: "examine the file of the guest's memory",
        source,
    })
}

impl KvmMachine {
    /// Starts the guest that `spec` describes.
    pub fn start(spec: &MachineSpec, options: &Options) -> Result<Self> {
        if spec.record.is_some() {
            return Err(Error::Unsupported {
                kind: "our own monitor",
                what: "record a guest",
            });
        }
        let spec = &child::prepare(spec)?;
        let began = phases::now();
        let program = child::absolute(&options.program)?;
        let mut command = Command::new(&program);
        command.args(&options.arguments);
        let build = build(&options.program)?;
        let mut files = Vec::new();
        let mut base = None;
        let mut changes = None;
        let mut mapped = Vec::new();
        if let Some(beginning) = saved::begin(&spec.start, &build)? {
            mapped.push(watched(&beginning.base.pages)?);
            files.push((fd::PAGES, beginning.base.pages));
            base = Some(beginning.base.manifest);
            let state = match beginning.changes {
                None => beginning.base.state,
                Some(opened) => {
                    mapped.push(watched(&opened.pages)?);
                    files.push((fd::CHANGES, opened.pages));
                    changes = opened.manifest.changes.map(|changes| changes.runs);
                    opened.state
                }
            };
            files.push((fd::STATE, state));
        }
        let config = Config {
            kernel: spec.kernel.clone(),
            cmdline: kernel_cmdline(spec),
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            disks: spec
                .disks
                .iter()
                .map(|disk| DiskConfig {
                    path: disk.path.clone(),
                    readonly: disk.readonly,
                })
                .collect(),
            saved: base.is_some(),
            changes,
            track: spec.track_changes,
            debugger: spec.debugger.is_some(),
            dump: spec.dump.is_some(),
            build: build.clone(),
            began,
        };
        let (write, read) = spec
            .disks
            .iter()
            .partition::<Vec<_>, _>(|disk| !disk.readonly);
        let path = |disk: &Disk| disk.path.clone();
        let files_to_open = Files {
            execute: vec![program],
            read: read
                .into_iter()
                .map(path)
                .chain([spec.kernel.clone()])
                .collect(),
            write: write
                .into_iter()
                .map(path)
                .chain(["/dev/kvm".into()])
                .collect(),
        };
        let confinement = Confinement::prepare(Role::Monitor, &files_to_open)?;
        Self::launch(spec, command, files, confinement, |sockets| {
            Ok(Kvm {
                control: Arc::new(Control::start(sockets.control, &config)?),
                saved: sockets.saved,
                build,
                memory_mib: spec.memory_mib,
                tracked: spec.track_changes,
                base,
                files: mapped,
            })
        })
    }
}

impl Backend for Kvm {
    const NAME: &'static str = "kvm";
    const PROCESS: &'static str = "the monitor";
    const MESSAGES: &'static str = "monitor.log";

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").into()
    }

    fn accel(&self) -> &str {
        "kvm"
    }

    fn wait_closed(&self, timeout: Duration) -> bool {
        self.control.wait_closed(timeout)
    }

    fn end(&self, announced_shutdown: bool) -> Result<End, String> {
        let exit = match self.control.ended() {
            Some(Ended::Reset) if announced_shutdown => Exit::Shutdown,
            Some(Ended::Reset) => Exit::Reset,
            Some(Ended::TripleFault { registers }) => Exit::TripleFault { registers },
            Some(Ended::Kvm { detail, .. }) if self.is_memory_lost() => {
                return Ok(End::Process(format!(
                    "the file of the guest's memory has been shortened ({detail})"
                )));
            }
            Some(Ended::Kvm { detail, registers }) => Exit::Kvm { detail, registers },
            Some(Ended::Monitor { detail }) => return Ok(End::Process(detail)),
            None => return Err("it reported no reason".into()),
        };
        Ok(End::Guest(exit))
    }

    fn host_fault(&self) -> Option<HostFault> {
        self.control.host_fault()
    }

    fn dumper(&self) -> Result<Arc<dyn Dumper>> {
        Ok(Arc::new(KvmDumper {
            control: Arc::clone(&self.control),
            stream: child::share(&self.saved)?,
            memory_mib: self.memory_mib,
        }))
    }

    fn phases(&self) -> &[Phase] {
        self.control.phases()
    }

    fn pause(&mut self) -> Result<()> {
        self.control.ask("pause", &Request::Pause).map(|_| ())
    }

    fn resume(&mut self) -> Result<()> {
        self.control.ask("resume", &Request::Resume).map(|_| ())
    }

    fn save_in(&mut self, directory: &Path) -> Result<()> {
        let write = || saved::write(directory, &self.build, self.memory_mib, None, &self.saved);
        let (_, manifest) = self.control.ask_and("save", &Request::Save, write)?;
        self.control.ask("save", &Request::Base)?;
        self.base = Some(manifest);
        Ok(())
    }

    fn save_changes(&mut self, directory: &Path) -> Result<Changes> {
        if !self.tracked {
            return Err(Error::NotTracked);
        }
        let base = self.base.as_ref().ok_or(Error::NoBase)?;
        let write = || {
            let base = Some(base);
            saved::write(directory, &self.build, self.memory_mib, base, &self.saved)
        };
        let ask = self.control.ask_and("save", &Request::SaveChanges, write);
        let (_, manifest) = ask?;
        Ok(Changes {
            pages: manifest.changes.map_or(0, |changes| changes.pages()),
            of: saved::pages_of(self.memory_mib),
        })
    }
}

impl Probe for Kvm {
    fn registers(&mut self) -> Result<Vec<String>> {
        match self.control.ask("registers", &Request::Registers)? {
            Reply::Registers(lines) => Ok(lines),
            _ => Ok(Vec::new()),
        }
    }

    fn press(&mut self, _: &Console, key: u8) -> Result<()> {
        self.control.ask("sysrq", &Request::SysRq(key)).map(|_| ())
    }
}
