// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tasks that are killed in the middle of a checkpoint stay in place for as long as checkpoint(2)
//! reads them, so that nothing it reads is freed. The tests do not depend on timing to be in the
//! middle: the image goes to a pipe that no process reads (`tests/killed/stalled.c`).

mod common;

use std::collections::BTreeMap;

use common::{LONG, boot};
use crucible_engine::guest::Guest;
use crucible_protocol::{Ended, EventKind, KEEP_DIR, RUN_DIR, Stopped, Trigger};

/// The trigger for getppid(2), which the workload calls once all its tasks exist.
const EVENT: Trigger = Trigger::Count {
    kind: EventKind::Syscall { number: Some(110) },
    task: None,
    nth: 1,
};

/// Name under which the built programs are kept between the cases.
const STASH: &str = "killed";

/// The point up to which the image has been read when the tasks are killed.
const FIRST: &str = "first";
const MIDDLE: &str = "middle";
const LAST: &str = "last";

/// A case: the kind of worker, the point up to which the image has been read, the task that is
/// killed, the end of the reader, the result of checkpoint(2), and the way in which the worker
/// ends in the restarted tree.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const KILLED: &str = "worker: signal 9\n";
const UNHARMED: &str = "worker: status 3\n";

const CASES: &[Case] = &[
    ("plain", MIDDLE, "none", "read", "saved", UNHARMED),
    ("plain", FIRST, "worker", "read", "EAGAIN", KILLED),
    ("plain", MIDDLE, "worker", "read", "EAGAIN", KILLED),
    ("plain", LAST, "worker", "read", "EAGAIN", KILLED),
    ("plain", MIDDLE, "worker", "kill", "killed", KILLED),
    ("plain", MIDDLE, "all", "read", "EAGAIN", ""),
    ("threads", FIRST, "thread", "read", "EAGAIN", KILLED),
    ("threads", MIDDLE, "thread", "read", "EAGAIN", KILLED),
    ("threads", LAST, "thread", "read", "EAGAIN", KILLED),
    ("threads", MIDDLE, "worker", "kill", "killed", KILLED),
    ("threads", LAST, "all", "read", "EAGAIN", ""),
    ("vfork", MIDDLE, "none", "read", "saved", UNHARMED),
    ("vfork", FIRST, "worker", "read", "EAGAIN", KILLED),
    ("vfork", MIDDLE, "worker", "read", "EAGAIN", KILLED),
    ("vfork", LAST, "worker", "read", "EAGAIN", KILLED),
    (
        "vfork",
        MIDDLE,
        "spawned",
        "read",
        "EAGAIN",
        "worker: status 109\n",
    ),
    (
        "vfork",
        LAST,
        "spawned",
        "kill",
        "killed",
        "worker: status 109\n",
    ),
    ("vfork", FIRST, "all", "kill", "killed", ""),
];

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

fn build(guest: &mut Guest) {
    let sources = [
        ("family.c", &include_bytes!("killed/family.c")[..]),
        ("stalled.c", include_bytes!("killed/stalled.c")),
    ];
    guest.prepare(None).unwrap();
    for (name, content) in sources {
        let path = format!("/work/{name}");
        guest.write_file(&path, 0o644, content).unwrap();
    }
    run(
        guest,
        "gcc -O2 -Wall -Wextra -Werror -pthread -o family family.c && \
         gcc -O2 -Wall -Wextra -Werror -o stalled stalled.c",
    );
    guest.stash(STASH).unwrap();
}

/// Thaws a container, waits until it ends on its own, and returns its output.
fn finish(guest: &mut Guest, run: &str) -> String {
    guest.thaw(run).unwrap();
    let stopped = guest.wait(run, LONG).unwrap();
    let Stopped::Exited { workload, .. } = stopped else {
        panic!("{run} did not end: {stopped:?}");
    };
    assert_eq!(workload, Some(Ended::Exited { code: 0 }), "{run}");
    guest.kill(run).unwrap();
    let printed = guest.read_file(&format!("{RUN_DIR}/stdout")).unwrap();
    String::from_utf8(printed).unwrap()
}

fn try_case(guest: &mut Guest, number: usize, case: &Case) {
    let &(kind, far, victim, reader, answer, end) = case;
    let name = format!("case{number}");
    let file = |what: &str| format!("{KEEP_DIR}/{name}.{what}");
    let (image, log) = (file("image"), file("log"));
    guest.prepare(Some(STASH)).unwrap();
    let argv = ["./family", kind].map(String::from);
    let root = guest.start(&name, &argv, &BTreeMap::new(), "/work", Some(&EVENT));
    let root = root.unwrap();
    let stopped = guest.wait(&name, LONG).unwrap();
    assert!(
        matches!(stopped, Stopped::Frozen(_)),
        "{case:?}: {stopped:?}"
    );

    let printed = run(
        guest,
        &format!(
            "./stalled /sys/fs/cgroup/crucible/{name} {root} {far} {victim} {reader} {image} {log}"
        ),
    );
    assert_eq!(printed.trim(), answer, "{case:?}");
    let log_text = String::from_utf8(guest.read_file(&log).unwrap()).unwrap();
    // If the parent was killed before it was written, the wait for its vfork child is lost,
    // too.
    let known = [
        "has run during the checkpoint",
        "is done or outside the tree",
    ];
    let reported = known.iter().any(|known| log_text.contains(known));
    assert_eq!(reported, answer == "EAGAIN", "{case:?}: {log_text}");
    if victim == "all" {
        let stopped = guest.wait(&name, LONG).unwrap();
        assert!(matches!(stopped, Stopped::Exited { .. }), "{stopped:?}");
        guest.kill(&name).unwrap();
        return;
    }
    // The remaining tree must be intact: it can be checkpointed once more, and its image restarts.
    if answer != "saved" {
        let saved = guest.checkpoint(&name, &image, &log, LONG).unwrap();
        assert!(saved.success(), "{case:?}: {saved:#?}");
    }
    guest.kill(&name).unwrap();
    let again = format!("{name}-again");
    let restarted = guest.restart(&again, &image, &log, LONG).unwrap();
    assert!(restarted.is_ok(), "{case:?}: {restarted:#?}");
    assert_eq!(finish(guest, &again), end, "{case:?}");
}

#[test]
fn a_task_killed_during_a_checkpoint_stays_until_it_has_been_read() {
    let (_directory, mut guest) = boot();
    build(&mut guest);
    for (number, case) in CASES.iter().enumerate() {
        try_case(&mut guest, number, case);
        guest.settle().unwrap();
    }
    // Fails if the kernel has reported a fault.
    guest.shutdown().unwrap();
}
