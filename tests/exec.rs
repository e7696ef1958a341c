// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible exec`: a command in a guest has its status and its streams, like one on the host.

mod common;

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use common::cli;

/// Prepares `crucible exec` with these options.
fn exec(args: &[&str]) -> Command {
    let mut command = cli::program(&["-q", "exec"]);
    command.args(args);
    command
}

fn output(args: &[&str]) -> Output {
    exec(args).output().expect("the crucible binary to run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn status_and_streams_are_those_of_the_command() {
    let script = "echo out; echo err >&2; grep MemTotal /proc/meminfo; exit 7";
    let ended = output(&["--memory", "512", "--", "sh", "-c", script]);
    assert_eq!(ended.status.code(), Some(7), "{ended:?}");
    assert_eq!(text(&ended.stderr), "err\n");
    let stdout = text(&ended.stdout);
    let memory = stdout.strip_prefix("out\n").expect("the first line");
    let kib = memory.split_whitespace().nth(1).expect("a number");
    let kib: u64 = kib.parse().expect("a number");
    assert!((400 << 10..512 << 10).contains(&kib), "{memory}");
}

#[test]
fn a_signal_and_a_missing_program_have_the_status_of_a_shell() {
    let ended = output(&["--", "sh", "-c", "kill -TERM $$"]);
    assert_eq!(ended.status.code(), Some(128 + 15), "{ended:?}");
    let ended = output(&["--", "no-such-program"]);
    assert_eq!(ended.status.code(), Some(127), "{ended:?}");
    let said = text(&ended.stderr);
    assert!(
        said.contains("crucible: cannot run no-such-program"),
        "{said}"
    );
}

/// Fills a buffer with bytes that do not repeat soon.
fn noise(buffer: &mut [u8]) {
    let mut state = 88_172_645_463_325_252_u64;
    for byte in buffer {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
}

#[test]
fn fifty_megabytes_of_input_come_back() {
    let mut data = vec![0; 50_000_000];
    noise(&mut data);
    let mut child = exec(&["--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the crucible binary to run");
    let mut input = child.stdin.take().expect("a pipe");
    let sent = data.clone();
    let sender = thread::spawn(move || input.write_all(&sent));
    let mut back = Vec::new();
    let mut stdout = child.stdout.take().expect("a pipe");
    stdout.read_to_end(&mut back).expect("the output");
    sender.join().expect("a thread").expect("to send all");
    assert!(child.wait().expect("a child").success());
    assert!(back == data, "{} of {} bytes", back.len(), data.len());
}

#[test]
fn a_reader_that_goes_away_ends_the_command_and_unread_input_holds_up_nothing() {
    let mut child = exec(&["--", "sh", "-c", "yes; echo $? >&2"])
        .stdin(File::open("/dev/zero").expect("a device"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the crucible binary to run");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(line, "y\n");
    drop(stdout);
    let ended = child.wait_with_output().expect("a child");
    assert!(ended.status.success(), "{ended:?}");
    // SIGPIPE, as on the host.
    assert_eq!(text(&ended.stderr), "141\n");
}

#[test]
fn a_directory_goes_in_and_out_with_its_modes_and_links() {
    let place = tempfile::tempdir().expect("a directory");
    let source = place.path().join("source");
    fs::create_dir_all(source.join("sub")).expect("a directory");
    let program = source.join("sub/run");
    fs::write(&program, "#!/bin/sh\necho ran > made\n").expect("a file");
    fs::set_permissions(&program, Permissions::from_mode(0o751)).expect("a mode");
    symlink("sub/run", source.join("link")).expect("a link");
    let long = "long".repeat(40);
    fs::write(source.join(&long), "long").expect("a file");
    let single = place.path().join("single");
    fs::write(&single, "one").expect("a file");
    let shown = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let back = place.path().join("back");
    let copied = place.path().join("copied");
    let ended = output(&[
        "--copy-in",
        &shown(&source),
        "--copy-in",
        &format!("{}:/opt/new/there", shown(&single)),
        "--copy-out",
        &format!("{}:source", shown(&back)),
        "--copy-out",
        &format!("{}:/opt/new/there", shown(&copied)),
        "--",
        "sh",
        "-c",
        "cd source && ./link && cat /opt/new/there && stat -c %u sub/run",
    ]);
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(text(&ended.stdout), "one0\n");
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o7777;
    assert_eq!(mode(&back.join("sub/run")), 0o751);
    assert_eq!(
        fs::read_to_string(back.join("made")).expect("a file"),
        "ran\n"
    );
    assert_eq!(
        fs::read_to_string(back.join(&long)).expect("a file"),
        "long"
    );
    let target = fs::read_link(back.join("link")).expect("a link");
    assert_eq!(target, Path::new("sub/run"));
    assert_eq!(fs::read_to_string(&copied).expect("a file"), "one");
}

#[test]
fn what_cannot_be_copied_is_said() {
    let ended = output(&["--copy-in", "/no/such/file", "--", "true"]);
    assert_eq!(ended.status.code(), Some(128), "{ended:?}");
    let place = tempfile::tempdir().expect("a directory");
    let to = format!("{}:/no/such/file", place.path().join("x").display());
    let ended = output(&["--copy-out", &to, "--", "true"]);
    assert_eq!(ended.status.code(), Some(125), "{ended:?}");
    assert!(text(&ended.stderr).contains("crucible: cannot copy /no/such/file"));
    // The status of a failing command takes precedence over that of a copy.
    let ended = output(&["--copy-out", &to, "--", "false"]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(text(&ended.stderr).contains("crucible: cannot copy /no/such/file"));
}

#[test]
fn a_kernel_report_is_shown_and_bad_and_the_command_goes_on() {
    let script = "echo '<4>WARNING: planted' > /dev/kmsg; sleep 3; echo after";
    let ended = output(&["--", "sh", "-c", script]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert_eq!(text(&ended.stdout), "after\n");
    let said = text(&ended.stderr);
    assert!(
        said.contains("crucible: the guest's kernel reported: WARNING: planted"),
        "{said}"
    );
    // The report is the last output of the command.
    let script = "echo '<4>WARNING: planted' > /dev/kmsg";
    let ended = output(&["--", "sh", "-c", script]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(
        text(&ended.stderr).contains("WARNING: planted"),
        "{ended:?}"
    );
}

#[test]
fn a_panic_is_shown_and_bad() {
    let script = "echo before; read line; echo c > /proc/sysrq-trigger";
    let mut child = exec(&["--", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the crucible binary to run");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(line, "before\n");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(b"go\n").expect("the input");
    let ended = child.wait_with_output().expect("a child");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let said = text(&ended.stderr);
    assert!(said.contains("sysrq triggered crash"), "{said}");
}

#[test]
fn an_interruption_ends_the_command_and_the_guest() {
    let mut child = exec(&["--", "sh", "-c", "echo up; sleep 1000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the crucible binary to run");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(line, "up\n");
    let guests = cli::children(child.id());
    assert!(!guests.is_empty());
    cli::send("-INT", child.id() as i32);
    let ended = child.wait_with_output().expect("a child");
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    for pid in guests {
        assert!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "{pid} runs on"
        );
    }
}

#[test]
fn with_a_terminal_the_command_has_one() {
    let command = format!(
        "stty rows 33 columns 99; {} -q exec -- sh -c 'tty; stty size; exit 3'",
        cli::PROGRAM
    );
    let ended = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .expect("script(1)");
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
    let shown = text(&ended.stdout);
    assert!(shown.contains("/dev/pts/0\r\n33 99\r\n"), "{shown:?}");
}
