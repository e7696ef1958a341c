// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Nothing outside may reach a tree that is being restarted. The image comes through a pipe that
//! stalls after one of its records, each in turn, and an intruder with all rights tries every way
//! to a task or an object that is not yet complete (`tests/intruders/doors.c`). The tree must then
//! be restored correctly.

mod common;

use common::boot;
use common::intruder::{image, intrude, run};
use crucible_protocol::{KEEP_DIR, RUN_DIR};

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
fn a_failed_restart_leaves_no_task_and_harms_no_other() {
    let (_directory, mut guest) = boot();
    let (image, records) = image(&mut guest, &["./victim"]);
    for record in 1..records {
        let output = intrude(&mut guest, &image, "fail", record, "");
        let expected = "the image ends in the middle";
        assert!(
            output.ends_with("status 0\n") && output.contains(expected),
            "after record {record} of {records}: {output}"
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
    let header = include_bytes!("../rootfs/shared/image.h");
    guest.write_file("/work/image.h", 0o644, header).unwrap();
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
