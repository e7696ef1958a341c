// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The files a guest boots from, and the machine it boots in.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use crucible_artefacts::kernel::{self, Flavour, Kernel, Origin};
use crucible_artefacts::{Beside, Cache, Lock, content_hash, rootfs, scratch};
use crucible_engine::guest::Guest;
use crucible_vmm::{DebuggerAddress, Disk, Machine, MachineSpec, Start};

use crate::bundle::Bundle;
use crate::context::Context;
use crate::exit;
use crate::machines::{self, Kind, MachineArgs};
use crate::vm_snapshot;

/// Memory of a guest, in MiB, by the kernel's flavour. KASAN takes an eighth of it for its
/// shadow, and delays the reuse of freed memory.
const MEMORY: [(Flavour, u32); 3] = [
    (Flavour::Base, 1024),
    (Flavour::Debug, 2048),
    (Flavour::Coverage, 1024),
];

/// The gdb command line that debugs a guest.
fn gdb(address: &DebuggerAddress, kernel: &Path) -> String {
    let quote = |words: String| match words
        .contains(|it: char| !it.is_alphanumeric() && !"/.-_".contains(it))
    {
        true => format!("'{}'", words.replace('\'', "'\\''")),
        false => words,
    };
    format!(
        "gdb -ex {} {}",
        quote(format!("target remote {address}")),
        quote(kernel.display().to_string())
    )
}

/// The kernel and the machine, on the command line.
#[derive(Debug, Clone, Default, Args)]
pub struct GuestArgs {
    /// The kernel.
    #[command(flatten, next_help_heading = "Kernel")]
    pub kernel: KernelArgs,
    /// The machine.
    #[command(flatten, next_help_heading = "Machine")]
    pub machine: MachineArgs,
    /// Let each guest wait for gdb on this TCP port of localhost, or this Unix socket,
    /// without any time limits; see docs/howto/debug-with-gdb.md
    #[arg(long, help_heading = "Machine", value_name = "PORT|SOCKET")]
    pub gdb: Option<DebuggerAddress>,
}

/// The kernel, on the command line.
#[derive(Debug, Clone, Default, Args)]
pub struct KernelArgs {
    /// Configuration of the guest's kernel
    #[arg(long, value_enum, default_value_t, value_name = "FLAVOUR")]
    pub flavour: FlavourArg,
    /// Boot this kernel image: an ELF vmlinux with CONFIG_PVH, or a bzImage
    #[arg(long, value_name = "IMAGE", conflicts_with = "kernel_src")]
    pub kernel: Option<PathBuf>,
    /// Build and boot this kernel tree, with our series applied to a copy of it
    #[arg(long, value_name = "DIR")]
    pub kernel_src: Option<PathBuf>,
}

/// [`Flavour`], on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum FlavourArg {
    /// Without debugging options
    #[default]
    Base,
    /// With KASAN, lockdep, kmemleak and other checkers
    Debug,
    /// With gcov counters in the checkpoint/restart code
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

/// A kernel and the read-only disks, ready to boot, and the machine to boot them in.
pub struct BootArtefacts {
    cache: Cache,
    /// Keeps `clean --all` from removing the cache meanwhile.
    _hold: Lock,
    /// The empty disk that writable disks are copied from; none where they are made.
    template: Option<PathBuf>,
    flavour: Flavour,
    kind: Kind,
    vcpus: u8,
    cold: bool,
    debugger: Option<DebuggerAddress>,
    /// The kernel.
    pub kernel: Kernel,
    /// The disk with the agent and its tools.
    pub agent: PathBuf,
    /// The disk with the Debian userland.
    pub debian: PathBuf,
    /// The list of the userland's packages; it may not exist.
    pub package_list: PathBuf,
    /// Hashes that are known without reading the files.
    hashes: HashMap<PathBuf, String>,
}

/// Finds paths that cannot be what the user means, before anything is built.
fn check_origin(origin: &Origin) -> Result<(), exit::Usage> {
    let problem = match origin {
        Origin::Tree(dir) if !dir.is_dir() => format!("there is no directory {}", dir.display()),
        Origin::Tree(dir) if !dir.join("Kbuild").is_file() => {
            format!("{} is not a kernel tree: it has no Kbuild", dir.display())
        }
        Origin::Image(image) if !image.is_file() => format!("there is no file {}", image.display()),
        _ => return Ok(()),
    };
    Err(exit::Usage(problem))
}

impl BootArtefacts {
    /// Builds or finds everything, after installing missing host packages.
    pub fn prepare(context: &Context, args: &GuestArgs) -> Result<Self> {
        let flavour = args.kernel.flavour.into();
        check_origin(&args.kernel.origin())?;
        if let Some(bundle) = Bundle::of_this_program()? {
            return Ok(Self {
                agent: bundle.agent(),
                debian: bundle.debian(),
                package_list: bundle.package_list(),
                hashes: bundle.hashes(),
                kernel: match args.kernel.origin() {
                    Origin::Pinned => bundle.kernel(flavour)?,
                    Origin::Image(image) => kernel::foreign(&image)?,
                    Origin::Tree(_) => bail!("a bundle builds no kernels"),
                },
                _hold: context.cache()?.hold()?,
                cache: context.cache()?,
                template: Some(bundle.scratch()),
                flavour,
                kind: machines::choose(context, args.machine.machine)?,
                vcpus: args.machine.vcpus,
                cold: args.machine.cold,
                debugger: args.gdb.clone(),
            });
        }
        context.host()?;
        let cache = context.cache()?;
        let hold = cache.hold()?;
        let sources = context.sources()?;
        let progress = context.progress();
        let origin = args.kernel.origin();
        // The disks need no kernel, and a part of its build runs on one CPU.
        let beside = Beside::new(progress);
        let (disks, kernel) = thread::scope(|scope| {
            let disks = scope.spawn(|| {
                let agent = rootfs::agent(&cache, &sources, &beside)?;
                Ok((agent, rootfs::debian(&cache, &sources, &beside)?))
            });
            let kernel = kernel::kernel(&cache, &sources, &origin, flavour, progress);
            let disks: crucible_artefacts::Result<_> = match disks.join() {
                Ok(disks) => disks,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            (disks, kernel)
        });
        let (agent, debian) = disks?;
        Ok(Self {
            agent,
            package_list: rootfs::package_list(&debian),
            hashes: HashMap::new(),
            debian,
            kernel: kernel?,
            cache,
            _hold: hold,
            template: None,
            flavour,
            kind: machines::choose(context, args.machine.machine)?,
            vcpus: args.machine.vcpus,
            cold: args.machine.cold,
            debugger: args.gdb.clone(),
        })
    }

    /// The kernel's flavour.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Returns the sha256 of one of these files.
    pub fn content_hash(&self, path: &Path) -> Result<String> {
        match self.hashes.get(path) {
            Some(hash) => Ok(hash.clone()),
            None => Ok(content_hash(path)?),
        }
    }

    /// Creates an empty writable disk at `path`.
    pub fn scratch(&self, context: &Context, path: &Path) -> Result<()> {
        match &self.template {
            Some(template) => scratch::copy(template, path)?,
            None => scratch::create(&self.cache, scratch::DEFAULT_MIB, path, context.progress())?,
        }
        Ok(())
    }

    /// Boots a guest with an empty writable disk. The disk and the console's log are created
    /// in `directory`. Fails when the agent has not answered after `limit`.
    pub fn boot(&self, context: &Context, directory: &Path, limit: Duration) -> Result<Guest> {
        let scratch = directory.join("scratch.ext4");
        self.scratch(context, &scratch)?;
        let spec = self.machine(&scratch, directory);
        Ok(Guest::connect(self.start(context, spec)?, limit)?)
    }

    /// Returns the directory of a snapshot that such a machine can start from. Without one,
    /// boots a guest and takes it.
    pub fn saved(&self, context: &Context, spec: &MachineSpec) -> Result<PathBuf> {
        vm_snapshot::saved(&self.cache, self, spec, self.kind, context)
    }

    /// The kind of machine.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Starts such a machine, from a snapshot unless `--cold` was given.
    pub fn start(&self, context: &Context, mut spec: MachineSpec) -> Result<Box<dyn Machine>> {
        if !self.cold {
            spec.start = Start::Saved(self.saved(context, &spec)?);
        }
        spec.debugger = self.debugger.clone();
        let machine = machines::start(self.kind, &spec)?;
        if let Some(address) = &self.debugger {
            // Printed even with --quiet: without gdb the guest never runs.
            eprintln!(
                "crucible: the guest waits for: {}",
                gdb(address, &self.kernel.image)
            );
        }
        Ok(machine)
    }

    /// Describes the machine that boots these files with the writable disk `scratch`. Its
    /// logs go to `run_dir`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_gdb_can_be_copied() {
        let kernel = Path::new("/a/it's/vmlinux");
        assert_eq!(
            gdb(&DebuggerAddress::Port(1234), Path::new("/a/vmlinux")),
            "gdb -ex 'target remote :1234' /a/vmlinux"
        );
        assert_eq!(
            gdb(&DebuggerAddress::Socket("/run/gdb".into()), kernel),
            r"gdb -ex 'target remote /run/gdb' '/a/it'\''s/vmlinux'"
        );
    }
}
