// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest is recorded, and replayed instruction by instruction.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::cli;
use serde_json::Value;
use tempfile::TempDir;

/// Returns a scenario with one case, which diverges. It is derived from one whose other cases fail
/// in different ways.
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

/// Replays a run; returns the result.
fn replay(run: &Path, more: &[&str]) -> Value {
    let run = run.to_str().expect("UTF-8");
    let ended = cli::run(&[&["-q", "replay", run, "--json"], more].concat());
    assert_eq!(ended.code(), Some(0), "{}{}", ended.stdout, ended.stderr);
    ended.record()
}

/// Returns the sections of gdb's output, by the line that begins them.
fn section<'a>(output: &'a str, name: &str) -> &'a str {
    let (_, rest) = output.split_once(&format!("== {name}\n")).expect(output);
    rest.split("== ").next().unwrap_or_default()
}

/// Returns the number of instructions that a section shows.
fn count(section: &str) -> u64 {
    let (_, number) = section
        .split_once("instruction count = ")
        .expect("a number of instructions");
    let number = number.split_whitespace().next();
    number.and_then(|it| it.parse().ok()).expect(section)
}

/// Returns the registers that a section shows.
fn registers(section: &str) -> Vec<&str> {
    let found: Vec<_> = section
        .lines()
        .skip_while(|line| !line.starts_with("rax "))
        .collect();
    assert!(found.len() > 20, "{section}");
    found
}

/// Runs a gdb session that goes back in the replay of a run, and forward again to its end.
fn goes_back(run: &Path) {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("gdb");
    let run = run.to_str().expect("UTF-8");
    let socket = socket.to_str().expect("UTF-8");
    let mut replay = cli::start(&[
        "-q", "replay", run, "--until", "restart", "--json", "--gdb", socket,
    ]);
    // The printed command, and commands that a person would type.
    let printed = replay.wait_message("the replay waits for: ");
    assert!(printed.ends_with("/back.py"), "{printed}");
    let look = "-ex 'monitor info replay' -ex 'info registers'";
    let mut session = format!("timeout 600 {printed} -nx -batch -ex 'hbreak go_to_site'");
    for (name, command) in [
        ("first", "continue"),
        ("second", "continue"),
        ("back", "reverse-continue"),
        ("before", "reverse-stepi"),
        ("again", "stepi"),
        ("three", "rsi 3"),
        ("none", "rc"),
        ("forth", "continue"),
    ] {
        session += &format!(" -ex 'echo == {name}\\n' -ex {command:?} {look}");
    }
    // gdb prints the output of QEMU's monitor to standard error.
    session += " -ex delete -ex 'echo == end\\n' -ex continue 2>&1";
    let output = Command::new("sh")
        .args(["-c", &session])
        .stdin(Stdio::null())
        .output()
        .expect("gdb");
    let text = String::from_utf8_lossy(&output.stdout);
    let part = |name| section(&text, name);
    let (first, second) = (part("first"), part("second"));
    assert!(first.contains("Breakpoint 1, "), "{text}");
    assert!(count(first) < count(second), "{text}");
    let back = part("back");
    assert!(back.starts_with("Breakpoint 1, instruction "), "{text}");
    assert!(back.contains("in go_to_site ()"), "{text}");
    assert_eq!(count(back), count(first), "{text}");
    assert_eq!(registers(back), registers(first), "{text}");
    assert_eq!(count(part("before")), count(first) - 1, "{text}");
    assert_ne!(registers(part("before")), registers(first), "{text}");
    assert_eq!(count(part("again")), count(first), "{text}");
    assert_eq!(registers(part("again")), registers(first), "{text}");
    assert_eq!(count(part("three")), count(first) - 3, "{text}");
    // There is no earlier restarted task.
    assert!(part("none").contains("no breakpoint is hit"), "{text}");
    assert_eq!(count(part("none")), count(first) - 3, "{text}");
    assert_eq!(registers(part("forth")), registers(first), "{text}");

    let ended = replay.end();
    assert_eq!(ended.code(), Some(0), "{}{text}", ended.stderr);
    let seen = ended.record();
    assert_eq!(seen["complete"], true, "{seen:#}{text}");
    assert_eq!(seen["channel_bytes"], seen["recorded_bytes"], "{seen:#}");
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
    // The instruction, all registers, and the bytes that the guest had written.
    assert_eq!(first, second);

    goes_back(&run);

    // A second replay goes back, too.
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

    // A different emulator is refused, too.
    let description = run.join("machine-1/recording/recording.json");
    let text = fs::read_to_string(&description).expect("a description");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    value["qemu"]["sha256"] = "0".into();
    fs::write(&description, value.to_string()).expect("a description");
    let ended = cli::run(&["-q", "replay", path]);
    assert!(
        ended.stderr.contains("has changed since the recording"),
        "{}",
        ended.stderr
    );
}
