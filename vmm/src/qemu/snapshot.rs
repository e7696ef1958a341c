// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Saves a guest, and starts guests from a snapshot.
//!
//! The memory is a file that the first guest maps shared and the others map privately, so they
//! start without reading it, and share the pages that they do not change. The rest is a migration
//! stream, which leaves out shared memory (`x-ignore-shared`, QEMU's `docs/devel/migration`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::command;
use super::qmp::Qmp;
use crate::child::fd;
use crate::{Error, MachineSpec, Result, Start};

const MEMORY: &str = "memory";
const STATE: &str = "state";

/// The name of the stream's file while it is written.
const NEW_STATE: &str = "state.new";

/// The name under which QEMU receives the descriptor of the file for the save.
const TARGET: &str = "state";

/// Returns the file that is the guest's memory, and true if the guest may write to it.
pub(super) fn memory(spec: &MachineSpec) -> Option<(PathBuf, bool)> {
    match &spec.start {
        Start::Boot | Start::Changed { .. } => None,
        Start::BootForSnapshot(directory) => Some((directory.join(MEMORY), true)),
        Start::Saved(directory) => Some((directory.join(MEMORY), false)),
    }
}

/// Prepares the directory in which the guest will be saved, if there is one. QEMU writes to the
/// memory's file from the guest's first instruction on, so the directory must not contain a
/// snapshot that uses this file. Remains of an incomplete snapshot are removed. Creates an empty
/// file for the memory: QEMU's confinement does not let it create files.
pub(super) fn ready(start: &Start) -> Result<()> {
    let Start::BootForSnapshot(directory) = start else {
        return Ok(());
    };
    if directory.join(STATE).exists() {
        return Err(Error::AlreadySaved {
            directory: directory.clone(),
        });
    }
    for name in [MEMORY, NEW_STATE] {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(|source| Error::File { path, source })?,
        }
    }
    let path = directory.join(MEMORY);
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
    {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::File { path, source }),
    }
}

/// Opens the stream from which the guest is loaded, if it starts from a snapshot.
pub(super) fn state_to_load(spec: &MachineSpec) -> Result<Option<File>> {
    let Start::Saved(directory) = &spec.start else {
        return Ok(None);
    };
    let path = directory.join(STATE);
    match File::open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(source) => Err(Error::File { path, source }),
    }
}

/// Loads the guest, if it starts from a snapshot, and lets it run unless it waits for a debugger.
pub(super) fn load(qmp: &Qmp, spec: &MachineSpec) -> Result<()> {
    if let Start::Saved(_) = spec.start {
        prepare(qmp)?;
        let uri = format!("fd:{}", fd::STATE);
        qmp.execute("migrate-incoming", json!({ "uri": uri }))?;
        qmp.wait_migrated()?;
    } else if !command::waits(spec) {
        return Ok(());
    }
    if spec.debugger.is_some() {
        // The debugger starts the guest.
        return Ok(());
    }
    qmp.execute("cont", json!({})).map(|_| ())
}

/// Stops and saves the guest. The guest cannot be resumed: its memory is the snapshot's file.
pub(super) fn save(qmp: &Qmp, directory: &Path) -> Result<()> {
    let path = directory.join(NEW_STATE);
    let file = File::create(&path).map_err(|source| Error::File {
        path: path.clone(),
        source,
    })?;
    qmp.execute("stop", json!({}))?;
    prepare(qmp)?;
    let name = json!({ "fdname": TARGET });
    qmp.execute_with_fd("getfd", name, &file)?;
    let uri = format!("fd:{TARGET}");
    qmp.execute("migrate", json!({ "uri": uri }))?;
    qmp.wait_migrated()?;
    let place = || {
        file.sync_all()?;
        File::open(directory.join(MEMORY))?.sync_all()?;
        fs::rename(&path, directory.join(STATE))?;
        File::open(directory)?.sync_all()
    };
    place().map_err(|source| Error::File {
        path: path.clone(),
        source,
    })
}

/// Sets the migration capabilities: leave out shared memory, and report the end by an event.
fn prepare(qmp: &Qmp) -> Result<()> {
    let capabilities =
        ["x-ignore-shared", "events"].map(|name| json!({ "capability": name, "state": true }));
    qmp.execute(
        "migrate-set-capabilities",
        json!({ "capabilities": capabilities }),
    )
    .map(|_| ())
}
