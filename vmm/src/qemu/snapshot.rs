// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Saving a guest, and starting guests from one.
//!
//! Its memory is a file that the first guest shares and that the others map privately:
//! so they start without reading it, and share what they do not change. The rest is a
//! migration stream, which leaves out memory that is shared (`x-ignore-shared`, QEMU's
//! `docs/devel/migration`).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::qmp::Qmp;
use crate::child::fd;
use crate::{Error, MachineSpec, Result, Start};

const MEMORY: &str = "memory";
const STATE: &str = "state";

/// The stream while it is written.
const NEW_STATE: &str = "state.new";

/// The name by which QEMU is given the file to save to.
const TARGET: &str = "state";

/// The file that is the guest's memory, and whether it may write to it.
pub(super) fn memory(spec: &MachineSpec) -> Option<(PathBuf, bool)> {
    match &spec.start {
        Start::Boot | Start::Changed { .. } => None,
        Start::ToBeSaved(directory) => Some((directory.join(MEMORY), true)),
        Start::Saved(directory) => Some((directory.join(MEMORY), false)),
    }
}

/// Readies the directory that the guest is to be saved in, if it is. QEMU writes to the
/// memory's file from the guest's first instruction on, so there must be no saved guest
/// whose file that is; nor what is left of one that was never whole.
pub(super) fn ready(start: &Start) -> Result<()> {
    let Start::ToBeSaved(directory) = start else {
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
    Ok(())
}

/// The stream that the guest is loaded from, if it is.
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

/// Loads the guest, and lets it run where no debugger does, if it is to be loaded.
pub(super) fn load(qmp: &Qmp, spec: &MachineSpec) -> Result<()> {
    let Start::Saved(_) = spec.start else {
        return Ok(());
    };
    prepare(qmp)?;
    let uri = format!("fd:{}", fd::STATE);
    qmp.execute("migrate-incoming", json!({ "uri": uri }))?;
    qmp.wait_migrated()?;
    if spec.debugger.is_some() {
        // It is the one who lets it run.
        return Ok(());
    }
    qmp.execute("cont", json!({})).map(|_| ())
}

/// Saves the guest, which is stopped for that. It may not go on: its memory is in a file.
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

/// Has memory left out, and the end told.
fn prepare(qmp: &Qmp) -> Result<()> {
    let capabilities =
        ["x-ignore-shared", "events"].map(|name| json!({ "capability": name, "state": true }));
    qmp.execute(
        "migrate-set-capabilities",
        json!({ "capabilities": capabilities }),
    )
    .map(|_| ())
}
