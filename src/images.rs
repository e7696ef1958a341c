//! Everything a guest boots from.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use crucible_artefacts::kernel::{self, Flavour, Kernel, Origin};
use crucible_artefacts::{Cache, rootfs, scratch};
use crucible_engine::guest::Guest;
use crucible_vmm::qemu::{Options, QemuMachine};
use crucible_vmm::{Disk, MachineSpec};

use crate::context::Context;

/// How much memory a guest of each flavour gets, in MiB. The debug kernel's
/// sanitizer takes an eighth, and its freed memory is held back for a while.
const MEMORY: [(Flavour, u32); 3] = [
    (Flavour::Base, 1024),
    (Flavour::Debug, 2048),
    (Flavour::Coverage, 1024),
];

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

/// A kernel and the read-only disks, ready to boot.
pub struct Images {
    cache: Cache,
    flavour: Flavour,
    /// The kernel.
    pub kernel: Kernel,
    /// The disk with the agent and its tools.
    pub agent: PathBuf,
    /// The disk with the Debian userland.
    pub debian: PathBuf,
}

impl Images {
    /// Makes what is not there yet, this host's own set-up first.
    pub fn prepare(context: &Context, args: &KernelArgs) -> Result<Self> {
        context.host()?;
        let cache = context.cache()?;
        let sources = context.sources()?;
        let progress = context.progress();
        let flavour = args.flavour.into();
        Ok(Self {
            agent: rootfs::agent(&cache, &sources, progress)?,
            debian: rootfs::debian(&cache, &sources, progress)?,
            kernel: kernel::kernel(&cache, &sources, &args.origin(), flavour, progress)?,
            cache,
            flavour,
        })
    }

    /// Makes an empty writable disk at `path`.
    pub fn scratch(&self, context: &Context, path: &Path) -> Result<()> {
        Ok(scratch::create(
            &self.cache,
            scratch::DEFAULT_MIB,
            path,
            context.progress(),
        )?)
    }

    /// Boots these with an empty writable disk; the disk and the console's log are in
    /// `directory`. `limit` is how long the agent may take to answer.
    pub fn boot(&self, context: &Context, directory: &Path, limit: Duration) -> Result<Guest> {
        let scratch = directory.join("scratch.ext4");
        self.scratch(context, &scratch)?;
        let spec = self.machine(&scratch, directory);
        let machine = QemuMachine::start(&spec, &Options::default())?;
        Ok(Guest::connect(Box::new(machine), limit)?)
    }

    /// The machine that boots these with the writable disk `scratch`; its logs
    /// go to `run_dir`.
    pub fn machine(&self, scratch: &Path, run_dir: &Path) -> MachineSpec {
        let mut spec = MachineSpec::new(&self.kernel.image, run_dir);
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
