//! Which kind of machine a guest gets.

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use crucible_vmm::kvm::{self, KvmMachine, probe};
use crucible_vmm::qemu::{self, QemuMachine};
use crucible_vmm::{Machine, MachineSpec};

use crate::context::Context;

/// The hidden command that runs a monitor.
pub const MONITOR: &str = "monitor";

/// Which machine, on the command line.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct MachineArgs {
    /// What runs the guest: our own monitor on KVM, or QEMU. `auto` takes KVM where it
    /// can run a kernel
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub machine: MachineArg,
    /// How many CPUs the guest has; with one, counts of events are the same in each run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub vcpus: u8,
    /// Boot the guest, rather than begin where one like it was saved after its boot
    #[arg(long)]
    pub cold: bool,
}

/// The kinds of machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum MachineArg {
    /// KVM where it works, else QEMU
    #[default]
    Auto,
    /// Our own monitor on KVM
    Kvm,
    /// QEMU, which emulates the CPU
    Qemu,
}

/// A kind of machine that this host can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Our own monitor on KVM.
    Kvm,
    /// QEMU.
    Qemu,
}

/// What this host's KVM is good for.
pub fn probe(context: &Context) -> Result<probe::Finding> {
    let path = context.cache()?.root().join("kvm-probe.json");
    probe::cached(&path).with_context(|| format!("cannot write {}", path.display()))
}

/// The kind of machine to use. Where `auto` does not get KVM, one line says why.
pub fn choose(context: &Context, wanted: MachineArg) -> Result<Kind> {
    if wanted == MachineArg::Qemu {
        return Ok(Kind::Qemu);
    }
    let finding = probe(context)?;
    match wanted {
        _ if finding.usable => Ok(Kind::Kvm),
        MachineArg::Kvm => bail!("no machine on KVM: {}", finding.detail),
        _ => {
            context
                .progress()
                .note(&format!("emulating with QEMU: {}", finding.detail));
            Ok(Kind::Qemu)
        }
    }
}

/// What must be the same for a saved guest to be started as `spec` says.
pub fn identity(kind: Kind, spec: &MachineSpec) -> Result<String> {
    match kind {
        Kind::Kvm => Ok(kvm::identity(spec, &monitor())?),
        Kind::Qemu => Ok(qemu::identity(spec, &qemu::Options::default())?),
    }
}

/// How this program runs as a monitor.
fn monitor() -> kvm::Options {
    kvm::Options {
        program: "/proc/self/exe".into(),
        arguments: vec![MONITOR.into()],
    }
}

/// Starts a guest.
pub fn start(kind: Kind, spec: &MachineSpec) -> Result<Box<dyn Machine>> {
    Ok(match kind {
        Kind::Kvm => Box::new(KvmMachine::start(spec, &monitor())?),
        Kind::Qemu => Box::new(QemuMachine::start(spec, &qemu::Options::default())?),
    })
}
