// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the tests that boot share: artefacts from the builders, in the cache
//! that everybody else uses too.

// Each test program uses a part of it.
#![allow(dead_code)]

pub mod scripts;

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use crucible_artefacts::kernel::{self, Flavour, Origin};
use crucible_artefacts::{Cache, Progress, Sources, host, rootfs, scratch};
use crucible_engine::guest::Guest;
use crucible_vmm::qemu::{Options, QemuMachine};
use crucible_vmm::{Disk, MachineSpec};
use tempfile::TempDir;

/// Long enough for a busy host; a guest that hangs is a failure anyway.
pub const LONG: Duration = Duration::from_secs(120);

/// Tells long steps, so that a cold run is seen to go on.
pub struct Told;

impl Progress for Told {
    fn begin(&self, step: &str) {
        eprintln!("test set-up: {step} …");
    }
    fn advance(&self, _: u64, _: u64) {}
    fn end(&self) {}
    fn note(&self, text: &str) {
        eprintln!("test set-up: {text}");
    }
}

/// The artefacts.
pub struct Bed {
    /// The cache.
    pub cache: Cache,
    /// The checkout.
    pub sources: Sources,
    kernel: PathBuf,
    agent: PathBuf,
    debian: PathBuf,
}

static BED: LazyLock<Bed> = LazyLock::new(|| {
    host::ensure(true, &Told).expect("host packages");
    let cache = Cache::from_env().expect("cache");
    let sources = Sources::find().expect("sources");
    Bed {
        agent: rootfs::agent(&cache, &sources, &Told).expect("agent"),
        debian: rootfs::debian(&cache, &sources, &Told).expect("userland"),
        kernel: kernel::kernel(&cache, &sources, &Origin::Pinned, Flavour::Base, &Told)
            .expect("kernel")
            .image,
        cache,
        sources,
    }
});

/// The artefacts; made if they are not there.
pub fn bed() -> &'static Bed {
    &BED
}

/// A machine to be started, and the directory that its files are in.
pub fn spec() -> (TempDir, MachineSpec) {
    let bed = bed();
    let directory = tempfile::tempdir().expect("a directory");
    let disk = directory.path().join("scratch.ext4");
    scratch::create(&bed.cache, scratch::DEFAULT_MIB, &disk, &Told).expect("scratch disk");
    let mut spec = MachineSpec::new(&bed.kernel, directory.path());
    spec.disks = vec![
        Disk::readonly(&bed.agent),
        Disk::readonly(&bed.debian),
        Disk::writable(disk),
    ];
    spec.cmdline = ["root=/dev/vda", "rootfstype=erofs", "ro", "init=/agent"]
        .map(String::from)
        .to_vec();
    (directory, spec)
}

/// A guest that answers.
pub fn boot() -> (TempDir, Guest) {
    let (directory, spec) = spec();
    let machine = QemuMachine::start(&spec, &Options::default()).expect("machine");
    let guest = Guest::connect(Box::new(machine), LONG).expect("agent");
    (directory, guest)
}
