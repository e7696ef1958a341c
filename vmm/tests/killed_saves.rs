// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests that a snapshot is replaced atomically when a process is killed during a save: the
//! monitor, or the process that has started it and writes the files.
//!
//! `CRUCIBLE_SEED=N` repeats the moments of a run, as far as the host's timing allows.

mod fixture;
mod guests;

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader, Lines, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crucible_protocol::dice::Dice;
use crucible_vmm::kvm::saved::{self, Verified};
use crucible_vmm::{Machine, Start};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, kill_process, pidfd_open, setrlimit,
};

use fixture::{Fixture, PATIENCE, monitor, register};
use guests::{Guest, MARKED_PAGES, MARKS};

/// Number of saves during which a process is killed.
const KILLS: u32 = 200;

/// Number of undisturbed saves, to measure the duration of a save.
const MEASURED: u32 = 7;

/// Environment variables with the directory in which [`saver`] saves, and its guest's
/// mark.
const DIRECTORY: &str = "CRUCIBLE_SAVER_DIRECTORY";
const MARK: &str = "CRUCIBLE_SAVER_MARK";

/// Environment variable that makes [`saver`] limit the size of its files.
const LIMITED: &str = "CRUCIBLE_SAVER_LIMITED";

/// Runs a guest and saves it on request, in a separate process. It is not a test by itself.
#[test]
fn saver() {
    let (Some(saved), Ok(mark)) = (env::var_os(DIRECTORY), env::var(MARK)) else {
        return;
    };
    let mark = mark.parse().unwrap();
    let start = |_| Start::BootForSnapshot(saved.into());
    let files = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::at(Guest::Marked(mark), 1, files, start).expect("KVM");
    fixture.wait_for("marked");
    if env::var_os(LIMITED).is_some() {
        limit_files();
    }
    println!("\nmonitor {}", fixture.pid());
    io::stdin().read_line(&mut String::new()).unwrap();
    match fixture.machine.save() {
        Ok(()) => println!("saved"),
        Err(error) => println!("failed: {error}"),
    }
    // Stay until the test has finished killing processes.
    io::stdin().read_line(&mut String::new()).unwrap();
}

/// Limits the files of this process to less than a guest's memory.
fn limit_files() {
    // SAFETY: the signal is ignored; a write then fails with EFBIG instead.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    assert_ne!(before, libc::SIG_ERR);
    let limit = Rlimit {
        current: Some(4 << 20),
        maximum: Some(4 << 20),
    };
    setrlimit(Resource::Fsize, limit).unwrap();
}

/// A process that runs [`saver`], whose guest is running.
struct Saver {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    monitor: Pid,
    /// Reports the monitor's exit, even if its pid has been reused.
    monitor_end: OwnedFd,
    /// Its temporary files, which it leaves behind when it is killed.
    _scratch: tempfile::TempDir,
}

impl Saver {
    fn start(directory: &Path, mark: u32) -> Self {
        Self::from(Command::new(env::current_exe().unwrap()), directory, mark)
    }

    fn from(mut command: Command, directory: &Path, mark: u32) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut process = command
            .env("TMPDIR", scratch.path())
            .args(["--exact", "saver", "--nocapture"])
            .env(DIRECTORY, directory)
            .env(MARK, mark.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let monitor = (&mut lines)
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("monitor ")?.parse().ok())
            .expect("a monitor");
        let monitor = Pid::from_raw(monitor).unwrap();
        Self {
            process,
            lines,
            monitor,
            monitor_end: pidfd_open(monitor, PidfdFlags::empty()).unwrap(),
            _scratch: scratch,
        }
    }

    /// Requests the save.
    fn go(&mut self) -> Instant {
        let input = self.process.stdin.as_mut();
        input.unwrap().write_all(b"go\n").unwrap();
        Instant::now()
    }

    /// Returns the process's line about the save, or `None` if the process was killed first.
    fn outcome(&mut self) -> Option<String> {
        let mut lines = (&mut self.lines).map_while(Result::ok);
        lines.find(|line| line == "saved" || line.starts_with("failed"))
    }

    /// Waits until both it and the monitor have exited.
    fn gone(mut self) {
        drop(self.process.stdin.take());
        while self.lines.next().is_some() {}
        self.process.wait().unwrap();
        let mut wait = [PollFd::new(&self.monitor_end, PollFlags::IN)];
        let ended = poll(&mut wait, Some(&PATIENCE.try_into().unwrap())).unwrap();
        assert_eq!(ended, 1, "the monitor still runs");
    }
}

/// Returns a random duration of at most `limit`.
fn moment(random: &mut Dice, limit: Duration) -> Duration {
    limit.mul_f64(random.unit())
}

/// Waits for a moment more precisely than the kernel's timers wake a sleeper.
fn wait_until(moment: Instant) {
    const SLACK: Duration = Duration::from_micros(200);
    if let Some(most) = moment
        .checked_duration_since(Instant::now())
        .and_then(|left| left.checked_sub(SLACK))
    {
        thread::sleep(most);
    }
    while Instant::now() < moment {
        std::hint::spin_loop();
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Verifies the snapshot in the directory, and returns it with its mark: it must be complete, have
/// one mark everywhere, and start.
fn look(directory: &Path) -> (Verified, u32) {
    let verified = saved::verify(directory, &monitor()).unwrap();
    let memory = fs::read(&verified.pages).unwrap();
    let marks: Vec<_> = (0..MARKED_PAGES)
        .map(|page| {
            let at = MARKS + page * 4096;
            u32::from_le_bytes(memory[at..at + 4].try_into().unwrap())
        })
        .collect();
    let mark = marks[0];
    assert!(marks.iter().all(|other| *other == mark), "marks are mixed");
    let start = |_| Start::Saved(directory.into());
    let files = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::at(Guest::Marked(mark), 1, files, start).unwrap();
    let states = fixture.machine.task_states(Duration::from_millis(1));
    let registers = states.unwrap().registers;
    assert_eq!(register(&registers, "RBX"), format!("{mark:016x}"));
    (verified, mark)
}

/// Returns true when the directory has further files in addition to the snapshot, so that a save
/// has begun.
fn has_begun(directory: &Path, old: &Verified) -> bool {
    let entries = fs::read_dir(directory).unwrap();
    let paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    let old = [old.pages.clone(), directory.join("state")];
    paths.iter().any(|path| !old.contains(path))
}

#[test]
fn a_killed_save_leaves_the_old_or_the_new_snapshot() {
    let Some(fixture) = Fixture::start(Guest::Reset) else {
        return;
    };
    drop(fixture);
    let seed = match env::var("CRUCIBLE_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64,
    };
    let log = |text: String| io::stderr().write_all(text.as_bytes()).unwrap();
    log(format!("killed saves: CRUCIBLE_SEED={seed}\n"));
    let mut random = Dice::new(seed);
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();

    let mut times = Vec::new();
    for mark in 1..=MEASURED {
        let mut saver = Saver::start(directory, mark);
        let begun = saver.go();
        assert_eq!(saver.outcome().as_deref(), Some("saved"));
        times.push(begun.elapsed());
        saver.gone();
    }
    let (mut current, mut current_mark) = look(directory);
    assert_eq!(current_mark, MEASURED);

    let mut counts = BTreeMap::<_, u32>::new();
    for mark in MEASURED + 1..=MEASURED + KILLS {
        let victim = ["the monitor", "its parent"][mark as usize % 2];
        let mut saver = Saver::start(directory, mark);
        // The new process has removed the previous one's leftovers.
        assert!(!has_begun(directory, &current));
        let longest = median(&mut times).mul_f64(1.3);
        let begun = saver.go();
        wait_until(begun + moment(&mut random, longest));
        let inside = has_begun(directory, &current);
        match victim {
            "the monitor" => kill_process(saver.monitor, Signal::KILL).unwrap(),
            _ => saver.process.kill().unwrap(),
        }
        let outcome = saver.outcome();
        saver.gone();
        let (now, now_mark) = look(directory);
        let what = if now_mark == mark {
            "the new guest"
        } else {
            assert_eq!((now_mark, &now.id), (current_mark, &current.id));
            // A process that was not killed has removed the files of its failed save.
            assert!(victim != "the monitor" || now.leftovers.is_empty());
            assert_ne!(outcome.as_deref(), Some("saved"));
            match inside {
                true => "the old guest",
                false => "the old guest, nothing had begun",
            }
        };
        *counts.entry((victim, what)).or_default() += 1;
        (current, current_mark) = (now, now_mark);
    }
    log(format!(
        "killed saves: a save takes {:?}\n",
        median(&mut times)
    ));
    for ((victim, what), count) in &counts {
        log(format!("killed saves: {victim} killed: {what}: {count}\n"));
    }
    for victim in ["the monitor", "its parent"] {
        for what in ["the old guest", "the new guest"] {
            let count = counts.get(&(victim, what)).copied().unwrap_or(0);
            assert!(count > 0, "with {victim} killed it was never {what}");
        }
    }
}

/// A file system without enough space for two guests. Unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts the file system. Returns `None` if the test lacks the privilege.
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=12m", "crucible-test"])
            .arg(directory.path())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // If this fails, the file system stays until the host reboots; drop cannot report it.
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_reported_and_leaves_the_old_snapshot() {
    let Some(fixture) = Fixture::start(Guest::Reset) else {
        return;
    };
    drop(fixture);
    let Some(disk) = SmallDisk::mount() else {
        let text = "not run: a_full_disk_is_reported…: no file system can be mounted\n";
        io::stderr().write_all(text.as_bytes()).unwrap();
        return;
    };
    let directory = disk.0.path();
    let mut saver = Saver::start(directory, 1);
    saver.go();
    assert_eq!(saver.outcome().as_deref(), Some("saved"));
    saver.gone();
    let old = look(directory);

    let start = |_| Start::BootForSnapshot(directory.into());
    let files = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::at(Guest::Marked(2), 1, files, start).unwrap();
    fixture.wait_for("marked");
    for _ in 0..2 {
        let error = fixture.machine.save().unwrap_err();
        let source = error.source().expect("a source").to_string();
        assert!(source.contains("No space left on device"), "{source}");
        assert!(error.to_string().contains("memory-"), "{error}");
        assert_eq!(look(directory), old);
        assert!(old.0.leftovers.is_empty());
    }
    // The failed save does not affect the guest.
    fixture.machine.resume().unwrap();
    assert_eq!(fixture.machine.try_exit().unwrap(), None);
    // The guest can be saved when there is space: without its state, the old snapshot is a
    // leftover.
    fs::remove_file(directory.join("state")).unwrap();
    fixture.machine.save().unwrap();
    assert_eq!(look(directory).1, 2);
}

#[test]
fn a_file_size_limit_is_reported_and_leaves_the_old_snapshot() {
    let Some(fixture) = Fixture::start(Guest::Reset) else {
        return;
    };
    drop(fixture);
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut saver = Saver::start(directory, 1);
    saver.go();
    assert_eq!(saver.outcome().as_deref(), Some("saved"));
    saver.gone();
    let old = look(directory);
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(LIMITED, "1");
    let mut saver = Saver::from(command, directory, 2);
    saver.go();
    let outcome = saver.outcome().unwrap();
    assert!(outcome.starts_with("failed: cannot use "), "{outcome}");
    saver.gone();
    assert_eq!(look(directory), old);
    assert!(old.0.leftovers.is_empty());
}
