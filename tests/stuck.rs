// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tasks that a freeze cannot stop: `checkpoint --freeze` names each with its place in the kernel
//! and with the way to end its wait, and thaws the tree; the task then completes its work
//! (`tests/stuck/`). The test reads the task's place from its stack and does not depend on
//! timing. Every place that the census refuses is reached, or has a reason.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Fixture, LONG, debug_fixture, fixture};
use crucible_engine::guest::Guest;
use crucible_protocol::census::{self, Calls, Class, Entry};

/// The sources of the program.
const SOURCES: [(&str, &[u8]); 6] = [
    ("stuck.h", include_bytes!("stuck/stuck.h")),
    ("stuck.c", include_bytes!("stuck/stuck.c")),
    ("memory.c", include_bytes!("stuck/memory.c")),
    ("files.c", include_bytes!("stuck/files.c")),
    ("tasks.c", include_bytes!("stuck/tasks.c")),
    ("features.c", include_bytes!("stuck/features.c")),
];

/// A case, the places that the report names, and the end of the task afterwards.
type Case = (&'static str, &'static [&'static str], &'static str);

/// Cases of both flavours.
const CASES: &[Case] = &[
    ("seccomp", &["seccomp_do_user_notification"], "7"),
    ("userfault", &["handle_userfault"], "7"),
    ("pages", &["handle_userfault"], "7"),
    ("event", &["userfaultfd_event_wait_completion"], "7"),
    ("pidns", &["zap_pid_ns_processes"], "7"),
    ("core", &["do_coredump", "do_exit"], "-6\nwith a core"),
    ("fsfreeze", &["percpu_rwsem_wait"], "7"),
    ("freezing", &["freeze_super"], "7"),
    ("inode", &["__wait_on_freeing_inode"], "7"),
    ("entry", &["proc_entry_rundown"], "7"),
    ("v1", &["__refrigerator"], "7"),
    ("restart", &["wait_parked"], "0"),
    ("checkpoint", &["ckpt_wait_unheld"], "7"),
];

/// Cases of features that only the debug flavour has.
const FEATURES: &[Case] = &[
    ("fanotify", &["fanotify_handle_event"], "7"),
    ("fuse", &["request_wait_answer"], "7"),
    ("init", &["fuse_get_req"], "7"),
    ("flush", &["request_wait_answer"], "7"),
    ("autofs", &["autofs_wait"], "7"),
    ("module", &["__request_module"], "7"),
    ("uring", &["io_uring_cancel_generic"], "7"),
];

/// Sleeps that the freeze interrupts: they are not reported.
const INTERRUPTED: &[&str] = &["pipe", "futex"];

/// Places of class `refused` that no case reaches, with the reasons.
const UNREACHED: &[(&str, &str)] = &[
    ("build_task", HIDDEN),
    ("ckpt_gate_wait", HIDDEN),
    ("ckpt_task_main", HIDDEN),
    ("ckpt_wait_release", HIDDEN),
    ("wait_children", "the tasks that it waits for only exit"),
];

const HIDDEN: &str =
    "a task of a restart is hidden until the release, so a report can only name its caller";

/// More such places, of the debug flavour.
const UNREACHED_FEATURES: &[(&str, &str)] = &[
    (
        "autofs_expire_wait",
        "needs a daemon in the middle of an expiry",
    ),
    ("fuse_direct_IO", IN_FLIGHT),
    ("fuse_file_cached_io_open", IN_FLIGHT),
    ("fuse_page_mkwrite", IN_FLIGHT),
    ("fuse_set_nowrite", IN_FLIGHT),
    ("fuse_sync_fs", IN_FLIGHT),
    ("fuse_wait_on_page_writeback", IN_FLIGHT),
    (
        "io_wq_put_and_exit",
        "runs after io_uring_cancel_generic(), when no request is left",
    ),
    (
        "mem_cgroup_oom_synchronize",
        "the guest's memory controller belongs to cgroup v2 as long as a page is charged there",
    ),
];

const IN_FLIGHT: &str = "needs a server of FUSE that holds back direct I/O or the write of a page";

/// Runs a command. Returns its output, or an error if it failed.
fn run(guest: &mut Guest, argv: &[&str]) -> Result<String, String> {
    let argv: Vec<String> = argv.iter().map(ToString::to_string).collect();
    let run = guest.exec(&argv, &BTreeMap::new(), "/work", LONG);
    let run = run.expect("an answer");
    match run.success() {
        true => Ok(run.stdout),
        false => Err(format!("{argv:?}: {run:#?}")),
    }
}

/// Runs a case. Adds all words of its tasks' stacks to `reached`.
fn run_case(
    guest: &mut Guest,
    (case, places, exits): Case,
    entries: &[Entry],
    reached: &mut BTreeSet<String>,
) -> Result<(), String> {
    let output = run(guest, &["/work/stuck", case])?;
    let stacks = output.lines().filter(|line| line.starts_with("stack of "));
    // The compiler adds suffixes such as `.constprop.0` to a name.
    let names = stacks.flat_map(|line| line.split([' ', '.']).map(str::to_owned));
    reached.extend(names);
    for place in places {
        let entry = entries.iter().find(|entry| entry.function.name == *place);
        let ender = &entry.expect(place).reason;
        let reported = output.lines().any(|line| {
            line.starts_with("pid ")
                && line.contains(": not at rest, (")
                && line.ends_with(&format!(" in {place}: {ender}"))
        });
        if !reported {
            return Err(format!("{case}: {place} is not named: {output}"));
        }
    }
    let ends = format!("the task exits {exits}\n");
    for wanted in ["checkpoint exits 1", "cgroup.freeze is 0", &ends] {
        if !output.contains(wanted) {
            return Err(format!("{case}: it lacks `{wanted}`: {output}"));
        }
    }
    Ok(())
}

/// Runs a case whose sleep the freeze interrupts.
fn run_interrupted(guest: &mut Guest, case: &str) -> Result<(), String> {
    let output = run(guest, &["/work/stuck", case])?;
    match !output.contains("not at rest") && output.contains("the task exits 7\n") {
        true => Ok(()),
        false => Err(format!("{case}: {output}")),
    }
}

/// Runs the cases, also after one that fails; every place of class `refused` of the flavour must be
/// on the stack of one of their tasks, or among the unreached.
fn check(
    fixture: &Fixture,
    cases: &[&[Case]],
    unreached: &[&[(&str, &str)]],
    calls: impl Fn(&Entry) -> &Calls,
) {
    let (_directory, mut guest) = fixture.boot();
    guest.prepare(None).unwrap();
    for (name, source) in SOURCES {
        let path = format!("/work/{name}");
        guest.write_file(&path, 0o644, source).unwrap();
    }
    let build = "gcc -O2 -Wall -Wextra -Werror -o stuck *.c";
    run(&mut guest, &["/bin/sh", "-c", build]).expect("a program");
    let entries = census::entries().expect("the census lists");
    let mut reached = BTreeSet::new();
    let mut failed = Vec::new();
    for case in cases.iter().copied().flatten() {
        failed.extend(run_case(&mut guest, *case, &entries, &mut reached).err());
    }
    for case in INTERRUPTED {
        failed.extend(run_interrupted(&mut guest, case).err());
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let refused: BTreeSet<_> = entries
        .iter()
        .filter(|entry| entry.class == Class::Refused && !calls(entry).is_empty())
        .map(|entry| entry.function.name.clone())
        .collect();
    // The compiler inlines different functions in each flavour.
    let expected: BTreeSet<_> = unreached
        .iter()
        .copied()
        .flatten()
        .map(|(name, _)| (*name).to_owned())
        .filter(|name| refused.contains(name))
        .collect();
    let unreached: BTreeSet<_> = refused.difference(&reached).cloned().collect();
    assert_eq!(unreached, expected);
    guest.settle().unwrap();
    guest.shutdown().unwrap();
}

#[test]
fn a_task_that_does_not_freeze_is_reported_with_its_place_and_the_remedy() {
    check(fixture(), &[CASES], &[UNREACHED], |entry| &entry.base);
}

#[test]
fn so_is_a_task_that_waits_by_a_feature_of_the_debug_kernel() {
    check(
        debug_fixture(),
        &[FEATURES, CASES],
        &[UNREACHED, UNREACHED_FEATURES],
        |entry| &entry.debug,
    );
}
