// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The recordings of a run's guests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use crucible_engine::results::Store;
use crucible_engine::stream::{self, Body, Event};
use crucible_vmm::qemu::Recording;

/// Name of the directory of a recording, in its machine's directory.
pub const NAME: &str = "recording";

/// Compresses the recordings of a run whose guests have ended. Returns their directories, relative
/// to the run's directory.
pub fn complete(store: &Store) -> Result<Vec<String>> {
    let mut found = Vec::new();
    find(store.dir(), &mut found).context("cannot read the run's directory")?;
    found.sort();
    for directory in &found {
        Recording::compress(directory).context("cannot compress a recording")?;
    }
    Ok(found.iter().map(|path| store.relative(path)).collect())
}

/// Finds the recordings below a directory of a run: `machine-1/recording`, `guest-2/machine-1/…`.
fn find(directory: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type()?.is_dir() {
            continue;
        }
        if name == NAME {
            found.push(entry.path());
        } else if name.starts_with("machine-") || name.starts_with("guest-") {
            find(&entry.path(), found)?;
        }
    }
    Ok(())
}

/// A named place in a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Its name: a number of instructions, or a step and its unit.
    pub name: String,
    /// Number of instructions since the guest's start.
    pub instructions: u64,
}

/// A recording of a run, with data from the run's events.
#[derive(Debug, Default)]
pub struct Recorded {
    /// Directory of the recording.
    pub directory: PathBuf,
    /// The steps of the unit that failed, or else of the last unit.
    steps: Vec<Step>,
    /// True when that unit failed.
    failed: bool,
}

/// The start or the end of a step.
#[derive(Debug, Clone)]
struct Step {
    recording: String,
    unit: String,
    name: String,
    complete: bool,
    instructions: u64,
}

impl Recorded {
    /// Reads the events of a run. Chooses the recording of this name, or the one in which a unit
    /// failed first. The error is a message for the user.
    pub fn load(run: &Path, wanted: Option<&str>) -> Result<Self, String> {
        let path = run.join(stream::FILE_NAME);
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let mut recorded = Self::parse(&text, wanted)
            .map_err(|why| format!("cannot replay {}: {why}", run.display()))?;
        recorded.directory = run.join(&recorded.directory);
        Ok(recorded)
    }

    fn parse(text: &str, wanted: Option<&str>) -> Result<Self, String> {
        let mut recordings: Vec<String> = Vec::new();
        let mut current = BTreeMap::new();
        let mut steps = Vec::new();
        let mut failed = None;
        // The last line of a run that was killed may be cut off.
        let events = text
            .lines()
            .map_while(|line| serde_json::from_str(line).ok());
        for Event {
            guest, unit, body, ..
        } in events
        {
            match body {
                Body::Recorded { directory } => {
                    recordings.push(directory.clone());
                    current.insert(guest, directory);
                }
                Body::Counted {
                    step,
                    complete,
                    instructions,
                } => steps.push(Step {
                    recording: current.get(&guest).cloned().unwrap_or_default(),
                    unit: unit.unwrap_or_default(),
                    name: step,
                    complete,
                    instructions,
                }),
                Body::UnitFinished { outcome, .. } if !outcome.is_pass() => {
                    failed = failed.or(unit);
                }
                _ => {}
            }
        }
        if let Some(wanted) = wanted {
            recordings.retain(|it| it == wanted);
            steps.retain(|it| it.recording == wanted);
        }
        let unit = match &failed {
            Some(unit) if steps.iter().any(|it| it.unit == *unit) => unit.clone(),
            _ => steps.last().map(|it| it.unit.clone()).unwrap_or_default(),
        };
        steps.retain(|it| it.unit == unit);
        // The failure is at the last restart. After that, a different machine may have run a
        // second control.
        let of = |name| steps.iter().rev().find(move |it: &&Step| it.name == name);
        let last = of("restart")
            .or_else(|| of("checkpoint"))
            .or(steps.last())
            .map(|it| it.recording.clone());
        let Some(directory) = last.or_else(|| recordings.last().cloned()) else {
            return Err("it has no recording; `crucible scenario --record` makes one".into());
        };
        steps.retain(|it| it.recording == directory);
        Ok(Self {
            directory: directory.into(),
            failed: failed.as_deref() == Some(&unit),
            steps,
        })
    }

    /// Finds a place: a number of instructions, the start of a step, or `failure`. Of a step that
    /// was done several times, it is the last start. The error is a message for the user.
    pub fn find(&self, event: &str) -> Result<Mark, String> {
        let mark = |name: &str, instructions| Mark {
            name: name.into(),
            instructions,
        };
        if let Ok(count) = event.parse() {
            return Ok(mark(event, count));
        }
        let mut backwards = self.steps.iter().rev();
        let found = match event {
            "failure" if !self.failed => return Err("no unit of the recording failed".into()),
            "failure" => backwards.find(|it| it.complete),
            _ => backwards.find(|it| !it.complete && it.name == event),
        };
        let Some(step) = found else {
            let mut names: Vec<_> = self.steps.iter().map(|it| it.name.as_str()).collect();
            names.dedup();
            return Err(format!(
                "the recording has no step `{event}`; it has {}",
                names.join(", ")
            ));
        };
        let name = format!("{} of {}", event, step.unit);
        Ok(mark(&name, step.instructions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = r#"{"id":1,"time":"t","ms":0,"event":"machine-started","guest":1}
{"id":2,"time":"t","ms":0,"guest":1,"event":"recorded","directory":"machine-1/recording"}
{"id":3,"time":"t","ms":0,"guest":1,"unit":"a/x","event":"counted","step":"restart","complete":false,"instructions":5}
{"id":4,"time":"t","ms":0,"guest":1,"unit":"a/x","event":"counted","step":"restart","complete":true,"instructions":9}
{"id":5,"time":"t","ms":0,"guest":1,"unit":"a/y","event":"counted","step":"restart","complete":false,"instructions":11}
{"id":6,"time":"t","ms":0,"guest":1,"unit":"a/y","event":"counted","step":"finish","complete":true,"instructions":17}
"#;

    const FAILED: &str = r#"{"id":7,"time":"t","ms":0,"guest":1,"unit":"a/x","event":"unit-finished","condition":"diverged","blame":"kernel","verdict":"diverged","why":"","unit_ms":1}
"#;

    #[test]
    fn the_unit_that_failed_is_replayed() {
        let recorded = Recorded::parse(&format!("{EVENTS}{FAILED}"), None).unwrap();
        assert_eq!(recorded.directory, Path::new("machine-1/recording"));
        let count = |event| recorded.find(event).map(|mark| mark.instructions);
        assert_eq!(count("restart"), Ok(5));
        assert_eq!(count("failure"), Ok(9));
        assert_eq!(count("1234"), Ok(1234));
        assert!(count("finish").unwrap_err().contains("it has restart"));
    }

    #[test]
    fn another_control_in_another_machine_is_not_what_failed() {
        let again = EVENTS
            .replace("machine-1", "machine-2")
            .replace("restart", "control");
        let recorded = Recorded::parse(&format!("{EVENTS}{again}{FAILED}"), None).unwrap();
        assert_eq!(recorded.directory, Path::new("machine-1/recording"));
        assert_eq!(recorded.find("failure").unwrap().instructions, 9);
    }

    #[test]
    fn without_a_failure_it_is_the_last_unit() {
        let recorded = Recorded::parse(EVENTS, None).unwrap();
        let count = |event| recorded.find(event).map(|mark| mark.instructions);
        assert_eq!(count("restart"), Ok(11));
        assert!(count("failure").is_err());
    }

    #[test]
    fn a_run_without_a_recording_says_how_to_make_one() {
        let error = Recorded::parse("", None).unwrap_err();
        assert!(error.contains("--record"), "{error}");
        assert!(Recorded::parse(EVENTS, Some("machine-7/recording")).is_err());
    }
}
