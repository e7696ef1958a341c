// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The journal of an experiment: one line per finished unit, so that a killed run loses none.

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::Finding;
use crate::abort::Abort;

/// Time that a lock may be held by a process that is not a running crucible.
const LOCK_LIMIT: Duration = Duration::from_secs(1);

/// Time between two attempts to take the lock.
const LOCK_PERIOD: Duration = Duration::from_millis(20);

/// A hash of everything that findings depend on. Findings of a different kernel, userland, machine
/// or source are not comparable.
#[derive(Clone)]
pub struct Identity(Sha256);

impl Identity {
    /// Begins the identity of a command.
    pub fn new(command: &str) -> Self {
        let mut identity = Self(Sha256::new());
        identity.add("journal", "3");
        identity.add("command", command);
        identity
    }

    /// Adds a named part.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    fn line(self) -> String {
        let hash = self.0.finalize();
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{{\"identity\":\"{hex}\"}}")
    }
}

/// The reason why there is no journal.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The journal to resume does not exist.
    #[error("cannot resume: {} does not exist; run without --resume", .0.display())]
    Missing(PathBuf),
    /// The journal is of a run with a different identity.
    #[error(
        "cannot resume: the earlier run had a different kernel, userland, machine or source; run \
         without --resume"
    )]
    Different,
    /// Another process writes it.
    #[error("{} belongs to a running crucible; wait for its end", .0.display())]
    Busy(PathBuf),
    /// It cannot be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
}

/// The findings of a running or finished experiment.
pub struct Journal<T> {
    path: PathBuf,
    identity: String,
    /// Held while the journal is in use; a separate file, because the journal is replaced.
    _lock: Option<File>,
    /// `None` until the first finding, and for an experiment that keeps none.
    file: Option<File>,
    keeps: bool,
    known: HashMap<String, Finding<T>>,
}

impl<T: Clone + Serialize + DeserializeOwned> Journal<T> {
    /// Opens the journal, empty or with the earlier findings. Writes nothing but a lock: an
    /// existing journal stays unchanged until the run begins.
    pub fn open(path: &Path, identity: Identity, resume: bool) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        let lock = File::create(path.with_extension("lock")).map_err(io)?;
        let deadline = Instant::now() + LOCK_LIMIT;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(io(error)),
                // A process that is being created has all locks of its parent until its exec.
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(LOCK_PERIOD);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(JournalError::Busy(path.to_owned()));
                }
            }
        }
        let mut journal = Self {
            path: path.to_owned(),
            identity: identity.line(),
            _lock: Some(lock),
            file: None,
            keeps: true,
            known: HashMap::new(),
        };
        if !resume {
            return Ok(journal);
        }
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(JournalError::Missing(path.to_owned()));
            }
            result => result.map_err(io)?,
        };
        let mut lines = text.lines();
        if lines.next() != Some(&journal.identity) {
            return Err(JournalError::Different);
        }
        // The last line may be incomplete; its unit is run again. A later line for a unit replaces
        // an earlier one.
        let findings = lines.map_while(|line| serde_json::from_str::<Finding<T>>(line).ok());
        for finding in findings {
            journal.known.insert(finding.key.clone(), finding);
        }
        Ok(journal)
    }

    /// Returns a journal that keeps nothing, for a run that must not replace the journal of a
    /// larger one.
    pub fn none() -> Self {
        Self {
            path: PathBuf::new(),
            identity: String::new(),
            _lock: None,
            file: None,
            keeps: false,
            known: HashMap::new(),
        }
    }

    /// Returns the finding of an earlier run. A finding without a result is not reused: the unit
    /// is run again.
    pub(super) fn take(&mut self, key: &str) -> Option<Finding<T>> {
        let known = self.known.get(key)?;
        let again = known.outcome.condition.exit_code() >= 125;
        (!again).then(|| known.clone())
    }

    /// Begins the journal with the reused findings. Replaces the old one once the new
    /// one is complete.
    pub(super) fn begin(&mut self) -> Result<(), Abort> {
        if !self.keeps {
            return Ok(());
        }
        let mut text = format!("{}\n", self.identity);
        for finding in self.known.values() {
            text.push_str(&line(finding));
        }
        let new = self.path.with_extension("new");
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            Ok(file)
        });
        self.file = Some(written.map_err(|e| Abort::io("cannot write the journal", &e))?);
        Ok(())
    }

    /// Appends a finding, and syncs it to the disk.
    pub(super) fn add(&mut self, finding: &Finding<T>) -> Result<(), Abort> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        file.write_all(line(finding).as_bytes())
            .and_then(|()| file.sync_data())
            .map_err(|e| Abort::io("cannot write the journal", &e))
    }
}

fn line<T: Serialize>(finding: &Finding<T>) -> String {
    // Findings have text keys and finite numbers only.
    let json = serde_json::to_string(finding).unwrap_or_default();
    format!("{json}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{blame::Condition, outcome::Outcome};

    fn finding(key: &str, condition: Condition) -> Finding<u32> {
        Finding {
            key: key.into(),
            outcome: Outcome::new(condition, "why"),
            ms: 1,
            detail: Some(7),
        }
    }

    fn open(path: &Path, identity: &str, resume: bool) -> Result<Journal<u32>, JournalError> {
        Journal::open(path, Identity::new(identity), resume)
    }

    fn begun(path: &Path) -> Journal<u32> {
        let mut journal = open(path, "x", false).unwrap();
        journal.begin().unwrap();
        journal
    }

    #[test]
    fn an_interrupted_run_resumes_after_its_last_complete_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let mut journal = begun(&path);
        journal.add(&finding("1", Condition::Passed)).unwrap();
        journal.add(&finding("2", Condition::Diverged)).unwrap();
        journal.add(&finding("3", Condition::HostKilled)).unwrap();
        journal.add(&finding("4", Condition::Passed)).unwrap();
        drop(journal);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 9]).unwrap();
        let mut journal = open(&path, "x", true).unwrap();
        journal.begin().unwrap();
        let taken: Vec<_> = ["1", "2", "3", "4"]
            .into_iter()
            .filter_map(|key| journal.take(key))
            .map(|finding| (finding.key, finding.outcome.condition))
            .collect();
        // A unit that failed by the host's fault is run again.
        let expected = [
            ("1".to_owned(), Condition::Passed),
            ("2".to_owned(), Condition::Diverged),
        ];
        assert_eq!(taken, expected);
    }

    #[test]
    fn a_later_line_replaces_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let mut journal = begun(&path);
        journal.add(&finding("1", Condition::Passed)).unwrap();
        journal.add(&finding("1", Condition::KernelReport)).unwrap();
        drop(journal);
        let mut journal = open(&path, "x", true).unwrap();
        let taken = journal.take("1").unwrap();
        assert_eq!(taken.outcome.condition, Condition::KernelReport);
    }

    #[test]
    fn an_existing_journal_stays_until_a_run_begins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        begun(&path).add(&finding("1", Condition::Passed)).unwrap();
        let before = fs::read_to_string(&path).unwrap();
        let mut journal = open(&path, "y", false).unwrap();
        journal.add(&finding("2", Condition::Passed)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
    }

    #[test]
    fn only_a_comparable_run_is_resumed_and_by_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let error = |result: Result<_, _>| result.err().unwrap();
        assert!(matches!(
            error(open(&path, "x", true)),
            JournalError::Missing(_)
        ));
        let journal = begun(&path);
        assert!(matches!(
            error(open(&path, "x", true)),
            JournalError::Busy(_)
        ));
        drop(journal);
        assert!(matches!(
            error(open(&path, "y", true)),
            JournalError::Different
        ));
    }
}
