//! The files of a saved guest, from the side of the monitor's parent: it opens them, and
//! puts them in place when they are whole.

use std::fs::{self, File};
use std::path::Path;

use super::wire::MemoryConfig;
use crate::{Error, Result, Start};

const MEMORY: &str = "memory";
const STATE: &str = "state";

/// The state while it is written.
const NEW_STATE: &str = "state.new";

/// The file with the guest's state, to be read or to be written.
pub(super) fn state(start: &Start) -> Result<Option<File>> {
    let (path, file) = match start {
        Start::Boot => return Ok(None),
        Start::ToBeSaved(directory) => {
            let path = directory.join(NEW_STATE);
            let file = File::create(&path);
            (path, file)
        }
        Start::Saved(directory) => {
            let path = directory.join(STATE);
            let file = File::open(&path);
            (path, file)
        }
    };
    match file {
        Ok(file) => Ok(Some(file)),
        Err(source) => Err(Error::File { path, source }),
    }
}

/// What the guest's memory is.
pub(super) fn memory(start: &Start) -> MemoryConfig {
    match start {
        Start::Boot => MemoryConfig::Anonymous,
        Start::ToBeSaved(directory) => MemoryConfig::Shared(directory.join(MEMORY)),
        Start::Saved(directory) => MemoryConfig::Private(directory.join(MEMORY)),
    }
}

/// Makes the saved guest one that can be started. Until then there is none, or the one
/// before; whoever is killed meanwhile leaves it so.
pub(super) fn put_in_place(directory: &Path) -> Result<()> {
    let path = directory.join(STATE);
    fs::rename(directory.join(NEW_STATE), &path)
        .and_then(|()| File::open(directory)?.sync_all())
        .map_err(|source| Error::File { path, source })
}
