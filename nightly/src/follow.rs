// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Follows the events of a run of crucible in a separate process.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crucible_engine::stream::{Event, FILE_NAME};

/// The events of the newest run in a directory of results.
pub(crate) struct Follower {
    results: PathBuf,
    /// The directories that existed before the command started.
    before: Vec<String>,
    file: Option<File>,
    /// The part of an incomplete line that has been read.
    rest: Vec<u8>,
}

/// Prefix of the directory of a run that has not ended.
const PARTIAL: &str = ".partial-";

/// Returns the names of the runs in a directory of results, with their final names.
fn runs(results: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(results).into_iter().flatten().flatten();
    let runs = entries.filter(|entry| entry.path().join(FILE_NAME).is_file());
    runs.map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let last = name.strip_prefix(PARTIAL).unwrap_or(&name).to_owned();
        (last, entry.path())
    })
    .collect()
}

impl Follower {
    /// Follows the run that begins next.
    pub fn new(results: &Path) -> Self {
        Self {
            results: results.to_owned(),
            before: runs(results).into_iter().map(|(name, _)| name).collect(),
            file: None,
            rest: Vec::new(),
        }
    }

    /// Returns the events since the last call.
    pub fn read(&mut self) -> io::Result<Vec<Event>> {
        if self.file.is_none() {
            let Some(run) = self.run() else {
                return Ok(Vec::new());
            };
            // The directory may be renamed between the two calls; the next attempt finds it.
            self.file = match File::open(run.join(FILE_NAME)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                opened => Some(opened?),
            };
        }
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut self.rest)?;
        }
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else {
            return Ok(Vec::new());
        };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        let lines = lines
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line).map_err(io::Error::from))
            .collect()
    }

    /// Returns the run's directory, once there is one.
    pub fn run(&self) -> Option<PathBuf> {
        let new = runs(&self.results);
        let new = new
            .into_iter()
            .filter(|(name, _)| !self.before.contains(name));
        new.max().map(|(_, path)| path)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use crucible_engine::stream::{Body, EventFile, Stream};

    use super::*;

    #[test]
    fn events_are_read_as_they_are_written() {
        let results = tempfile::tempdir().unwrap();
        fs::create_dir(results.path().join("old")).unwrap();
        fs::write(results.path().join("old").join(FILE_NAME), "broken").unwrap();
        let mut follower = Follower::new(results.path());
        assert!(follower.read().unwrap().is_empty());
        let partial = results.path().join(".partial-new");
        fs::create_dir(&partial).unwrap();
        let stream = Stream::default();
        let (file, _error) = EventFile::create(&partial).unwrap();
        stream.add(Box::new(file));
        stream.tell(Body::MachineStarted);
        assert_eq!(follower.read().unwrap().len(), 1);
        assert!(follower.read().unwrap().is_empty());
        stream.tell(Body::Interrupted);
        // The run's directory is renamed, while a line is incomplete.
        let finished = results.path().join("new");
        fs::rename(&partial, &finished).unwrap();
        let mut raw = File::options()
            .append(true)
            .open(finished.join(FILE_NAME))
            .unwrap();
        raw.write_all(b"{\"id\":3,\"time\":\"\",\"ms\":1,").unwrap();
        let events = follower.read().unwrap();
        assert!(
            matches!(
                events[..],
                [Event {
                    body: Body::Interrupted,
                    ..
                }]
            ),
            "{events:?}"
        );
        raw.write_all(b"\"event\":\"machine-started\"}\n").unwrap();
        assert_eq!(follower.read().unwrap().len(), 1);
        assert_eq!(follower.run(), Some(finished));
        raw.write_all(b"no event\n").unwrap();
        assert!(follower.read().is_err());
    }
}
