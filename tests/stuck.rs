// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tasks that a freeze does not bring to rest: `checkpoint --freeze` names each with its place in
//! the kernel and with who can end that, thaws the tree, and the task's work comes out
//! (`tests/stuck/stuck.c`). That a task is at its place is read from its stack, not waited for.

mod common;

use std::collections::BTreeMap;

use common::{LONG, boot};
use crucible_engine::guest::Guest;

/// Case, place, and a part of what must be said of who ends it.
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
    (
        "fsfreeze",
        "percpu_rwsem_wait",
        "who has frozen the file system has to thaw it",
    ),
];

/// Runs a command that must succeed; what it printed.
fn run(guest: &mut Guest, words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    let run = guest.exec(&words, &BTreeMap::new(), "/work", LONG);
    let run = run.expect("an answer");
    assert!(run.success(), "{words:?}: {run:#?}");
    run.stdout
}

#[test]
fn a_task_that_does_not_come_to_rest_is_named_with_its_place_and_who_ends_it() {
    let (_directory, mut guest) = boot();
    guest.prepare(None).unwrap();
    let source = include_bytes!("stuck/stuck.c");
    guest.write_file("/work/stuck.c", 0o644, source).unwrap();
    let build = "gcc -O2 -Wall -Wextra -Werror -o stuck stuck.c";
    run(&mut guest, &["/bin/sh", "-c", build]);
    for (case, place, ender) in CASES {
        let said = run(&mut guest, &["/work/stuck", case]);
        // The pid is that of the task, which is the root of the tree.
        let line = said.lines().find(|line| line.contains("not at rest, ("));
        let line = line.unwrap_or_else(|| panic!("{case}: nobody is named: {said}"));
        assert!(line.starts_with("pid "), "{case}: {line}");
        assert!(line.contains(": stuck: not at rest"), "{case}: {line}");
        assert!(line.contains(&format!(" in {place}: ")), "{case}: {line}");
        assert!(line.contains(ender), "{case}: {line}");
        assert!(said.contains("checkpoint exits 1"), "{case}: {said}");
        assert!(said.contains("cgroup.freeze is 0"), "{case}: {said}");
        assert!(said.contains("the task exits 7"), "{case}: {said}");
    }
    // A sleep that the freeze ends is none of these.
    let said = run(&mut guest, &["/work/stuck", "pipe"]);
    assert!(!said.contains("not at rest"), "{said}");
    assert!(said.contains("the task exits 7"), "{said}");
    guest.check_alerts().unwrap();
    guest.shutdown().unwrap();
}
