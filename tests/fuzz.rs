// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs the seeds of the fuzz targets in `fuzz/` as tests. The seeds are generated here: with
//! `CRUCIBLE_WRITE_SEEDS=1` these tests write them instead of comparing them.
//!
//! A fuzzer's finding is added as a file to the seeds, and runs as a test from then on.

#[path = "fuzz/targets.rs"]
mod targets;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crucible_engine::scenario::Scenario;
use crucible_protocol::image::samples;
use crucible_protocol::{Envelope, Reply, Request, VERSION, frame};
use targets::{TARGETS, script};

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn image_seeds() -> Seeds {
    vec![
        ("overflow", samples::overflow()),
        ("escape", samples::escape()),
        ("overflow-script", script(&samples::overflow())),
        ("escape-script", script(&samples::escape())),
        ("shared-script", script(&samples::shared(3, 40, 50))),
    ]
}

fn frame_seeds() -> Seeds {
    let hello = Envelope {
        id: 1,
        body: Request::Hello { version: VERSION },
    };
    let done = Envelope {
        id: 2,
        body: Reply::Done,
    };
    let mut both = Vec::new();
    frame::write(&mut both, &hello).unwrap();
    frame::write(&mut both, &done).unwrap();
    vec![
        ("hello-done", both),
        ("text", serde_json::to_vec(&hello).unwrap()),
        ("too-long", vec![0xff; 8]),
        ("cut", vec![9, 0, 0, 0, b'{']),
    ]
}

fn scenario_seeds() -> Seeds {
    let whole = r#"
summary = "a seed"
shared = ["workload.h"]
build = ["make -s"]
argv = ["./main"]
env = { A = "b" }
timeout = 30
nonce = "nonce"
normalise = ["unlinked-inodes"]
tasks = [{ comm = "main", site = "freezer" }]

[[case]]
name = "main"
at = "vfork:1"

[[case]]
name = "other"
argv = ["./other"]
at = "syscall:getpid:5"
"#;
    vec![
        ("whole", whole.into()),
        (
            "unknown-key",
            b"argvv = []\n[[case]]\nname = \"x\"\n".to_vec(),
        ),
        ("not-toml", b"[[case]\n\x1b[31m".to_vec()),
        ("nested", [b"a = ", "[".repeat(300).as_bytes()].concat()),
    ]
}

#[test]
fn the_seeds_match_the_generated_ones() {
    let all = [
        ("image", image_seeds()),
        ("frame", frame_seeds()),
        ("scenario", scenario_seeds()),
    ];
    for (target, seeds) in all {
        let directory = corpus().join(target);
        for (name, bytes) in seeds {
            let path = directory.join(name);
            if env::var_os("CRUCIBLE_WRITE_SEEDS").is_some() {
                fs::create_dir_all(&directory).unwrap();
                fs::write(&path, bytes).unwrap();
            } else {
                let there = fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
                assert_eq!(there, bytes, "{path:?} differs from the generated seed");
            }
        }
    }
}

#[test]
fn every_seed_of_every_target_passes() {
    for (target, play) in TARGETS {
        let mut seeds = 0;
        for entry in fs::read_dir(corpus().join(target)).unwrap() {
            let path = entry.unwrap().path();
            // Print the path first: a panic of the target does not mention it.
            println!("{}", path.display());
            play(&fs::read(&path).unwrap());
            seeds += 1;
        }
        assert!(seeds > 2, "{target} has no seeds");
    }
}

/// A seed that is refused immediately does not help a fuzzer.
#[test]
fn the_valid_scenario_among_the_seeds_is_accepted() {
    let place = tempfile::tempdir().unwrap();
    // The directory names the scenario.
    let directory = place.path().join("seed");
    fs::create_dir(&directory).unwrap();
    let (_, text) = &scenario_seeds()[0];
    fs::write(directory.join("scenario.toml"), text).unwrap();
    let scenario = Scenario::load(&directory).unwrap();
    assert_eq!(scenario.cases.len(), 2);
}
