// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `kill -9` of crucible at random moments: nothing stays running, the next command works, and no
//! finished unit is lost or run again. `CRUCIBLE_KILLS` sets the number of kills, and
//! `CRUCIBLE_SEED` their moments.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::cli;
use common::killing::{LEFT, PERIOD, Random, kill, number, start};
use serde_json::Value;

/// Returns the keys of the units that the journals of these results have.
fn journaled(results: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(results.join("journals"))
        .into_iter()
        .flatten()
        .flatten();
    let text: String = files
        .filter(|file| file.path().extension().is_some_and(|ext| ext == "jsonl"))
        .map(|file| fs::read_to_string(file.path()).unwrap_or_default())
        .collect();
    let findings = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    findings
        .filter_map(|finding| finding["key"].as_str().map(str::to_owned))
        .collect()
}

/// Returns the keys of the units that the newest run in these results has finished.
fn finished(results: &Path) -> BTreeSet<String> {
    let mut runs: Vec<PathBuf> = fs::read_dir(results)
        .expect("results")
        .flatten()
        .map(|entry| entry.path().join("events.jsonl"))
        .filter(|path| path.is_file())
        .collect();
    runs.sort_by_key(|path| fs::metadata(path).and_then(|m| m.modified()).ok());
    let text = runs.last().map(fs::read_to_string);
    let text = text.and_then(Result::ok).unwrap_or_default();
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events
        .filter(|event| event["event"] == "unit-finished")
        .filter_map(|event| event["unit"].as_str().map(str::to_owned))
        .collect()
}

/// Runs a command to its end. Returns its records of all units, without times.
fn table(args: &[&str], results: &Path) -> BTreeMap<String, Value> {
    let mut command = cli::program(args);
    command.arg("--json").env("CRUCIBLE_RESULTS", results);
    let output = command.output().expect("the crucible binary to run");
    assert_eq!(output.status.code(), Some(0));
    let record: Value = serde_json::from_slice(&output.stdout).expect("a record");
    let units = record["units"].as_array().expect("units").clone();
    let named = units.into_iter().map(|mut unit| {
        unit["ms"].take();
        // The number of a rule's uses depends on elapsed time, too.
        unit["image_rules"].take();
        (unit["key"].as_str().expect("a key").to_owned(), unit)
    });
    named.collect()
}

#[test]
fn a_killed_run_loses_no_finished_unit() {
    let kills = number("CRUCIBLE_KILLS", 8);
    let seed = number("CRUCIBLE_SEED", u64::from(std::process::id()) + 1);
    println!("CRUCIBLE_KILLS={kills} CRUCIBLE_SEED={seed}");
    let mut random = Random::new(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let results = directory.path();
    let matrix = ["-q", "matrix", "ptrace", "--every", "50", "--jobs", "2"];
    let sweep = [
        "-q", "sweep", "hello", "--event", "syscall", "--limit", "40",
    ];
    let resume = |args: &[&'static str]| [args, &["--resume"]].concat();
    let mut known = BTreeSet::new();
    for number in 0..kills {
        let args: &[&str] = if number % 4 == 3 { &sweep } else { &matrix };
        // Before the first unit ends, --resume finds no journal.
        let prefix = if number % 4 == 3 { "main/" } else { "" };
        let begun = known
            .iter()
            .any(|key: &String| key.starts_with("main/") != prefix.is_empty());
        let args = if begun { resume(args) } else { args.to_vec() };
        let after = Duration::from_millis(random.below(12_000));
        kill(start(&args, results, None), after);
        let again: Vec<_> = finished(results).intersection(&known).cloned().collect();
        assert!(!begun || again.is_empty(), "run again: {again:?}");
        let now = journaled(results);
        let lost: Vec<_> = known.difference(&now).collect();
        assert!(!begun || lost.is_empty(), "lost: {lost:?}");
        known.extend(now);
    }
    // The next command runs the remaining units.
    let begun = known.iter().any(|key| !key.starts_with("main/"));
    let args = if begun {
        resume(&matrix)
    } else {
        matrix.to_vec()
    };
    let killed = table(&args, results);
    let other = tempfile::tempdir().expect("a directory");
    assert_eq!(killed, table(&matrix, other.path()));
    let disks = walkdir::WalkDir::new(results).into_iter().flatten();
    let disks = disks
        .filter(|entry| entry.file_name() == "scratch.ext4")
        .count();
    let partial = fs::read_dir(results).expect("results").flatten();
    let partial = partial.filter(|e| e.file_name().to_string_lossy().starts_with(".partial"));
    assert_eq!((disks, partial.count()), (0, 0));
}

#[test]
fn a_killed_build_is_done_by_the_next_command() {
    let kills = number("CRUCIBLE_KILLS", 8) / 4;
    let seed = number("CRUCIBLE_SEED", u64::from(std::process::id()) + 1);
    println!("CRUCIBLE_KILLS={kills} CRUCIBLE_SEED={seed}");
    let mut random = Random::new(seed);
    let fixture = common::fixture();
    // On the cache's file system, so that its files can be linked.
    let place = fixture.cache.root().parent().expect("a parent");
    let directory = tempfile::tempdir_in(place).expect("a directory");
    let cache = directory.path().join("cache");
    let copied = Command::new("cp")
        .arg("-al")
        .arg(fixture.cache.root())
        .arg(&cache)
        .status()
        .expect("cp");
    assert!(copied.success());
    let results = directory.path().join("results");
    let build = ["-q", "rootfs", "build"];
    // A compilation from nothing takes long enough to be interrupted.
    let _ = fs::remove_dir_all(cache.join("cargo"));
    for _ in 0..kills {
        let _ = fs::remove_dir_all(cache.join("agent"));
        let after = Duration::from_millis(random.below(8_000));
        kill(start(&build, &results, Some(&cache)), after);
    }
    // A command that receives SIGTERM ends in an orderly way, with all its child processes.
    let _ = fs::remove_dir_all(cache.join("agent"));
    let _ = fs::remove_dir_all(cache.join("cargo"));
    let mut asked = start(&build, &results, Some(&cache));
    let began = Instant::now();
    while !cli::group(asked.id()).iter().any(|name| name == "cargo") {
        assert!(began.elapsed() < common::LONG, "cargo does not start");
        thread::sleep(PERIOD);
    }
    common::cli::send("-TERM", asked.id() as i32);
    let asked_at = Instant::now();
    assert_eq!(asked.wait().expect("an end").code(), Some(130));
    assert!(asked_at.elapsed() < LEFT);
    while !cli::group(asked.id()).is_empty() {
        assert!(asked_at.elapsed() < LEFT, "still running");
        thread::sleep(PERIOD);
    }
    let status = start(&build, &results, Some(&cache))
        .wait()
        .expect("an end");
    assert_eq!(status.code(), Some(0));
    let hello = ["-q", "scenario", "hello"];
    let status = start(&hello, &results, Some(&cache))
        .wait()
        .expect("an end");
    assert_eq!(status.code(), Some(0));
}
