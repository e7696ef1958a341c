//! Everything a guest boots from.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use crucible_artefacts::kernel::{self, Flavour, Kernel, Origin};
use crucible_artefacts::{Cache, rootfs, scratch};
use crucible_engine::guest::Guest;
use crucible_vmm::{Disk, Machine, MachineSpec, Start};

use crate::bundle::Bundle;
use crate::context::Context;
use crate::machines::{self, Kind, MachineArgs};
use crate::warm;

/// How much memory a guest of each flavour gets, in MiB. The debug kernel's
/// sanitizer takes an eighth, and its freed memory is held back for a while.
const MEMORY: [(Flavour, u32); 3] = [
    (Flavour::Base, 1024),
    (Flavour::Debug, 2048),
    (Flavour::Coverage, 1024),
];

/// Which kernel and which machine, on the command line.
#[derive(Debug, Clone, Default, Args)]
pub struct GuestArgs {
    /// Which kernel.
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// Which machine.
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// Which kernel, on the command line.
#[derive(Debug, Clone, Default, Args)]
pub struct KernelArgs {
    /// Which build of the guest's kernel
    #[arg(long, value_enum, default_value_t, value_name = "FLAVOUR")]
    pub flavour: FlavourArg,
    /// Boot this image (an ELF vmlinux with CONFIG_PVH) as it is
    #[arg(long, value_name = "IMAGE", conflicts_with = "kernel_src")]
    pub kernel: Option<PathBuf>,
    /// Apply the series to a copy of this kernel tree, build it, and boot that
    #[arg(long, value_name = "DIR")]
    pub kernel_src: Option<PathBuf>,
}

/// [`Flavour`], on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum FlavourArg {
    /// What people would run
    #[default]
    Base,
    /// With KASAN, lockdep and the other checkers
    Debug,
    /// Counts how often each line of checkpoint and restart runs
    Coverage,
}

impl From<FlavourArg> for Flavour {
    fn from(flavour: FlavourArg) -> Self {
        match flavour {
            FlavourArg::Base => Self::Base,
            FlavourArg::Debug => Self::Debug,
            FlavourArg::Coverage => Self::Coverage,
        }
    }
}

impl KernelArgs {
    /// Where the kernel comes from.
    pub fn origin(&self) -> Origin {
        match (&self.kernel, &self.kernel_src) {
            (Some(image), _) => Origin::Image(image.clone()),
            (None, Some(tree)) => Origin::Tree(tree.clone()),
            (None, None) => Origin::Pinned,
        }
    }
}

/// A kernel and the read-only disks, ready to boot, and what they are booted in.
pub struct Images {
    cache: Cache,
    /// Where empty writable disks come from, if not from the cache.
    template: Option<PathBuf>,
    flavour: Flavour,
    kind: Kind,
    vcpus: u8,
    cold: bool,
    /// The kernel.
    pub kernel: Kernel,
    /// The disk with the agent and its tools.
    pub agent: PathBuf,
    /// The disk with the Debian userland.
    pub debian: PathBuf,
}

impl Images {
    /// Makes what is not there yet, this host's own set-up first.
    pub fn prepare(context: &Context, args: &GuestArgs) -> Result<Self> {
        let flavour = args.kernel.flavour.into();
        if let Some(bundle) = Bundle::of_this_program()? {
            return Ok(Self {
                agent: bundle.agent(),
                debian: bundle.debian(),
                kernel: match args.kernel.origin() {
                    Origin::Pinned => bundle.kernel(flavour)?,
                    Origin::Image(image) => kernel::foreign(&image)?,
                    Origin::Tree(_) => bail!("a bundle builds no kernels"),
                },
                cache: context.cache()?,
                template: Some(bundle.scratch()),
                flavour,
                kind: machines::choose(context, args.machine.machine)?,
                vcpus: args.machine.vcpus,
                cold: args.machine.cold,
            });
        }
        context.host()?;
        let cache = context.cache()?;
        let sources = context.sources()?;
        let progress = context.progress();
        let origin = args.kernel.origin();
        Ok(Self {
            agent: rootfs::agent(&cache, &sources, progress)?,
            debian: rootfs::debian(&cache, &sources, progress)?,
            kernel: kernel::kernel(&cache, &sources, &origin, flavour, progress)?,
            cache,
            template: None,
            flavour,
            kind: machines::choose(context, args.machine.machine)?,
            vcpus: args.machine.vcpus,
            cold: args.machine.cold,
        })
    }

    /// The kernel's flavour.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Makes an empty writable disk at `path`.
    pub fn scratch(&self, context: &Context, path: &Path) -> Result<()> {
        match &self.template {
            Some(template) => scratch::copy(template, path)?,
            None => scratch::create(&self.cache, scratch::DEFAULT_MIB, path, context.progress())?,
        }
        Ok(())
    }

    /// Boots these with an empty writable disk; the disk and the console's log are in
    /// `directory`. `limit` is how long the agent may take to answer.
    pub fn boot(&self, context: &Context, directory: &Path, limit: Duration) -> Result<Guest> {
        let scratch = directory.join("scratch.ext4");
        self.scratch(context, &scratch)?;
        let spec = self.machine(&scratch, directory);
        Ok(Guest::connect(self.start(context, spec)?, limit)?)
    }

    /// Where a guest that such a machine can begin with is saved; it is booted and saved if
    /// there is none.
    pub fn saved(&self, context: &Context, spec: &MachineSpec) -> Result<PathBuf> {
        warm::saved(&self.cache, self, spec, self.kind, context)
    }

    /// The kind of machine.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Starts such a machine; where a guest like it was saved, or can be, from there.
    pub fn start(&self, context: &Context, mut spec: MachineSpec) -> Result<Box<dyn Machine>> {
        if !self.cold {
            spec.start = Start::Saved(self.saved(context, &spec)?);
        }
        machines::start(self.kind, &spec)
    }

    /// The machine that boots these with the writable disk `scratch`; its logs
    /// go to `run_dir`.
    pub fn machine(&self, scratch: &Path, run_dir: &Path) -> MachineSpec {
        let mut spec = MachineSpec::new(&self.kernel.image, run_dir);
        spec.vcpus = self.vcpus;
        spec.memory_mib = MEMORY
            .iter()
            .find(|(flavour, _)| *flavour == self.flavour)
            .map_or(spec.memory_mib, |&(_, mib)| mib);
        spec.disks = vec![
            Disk::readonly(&self.agent),
            Disk::readonly(&self.debian),
            Disk::writable(scratch),
        ];
        spec.cmdline = ["root=/dev/vda", "rootfstype=erofs", "ro", "init=/agent"]
            .map(String::from)
            .to_vec();
        spec
    }
}
