// SPDX-License-Identifier: Apache-2.0 OR MIT
//! gdb and a guest in QEMU. `kvm.rs` debugs a guest in our own VMM.

mod common;
mod debugger;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Instant;

use common::{LONG, cli};
use serde_json::Value;
use tempfile::TempDir;

/// Kills the guest's process on drop: without a debugger it would wait forever.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // If the test passed, the process has already exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs gdb for at most ten minutes, which only bounds a hung test.
fn gdb(arguments: &[String]) -> Output {
    Command::new("timeout")
        .args(["600", "gdb"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("gdb")
}

/// A scenario whose guest waits for gdb.
struct Waiting {
    child: Killed,
    directory: TempDir,
    socket: String,
    /// The kernel that the printed command names.
    kernel: String,
    _results: TempDir,
}

impl Waiting {
    fn start(scenario: &str) -> Self {
        // This also installs gdb.
        common::fixture();
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let socket = path("gdb").to_string_lossy().into_owned();
        let (mut command, results) = cli::command(&["-q", "scenario", scenario, "--json"]);
        let mut child = Killed(
            command
                .args(["--machine", "qemu", "--gdb", &socket])
                .stdout(File::create(path("record")).unwrap())
                .stderr(File::create(path("stderr")).unwrap())
                .spawn()
                .expect("the crucible binary to run"),
        );
        let began = Instant::now();
        let kernel = loop {
            // The printed command must work.
            let stderr = fs::read_to_string(path("stderr")).unwrap();
            let line = stderr.split_once("the guest waits for: gdb -ex ");
            let target = format!("'target remote {socket}' ");
            if let Some((_, line)) = line
                && let Some((command, _)) = line.split_once('\n')
            {
                break command.strip_prefix(&target).expect(&stderr).to_owned();
            }
            let ended = child.0.try_wait().unwrap();
            assert!(ended.is_none() && began.elapsed() < 2 * LONG, "{stderr}");
            std::thread::sleep(LONG / 1000);
        };
        Self {
            child,
            directory,
            socket,
            kernel,
            _results: results,
        }
    }

    /// Waits for the end; returns the exit status and the record.
    fn end(mut self) -> (ExitStatus, Value) {
        let read = |name: &str| fs::read_to_string(self.directory.path().join(name)).unwrap();
        let status = self.child.0.wait().unwrap();
        let record = serde_json::from_str(&read("record"));
        (
            status,
            record.unwrap_or_else(|_| panic!("{}", read("stderr"))),
        )
    }
}

#[test]
fn gdb_stops_in_the_vfork_glue_and_the_scenario_passes() {
    let waiting = Waiting::start(debugger::SCENARIO);
    let mut arguments = debugger::arguments(&waiting.socket);
    arguments.push(waiting.kernel.clone());
    let output = gdb(&arguments);
    let stdout = String::from_utf8_lossy(&output.stdout);
    debugger::check(&stdout);
    let (status, record) = waiting.end();
    assert!(status.success(), "{status}: {record:#}");
    assert_eq!(record["verdict"], "pass", "{record:#}");
}

/// An oops in the restart, by an undefined instruction that gdb plants at the beginning of a
/// function, is the kernel's, and is shown with the function's line.
#[test]
fn an_oops_is_shown_with_its_place_in_the_source() {
    let waiting = Waiting::start("hello");
    let target = format!("target remote {}", waiting.socket);
    let mut arguments = vec!["-nx".to_owned(), "-batch".to_owned()];
    for request in [
        target.as_str(),
        "set var *(unsigned short *)go_to_site = 0x0b0f",
        "detach",
    ] {
        arguments.extend(["-ex".to_owned(), request.to_owned()]);
    }
    arguments.push(waiting.kernel.clone());
    let output = gdb(&arguments);
    assert!(output.status.success(), "{output:?}");
    let (status, record) = waiting.end();
    assert_eq!(status.code(), Some(1), "{record:#}");
    let unit = &record["units"][0];
    assert_eq!(unit["condition"], "kernel-report", "{record:#}");
    let source = &unit["source"][0];
    let place = source["place"]
        .as_str()
        .unwrap_or_else(|| panic!("{unit:#}"));
    assert!(place.starts_with("go_to_site+0x0/"), "{unit:#}");
    assert_eq!(
        source["file"], "kernel/checkpoint/restart_task.c",
        "{unit:#}"
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-kernel/src");
    let text = fs::read_to_string(path.join("kernel/checkpoint/restart_task.c")).unwrap();
    let line = source["line"].as_u64().expect("a number") as usize;
    // A function begins with its brace.
    let lines: Vec<_> = text
        .lines()
        .take(line)
        .skip(line.saturating_sub(3))
        .collect();
    let found = lines.iter().any(|line| line.contains("go_to_site("));
    assert!(found, "{lines:?}: {unit:#}");
    // Its callers are shown, too.
    assert!(unit["source"].as_array().is_some_and(|all| all.len() > 1));
}
