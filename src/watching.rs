// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads the progress of a night or a run from its files alone. It may still be running.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use crucible_engine::stream::{Body, Event, FILE_NAME};
use crucible_history::{ResultRow, Store};
use jiff::Timestamp;

use crate::screens::watch::{Part, Progress, State};

/// The subject of `crucible watch`.
pub enum Watched {
    /// The directory of a night, with the files of its shards.
    Night(PathBuf),
    /// The directory of a run, with its events.
    Run(PathBuf),
}

impl Watched {
    /// Finds a night by its name, or a run by its directory; the newest night if `wanted` is
    /// `None`.
    pub fn find(results: &Path, wanted: Option<&str>) -> Option<Self> {
        let nights = results.join("nights");
        let Some(wanted) = wanted else {
            let names = fs::read_dir(&nights).ok()?.flatten();
            let names = names.filter(|it| it.path().is_dir());
            let last = names.map(|it| it.file_name()).max()?;
            return Some(Self::Night(nights.join(last)));
        };
        if nights.join(wanted).is_dir() {
            return Some(Self::Night(nights.join(wanted)));
        }
        let partial = format!(".partial-{wanted}");
        let places = [
            PathBuf::from(wanted),
            results.join(wanted),
            results.join(partial),
        ];
        let run = places.into_iter().find(|it| it.join(FILE_NAME).is_file());
        run.map(Self::Run)
    }

    /// Reads how far it is.
    pub fn progress(&self, now: Timestamp) -> Result<Progress> {
        match self {
            Self::Night(directory) => of_night(directory, now),
            Self::Run(directory) => Ok(of_run(&read_events(directory)?)),
        }
    }
}

fn of_night(directory: &Path, now: Timestamp) -> Result<Progress> {
    let night = directory.file_name().unwrap_or_default().to_string_lossy();
    let mut progress = Progress::new(format!("night {night}"));
    let mut files: Vec<_> = fs::read_dir(directory)?.flatten().collect();
    files.sort_by_key(fs::DirEntry::file_name);
    let mut of = 0;
    let mut begun = BTreeSet::new();
    for file in files {
        let name = file.file_name().to_string_lossy().into_owned();
        let shard = name
            .strip_prefix("shard-")
            .and_then(|it| it.strip_suffix(".sqlite"));
        let Some((number, all)) = shard.and_then(|it| it.split_once("-of-")) else {
            continue;
        };
        let (Ok(number), Ok(all)) = (number.parse::<u32>(), all.parse::<u32>()) else {
            continue;
        };
        of = of.max(all);
        begun.insert(number);
        of_shard(
            &Store::open(&file.path())?,
            &night,
            number,
            now,
            &mut progress,
        )?;
    }
    // A shard may run on a different host, whose files are not here.
    for number in (1..=of).filter(|number| !begun.contains(number)) {
        progress.parts.push(Part {
            name: format!("shard {number}"),
            state: State::Waiting,
            ..Part::default()
        });
    }
    Ok(progress)
}

fn of_shard(
    store: &Store,
    night: &str,
    number: u32,
    now: Timestamp,
    progress: &mut Progress,
) -> Result<()> {
    let processes = store.shards(night)?;
    let Some(last) = processes.iter().rfind(|it| it.number == number) else {
        return Ok(());
    };
    let results = store.results(Some(night))?;
    let planned = store.planned(night)?;
    let left: BTreeSet<_> = planned
        .iter()
        .filter(|it| it.shard == number)
        .map(|it| &it.test)
        .collect();
    let units = left.len() as u64;
    let ran: BTreeSet<_> = results.iter().map(|it| &it.test).collect();
    let skipped = store.skipped(night)?;
    let over = |test: &_| ran.contains(test) || skipped.iter().any(|it| it.test == *test);
    let done = left.iter().filter(|test| over(**test)).count() as u64;
    let mut failed: BTreeSet<_> = BTreeSet::new();
    for run in results.iter().filter(|it| it.is_failure()) {
        if failed.insert(&run.test) {
            progress.failures.push(line(run));
        }
    }
    // The units of an earlier process of the shard do not count for the pace of this one.
    let this = results.iter().filter(|it| it.time >= last.started);
    let this: BTreeSet<_> = this
        .map(|it| &it.test)
        .filter(|it| left.contains(it))
        .collect();
    let elapsed = last
        .started
        .parse::<Timestamp>()
        .ok()
        .map(|began| now.duration_since(began));
    let elapsed = elapsed.map_or(0, |it| it.as_secs().unsigned_abs());
    let running = last.finished.is_none();
    let rest = (elapsed * units.saturating_sub(done)).checked_div(this.len() as u64);
    progress.parts.push(Part {
        name: format!("shard {number}"),
        state: if running {
            State::Running
        } else {
            State::Ended
        },
        units,
        done,
        failures: failed.len() as u64,
        seconds_left: rest.filter(|_| running),
    });
    Ok(())
}

fn line(run: &ResultRow) -> String {
    format!("{}: {}", run.test, run.signature)
}

/// Reads the events of a run, without an incomplete last line.
fn read_events(directory: &Path) -> io::Result<Vec<Event>> {
    let text = fs::read_to_string(directory.join(FILE_NAME)).or_else(|error| {
        // A run's directory is renamed when the run ends.
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        match name.strip_prefix(".partial-") {
            Some(name) => fs::read_to_string(directory.with_file_name(name).join(FILE_NAME)),
            None => Err(error),
        }
    })?;
    let lines = text.split_inclusive('\n').filter(|it| it.ends_with('\n'));
    lines
        .map(|it| serde_json::from_str(it).map_err(io::Error::from))
        .collect()
}

fn of_run(events: &[Event]) -> Progress {
    let mut progress = Progress::new("run".into());
    let mut part = Part {
        state: State::Running,
        ..Part::default()
    };
    let (mut here, mut ms) = (0, 0);
    for event in events {
        match &event.body {
            Body::RunStarted { command, .. } => part.name.clone_from(command),
            Body::Planned { units, resumed } => (part.units, part.done) = (*units, *resumed),
            Body::UnitFinished { outcome, .. } => {
                part.done += 1;
                (here, ms) = (here + 1, event.ms);
                if outcome.condition.is_bad() {
                    part.failures += 1;
                    let unit = event.unit.as_deref().unwrap_or_default();
                    let condition = outcome.condition.name();
                    let text = format!("{unit}: {condition}: {}", outcome.why);
                    progress.failures.push(text);
                }
            }
            Body::RunFinished { .. } => part.state = State::Ended,
            _ => {}
        }
    }
    let left = part.units.saturating_sub(part.done);
    let rest = (ms / 1000 * left).checked_div(here);
    part.seconds_left = rest.filter(|_| part.state == State::Running);
    progress.parts.push(part);
    progress
}

#[cfg(test)]
mod tests {
    use crucible_engine::Condition;
    use crucible_engine::outcome::Outcome;
    use crucible_engine::stream::{EventFile, Stream};
    use crucible_history::{Night, Planned, Shard, TestId};

    use super::*;

    fn test(name: &str) -> TestId {
        TestId {
            name: format!("scenario {name}/main"),
            variant: "crucible/base/qemu".into(),
        }
    }

    #[test]
    fn a_night_is_read_while_it_runs() {
        let results = tempfile::tempdir().unwrap();
        assert!(Watched::find(results.path(), None).is_none());
        let directory = results.path().join("nights/n1");
        fs::create_dir_all(&directory).unwrap();
        let mut store = Store::open(&directory.join("shard-1-of-2.sqlite")).unwrap();
        let planned = [("a", 1), ("b", 1), ("c", 1), ("d", 2)].map(|(name, shard)| Planned {
            test: test(name),
            shard,
        });
        let night = Night {
            id: "n1".into(),
            plan: "p".into(),
            shards: 2,
        };
        store.plan(&night, &planned).unwrap();
        let mut shard = Shard {
            night: "n1".into(),
            number: 1,
            process: "p".into(),
            started: "2026-01-01T00:00:00Z".into(),
            finished: None,
            provenance: "{}".into(),
        };
        store.shard(&shard).unwrap();
        let row = ResultRow {
            night: "n1".into(),
            test: test("a"),
            attempt: 1,
            time: "2026-01-01T00:00:30Z".into(),
            ms: 1,
            condition: "diverged".into(),
            verdict: "diverged".into(),
            blame: "kernel".into(),
            signature: "diverged at stdout".into(),
            why: "stdout".into(),
            kernel: String::new(),
            harness: String::new(),
            directory: String::new(),
            metrics: Vec::new(),
        };
        store.add(&row).unwrap();
        let watched = Watched::find(results.path(), None).unwrap();
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let progress = watched.progress(now).unwrap();
        let first = &progress.parts[0];
        assert_eq!((first.done, first.units, first.failures), (1, 3, 1));
        assert_eq!(first.seconds_left, Some(120));
        assert_eq!(progress.parts[1].state, State::Waiting);
        assert_eq!(
            progress.failures,
            ["scenario a/main [crucible/base/qemu]: diverged at stdout"]
        );
        assert!(!progress.is_over());
        shard.finished = Some("2026-01-01T00:02:00Z".into());
        store.shard(&shard).unwrap();
        assert_eq!(watched.progress(now).unwrap().parts[0].state, State::Ended);
    }

    #[test]
    fn a_run_is_read_while_it_runs() {
        let results = tempfile::tempdir().unwrap();
        let partial = results.path().join(".partial-x");
        fs::create_dir(&partial).unwrap();
        let stream = Stream::default();
        let (file, _error) = EventFile::create(&partial).unwrap();
        stream.add(Box::new(file));
        stream.tell(Body::Planned {
            units: 4,
            resumed: 1,
        });
        let body = |condition| Body::UnitFinished {
            outcome: Outcome::new(condition, "why"),
            unit_ms: 5,
        };
        stream.tell_of("a/main", body(Condition::Hang));
        stream.tell_of("b/main", body(Condition::Passed));
        let watched = Watched::find(results.path(), Some("x")).unwrap();
        let now = Timestamp::now();
        let progress = watched.progress(now).unwrap();
        let part = &progress.parts[0];
        assert_eq!((part.done, part.units, part.failures), (3, 4, 1));
        assert_eq!(progress.failures, ["a/main: hang: why"]);
        // The run ends, and its directory is renamed.
        fs::rename(&partial, results.path().join("x")).unwrap();
        assert_eq!(watched.progress(now).unwrap().parts[0].done, 3);
        assert!(Watched::find(results.path(), Some("y")).is_none());
    }
}
