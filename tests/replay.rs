// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest is recorded, and replayed instruction by instruction.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::cli;
use serde_json::Value;
use tempfile::TempDir;

/// A scenario with one case that diverges, made of one whose other cases fail in other ways.
fn diverging() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let to = directory.path().join("tells");
    fs::create_dir(&to).expect("a directory");
    let shared = directory.path().join("shared");
    fs::create_dir(&shared).expect("a directory");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/notices");
    for entry in fs::read_dir(&from).expect("a scenario").flatten() {
        let name = entry.file_name();
        if name != "scenario.toml" {
            fs::copy(entry.path(), to.join(name)).expect("a copy");
        }
    }
    fs::copy(
        from.join("../shared/restarted.h"),
        shared.join("restarted.h"),
    )
    .expect("a copy");
    let text = fs::read_to_string(from.join("scenario.toml")).expect("a scenario");
    let (head, _) = text.split_once("[[case]]").expect("a case");
    let case = "[[case]]\nname = \"tells\"\nargv = [\"./notices\", \"tell\"]\n";
    fs::write(to.join("scenario.toml"), format!("{head}{case}")).expect("a scenario");
    (directory, to)
}

/// Replays a run; returns what was seen.
fn replay(run: &Path, more: &[&str]) -> Value {
    let run = run.to_str().expect("UTF-8");
    let ended = cli::run(&[&["-q", "replay", run, "--json"], more].concat());
    assert_eq!(ended.code(), Some(0), "{}{}", ended.stdout, ended.stderr);
    ended.record()
}

#[test]
fn a_divergence_is_replayed_at_the_same_instruction() {
    common::fixture();
    let (_directory, scenario) = diverging();
    let path = scenario.to_str().expect("UTF-8");
    let ended = cli::run(&["-q", "scenario", path, "--record", "--json"]);
    assert_eq!(ended.code(), Some(1), "{}{}", ended.stdout, ended.stderr);
    let record = ended.record();
    assert_eq!(record["units"][0]["condition"], "diverged", "{record:#}");
    assert_eq!(record["recordings"][0], "machine-1/recording");
    let run = PathBuf::from(record["results"].as_str().expect("a path"));

    let [first, second] = [(); 2].map(|()| replay(&run, &[]));
    let bytes = &first["channel_bytes"];
    assert!(bytes.as_u64() > Some(10_000), "{first:#}");
    assert_eq!(first["complete"], true, "{first:#}");
    assert_eq!(bytes, &first["recorded_bytes"]);
    assert!(first["stop"]["instructions"].as_u64() > Some(100_000_000));
    // The instruction, all registers, and what the guest had said by then.
    assert_eq!(first, second);

    // It goes back by another replay.
    let before = replay(&run, &["--until", "restart"]);
    assert!(before["stop"]["instructions"].as_u64() < first["stop"]["instructions"].as_u64());
    assert_eq!(before["complete"], false);

    // A byte that the guest does not write again is found.
    let channel = run.join("machine-1/recording/channel.out");
    fs::write(&channel, vec![0; 20_000]).expect("another channel");
    let path = run.to_str().expect("UTF-8");
    let ended = cli::run(&["-q", "replay", path, "--until", "restart", "--json"]);
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    assert!(ended.record()["differs_at"].is_u64());

    // Nor is another emulator taken for the recorded one.
    let description = run.join("machine-1/recording/recording.json");
    let text = fs::read_to_string(&description).expect("a description");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    value["qemu"]["sha256"] = "0".into();
    fs::write(&description, value.to_string()).expect("a description");
    let ended = cli::run(&["-q", "replay", path]);
    assert!(
        ended.stderr.contains("is not the one that was recorded"),
        "{}",
        ended.stderr
    );
}
