// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Starts guests in different ways, and measures each start.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use crucible_engine::guest::Guest;
use crucible_vmm::qemu::{self, Accel, QemuMachine};
use crucible_vmm::{Machine, MachineSpec, Start};
use serde::{Deserialize, Serialize};

use super::footprint;
use super::samples::Sample;
use crate::boot_artefacts::BootArtefacts;
use crate::context::Context;
use crate::machines::{self, Kind};
use crate::temporary::Temporary;

/// Time limit for an answer of the agent.
const BOOT: Duration = Duration::from_secs(300);

/// The usual kernel command line for a serial console.
const PLAIN: [&str; 4] = ["console=ttyS0", "panic=-1", "reboot=t", "quiet"];

/// QEMU's emulation of AMD's virtualisation does not intercept `xsetbv`. On such an emulated CPU,
/// a guest that finds extended states in CPUID prints a long warning about their size. Our VMM
/// works around this, but QEMU cannot; without the feature its guests have less to do and print no
/// warning.
const UNUSED: [&str; 1] = ["xsave"];

/// A way to start a guest. Kernel, disks, vCPUs and channel are the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Our own VMM boots the guest.
    Crucible,
    /// QEMU's `microvm` boots the guest, with the usual command line.
    QemuPlain,
    /// QEMU's `microvm` boots the guest, with our command line.
    Qemu,
    /// Our own VMM starts the guest from a snapshot.
    Warm,
    /// Like `Warm`, with eight times the memory.
    WarmLarge,
}

impl Contender {
    /// The contenders of the comparison of start times.
    pub const STARTS: [Self; 4] = [Self::QemuPlain, Self::Qemu, Self::Crucible, Self::Warm];

    /// The contenders of the comparison of memory sizes.
    pub const MEMORY: [Self; 2] = [Self::Warm, Self::WarmLarge];

    /// Returns the guest's memory size in MiB.
    pub fn memory_mib(self) -> u32 {
        match self {
            Self::WarmLarge => 2048,
            _ => 256,
        }
    }

    fn is_warm(self) -> bool {
        matches!(self, Self::Warm | Self::WarmLarge)
    }
}

/// Starts guests, in a directory of its own.
pub struct GuestStarter<'a> {
    images: &'a BootArtefacts,
    context: &'a Context,
    directory: Temporary,
    saved: BTreeMap<Contender, PathBuf>,
}

impl<'a> GuestStarter<'a> {
    /// Creates the directory.
    pub fn new(images: &'a BootArtefacts, context: &'a Context) -> Result<Self> {
        let directory = Temporary::with_room("speed", &context.cache()?)?;
        Ok(Self {
            images,
            context,
            directory,
            saved: BTreeMap::new(),
        })
    }

    /// Creates the snapshot from which `contender` starts, if it needs one.
    pub fn prepare(&mut self, contender: Contender) -> Result<()> {
        if !contender.is_warm() {
            return Ok(());
        }
        let name = format!("saved-{}", contender.memory_mib());
        let saved = self.directory.path().join(name);
        fs::create_dir(&saved).with_context(|| format!("cannot create {}", saved.display()))?;
        let mut spec = self.spec(contender)?;
        spec.start = Start::BootForSnapshot(saved.clone());
        let mut guest = Guest::greet(machines::start(Kind::Kvm, &spec)?, BOOT)?;
        guest.machine().save()?;
        guest.machine().kill()?;
        self.saved.insert(contender, saved);
        Ok(())
    }

    /// Starts a guest once and measures the start.
    pub fn measure(&self, contender: Contender) -> Result<Sample> {
        let mut spec = self.spec(contender)?;
        if contender.is_warm() {
            let saved = self.saved.get(&contender);
            let saved = saved.ok_or_else(|| anyhow!("there is no snapshot for {contender:?}"))?;
            spec.start = Start::Saved(saved.clone());
        }
        let began = Instant::now();
        let mut guest = Guest::greet(start(contender, &spec)?, BOOT)?;
        let micros = began.elapsed().as_micros() as u64;
        let uptime_ms = guest.info().uptime_ms;
        let machine = guest.machine();
        let sample = Sample {
            contender,
            micros,
            uptime_ms,
            footprint_kib: footprint::beyond_guest(machine.pid(), spec.memory_mib)?,
            phases: machine.phases().to_vec(),
        };
        machine.kill()?;
        Ok(sample)
    }

    fn spec(&self, contender: Contender) -> Result<MachineSpec> {
        let directory = self.directory.path();
        let scratch = directory.join("scratch.ext4");
        if scratch.exists() {
            fs::remove_file(&scratch).context("cannot remove the last guest's disk")?;
        }
        self.images.scratch(self.context, &scratch)?;
        Ok(MachineSpec {
            memory_mib: contender.memory_mib(),
            ..self.images.machine(&scratch, directory)
        })
    }
}

fn start(contender: Contender, spec: &MachineSpec) -> Result<Box<dyn Machine>> {
    let words = match contender {
        Contender::Crucible | Contender::Warm | Contender::WarmLarge => {
            return machines::start(Kind::Kvm, spec);
        }
        Contender::Qemu => None,
        Contender::QemuPlain => Some(PLAIN.map(String::from).to_vec()),
    };
    let options = qemu::Options {
        accel: Accel::Kvm,
        without: UNUSED.map(String::from).to_vec(),
        words,
        ..qemu::Options::default()
    };
    Ok(Box::new(QemuMachine::start(spec, &options)?))
}
