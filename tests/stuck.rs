// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tasks that a freeze cannot stop: `checkpoint --freeze` names each with its place in the kernel
//! and with the way to end its wait, and thaws the tree; the task then completes its work
//! (`tests/stuck/stuck.c`). The test reads the task's place from its stack and does not depend on
//! timing.

mod common;

use std::collections::BTreeMap;

use common::{LONG, boot};
use crucible_engine::guest::Guest;

/// The case, the place, and a part of the expected advice on how to end the wait.
const CASES: &[(&str, &str, &str)] = &[
    (
        "seccomp",
        "seccomp_do_user_notification",
        "the supervisor that has the filter's listener has to answer",
    ),
    (
        "userfault",
        "handle_userfault",
        "the program that has the userfaultfd has to resolve the fault",
    ),
    (
        "pidns",
        "zap_pid_ns_processes",
        "the tracer outside the pid namespace",
    ),
    ("fsfreeze", "percpu_rwsem_wait", "that has to be thawed"),
];

/// Runs a command that must succeed, and returns its output.
fn run(guest: &mut Guest, argv: &[&str]) -> String {
    let argv: Vec<String> = argv.iter().map(ToString::to_string).collect();
    let run = guest.exec(&argv, &BTreeMap::new(), "/work", LONG);
    let run = run.expect("an answer");
    assert!(run.success(), "{argv:?}: {run:#?}");
    run.stdout
}

#[test]
fn a_task_that_does_not_freeze_is_reported_with_its_place_and_the_remedy() {
    let (_directory, mut guest) = boot();
    guest.prepare(None).unwrap();
    let source = include_bytes!("stuck/stuck.c");
    guest.write_file("/work/stuck.c", 0o644, source).unwrap();
    let build = "gcc -O2 -Wall -Wextra -Werror -o stuck stuck.c";
    run(&mut guest, &["/bin/sh", "-c", build]);
    for (case, place, ender) in CASES {
        let output = run(&mut guest, &["/work/stuck", case]);
        // The pid is that of the stuck task, which is the root of the tree.
        let line = output.lines().find(|line| line.contains("not at rest, ("));
        let line = line.unwrap_or_else(|| panic!("{case}: no task is named: {output}"));
        assert!(line.starts_with("pid "), "{case}: {line}");
        assert!(line.contains(": stuck: not at rest"), "{case}: {line}");
        assert!(line.contains(&format!(" in {place}: ")), "{case}: {line}");
        assert!(line.contains(ender), "{case}: {line}");
        assert!(output.contains("checkpoint exits 1"), "{case}: {output}");
        assert!(output.contains("cgroup.freeze is 0"), "{case}: {output}");
        assert!(output.contains("the task exits 7"), "{case}: {output}");
    }
    // A sleep that the freeze interrupts must not be reported.
    let output = run(&mut guest, &["/work/stuck", "pipe"]);
    assert!(!output.contains("not at rest"), "{output}");
    assert!(output.contains("the task exits 7"), "{output}");
    guest.settle().unwrap();
    guest.shutdown().unwrap();
}
