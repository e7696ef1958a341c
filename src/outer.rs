// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A Linux that has a KVM of its own, whatever this host has: QEMU emulates a CPU with
//! virtualisation for it. Crucible runs in it from a bundle.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use crucible_artefacts::kernel::{self, Flavour, Origin};
use crucible_engine::guest::Guest;
use crucible_protocol::ToolRun;
use crucible_vmm::qemu::{Options, QemuMachine};
use crucible_vmm::{Disk, MachineSpec};

use crate::bundle::{Bundle, Parts};
use crate::context::Context;
use crate::emulator;
use crate::host_program::succeed;
use crate::images::{GuestArgs, Images, KernelArgs};
use crate::machines::{MachineArg, MachineArgs};
use crate::temporary::Temporary;

/// How long the outer agent may take to answer.
const BOOT: Duration = Duration::from_secs(120);

/// What results may take in the bundle's disk, in MiB.
const ROOM: u64 = 2048;

/// Mounts the bundle's disk and runs the script `$0` there. What it says on its way comes
/// to the end as its stderr and at once to the console, where a host sees how far it is.
const ENTER: &str = "mkdir -p /bundle && mount /dev/vdd /bundle && cd /bundle
set -o pipefail
exec 3>&1
/bin/sh -ec \"$0\" crucible \"$@\" 2>&1 >&3 3>&- | tee /dev/console >&2";

/// Its timer ticks, whatever happens. QEMU 7.2's `vmrun` changes a CPU's pending interrupts
/// without a lock and not atomically (`interrupt_request` in `helper_vmrun`,
/// target/i386/tcg/sysemu/svm_helper.c), so that one which comes at that moment waits for
/// the next one to that CPU. There is none where it was the timer's, set for one shot, or
/// where it was to wake that CPU. See docs/testing.md.
const TICKS: [&str; 2] = ["nohz=off", "highres=off"];

/// Where the outer Linux finds the userland's disk.
const USERLAND: &str = "/dev/vdb";

/// What such a Linux is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Number of CPUs.
    pub cpus: u8,
}

/// A disk with crucible on it, and what boots the Linux that it is for.
pub struct Outer {
    images: Images,
    kernel: PathBuf,
    directory: Temporary,
    disk: PathBuf,
}

impl Outer {
    /// Makes what is not there yet. The guests in it have the kernel `inner`. With
    /// `emulator` this host's QEMU is brought there as well.
    pub fn prepare(context: &Context, inner: &KernelArgs, emulator: bool) -> Result<Self> {
        let guest = GuestArgs {
            kernel: inner.clone(),
            gdb: None,
            // Only the files are wanted here.
            machine: MachineArgs {
                machine: MachineArg::Qemu,
                vcpus: 1,
                cold: true,
            },
        };
        let images = Images::prepare(context, &guest)?;
        let outer = kernel::kernel(
            &context.cache()?,
            &context.sources()?,
            &Origin::Pinned,
            Flavour::Outer,
            context.progress(),
        )?;
        let directory = Temporary::new("nested")?;
        let disk = bundle(&images, context, &directory, emulator)?;
        Ok(Self {
            images,
            kernel: outer.image,
            directory,
            disk,
        })
    }

    /// Boots it, runs `script` of the shell in the bundle's directory with `arguments`,
    /// and shuts it down. What the script leaves in `results` stays on the disk.
    pub fn run(
        &self,
        context: &Context,
        size: Size,
        script: &str,
        arguments: &[String],
        limit: Duration,
    ) -> Result<ToolRun> {
        let directory = self.directory.path();
        let scratch = directory.join("scratch.ext4");
        self.images.scratch(context, &scratch)?;
        let plain = self.images.machine(&scratch, directory);
        let mut disks = plain.disks.clone();
        disks.push(Disk::writable(&self.disk));
        let spec = MachineSpec {
            memory_mib: size.memory_mib,
            vcpus: size.cpus,
            kernel: self.kernel.clone(),
            cmdline: [plain.cmdline.as_slice(), &TICKS.map(String::from)].concat(),
            disks,
            ..plain
        };
        let options = Options {
            nested: true,
            ..Options::default()
        };
        let machine = QemuMachine::start(&spec, &options)?;
        let mut guest = Guest::connect(Box::new(machine), BOOT)?;
        guest.prepare(None)?;
        let mut words = ["/bin/bash", "-ec", ENTER, script]
            .map(String::from)
            .to_vec();
        words.extend(arguments.iter().cloned());
        let environment = [("CRUCIBLE_CACHE".to_owned(), "/tmp/cache".to_owned())];
        let run = guest.exec(&words, &BTreeMap::from(environment), "/", limit)?;
        guest.shutdown()?;
        Ok(run)
    }

    /// Copies what runs have left in the bundle to the results below `root`.
    pub fn bring_results(&self, root: &Path) -> Result<()> {
        let directory = self.directory.path();
        let request = format!("rdump /results \"{}\"", directory.display());
        // It tells of failures in words only; without the directory there is nothing to
        // copy.
        succeed(
            Command::new("debugfs")
                .args(["-R", &request])
                .arg(&self.disk),
        )?;
        succeed(
            Command::new("cp")
                .args(["--recursive", "--no-target-directory"])
                .arg(directory.join("results"))
                .arg(root.join("results")),
        )
    }

    /// The console's log.
    pub fn console(&self) -> PathBuf {
        self.directory.path().join("console.log")
    }

    /// Keeps its directory, for somebody to look at; gives the console's log.
    pub fn keep(self) -> PathBuf {
        self.directory.keep().join("console.log")
    }
}

/// A disk with a bundle of `images` on it.
fn bundle(
    images: &Images,
    context: &Context,
    directory: &Temporary,
    emulator: bool,
) -> Result<PathBuf> {
    let template = directory.path().join("template.ext4");
    images.scratch(context, &template)?;
    let root = directory.path().join("bundle");
    let parts = Parts {
        flavour: images.flavour(),
        kernel: &images.kernel,
        agent: &images.agent,
        debian: &images.debian,
        scratch: &template,
        scenarios: &context.root()?.join("scenarios"),
    };
    Bundle::create(&root, &parts, Some(Path::new(USERLAND)))?;
    if emulator {
        emulator::bring(&root)?;
    }
    fs::remove_file(&template).context("cannot remove the disk's template")?;
    let disk = directory.path().join("bundle.ext4");
    let size = used(&root)? + (ROOM << 20);
    File::create(&disk)
        .and_then(|file| file.set_len(size))
        .with_context(|| format!("cannot make {}", disk.display()))?;
    succeed(
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"])
            .arg(&root)
            .arg(&disk),
    )?;
    fs::remove_dir_all(&root).context("cannot remove the bundle's directory")?;
    Ok(disk)
}

/// How much the files below a directory take, in bytes.
fn used(directory: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;

    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() {
            used(&entry.path())?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(sum)
}
