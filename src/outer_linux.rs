// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The outer Linux: a Linux with KVM on a CPU with virtualisation that QEMU emulates.
//! Crucible runs in it from a bundle.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use crucible_artefacts::kernel::{self, Flavour, Origin};
use crucible_engine::guest::Guest;
use crucible_engine::results::Store;
use crucible_protocol::ToolRun;
use crucible_vmm::qemu::{Options, QemuMachine};
use crucible_vmm::{Disk, MachineSpec};

use crate::boot_artefacts::{BootArtefacts, GuestArgs, KernelArgs};
use crate::bundle::{Bundle, Parts};
use crate::context::Context;
use crate::guest_files::Copy;
use crate::host_program::succeed;
use crate::host_qemu;
use crate::machines::{MachineArg, MachineArgs};
use crate::temporary::Temporary;

/// Limit for the outer agent's first answer.
const BOOT: Duration = Duration::from_secs(120);

/// Space for results on the bundle's disk, in MiB.
const ROOM: u64 = 2048;

/// Mounts the bundle's disk and runs the script `$0` in it. Its stderr also goes to the
/// console, where the host can follow the progress.
const ENTER: &str = "mkdir -p /bundle && mount /dev/vdd /bundle && cd /bundle
set -o pipefail
exec 3>&1
/bin/sh -ec \"$0\" crucible \"$@\" 2>&1 >&3 3>&- | tee /dev/console >&2";

/// Kernel parameters that keep the timer ticking. QEMU 7.2's `vmrun` changes a CPU's pending
/// interrupts without a lock and not atomically (`interrupt_request` in `helper_vmrun`,
/// target/i386/tcg/sysemu/svm_helper.c), so an interrupt at that moment is only delivered
/// with the next one to that CPU. Without a tick there is no next one if it was a one-shot
/// timer or was to wake that CPU. See docs/design/testing.md.
const TICKS: [&str; 2] = ["nohz=off", "highres=off"];

/// Device of the userland's disk in the outer Linux.
const USERLAND: &str = "/dev/vdb";

/// Size of an outer Linux.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Number of CPUs.
    pub cpus: u8,
}

/// A disk with a bundle, and the images that boot the outer Linux.
pub struct Outer {
    images: BootArtefacts,
    kernel: PathBuf,
    directory: Temporary,
    disk: PathBuf,
}

impl Outer {
    /// Builds or finds everything. The inner guests use the kernel `inner`. With
    /// `emulator`, the bundle also contains this host's QEMU.
    pub fn prepare(context: &Context, inner: &KernelArgs, emulator: bool) -> Result<Self> {
        let guest = GuestArgs {
            kernel: inner.clone(),
            gdb: None,
            // Only the files of these artefacts are used.
            machine: MachineArgs {
                machine: MachineArg::Qemu,
                vcpus: 1,
                memory: None,
                load: 0,
                cold: true,
            },
        };
        let images = BootArtefacts::prepare(context, &guest)?;
        let outer = kernel::kernel(
            &context.cache()?,
            &context.sources()?,
            &Origin::Pinned,
            Flavour::Outer,
            context.progress(),
        )?;
        let directory = Temporary::with_room("nested", &context.cache()?)?;
        let disk = bundle(&images, context, &directory, emulator)?;
        Ok(Self {
            images,
            kernel: outer.image,
            directory,
            disk,
        })
    }

    /// Boots the outer Linux, runs the shell script `script` with `arguments` in the bundle's
    /// directory, copies the results of its runs to `results`, if that is given, and shuts
    /// it down.
    pub fn run(
        &self,
        context: &Context,
        size: Size,
        script: &str,
        arguments: &[String],
        limit: Duration,
        results: Option<&Path>,
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
        if let Some(results) = results {
            bring_results(&mut guest, results)?;
        }
        guest.shutdown()?;
        Ok(run)
    }

    /// Returns the path of the console's log.
    pub fn console(&self) -> PathBuf {
        self.directory.path().join("console.log")
    }

    /// Keeps the directory for inspection; returns the path of the console's log.
    pub fn keep(self) -> PathBuf {
        self.directory.keep().join("console.log")
    }
}

/// Copies the results of complete runs in the bundle to `results`, if there are any. The outer
/// Linux ran guests on its files, so it is no more trusted than a guest.
fn bring_results(guest: &mut Guest, results: &Path) -> Result<()> {
    let words = ["/bin/sh", "-c", "test -d /bundle/results"].map(String::from);
    let found = guest.exec(&words, &BTreeMap::new(), "/", BOOT)?;
    if !found.success() {
        return Ok(());
    }
    // Directories appear complete, like those of other runs.
    let store = Store::begin(results, "nested")
        .with_context(|| format!("cannot write to {}", results.display()))?;
    let inner = store.dir().join("inner");
    Copy::out_of("/bundle", "results", &inner).leave(guest)?;
    let adopt = || {
        store.adopt(&inner)?;
        fs::remove_dir_all(&inner)
    };
    adopt().with_context(|| format!("cannot move results to {}", results.display()))
}

/// Creates a disk with a bundle of `images`.
fn bundle(
    images: &BootArtefacts,
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
        host_qemu::bring(&root)?;
    }
    fs::remove_file(&template).context("cannot remove the template of the disk")?;
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

/// Returns the total size of the files in a directory tree, in bytes.
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
