// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Shared by the tests that boot a guest: artefacts from the builders, in the cache that crucible
//! itself uses.

// Each test program uses only some of these items.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod cli;
pub mod dump;
pub mod formats;
pub mod history;
pub mod intruder;
pub mod killing;
pub mod scripts;

use std::sync::LazyLock;
use std::time::Duration;

use crucible::boot_artefacts::{BootArtefacts, FlavourArg, GuestArgs, KernelArgs};
use crucible::context::{Context, Global};
use crucible::machines::{MachineArg, MachineArgs};
use crucible_artefacts::{Cache, Progress, Sources};
use crucible_engine::guest::Guest;
use crucible_vmm::MachineSpec;
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
    context: Context,
    artefacts: BootArtefacts,
}

static BASE: LazyLock<Fixture> = LazyLock::new(|| prepare(FlavourArg::Base));
static DEBUG: LazyLock<Fixture> = LazyLock::new(|| prepare(FlavourArg::Debug));

fn prepare(flavour: FlavourArg) -> Fixture {
    let context = Context::new(&Global {
        no_install: false,
        quiet: false,
        verbose: false,
    });
    let args = GuestArgs {
        kernel: KernelArgs {
            flavour,
            ..KernelArgs::default()
        },
        // The machine is the same on every host. A test that needs a snapshot takes it itself.
        machine: MachineArgs {
            machine: MachineArg::Qemu,
            vcpus: 1,
            cold: true,
            memory: None,
            load: 0,
        },
        ..GuestArgs::default()
    };
    Fixture {
        artefacts: BootArtefacts::prepare(&context, &args).expect("artefacts"),
        cache: context.cache().expect("cache"),
        sources: context.sources().expect("sources"),
        context,
    }
}

/// Returns the artefacts of the base flavour. Makes those that are not cached.
pub fn fixture() -> &'static Fixture {
    &BASE
}

/// Returns the artefacts of the debug flavour. Makes those that are not cached.
pub fn debug_fixture() -> &'static Fixture {
    &DEBUG
}

/// Returns the description of a machine that has not been started, and the directory of its files.
pub fn spec() -> (TempDir, MachineSpec) {
    let Fixture {
        artefacts, context, ..
    } = fixture();
    let directory = tempfile::tempdir().expect("a directory");
    let disk = directory.path().join("scratch.ext4");
    artefacts.scratch(context, &disk).expect("scratch disk");
    let spec = artefacts.machine(&disk, directory.path());
    (directory, spec)
}

/// Boots a guest of the base flavour, and waits until its agent answers.
pub fn boot() -> (TempDir, Guest) {
    fixture().boot()
}

impl Fixture {
    /// Boots a guest, and waits until its agent answers.
    pub fn boot(&self) -> (TempDir, Guest) {
        let directory = tempfile::tempdir().expect("a directory");
        let guest = self.artefacts.boot(&self.context, directory.path(), LONG);
        (directory, guest.expect("a guest"))
    }
}
