// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files of the history: merging, killed writers, retention.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crucible_history::{
    Bisection, Error, Merged, Metric, Night, Planned, ResultRow, Shard, Skipped, Store, TestId,
};

const NIGHT: &str = "2026-01-01";

fn test_id(number: u32) -> TestId {
    TestId {
        name: format!("scenario s{number}/main"),
        variant: "crucible/base/qemu".into(),
    }
}

fn night(id: &str, shards: u32) -> Night {
    Night {
        id: id.into(),
        plan: "plan".into(),
        shards,
    }
}

fn result(night: &str, number: u32, attempt: u32) -> ResultRow {
    let bad = number % 7 == 3;
    ResultRow {
        night: night.into(),
        test: test_id(number),
        attempt,
        time: format!("{night}T00:00:{:02}Z", attempt % 60),
        ms: u64::from(number),
        condition: if bad { "diverged" } else { "passed" }.into(),
        verdict: if bad { "diverged" } else { "pass" }.into(),
        blame: if bad { "kernel" } else { "" }.into(),
        signature: if bad { "diverged: stdout" } else { "" }.into(),
        why: "w".into(),
        kernel: "k".into(),
        harness: String::new(),
        directory: String::new(),
        metrics: vec![
            Metric {
                name: "restart".into(),
                value: 2.5,
                unit: "ms".into(),
            },
            Metric {
                name: "checkpoint".into(),
                value: f64::from(number),
                unit: "ms".into(),
            },
        ],
    }
}

fn plan(tests: u32, shards: u32) -> Vec<Planned> {
    let tests = (0..tests).map(|number| Planned {
        test: test_id(number),
        shard: number % shards + 1,
    });
    tests.collect()
}

/// Makes the file of a shard with its results.
fn shard(directory: &Path, number: u32, of: u32, tests: u32) -> PathBuf {
    let path = directory.join(format!("shard-{number}.sqlite"));
    let mut store = Store::open(&path).unwrap();
    store.plan(&night(NIGHT, of), &plan(tests, of)).unwrap();
    let mut process = Shard {
        night: NIGHT.into(),
        number,
        process: format!("p{number}"),
        started: "2026-01-01T00:00:00Z".into(),
        finished: None,
        provenance: "{}".into(),
    };
    store.shard(&process).unwrap();
    for test in (0..tests).filter(|test| test % of + 1 == number) {
        store.add(&result(NIGHT, test, 1)).unwrap();
    }
    let skipped = Skipped {
        test: test_id(number),
        reason: "no KVM".into(),
    };
    store.skip(NIGHT, &skipped).unwrap();
    let bisection = Bisection {
        night: NIGHT.into(),
        signature: "diverged: stdout".into(),
        test: test_id(number),
        good: "1".into(),
        bad: "2".into(),
        answer: "it is 2".into(),
        directory: "nights".into(),
    };
    store.bisected(&bisection).unwrap();
    assert!(store.bisections().unwrap().contains(&bisection));
    process.finished = Some("2026-01-01T01:00:00Z".into());
    store.shard(&process).unwrap();
    path
}

/// Returns the content of a store in a form that can be compared.
fn content(store: &Store) -> String {
    let mut text = String::new();
    for night in store.nights().unwrap() {
        let shards = store.shards(&night.id).unwrap();
        let planned = store.planned(&night.id).unwrap();
        let skipped = store.skipped(&night.id).unwrap();
        text += &format!("{:?}\n", store.bisections().unwrap());
        text += &format!("{night:?}\n{shards:?}\n{planned:?}\n{skipped:?}\n");
    }
    text + &format!("{:?}", store.results(None).unwrap())
}

#[test]
fn what_is_added_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = shard(directory.path(), 1, 1, 10);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.nights().unwrap(), [night(NIGHT, 1)]);
    let results = store.results(Some(NIGHT)).unwrap();
    assert_eq!(results.len(), 10);
    let mut expected = result(NIGHT, 3, 1);
    expected.metrics.reverse();
    assert_eq!(results[3], expected);
    assert!(results[3].is_failure() && results[3].counts());
    assert_eq!(store.results(Some("2025-01-01")).unwrap(), []);
    let shards = store.shards(NIGHT).unwrap();
    assert_eq!(shards[0].finished.as_deref(), Some("2026-01-01T01:00:00Z"));
}

#[test]
fn shards_are_merged_in_any_order_and_more_than_once() {
    let directory = tempfile::tempdir().unwrap();
    let shards: Vec<_> = (1..=3)
        .map(|number| shard(directory.path(), number, 3, 50))
        .collect();
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    let mut seen = Vec::new();
    for (number, order) in orders.iter().enumerate() {
        let path = directory.path().join(format!("merged-{number}.sqlite"));
        let mut store = Store::open(&path).unwrap();
        for &shard in order {
            store.merge(&shards[shard]).unwrap();
        }
        let once = content(&store);
        for shard in &shards {
            let merged = store.merge(shard).unwrap();
            assert_eq!(merged.added, 0);
            assert!(merged.known > 0);
        }
        assert_eq!(content(&store), once);
        seen.push(once);
    }
    assert!(seen.iter().all(|one| *one == seen[0]));
    // The merged results equal those of a night without shards.
    let whole = shard_of_one(directory.path());
    let merged = Store::open(&directory.path().join("merged-0.sqlite")).unwrap();
    let results = |store: &Store| store.results(Some(NIGHT)).unwrap();
    assert_eq!(results(&merged), results(&whole));
}

fn shard_of_one(directory: &Path) -> Store {
    let own = directory.join("whole");
    std::fs::create_dir(&own).unwrap();
    Store::open(&shard(&own, 1, 1, 50)).unwrap()
}

#[test]
fn a_process_that_has_finished_stays_so() {
    let directory = tempfile::tempdir().unwrap();
    let early = shard(directory.path(), 1, 1, 3);
    let copy = directory.path().join("copy.sqlite");
    std::fs::copy(&early, &copy).unwrap();
    let unfinished = Shard {
        finished: None,
        ..Store::open(&early).unwrap().shards(NIGHT).unwrap()[0].clone()
    };
    let store = Store::open(&copy).unwrap();
    store.shard(&unfinished).unwrap();
    assert!(store.shards(NIGHT).unwrap()[0].finished.is_some());
}

#[test]
fn shards_of_different_plans_are_not_mixed() {
    let directory = tempfile::tempdir().unwrap();
    let one = shard(directory.path(), 1, 2, 4);
    let path = directory.path().join("other.sqlite");
    let mut other = Store::open(&path).unwrap();
    let mut changed = night(NIGHT, 2);
    changed.plan = "another".into();
    other.plan(&changed, &plan(5, 2)).unwrap();
    let before = content(&other);
    let error = other.merge(&one).unwrap_err();
    assert!(matches!(error, Error::OtherPlan { .. }), "{error}");
    assert_eq!(content(&other), before);
    assert!(other.plan(&night(NIGHT, 2), &[]).is_err());
}

#[test]
fn old_nights_are_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&directory.path().join("h.sqlite")).unwrap();
    for day in 1..=9 {
        let id = format!("2026-01-{day:02}");
        store.plan(&night(&id, 1), &plan(4, 1)).unwrap();
        store.add(&result(&id, 1, 1)).unwrap();
    }
    assert_eq!(store.retain(4).unwrap(), 5);
    let nights: Vec<_> = store.nights().unwrap().into_iter().map(|n| n.id).collect();
    assert_eq!(
        nights,
        ["2026-01-06", "2026-01-07", "2026-01-08", "2026-01-09"]
    );
    assert_eq!(store.results(None).unwrap().len(), 4);
    assert_eq!(store.planned("2026-01-01").unwrap(), []);
    assert_eq!(store.retain(4).unwrap(), 0);
}

#[test]
fn what_is_no_history_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("h.sqlite");
    std::fs::write(&path, "x".repeat(4096)).unwrap();
    let error = Store::open(&path).err().expect("an error").to_string();
    assert!(error.contains("cannot use the history"), "{error}");
    let newer = directory.path().join("newer.sqlite");
    Store::open(&newer).unwrap();
    let connection = rusqlite::Connection::open(&newer).unwrap();
    connection
        .pragma_update(None, "user_version", 1000)
        .unwrap();
    let error = Store::open(&newer).err().expect("an error").to_string();
    assert!(error.contains("a newer crucible"), "{error}");
}

#[test]
fn a_hundred_thousand_results_are_merged_in_two_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large.sqlite");
    let mut large = Store::open(&path).unwrap();
    large.plan(&night(NIGHT, 1), &plan(1000, 1)).unwrap();
    let results: Vec<_> = (0..100_000)
        .map(|number| ResultRow {
            metrics: Vec::new(),
            ..result(NIGHT, number % 1000, number / 1000 + 1)
        })
        .collect();
    large.add_all(&results).unwrap();
    drop(large);
    let mut store = Store::open(&directory.path().join("h.sqlite")).unwrap();
    let began = Instant::now();
    let merged = store.merge(&path).unwrap();
    let took = began.elapsed();
    println!("merged in {} ms", took.as_millis());
    assert_eq!(
        merged,
        Merged {
            added: 100_000,
            known: 0
        }
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// The number of writers at a time.
const WRITERS: u32 = 4;

/// Runs in a separate process: adds results and reports each, until it is killed.
#[test]
fn writes_until_killed() {
    let Some(path) = std::env::var_os("CRUCIBLE_TEST_STORE") else {
        return;
    };
    let number: u32 = std::env::var("CRUCIBLE_TEST_NUMBER")
        .unwrap()
        .parse()
        .unwrap();
    let mut store = Store::open(Path::new(&path)).unwrap();
    for attempt in 1.. {
        store.add(&result(NIGHT, number, attempt)).unwrap();
        println!("\nadded {number} {attempt}");
        // A unit takes a while, so that other processes can write.
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn killed_and_concurrent_writers_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("h.sqlite");
    for round in 0..2 {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let writer = Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "writes_until_killed", "--nocapture"])
                    .env("CRUCIBLE_TEST_STORE", &path)
                    .env(
                        "CRUCIBLE_TEST_NUMBER",
                        (round * WRITERS + number).to_string(),
                    )
                    .stdout(Stdio::piped())
                    .spawn();
                writer.unwrap()
            })
            .collect();
        let mut said = Vec::new();
        for (mut writer, enough) in writers.into_iter().zip([2, 5, 10, 3]) {
            let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
            let parsed = |line: String| {
                let (number, attempt) = line.strip_prefix("added ")?.split_once(' ')?;
                Some((number.parse::<u32>().ok()?, attempt.parse::<u32>().ok()?))
            };
            let mut added = lines.by_ref().map_while(Result::ok).filter_map(parsed);
            said.extend(added.by_ref().take(enough));
            // Kill it during its next write, while the other processes write, too.
            writer.kill().unwrap();
            said.extend(added);
            writer.wait().unwrap();
        }
        assert!(said.len() >= 20, "{}", said.len());
        let store = Store::open(&path).unwrap();
        let kept = store.results(None).unwrap();
        for (number, attempt) in said {
            let wanted = test_id(number);
            assert!(
                kept.iter()
                    .any(|it| it.test == wanted && it.attempt == attempt),
                "{number} {attempt} is lost"
            );
        }
    }
}

/// Opens a file that does not exist, in several processes at once.
#[test]
fn a_file_is_made_by_several_at_the_same_time() {
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("h.sqlite");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let mut store = Store::open(path).unwrap();
                    store.add(&result(NIGHT, number, 1)).unwrap();
                });
            }
        });
        let store = Store::open(&path).unwrap();
        assert_eq!(store.results(None).unwrap().len(), 8);
    }
}
