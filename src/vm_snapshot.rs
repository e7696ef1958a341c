// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Snapshots of booted guests, from which later guests start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use crucible_artefacts::{Cache, Fingerprint, Step};
use crucible_engine::guest::Guest;
use crucible_vmm::{MachineSpec, Start};

use crate::boot_artefacts::BootArtefacts;
use crate::context::Context;
use crate::machines::{self, Kind};
use crate::temporary::Temporary;

/// Version of the snapshots: increase it when their content changes.
const RECIPE: &str = "warm 1";

/// Kind of the artefact in the cache.
const KIND: &str = "warm";

/// Number of snapshots that are kept, each of a hundred megabytes or more. Each build of
/// this program and each boot of the host needs its own.
const KEEP: usize = 16;

/// Limit for the agent's first answer.
const BOOT: Duration = Duration::from_secs(120);

/// Returns the snapshot from which the machine `spec` can start. If there is none, boots a
/// guest and takes it.
pub fn saved(
    cache: &Cache,
    images: &BootArtefacts,
    spec: &MachineSpec,
    kind: Kind,
    context: &Context,
) -> Result<PathBuf> {
    let key = Fingerprint::new(RECIPE)
        .add("machine", machines::identity(kind, spec)?)
        .add("kernel", &images.kernel.identity.hash)
        .finish();
    let mut made = false;
    let saved = cache.get_or_build(KIND, &key, context.progress(), |directory| {
        made = true;
        save(directory, images, kind, context)
    })?;
    if made {
        // Removing old snapshots is safe: machines that run from one have its files open.
        cache.prune_kind(KIND, KEEP)?;
    }
    Ok(saved)
}

fn save(directory: &Path, images: &BootArtefacts, kind: Kind, context: &Context) -> Result<()> {
    let _step = Step::begin(context.progress(), "booting a guest to be saved");
    let run_dir = Temporary::with_room("warm", &context.cache()?)?;
    let scratch = run_dir.path().join("scratch.ext4");
    images.scratch(context, &scratch)?;
    let spec = MachineSpec {
        start: Start::BootForSnapshot(directory.to_owned()),
        ..images.machine(&scratch, run_dir.path())
    };
    let mut guest = Guest::greet(machines::start(kind, &spec)?, BOOT)?;
    guest.machine().save()?;
    guest.machine().kill()?;
    Ok(())
}
