// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Nothing outside may reach a tree that is being restarted. The image comes through a pipe that
//! stalls after one of its records, each in turn, and an intruder with all rights tries every way
//! to a task or an object that is not yet complete (`tests/intruders/doors.c`). The tree must then
//! be restored correctly, and anything that kills tasks must also end the restart at each of these
//! moments.

mod common;

use std::collections::BTreeMap;

use common::{LONG, boot};
use crucible_engine::guest::Guest;
use crucible_protocol::{EventKind, KEEP_DIR, RUN_DIR, Stopped, Trigger};

/// The trigger for getppid(2), which the victim calls when its state is complete.
const EVENT: Trigger = Trigger::Count {
    kind: EventKind::Syscall { number: Some(110) },
    task: None,
    nth: 1,
};

/// Number of records at the beginning of an image that describe its tasks.
const TREE: usize = 3;

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(String::from).to_vec()
}

/// Runs a script that must succeed, and returns its output.
fn run(guest: &mut Guest, script: &str) -> String {
    let run = guest.exec(&sh(script), &BTreeMap::new(), "/work", LONG);
    let run = run.expect("an answer");
    assert!(run.success(), "{script}: {run:#?}");
    run.stdout
}

/// Prepares a guest with both programs and checkpoints the victim. Returns the path of the image
/// and the number of its records.
fn image(guest: &mut Guest, argv: &[&str]) -> (String, usize) {
    let sources = [
        ("victim.c", &include_bytes!("intruders/victim.c")[..]),
        ("intruder.h", include_bytes!("intruders/intruder.h")),
        ("intruder.c", include_bytes!("intruders/intruder.c")),
        ("doors.c", include_bytes!("intruders/doors.c")),
        ("ends.c", include_bytes!("intruders/ends.c")),
    ];
    guest.prepare(None).unwrap();
    for (name, content) in sources {
        guest
            .write_file(&format!("/work/{name}"), 0o644, content)
            .unwrap();
    }
    run(
        guest,
        "gcc -O2 -Wall -Werror -pthread -o victim victim.c && \
         gcc -O2 -Wall -Werror -Wno-unused-result -pthread -o intruder \
             intruder.c doors.c ends.c",
    );
    let (image, log) = (format!("{KEEP_DIR}/image"), format!("{KEEP_DIR}/log"));
    guest
        .start(
            "victim",
            &argv.iter().map(ToString::to_string).collect::<Vec<_>>(),
            &BTreeMap::new(),
            "/work",
            Some(&EVENT),
        )
        .unwrap();
    let stopped = guest.wait("victim", LONG).unwrap();
    assert!(matches!(stopped, Stopped::Frozen(_)), "{stopped:?}");
    let saved = guest.checkpoint("victim", &image, &log, LONG).unwrap();
    assert!(saved.success(), "{saved:#?}");
    guest.kill("victim").unwrap();
    let records = run(guest, &format!("./intruder list {image}"));
    (image, records.trim().parse().unwrap())
}

/// Runs the intruder in a new cgroup, and returns its complaints.
fn intrude(guest: &mut Guest, image: &str, what: &str, record: usize, how: &str) -> String {
    let script = format!(
        "cg=/sys/fs/cgroup/intruder; mkdir $cg && ./intruder {what} {image} $cg {record} {how} 2>&1; \
         echo status $?; rmdir $cg"
    );
    run(guest, &script)
}

/// The mount point of a version 1 cgroup hierarchy, with one cgroup for the caller of restart(2).
const VERSION1: &str = "/tmp/version1";

#[test]
fn no_process_reaches_a_tree_that_is_being_restarted() {
    let (_directory, mut guest) = boot();
    let (image, records) = image(&mut guest, &["./victim"]);
    assert!(records > 50, "an image of {records} records");
    run(
        &mut guest,
        &format!(
            "mkdir {VERSION1} && mount -t cgroup -o none,name=ours none {VERSION1} && \
             mkdir {VERSION1}/intruder"
        ),
    );
    for record in 1..records {
        // Truncate the files but keep them, because the victim has them open.
        run(
            &mut guest,
            &format!("for f in {RUN_DIR}/*; do : > $f; done"),
        );
        let output = intrude(&mut guest, &image, "attack", record, VERSION1);
        assert_eq!(output, "status 0\n", "behind record {record} of {records}");
        let victim = guest.read_file(&format!("{RUN_DIR}/stdout")).unwrap();
        let victim = String::from_utf8(victim).unwrap();
        assert_eq!(victim, "unharmed\n", "behind record {record} of {records}");
        guest.settle().unwrap();
    }
    guest.shutdown().unwrap();
}

#[test]
fn killing_the_tasks_ends_a_restart_at_every_moment() {
    let (_directory, mut guest) = boot();
    let (image, records) = image(&mut guest, &["./victim"]);
    for record in 1..records {
        for how in ["kill", "cgroup", "log"] {
            // The tasks are created once the tree has been read; until then the cgroup is empty.
            if how == "cgroup" && record < TREE {
                continue;
            }
            let output = intrude(&mut guest, &image, "end", record, how);
            assert!(
                output.ends_with("status 0\n"),
                "{how} behind record {record} of {records}: {output}"
            );
        }
        guest.settle().unwrap();
    }
    guest.shutdown().unwrap();
}

/// Two ways to kill tasks without naming their pids: the end of the pid namespace that the caller
/// is in, and the OOM killer.
#[test]
fn the_end_of_the_namespace_and_the_oom_killer_end_a_restart_at_every_moment() {
    let (_directory, mut guest) = boot();
    let (image, records) = image(&mut guest, &["./victim"]);
    run(
        &mut guest,
        "echo +memory > /sys/fs/cgroup/cgroup.subtree_control",
    );
    let mut called = 0;
    for record in 1..records {
        let output = intrude(&mut guest, &image, "end", record, "namespace");
        assert_eq!(output, "status 0\n", "behind record {record} of {records}");
        let output = intrude(&mut guest, &image, "end", record, "memory");
        let ended = output.ends_with("status 0\n");
        assert!(
            ended,
            "memory behind record {record} of {records}: {output}"
        );
        called += usize::from(output.contains("the OOM killer was called\n"));
        guest.settle().unwrap();
    }
    // While there is no task yet, there is no memory for the OOM killer to reclaim.
    assert!(called > records / 2, "{called} of {records} times");
    guest.shutdown().unwrap();
}

#[test]
fn a_failed_restart_leaves_no_task_and_harms_no_other() {
    let (_directory, mut guest) = boot();
    let (image, records) = image(&mut guest, &["./victim"]);
    for record in 1..records {
        let output = intrude(&mut guest, &image, "fail", record, "");
        let expected = "the image ends in the middle";
        assert!(
            output.ends_with("status 0\n") && output.contains(expected),
            "behind record {record} of {records}: {output}"
        );
        guest.settle().unwrap();
    }
    guest.shutdown().unwrap();
}

/// Recorded as a proc file, `/proc/2/maps` is reopened once process 2 exists. Recorded as a plain
/// file it would still refer to the state in which the task had the memory of the caller of
/// restart(2).
#[test]
fn a_proc_file_recorded_as_a_plain_file_is_refused() {
    let (_directory, mut guest) = boot();
    let (image, _) = image(&mut guest, &["./victim"]);
    guest
        .write_file("/work/forge.c", 0o644, include_bytes!("intruders/forge.c"))
        .unwrap();
    // Changes ckpt_file.kind from CKPT_FILE_PROC to CKPT_FILE_PATH.
    run(
        &mut guest,
        &format!(
            "gcc -O1 -o forge forge.c && \
             TEXT=/proc/2/maps ./forge {image} {KEEP_DIR}/forged 11 0 0 4 1"
        ),
    );
    let output = intrude(&mut guest, &format!("{KEEP_DIR}/forged"), "restart", 0, "");
    assert!(
        output.contains("maps is in /proc, but was not saved as such (-EINVAL)"),
        "{output}"
    );
    let output = intrude(&mut guest, &image, "restart", 0, "");
    assert_eq!(output, "status 0\n");
    guest.shutdown().unwrap();
}

#[test]
fn seccomp_filters_of_the_caller_stay_in_force() {
    let (_directory, mut guest) = boot();
    let (image, _) = image(&mut guest, &["./victim", "filtered"]);
    let output = intrude(&mut guest, &image, "cage", 0, "");
    assert_eq!(output, "status 0\n");
    let victim = guest.read_file(&format!("{RUN_DIR}/stdout")).unwrap();
    let victim = String::from_utf8(victim).unwrap();
    assert_eq!(victim, "mkdir: Operation not permitted\n");
    guest.shutdown().unwrap();
}
