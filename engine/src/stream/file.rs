// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `events.jsonl`: the events of a run, one JSON object per line.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Event, Listener};

/// Name of the file in the run's directory.
pub const NAME: &str = "events.jsonl";

/// Writes events to a file. Each is written immediately, so that a killed run keeps them.
pub struct EventFile {
    file: File,
    error: Arc<Mutex<Option<io::Error>>>,
}

/// The first error of an [`EventFile`].
pub struct FileError(Arc<Mutex<Option<io::Error>>>);

impl EventFile {
    /// Creates the file in a directory.
    pub fn create(dir: &Path) -> io::Result<(Self, FileError)> {
        let file = File::create(dir.join(NAME))?;
        let error = Arc::default();
        let first = FileError(Arc::clone(&error));
        Ok((Self { file, error }, first))
    }
}

impl FileError {
    /// Returns the error, once.
    pub fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Listener for EventFile {
    fn hear(&mut self, event: &Event) {
        let written = serde_json::to_string(event)
            .map_err(io::Error::from)
            .and_then(|line| self.file.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = written {
            let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error);
        }
    }
}
