// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Removes old runs from `results/`: of each command, the newest are kept.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::OFlags;
use serde::Deserialize;

use super::{KEPT, is_run};
use crate::stream;

/// Number of directories of each kind that pruning keeps.
const KEEP: usize = 20;

/// Name of the record in a run's directory.
const RECORD: &str = "record.json";

/// Maximum length of the first event, in bytes, which has the words of a command line.
const LONGEST_EVENT: u64 = 1 << 20;

/// Keeps a complete run from being pruned until the result is dropped, for a command that reads its
/// files for a long time.
///
/// # Errors
/// The directory cannot be read, or was just removed.
pub fn hold(run: &Path) -> io::Result<File> {
    let directory = File::open(run)?;
    directory.lock_shared()?;
    // It may have been removed before it was locked.
    fs::metadata(run)?;
    Ok(directory)
}

/// Removes the oldest runs of each kind, but neither the run that was just completed, whatever the
/// clock shows, nor one that is [held](hold).
pub(super) fn prune(root: &Path, own: &Path) -> io::Result<()> {
    let mut kinds: BTreeMap<String, Vec<(SystemTime, PathBuf)>> = BTreeMap::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        let is_run = entry.file_type()?.is_dir() && is_run(&name.to_string_lossy());
        if is_run && !path.join(KEPT).exists() && path != own {
            let runs = kinds.entry(kind(&path)).or_default();
            runs.push((time(&path), path));
        }
    }
    let own_kind = kind(own);
    for (kind, mut runs) in kinds {
        // Runs that end in the same moment are in the order of their names.
        runs.sort();
        let mut keep = KEEP;
        if kind == own_kind {
            keep -= 1;
            if let Some((newest, _)) = runs.last() {
                stay_newest(own, *newest)?;
            }
        }
        let old = runs.len().saturating_sub(keep);
        for (_, path) in &runs[..old] {
            remove(path)?;
        }
    }
    Ok(())
}

/// Removes a run unless it is held.
fn remove(run: &Path) -> io::Result<()> {
    let gone = |error: io::Error| match error.kind() {
        // Another process prunes, too.
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    };
    let directory = match File::open(run) {
        Ok(directory) => directory,
        Err(error) => return gone(error),
    };
    match directory.try_lock() {
        Ok(()) => fs::remove_dir_all(run).or_else(gone),
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The part of a run's first event that names its command.
#[derive(Deserialize)]
struct FirstEvent {
    command: String,
}

/// Returns the kind of a run: the command of its first event, or else the first word of the
/// directory's name after the time.
fn kind(run: &Path) -> String {
    // The files may be those of a guest: do not follow links, and do not block on a FIFO.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let events = File::options()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(run.join(stream::FILE_NAME));
    let first = events.and_then(|events| {
        let mut line = String::new();
        BufReader::new(events.take(LONGEST_EVENT)).read_line(&mut line)?;
        Ok(line)
    });
    let first = first.ok().and_then(|line| serde_json::from_str(&line).ok());
    if let Some(FirstEvent { command }) = first {
        return command;
    }
    let name = run.file_name().unwrap_or_default().to_string_lossy();
    let what = name.splitn(3, '-').nth(2).unwrap_or_default();
    what.split('-').next().unwrap_or_default().to_owned()
}

/// Returns the file whose time of modification is that of the run: its record, its events if it was
/// killed, or its directory.
fn dated(run: &Path) -> PathBuf {
    let files = [RECORD, stream::FILE_NAME].map(|name| run.join(name));
    let exists = |path: &PathBuf| fs::symlink_metadata(path).is_ok();
    files
        .into_iter()
        .find(exists)
        .unwrap_or_else(|| run.to_owned())
}

/// Returns the time at which a run ended. A directory that was just removed is the oldest.
fn time(run: &Path) -> SystemTime {
    let modified = fs::symlink_metadata(dated(run)).and_then(|file| file.modified());
    modified.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Dates a run that was just completed after one that ended at `newest`: the clock may have been
/// set back since.
fn stay_newest(own: &Path, newest: SystemTime) -> io::Result<()> {
    if time(own) > newest {
        return Ok(());
    }
    File::open(dated(own))?.set_modified(newest + Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::{super::Store, *};

    /// Creates a run with a first event and a record of this time, in seconds.
    fn run(root: &Path, name: &str, command: &str, time: u64) -> PathBuf {
        let path = root.join(name);
        fs::create_dir(&path).unwrap();
        let event = format!(r#"{{"id":1,"event":"run-started","command":"{command}"}}"#);
        fs::write(path.join(stream::FILE_NAME), event + "\n{}\n").unwrap();
        let record = File::create(path.join(RECORD)).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
        record.set_modified(time).unwrap();
        path
    }

    fn count(root: &Path) -> usize {
        fs::read_dir(root).unwrap().count()
    }

    #[test]
    fn old_ones_go_and_kept_ones_stay() {
        let root = tempfile::tempdir().unwrap();
        for n in 0..KEEP + 5 {
            fs::create_dir(root.path().join(format!("20200101-0000{n:02}-x"))).unwrap();
        }
        fs::write(root.path().join("20200101-000000-x/keep"), "").unwrap();
        fs::create_dir(root.path().join("2026-notes")).unwrap();
        // The clock was set back: the newest run has the oldest name.
        let own = root.path().join("20190101-000000-x");
        fs::create_dir(&own).unwrap();
        prune(root.path(), &own).unwrap();
        assert!(own.exists());
        assert_eq!(count(root.path()), KEEP + 2);
        assert!(root.path().join("20200101-000000-x").exists());
        assert!(!root.path().join("20200101-000001-x").exists());
    }

    #[test]
    fn runs_of_other_kinds_do_not_displace_a_run() {
        let root = tempfile::tempdir().unwrap();
        let name = |n: usize, what: &str| format!("20200101-0000{n:02}-{what}");
        let night = run(root.path(), &name(0, "nightly"), "nightly", 1);
        let sweep = run(root.path(), &name(1, "sweep-a-b"), "sweep", 2);
        for n in 2..KEEP + 5 {
            // The names of scenarios are in the names of their runs.
            let what = ["hello", "sweep", "nightly"][n % 3];
            run(root.path(), &name(n, what), "scenario", 10 + n as u64);
        }
        let own = run(root.path(), &name(59, "hello"), "scenario", 100);
        prune(root.path(), &own).unwrap();
        assert!(night.exists() && sweep.exists() && own.exists());
        assert_eq!(count(root.path()), KEEP + 2);
        assert!(!root.path().join(name(4, "sweep")).exists());
        assert!(root.path().join(name(6, "hello")).exists());
    }

    #[test]
    fn the_kind_of_a_run_without_events_is_in_its_name() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        assert_eq!(kind(&path("20200101-000000-matrix-logs-1")), "matrix");
        let torn = path("20200101-000000-hello");
        fs::write(torn.join(stream::FILE_NAME), "{\"id\":1,\"comm").unwrap();
        assert_eq!(kind(&torn), "hello");
        let link = path("20200101-000000-link");
        let target = run(root.path(), "20200101-000001-x", "sweep", 1);
        std::os::unix::fs::symlink(target.join(stream::FILE_NAME), link.join(stream::FILE_NAME))
            .unwrap();
        assert_eq!(kind(&link), "link");
    }

    #[test]
    fn the_time_of_the_record_decides_not_the_name() {
        let root = tempfile::tempdir().unwrap();
        let all = KEEP as u64 + 3;
        for n in 0..all {
            let name = format!("20200101-0000{n:02}-hello");
            run(root.path(), &name, "scenario", 100 - n);
        }
        let own = run(root.path(), "20200101-000059-hello", "scenario", 200);
        prune(root.path(), &own).unwrap();
        assert_eq!(count(root.path()), KEEP);
        assert!(root.path().join("20200101-000000-hello").exists());
        let oldest = format!("20200101-0000{:02}-hello", all - 1);
        assert!(!root.path().join(oldest).exists());
    }

    #[test]
    fn after_the_clock_was_set_back_new_runs_are_newer_than_old_ones() {
        let root = tempfile::tempdir().unwrap();
        // In the year 2100.
        let future = 4_102_444_800;
        for n in 0..KEEP as u64 {
            let name = format!("21000101-0000{n:02}-hello");
            run(root.path(), &name, "scenario", future + n);
        }
        let finish = |number: u32| {
            let store = Store::begin(root.path(), &format!("hello-{number}")).unwrap();
            let event = r#"{"command":"scenario"}"#;
            store
                .write(Path::new(stream::FILE_NAME), event.as_bytes())
                .unwrap();
            store.write(Path::new(RECORD), b"{}").unwrap();
            store.finish(false).unwrap()
        };
        let runs: Vec<_> = (0..KEEP as u32).map(finish).collect();
        assert!(runs.iter().all(|run| run.exists()));
        assert_eq!(count(root.path()), KEEP);
        finish(100);
        assert!(!runs[0].exists() && runs[1].exists());
    }

    #[test]
    fn a_run_that_is_held_stays_until_it_is_not() {
        let root = tempfile::tempdir().unwrap();
        let path = |n: u64| {
            let name = format!("20200101-0000{n:02}-hello");
            run(root.path(), &name, "scenario", n)
        };
        let oldest = path(0);
        let held = hold(&oldest).unwrap();
        let others: Vec<_> = (1..=KEEP as u64).map(path).collect();
        let own = others.last().unwrap();
        prune(root.path(), own).unwrap();
        assert!(oldest.exists());
        // A process that another test is just creating has the file open, too, until its exec.
        held.unlock().unwrap();
        prune(root.path(), own).unwrap();
        assert!(!oldest.exists());
        assert!(others.iter().all(|run| run.exists()));
        assert!(hold(&oldest).is_err());
    }
}
