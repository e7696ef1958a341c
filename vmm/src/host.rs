// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is read of the host, to tell one of its states from another.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{Error, Result};

/// The name of this boot of the host.
pub(crate) fn boot() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    fs::read_to_string(path).map_err(file(path))
}

/// What changes when a file does: its length and when it was written.
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
