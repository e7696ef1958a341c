// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Anything that kills tasks ends a restart, too, at every moment: after each record of the image.

mod common;

use common::boot;
use common::intruder::{image, intrude, run};

/// Number of records at the beginning of an image that describe its tasks.
const TREE: usize = 3;

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
                "{how} after record {record} of {records}: {output}"
            );
        }
        guest.settle().unwrap();
    }
    guest.shutdown().unwrap();
}

/// Two ways to kill tasks without naming their pids: the end of the pid namespace of the caller,
/// and the OOM killer.
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
        assert!(ended, "memory after record {record} of {records}: {output}");
        called += usize::from(output.contains("the OOM killer was called\n"));
        guest.settle().unwrap();
    }
    // While there is no task yet, there is no memory for the OOM killer to reclaim.
    assert!(called > records / 2, "{called} of {records} times");
    guest.shutdown().unwrap();
}
