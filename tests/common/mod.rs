// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Shared by the tests that boot a guest: artefacts from the builders, in the cache that crucible
//! itself uses.

// Each test program uses only some of these items.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod cli;
pub mod intruder;
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

/// Limit for each wait. It only bounds a hung test, even on a busy host.
pub const LONG: Duration = Duration::from_secs(120);

/// Prints the steps of long preparations to standard error, so that a cold run shows progress.
pub struct PrintProgress;

impl Progress for PrintProgress {
    fn begin(&self, step: &str) {
        eprintln!("test set-up: {step} …");
    }
    fn advance(&self, _: u64, _: u64) {}
    fn end(&self) {}
    fn note(&self, text: &str) {
        eprintln!("test set-up: {text}");
    }
}

/// The artefacts that a guest needs.
pub struct Fixture {
    /// The cache.
    pub cache: Cache,
    /// The checkout.
    pub sources: Sources,
    kernel: PathBuf,
    agent: PathBuf,
    debian: PathBuf,
}

static BED: LazyLock<Fixture> = LazyLock::new(|| {
    host::ensure(true, &PrintProgress).expect("host packages");
    let cache = Cache::from_env().expect("cache");
    let sources = Sources::find().expect("sources");
    Fixture {
        agent: rootfs::agent(&cache, &sources, &PrintProgress).expect("agent"),
        debian: rootfs::debian(&cache, &sources, &PrintProgress).expect("userland"),
        kernel: kernel::kernel(
            &cache,
            &sources,
            &Origin::Pinned,
            Flavour::Base,
            &PrintProgress,
        )
        .expect("kernel")
        .image,
        cache,
        sources,
    }
});

/// Returns the artefacts. Makes those that are not cached.
pub fn fixture() -> &'static Fixture {
    &BED
}

/// Returns the description of a machine that has not been started, and the directory of its files.
pub fn spec() -> (TempDir, MachineSpec) {
    let fixture = fixture();
    let directory = tempfile::tempdir().expect("a directory");
    let disk = directory.path().join("scratch.ext4");
    scratch::create(&fixture.cache, scratch::DEFAULT_MIB, &disk, &PrintProgress)
        .expect("scratch disk");
    let mut spec = MachineSpec::new(&fixture.kernel, directory.path());
    spec.disks = vec![
        Disk::readonly(&fixture.agent),
        Disk::readonly(&fixture.debian),
        Disk::writable(disk),
    ];
    spec.cmdline = ["root=/dev/vda", "rootfstype=erofs", "ro", "init=/agent"]
        .map(String::from)
        .to_vec();
    (directory, spec)
}

/// Boots a guest, and waits until its agent answers.
pub fn boot() -> (TempDir, Guest) {
    let (directory, spec) = spec();
    let machine = QemuMachine::start(&spec, &Options::default()).expect("machine");
    let guest = Guest::connect(Box::new(machine), LONG).expect("agent");
    (directory, guest)
}
