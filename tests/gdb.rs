// SPDX-License-Identifier: Apache-2.0 OR MIT
//! gdb and a guest of QEMU's. `kvm.rs` debugs a guest of our own VMM.

mod common;
mod debugger;

use std::fs::{self, File};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use common::{LONG, cli};
use serde_json::Value;

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

#[test]
fn gdb_stops_in_the_vfork_glue_and_the_scenario_passes() {
    // This also installs gdb.
    common::fixture();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let socket = path("gdb").to_string_lossy().into_owned();
    let (mut command, _results) = cli::command(&["-q", "scenario", debugger::SCENARIO, "--json"]);
    let mut child = Killed(
        command
            .args(["--machine", "qemu", "--gdb", &socket])
            .stdout(File::create(path("record")).unwrap())
            .stderr(File::create(path("stderr")).unwrap())
            .spawn()
            .expect("the crucible binary to run"),
    );
    let read = |name: &str| fs::read_to_string(path(name)).unwrap();
    let began = Instant::now();
    let kernel = loop {
        // The printed command must be the one to use.
        let stderr = read("stderr");
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
    let mut arguments = debugger::arguments(&socket);
    arguments.push(kernel);
    let output = gdb(&arguments);
    let stdout = String::from_utf8_lossy(&output.stdout);
    debugger::check(&stdout);
    let status = child.0.wait().unwrap();
    assert!(status.success(), "{status}: {}", read("stderr"));
    let record: Value = serde_json::from_str(&read("record")).unwrap();
    assert_eq!(record["verdict"], "pass", "{record:#}");
}
