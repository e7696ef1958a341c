// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tracer and its tracee are saved together or not at all: where one of the two is outside
//! the tree, checkpoint(2) refuses, with the names of both, and neither notices.

mod common;

use std::collections::BTreeMap;

use common::{LONG, boot};

/// Has strace follow a sleep, freezes both in their cgroup, checkpoints the tree of one of
/// the two, and thaws. Arguments: options of strace, `tracer` or `tracee`.
const SCRIPT: &str = r#"
cg=/sys/fs/cgroup/outside
mkdir $cg
sh -c "echo \$\$ > $cg/cgroup.procs; exec strace $1 -o /tmp/trace sleep 1000" &
sleeps() {
	tracee=$(pgrep -x sleep) && tracer=$(sed -n 's/^TracerPid:.//p' /proc/$tracee/status) &&
		[ $tracer -gt 0 ] && grep -q '^230 ' /proc/$tracee/syscall
}
until sleeps; do :; done
echo 1 > $cg/cgroup.freeze
until grep -q 'frozen 1' $cg/cgroup.events; do :; done
root=$tracee
[ $2 = tracee ] || root=$tracer
/opt/crucible/checkpoint -o /tmp/image -l /tmp/log $root && echo saved
sed "s/pid $tracer /pid TRACER /; s/pid $tracee /pid TRACEE /" /tmp/log
echo 0 > $cg/cgroup.freeze
kill $tracee
while grep -q 'populated 1' $cg/cgroup.events; do :; done
grep -o 'killed by SIGTERM' /tmp/trace
"#;

fn refusal(options: &str, root: &str) -> String {
    let (_directory, mut guest) = boot();
    guest.prepare(None).expect("an empty guest");
    let words = ["/bin/bash", "-c", SCRIPT, "outside", options, root].map(String::from);
    let run = guest
        .exec(&words, &BTreeMap::new(), "/", LONG)
        .expect("the script's end");
    guest.shutdown().expect("shutdown");
    assert!(run.success(), "{run:?}");
    assert!(!run.stdout.contains("saved"), "{run:?}");
    run.stdout
}

#[test]
fn a_tracer_outside_is_named() {
    let said = refusal("", "tracee");
    assert!(
        said.contains("sleep: is traced by pid TRACER (strace), which is not in the tree"),
        "{said}"
    );
}

#[test]
fn a_tracee_outside_is_named() {
    // With -D the tracer is not the tracee's parent but its orphaned grandchild.
    let said = refusal("-D", "tracer");
    assert!(
        said.contains("strace: traces pid TRACEE (sleep), which is not in the tree"),
        "{said}"
    );
}
