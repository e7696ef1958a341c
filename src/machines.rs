// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The choice of a machine backend: our own VMM on KVM, or QEMU.

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use crucible_vmm::kvm::{self, KvmMachine, probe};
use crucible_vmm::qemu::{self, QemuMachine};
use crucible_vmm::{Machine, MachineSpec};

use crate::context::Context;
use crate::exit::NoKvm;

/// The hidden command that runs a VMM process.
pub const MONITOR: &str = "monitor";

/// The machine, on the command line.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct MachineArgs {
    /// Machine backend that runs the guest
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub machine: MachineArg,
    /// Number of the guest's vCPUs; 2 with the flavour `kcsan`. With one vCPU, event counts are the
    /// same in each run
    #[arg(long, value_name = "N", default_value_t = 1, default_value_if("flavour", "kcsan", "2"),
          value_parser = clap::value_parser!(u8).range(1..=8))]
    pub vcpus: u8,
    /// Memory of the guest in MiB, instead of the 1024 of the base kernel and the 2048 of the
    /// debug kernel
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(128..=65536))]
    pub memory: Option<u32>,
    /// Boot the guest instead of starting it from a snapshot
    #[arg(long)]
    pub cold: bool,
    /// Number of processes that keep the vCPUs busy. Set by commands that have such an option.
    #[arg(skip)]
    pub load: u32,
}

/// The values of `--machine`; see [`Kind`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum MachineArg {
    /// Our own VMM if this host's KVM can run a kernel, else QEMU
    #[default]
    Auto,
    /// Our own VMM on KVM
    Kvm,
    /// QEMU with an emulated CPU
    Qemu,
}

/// A machine backend that this host can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Our own VMM on KVM.
    Kvm,
    /// QEMU.
    Qemu,
}

/// Finds out whether this host's KVM can run a kernel; the answer is cached.
pub fn probe(context: &Context) -> Result<probe::Finding> {
    let path = context.cache()?.root().join("kvm-probe.json");
    probe::cached(&path).with_context(|| format!("cannot write {}", path.display()))
}

/// Chooses the backend. Where `auto` does not choose KVM, a note has the reason.
pub fn choose(context: &Context, wanted: MachineArg) -> Result<Kind> {
    if wanted == MachineArg::Qemu {
        return Ok(Kind::Qemu);
    }
    let finding = probe(context)?;
    match wanted {
        _ if finding.usable => Ok(Kind::Kvm),
        MachineArg::Kvm => Err(NoKvm(finding.detail).into()),
        _ => {
            context
                .progress()
                .note(&format!("emulating with QEMU: {}", finding.detail));
            Ok(Kind::Qemu)
        }
    }
}

/// Identifies the machine: a snapshot can only be started in a machine with the same
/// identity.
pub fn identity(kind: Kind, spec: &MachineSpec) -> Result<String> {
    match kind {
        Kind::Kvm => Ok(kvm::identity(spec, &monitor())?),
        Kind::Qemu => Ok(qemu::identity(spec, &qemu::Options::default())?),
    }
}

/// Returns the command that runs this program as a VMM process.
fn monitor() -> kvm::Options {
    kvm::Options {
        program: "/proc/self/exe".into(),
        arguments: vec![MONITOR.into()],
    }
}

/// Starts a machine.
pub fn start(kind: Kind, spec: &MachineSpec) -> Result<Box<dyn Machine>> {
    Ok(match kind {
        Kind::Kvm => Box::new(KvmMachine::start(spec, &monitor())?),
        Kind::Qemu => Box::new(QemuMachine::start(spec, &qemu::Options::default())?),
    })
}
