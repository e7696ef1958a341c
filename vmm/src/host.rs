// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Properties of the host that identify the state of its kernel and files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{Error, Result};

/// Returns the host's boot ID, which changes at every boot.
pub(crate) fn boot() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    fs::read_to_string(path).map_err(file(path))
}

/// Returns a string that changes when the file does: its length and modification time.
pub(crate) fn stamp(path: &Path) -> Result<String> {
    let metadata = fs::metadata(path).map_err(file(path))?;
    Ok(format!(
        "{} {}.{:09}",
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    ))
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::File {
        path: path.to_owned(),
        source,
    }
}
