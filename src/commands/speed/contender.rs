// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is started, and how its start is measured.

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
use crate::context::Context;
use crate::images::Images;
use crate::machines::{self, Kind};
use crate::temporary::Temporary;

/// How long an agent may take to answer.
const BOOT: Duration = Duration::from_secs(300);

/// The usual first words for a kernel on a serial console.
const PLAIN: [&str; 4] = ["console=ttyS0", "panic=-1", "reboot=t", "quiet"];

/// Where KVM's CPU is emulated, it does not intercept `xsetbv` (QEMU's emulation of AMD's
/// virtualisation), and a guest that finds extended states in CPUID warns of their size,
/// at length. Our monitor goes around that, QEMU cannot; without them its guests have
/// less to do, and nothing to say.
const UNUSED: [&str; 1] = ["xsave"];

/// Something that starts a guest: the same kernel, disks, vCPUs and channel each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Our own monitor boots it.
    Crucible,
    /// QEMU's `microvm` boots it, with the usual command line.
    QemuPlain,
    /// QEMU's `microvm` boots it, with our command line.
    Qemu,
    /// Our own monitor starts one that was saved.
    Warm,
    /// The same, with eight times the memory.
    WarmLarge,
}

impl Contender {
    /// The ways to get a guest.
    pub const STARTS: [Self; 4] = [Self::QemuPlain, Self::Qemu, Self::Crucible, Self::Warm];

    /// The ways to tell what memory costs.
    pub const MEMORY: [Self; 2] = [Self::Warm, Self::WarmLarge];

    /// Its memory in MiB.
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

/// A place to start guests in.
pub struct Bench<'a> {
    images: &'a Images,
    context: &'a Context,
    directory: Temporary,
    saved: BTreeMap<Contender, PathBuf>,
}

impl<'a> Bench<'a> {
    /// Makes its directory.
    pub fn new(images: &'a Images, context: &'a Context) -> Result<Self> {
        let directory = Temporary::new("speed")?;
        Ok(Self {
            images,
            context,
            directory,
            saved: BTreeMap::new(),
        })
    }

    /// Makes what `contender` starts from.
    pub fn prepare(&mut self, contender: Contender) -> Result<()> {
        if !contender.is_warm() {
            return Ok(());
        }
        let name = format!("saved-{}", contender.memory_mib());
        let saved = self.directory.path().join(name);
        fs::create_dir(&saved).with_context(|| format!("cannot make {}", saved.display()))?;
        let mut spec = self.spec(contender)?;
        spec.start = Start::ToBeSaved(saved.clone());
        let mut guest = Guest::greet(machines::start(Kind::Kvm, &spec)?, BOOT)?;
        guest.machine().save()?;
        guest.machine().kill()?;
        self.saved.insert(contender, saved);
        Ok(())
    }

    /// Starts it once.
    pub fn measure(&self, contender: Contender) -> Result<Sample> {
        let mut spec = self.spec(contender)?;
        if contender.is_warm() {
            let saved = self.saved.get(&contender);
            let saved = saved.ok_or_else(|| anyhow!("no guest was saved for {contender:?}"))?;
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
