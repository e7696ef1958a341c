// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Causes the conditions of the table of blame (docs/reference/verdicts.md) for real, and checks
//! the blame. [`ROWS`] has every row with its test; some are in other files.

mod common;
#[path = "../vmm/tests/forced/mod.rs"]
mod forced;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use common::cli::{self, Ended, Run};
use crucible_engine::Condition;
use crucible_engine::abort::{Abort, Phase};
use crucible_engine::guest::{Guest, GuestError};
use serde_json::Value;

/// Each condition, with the file and the test that causes it.
const ROWS: &[(Condition, &str, &str)] = &[
    (
        Condition::Passed,
        "tests/scenarios.rs",
        "every_scenario_passes_in_one_boot",
    ),
    (
        Condition::NotApplicable,
        "tests/matrix.rs",
        "a_sample_of_the_matrix_is_the_same_after_a_restart",
    ),
    (
        Condition::Diverged,
        "tests/verdicts.rs",
        "a_program_that_behaves_differently_after_a_restart_is_detected",
    ),
    (
        Condition::Refused,
        "tests/refused.rs",
        "unsupported_state_is_refused_and_the_tree_continues",
    ),
    (
        Condition::SecondRefused,
        "tests/breaks.rs",
        "a_restart_that_leaves_something_behind_is_refused_a_second_checkpoint",
    ),
    (
        Condition::Hang,
        "tests/verdicts.rs",
        "a_program_that_behaves_differently_after_a_restart_is_detected",
    ),
    (
        Condition::KernelReport,
        "tests/verdicts.rs",
        "a_program_that_behaves_differently_after_a_restart_is_detected",
    ),
    (
        Condition::GuestPanic,
        "tests/verdicts.rs",
        "a_program_that_behaves_differently_after_a_restart_is_detected",
    ),
    (
        Condition::TripleFault,
        "tests/blame.rs",
        "programs_that_go_wrong_are_told_apart",
    ),
    (
        Condition::Leak,
        "tests/leaks.rs",
        "a_leak_and_a_scan_that_fails_are_told_apart",
    ),
    (
        Condition::EarlyReport,
        "tests/blame.rs",
        "programs_that_go_wrong_are_told_apart",
    ),
    (
        Condition::Unreviewed,
        "tests/blame.rs",
        "a_scenario_without_an_expected_result_is_unreviewed",
    ),
    (
        Condition::Unsupported,
        "tests/refused.rs",
        "unsupported_state_is_refused_and_the_tree_continues",
    ),
    (
        Condition::Undecided,
        "tests/bisect.rs",
        "a_range_in_which_nothing_fails_has_no_answer",
    ),
    (
        Condition::BuildFailed,
        "tests/blame.rs",
        "a_workload_that_does_not_build_is_its_own_fault",
    ),
    (
        Condition::Unstable,
        "tests/blame.rs",
        "programs_that_go_wrong_are_told_apart",
    ),
    (
        Condition::FreezeVisible,
        "tests/blame.rs",
        "programs_that_go_wrong_are_told_apart",
    ),
    (
        Condition::Missed,
        "tests/runs.rs",
        "an_event_that_never_happens_is_unknown_and_reported_with_its_count",
    ),
    (
        Condition::EarlyHang,
        "tests/blame.rs",
        "programs_that_go_wrong_are_told_apart",
    ),
    (
        Condition::GuestShutdown,
        "tests/blame.rs",
        "a_shutdown_that_nobody_asked_for_is_the_workloads",
    ),
    (
        Condition::HostKilled,
        "tests/blame.rs",
        "whoever_kills_the_machine_is_the_host",
    ),
    (
        Condition::MachineLost,
        "tests/blame.rs",
        "a_second_machine_that_does_not_start_is_the_hosts_fault",
    ),
    (
        Condition::DiskFull,
        "tests/blame.rs",
        "a_full_disk_stops_a_bisection",
    ),
    (
        Condition::HostIo,
        "tests/blame.rs",
        "results_that_cannot_be_written_stop_a_bisection",
    ),
    (
        Condition::HostSetup,
        "tests/blame.rs",
        "a_host_without_kvm_or_qemu_stops_a_bisection",
    ),
    (
        Condition::Interrupted,
        "tests/blame.rs",
        "an_interrupted_run_ends_in_order",
    ),
    (
        Condition::ChannelBroken,
        "engine/src/guest/tests.rs",
        "a_message_that_is_none_breaks_the_channel",
    ),
    (
        Condition::VmmFault,
        "tests/blame.rs",
        "a_forbidden_call_of_the_machine_is_crucibles",
    ),
    (
        Condition::ReplyTooLarge,
        "tests/blame.rs",
        "an_answer_that_is_too_large_leaves_the_guest_running",
    ),
    (
        Condition::LeakScanFailed,
        "tests/leaks.rs",
        "a_leak_and_a_scan_that_fails_are_told_apart",
    ),
    (
        Condition::SharedIdentity,
        "src/commands/clones.rs",
        "what_two_share_is_a_fault",
    ),
    (
        Condition::RequestFailed,
        "tests/blame.rs",
        "an_answer_that_is_too_large_leaves_the_guest_running",
    ),
];

/// One guest at a time: several would compete for the same CPUs.
static GUEST: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    GUEST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the units' conditions by key.
fn conditions(record: &Value) -> BTreeMap<&str, &str> {
    let units = record["units"].as_array().expect("a list of units");
    units
        .iter()
        .map(|unit| {
            let key = unit["key"].as_str().expect("a key");
            (key, unit["condition"].as_str().expect("a condition"))
        })
        .collect()
}

/// Starts the scenario that waits, and returns once its workload runs.
fn held(more: &[&str]) -> Run {
    let args = [&["scenario", "tests/scenarios/held", "--json"][..], more].concat();
    let mut run = cli::start(&args);
    run.wait_event("undisturbed 1");
    run
}

/// Checks the only condition of a record that has no finished unit.
fn blamed(ended: &Ended, condition: Condition) {
    let record = ended.record();
    assert_eq!(record["condition"], condition.name(), "{record:#}");
    let blame = condition.blame().expect("somebody").name();
    assert_eq!(record["blame"], blame, "{record:#}");
    let code = i32::from(condition.exit_code());
    assert_eq!(ended.code(), Some(code), "{record:#}");
}

#[test]
fn every_row_of_the_table_has_a_test() {
    let rows: BTreeSet<_> = ROWS.iter().map(|(condition, ..)| *condition).collect();
    let all: BTreeSet<_> = Condition::ALL.iter().copied().collect();
    assert_eq!(rows, all);
    for (condition, file, test) in ROWS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(
            text.contains(&format!("fn {test}()")),
            "{condition:?}: {test}"
        );
    }
}

#[test]
fn programs_that_go_wrong_are_told_apart() {
    let _alone = alone();
    let ended = cli::run(&["-q", "scenario", "tests/scenarios/faults", "--json"]);
    let record = ended.record();
    let expected = [
        ("faults/early-hang", "early-hang"),
        ("faults/early-report", "early-report"),
        ("faults/freeze-visible", "freeze-visible"),
        ("faults/triple-fault", "triple-fault"),
        ("faults/unstable", "unstable"),
    ];
    assert_eq!(conditions(&record), expected.into(), "{record:#}");
    assert_eq!(ended.code(), Some(1), "{record:#}");
    for unit in record["units"].as_array().expect("units") {
        match unit["condition"].as_str() {
            Some("triple-fault") => assert!(unit["memory"]["kept"].is_object(), "{unit:#}"),
            _ => assert_eq!(unit["memory"], Value::Null, "{unit:#}"),
        }
    }
}

/// Returns the directory of a scenario that is written for a test.
fn scenario(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let own = directory.path().join("own");
    fs::create_dir(&own).expect("a directory");
    fs::write(own.join("scenario.toml"), text).expect("a scenario");
    let path = own.to_str().expect("an ASCII path").to_owned();
    (directory, path)
}

#[test]
fn a_workload_that_does_not_build_is_its_own_fault() {
    let _alone = alone();
    let (_directory, path) = scenario(
        "summary = \"x\"\nbuild = [\"false\"]\nargv = [\"true\"]\nat = \"syscall:getppid:1\"\n",
    );
    blamed(
        &cli::run(&["-q", "scenario", &path, "--json"]),
        Condition::BuildFailed,
    );
}

#[test]
fn a_scenario_without_an_expected_result_is_unreviewed() {
    let _alone = alone();
    let (_directory, path) = scenario(
        "summary = \"x\"\nargv = [\"/bin/sh\", \"-c\", \"cat /proc/uptime > /dev/null; exit 0\"]\n\
         at = \"syscall:openat:3\"\n",
    );
    blamed(
        &cli::run(&["-q", "scenario", &path, "--json"]),
        Condition::Unreviewed,
    );
}

/// SIGKILL by a person or the OOM killer is the host's fault.
#[test]
fn whoever_kills_the_machine_is_the_host() {
    let _alone = alone();
    let mut run = held(&[]);
    cli::send("-KILL", run.machine());
    blamed(&run.end(), Condition::HostKilled);
}

/// The memory of a guest that starts from a snapshot is a file. Shortening it is the host's fault.
#[test]
fn a_shortened_memory_file_is_the_host() {
    let _alone = alone();
    // Use a memory size of its own: the test destroys the snapshot.
    let mut run = held(&["--memory", "640"]);
    let machine = run.machine();
    let maps = fs::read_to_string(format!("/proc/{machine}/maps")).expect("the maps");
    let memory = maps
        .lines()
        .filter_map(|line| line.split_once('/'))
        .map(|(_, path)| Path::new("/").join(path))
        .find(|path| path.ends_with("memory"))
        .unwrap_or_else(|| panic!("{maps}"));
    let file = fs::OpenOptions::new().write(true).open(&memory);
    file.and_then(|file| file.set_len(0))
        .expect("a shorter file");
    let ended = run.end();
    let snapshot = memory.parent().expect("a directory");
    fs::remove_dir_all(snapshot).expect("the lost snapshot");
    blamed(&ended, Condition::HostKilled);
    let why = ended.record()["why"].to_string();
    assert!(why.contains("SIGBUS"), "{why}");
}

/// A machine that makes a call which its seccomp filter forbids has been taken over, or is our own
/// bug. QEMU is made to fork; `vmm/tests/monitor.rs` does the same with our monitor.
#[test]
fn a_forbidden_call_of_the_machine_is_crucibles() {
    let _alone = alone();
    let mut run = held(&[]);
    forced::system_call(run.machine(), nix::libc::SYS_fork);
    blamed(&run.end(), Condition::VmmFault);
}

/// A memory cgroup, removed when dropped.
struct MemoryCgroup(std::path::PathBuf);

impl MemoryCgroup {
    /// Creates a cgroup with this limit; `None` if there is no such controller, or no right to use
    /// it.
    fn new(bytes: u64) -> Option<Self> {
        let name = format!("crucible-test-{}", std::process::id());
        let (place, limit) = match Path::new("/sys/fs/cgroup/memory").is_dir() {
            true => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            false => ("/sys/fs/cgroup", "memory.max"),
        };
        let path = Path::new(place).join(name);
        fs::create_dir(&path).ok()?;
        let group = Self(path);
        fs::write(group.0.join(limit), bytes.to_string()).ok()?;
        Some(group)
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn the_oom_killer_is_the_host() {
    let _alone = alone();
    let Some(group) = MemoryCgroup::new(200 << 20) else {
        eprintln!("skipped: no memory cgroup can be made here");
        return;
    };
    let ended = {
        let (_, directory) = cli::command(&[]);
        let mut command = Command::new("/bin/sh");
        let script = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        command
            .args(["-c", script])
            .arg(&group.0)
            .arg(cli::PROGRAM)
            .args(["-q", "scenario", "tests/scenarios/fills", "--json"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CRUCIBLE_RESULTS", directory.path());
        let results = directory.path().to_owned();
        cli::spawn(command, results, Some(directory)).end()
    };
    blamed(&ended, Condition::HostKilled);
}

#[test]
fn a_second_machine_that_does_not_start_is_the_hosts_fault() {
    let _alone = alone();
    let built = cli::run(&["-q", "kernel", "build"]).stdout;
    let directory = tempfile::tempdir().expect("a directory");
    let kernel = directory.path().join("vmlinux");
    fs::copy(built.trim(), &kernel).expect("a copy of the kernel");
    let path = kernel.to_str().expect("an ASCII path");
    let mut args = vec!["-q", "scenario", "hello", "--cold", "--kernel", path];
    args.extend(["--restart-in", "fresh", "--json"]);
    let mut run = cli::start(&args);
    // The first machine has its kernel; the second finds none.
    run.wait_event("undisturbed 1");
    fs::write(&kernel, "no kernel").expect("another file");
    let ended = run.end();
    let record = ended.record();
    assert_eq!(
        record["units"][0]["condition"], "machine-lost",
        "{record:#}"
    );
    assert_eq!(record["units"][0]["blame"], "host", "{record:#}");
    assert_eq!(ended.code(), Some(125), "{record:#}");
}

#[test]
fn a_full_disk_stops_a_bisection() {
    let _alone = alone();
    let place = tempfile::tempdir().expect("a directory");
    let tmpfs = Tmpfs::mount(place.path(), "64m");
    let (mut command, _) = cli::command(&["-q", "scenario", "tests/scenarios/fills", "--json"]);
    command.env("CRUCIBLE_RESULTS", place.path());
    let ended = cli::spawn(command, place.path().to_owned(), None).end();
    drop(tmpfs);
    blamed(&ended, Condition::DiskFull);
}

/// A dump must not fill the disk, which has the results.
#[test]
fn a_disk_without_space_for_a_dump_changes_no_verdict() {
    let _alone = alone();
    let (_directory, path) = scenario(
        "summary = \"x\"\nargv = [\"/bin/sh\", \"-c\", \"echo c > /proc/sysrq-trigger\"]\n\
         at = \"syscall:openat:3\"\n",
    );
    let place = tempfile::tempdir().expect("a directory");
    let tmpfs = Tmpfs::mount(place.path(), "128m");
    let (mut command, _) = cli::command(&["-q", "scenario", &path, "--json"]);
    command.env("CRUCIBLE_RESULTS", place.path());
    let ended = cli::spawn(command, place.path().to_owned(), None).end();
    drop(tmpfs);
    blamed(&ended, Condition::EarlyReport);
    let record = ended.record();
    let why = &record["units"][0]["memory"]["missing"]["why"];
    let why = why.as_str().unwrap_or_else(|| panic!("{record:#}"));
    assert!(why.contains("the disk has only"), "{why}");
}

/// A file system of limited size.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(place: &Path, size: &str) -> Self {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=755")])
            .arg("tmpfs")
            .arg(place)
            .status()
            .expect("mount");
        assert!(mounted.success(), "this test needs the right to mount");
        Self(place.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn results_that_cannot_be_written_stop_a_bisection() {
    let (mut command, _directory) = cli::command(&["-q", "scenario", "hello"]);
    command.env("CRUCIBLE_RESULTS", "/proc/crucible");
    let ended = cli::spawn(command, "/proc/crucible".into(), None).end();
    assert_eq!(ended.code(), Some(129), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("cannot write to /proc/crucible"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_host_without_kvm_or_qemu_stops_a_bisection() {
    let usable = cli::run(&["doctor", "--json"]);
    if !usable.stdout.contains("\"kvm\": true") {
        let ended = cli::run(&["-q", "scenario", "hello", "--machine", "kvm"]);
        if ended.code() != Some(0) {
            assert_eq!(ended.code(), Some(129), "{}", ended.stderr);
            assert!(
                ended.stderr.contains("cannot run a guest on KVM"),
                "{}",
                ended.stderr
            );
        }
    }
    let (mut command, directory) = cli::command(&["-q", "--no-install", "scenario", "hello"]);
    command.env("PATH", directory.path());
    let results = directory.path().to_owned();
    let ended = cli::spawn(command, results, Some(directory)).end();
    assert_eq!(ended.code(), Some(129), "{}", ended.stderr);
}

#[test]
fn an_interrupted_run_ends_in_order() {
    let _alone = alone();
    for signal in ["-INT", "-TERM"] {
        let mut run = held(&[]);
        let machine = run.machine();
        run.signal(signal);
        let ended = run.end();
        blamed(&ended, Condition::Interrupted);
        let record = ended.record();
        assert_eq!(record["left"], 1, "{record:#}");
        assert!(!Path::new(&format!("/proc/{machine}")).exists());
        let events = cli::events(&ended.results);
        assert!(events.contains("\"event\":\"run-finished\""), "{events}");
    }
    // Ctrl-C of a terminal reaches the machine's process, too.
    let mut run = held(&[]);
    run.machine();
    cli::send("-INT", -(run.pid() as i32));
    blamed(&run.end(), Condition::Interrupted);
    // The second signal does not wait for anything.
    let mut run = held(&[]);
    let machine = run.machine();
    cli::send("-STOP", machine);
    run.signal("-INT");
    run.signal("-INT");
    assert_eq!(run.end().code(), Some(130));
}

#[test]
fn an_output_that_is_closed_or_full_is_no_crash() {
    let script = "exec \"$0\" list | head -1";
    let closed = Command::new("/bin/bash")
        .args(["-o", "pipefail", "-c", script, cli::PROGRAM])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("a shell");
    assert_eq!(closed.status.code(), Some(0), "{closed:?}");
    let full = Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" list > /dev/full", cli::PROGRAM])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("a shell");
    assert_eq!(full.status.code(), Some(129), "{full:?}");
    let none = Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" scenario >&- 2>&-", cli::PROGRAM])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("a shell");
    assert_eq!(none.status.code(), Some(128), "{none:?}");
}

fn exec(guest: &mut Guest, script: &str) -> Result<String, GuestError> {
    let argv = ["/bin/sh", "-c", script].map(String::from);
    let run = guest.exec(&argv, &BTreeMap::new(), "/work", common::LONG)?;
    assert!(run.success(), "{script}: {}", run.stderr);
    Ok(run.stdout)
}

#[test]
fn a_shutdown_that_nobody_asked_for_is_the_workloads() {
    let _alone = alone();
    let (_directory, mut guest) = common::boot();
    guest.prepare(None).expect("a work directory");
    let program = "#include <sys/reboot.h>\nint main(void) { return reboot(RB_AUTOBOOT); }\n";
    guest
        .write_file("/work/reboot.c", 0o644, program.as_bytes())
        .expect("a source");
    exec(&mut guest, "gcc -o reboot reboot.c").expect("a program");
    let error = exec(&mut guest, "./reboot").expect_err("the guest ends");
    let stop = Abort::guest(Phase::After, error);
    assert_eq!(stop.condition, Condition::GuestShutdown, "{stop:?}");
}

#[test]
fn an_answer_that_is_too_large_leaves_the_guest_running() {
    let _alone = alone();
    let (_directory, mut guest) = common::boot();
    guest.prepare(None).expect("a work directory");
    // Each entry takes about 350 bytes of an answer that may have 16 MiB.
    let script = "n=$(printf 'x%.0s' $(seq 230)); for i in $(seq 60000); do echo $n$i; done | \
                  xargs touch";
    exec(&mut guest, script).expect("many files");
    let error = guest
        .list("/work", &[])
        .expect_err("a list that is too long");
    let stop = Abort::guest(Phase::After, error);
    assert_eq!(stop.condition, Condition::ReplyTooLarge, "{stop:?}");
    assert!(stop.guest_usable);
    // And the guest continues.
    let error = guest.read_file("/work/no-such-file").expect_err("no file");
    let stop = Abort::guest(Phase::After, error);
    assert_eq!(stop.condition, Condition::RequestFailed, "{stop:?}");
    guest.shutdown().expect("an end in order");
}
