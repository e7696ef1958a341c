// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs of the built binary, with results of their own.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Interval of checks of a running command.
const PERIOD: Duration = Duration::from_millis(50);

/// The built binary.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_crucible");

/// A command of crucible that runs, or has ended.
pub struct Run {
    child: Running,
    results: PathBuf,
    /// Keeps the directory of the results.
    _directory: Option<TempDir>,
}

/// The end of a command, with its output.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Directory of its results.
    pub results: PathBuf,
    _directory: Option<TempDir>,
}

/// Prepares a command that writes no results, without a terminal.
pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null());
    command
}

/// Prepares a command with results in a temporary directory.
pub fn command(args: &[&str]) -> (Command, TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = program(args);
    command.env("CRUCIBLE_RESULTS", directory.path());
    (command, directory)
}

/// A process that is killed with a test that fails.
struct Running(Option<Child>);

impl Running {
    fn get(&mut self) -> &mut Child {
        self.0.as_mut().expect("a child")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // Its child processes end with it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a command.
pub fn start(args: &[&str]) -> Run {
    let (command, directory) = command(args);
    let results = directory.path().to_owned();
    spawn(command, results, Some(directory))
}

/// Starts a prepared command whose results are in `results`, in a process group of its own: a
/// signal for its group must not reach the test.
pub fn spawn(mut command: Command, results: PathBuf, directory: Option<TempDir>) -> Run {
    command.process_group(0);
    begin(command, results, directory)
}

fn begin(mut command: Command, results: PathBuf, directory: Option<TempDir>) -> Run {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Run {
        child: Running(Some(command.spawn().expect("the crucible binary to run"))),
        results,
        _directory: directory,
    }
}

/// Runs a command to its end. Ctrl-C ends it with the test.
pub fn run(args: &[&str]) -> Ended {
    let (command, directory) = command(args);
    let results = directory.path().to_owned();
    begin(command, results, Some(directory)).end()
}

impl Run {
    /// Returns the process of the command.
    pub fn pid(&self) -> u32 {
        self.child.0.as_ref().expect("a child").id()
    }

    /// Waits until one of the command's events contains this text.
    pub fn wait_event(&mut self, text: &str) {
        let began = Instant::now();
        loop {
            if events(&self.results).contains(text) {
                return;
            }
            if let Some(status) = self.child.get().try_wait().expect("a child") {
                let mut stderr = String::new();
                if let Some(mut pipe) = self.child.get().stderr.take() {
                    let _ = pipe.read_to_string(&mut stderr);
                }
                panic!("it ended before {text}: {status}: {stderr}");
            }
            assert!(began.elapsed() < super::LONG * 4, "no event {text}");
            std::thread::sleep(PERIOD);
        }
    }

    /// Waits until the command prints a message with this text. Returns the text that follows it
    /// on its line.
    pub fn wait_message(&mut self, text: &str) -> String {
        let mut pipe = self.child.get().stderr.take().expect("a pipe");
        let mut all = Vec::new();
        let mut byte = [0];
        loop {
            let length = pipe.read(&mut byte).expect("standard error");
            let line = String::from_utf8_lossy(&all);
            assert_eq!(length, 1, "it ended before {text}: {line}");
            if byte != *b"\n" {
                all.extend(byte);
                continue;
            }
            if let Some((_, found)) = line.split_once(text) {
                let found = found.to_owned();
                self.child.get().stderr = Some(pipe);
                return found;
            }
            all.clear();
        }
    }

    /// Returns the process that runs the guest, once there is one.
    pub fn machine(&mut self) -> i32 {
        let began = Instant::now();
        loop {
            let found = children(self.pid()).into_iter().find(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                name.starts_with("qemu-system")
            });
            if let Some(pid) = found {
                return pid;
            }
            assert!(began.elapsed() < super::LONG, "no machine");
            std::thread::sleep(PERIOD);
        }
    }

    /// Sends a signal to the command alone.
    pub fn signal(&self, signal: &str) {
        send(signal, self.pid() as i32);
    }

    /// Waits for the end.
    pub fn end(mut self) -> Ended {
        let child = self.child.0.take().expect("a child");
        let output = child.wait_with_output().expect("a child");
        Ended {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            results: self.results,
            _directory: self._directory,
        }
    }
}

impl Ended {
    /// Parses standard output: a record, a report or a list.
    pub fn record(&self) -> Value {
        let mut records = self.records();
        assert_eq!(records.len(), 1, "{}\n{}", self.stdout, self.stderr);
        records.remove(0)
    }

    /// Parses the records on standard output, in order.
    pub fn records(&self) -> Vec<Value> {
        let records = serde_json::Deserializer::from_str(&self.stdout).into_iter();
        let records: Result<_, _> = records.collect();
        records
            .unwrap_or_else(|error| panic!("no record ({error}): {}\n{}", self.stdout, self.stderr))
    }

    /// Returns the exit code.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// Sends a signal to a process.
pub fn send(signal: &str, pid: i32) {
    let sent = Command::new("kill")
        .args([signal, "--", &pid.to_string()])
        .status()
        .expect("kill");
    assert!(sent.success(), "{signal} {pid}");
}

/// Returns the text of all events in these results.
pub fn events(results: &Path) -> String {
    let entries = fs::read_dir(results).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path().join("events.jsonl"));
    files
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect()
}

/// Returns the descendants of a process.
pub fn children(pid: u32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((head, tail)) = stat.rsplit_once(") ") else {
            continue;
        };
        let parent = tail
            .split(' ')
            .nth(1)
            .and_then(|field| field.parse::<u32>().ok());
        let own = head
            .split(' ')
            .next()
            .and_then(|field| field.parse::<i32>().ok());
        if let (Some(parent), Some(own)) = (parent, own)
            && parent == pid
        {
            found.push(own);
            found.extend(children(own as u32));
        }
    }
    found
}

/// Returns the process groups of a process and of its descendants.
pub fn groups_of_family(pid: u32) -> Vec<u32> {
    let family = children(pid).into_iter().map(|it| it as u32).chain([pid]);
    let group = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, tail) = stat.rsplit_once(") ")?;
        tail.split(' ').nth(2)?.parse().ok()
    };
    let mut groups: Vec<u32> = family.filter_map(group).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Returns the names of the processes of a group. Apt and dpkg may continue, because ending them
/// would leave the host's packages half installed.
pub fn group(id: u32) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((head, tail)) = stat.rsplit_once(") ") else {
            continue;
        };
        let mut fields = tail.split(' ');
        let state = fields.next().unwrap_or_default();
        let group = fields.nth(1).and_then(|field| field.parse().ok());
        let name = head.split_once('(').map_or("", |(_, name)| name);
        if group == Some(id) && state != "Z" && !["apt-get", "dpkg"].contains(&name) {
            found.push(name.to_owned());
        }
    }
    found
}
