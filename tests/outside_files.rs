// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Open files and memory that a process shares with its parent, which is outside the tree: a
//! restarted one would have a copy. checkpoint(2) refuses, and neither notices; what is shared
//! without any consequence is saved.

mod common;

use std::collections::BTreeMap;

use common::{LONG, boot};

/// A child in a cgroup of its own shares one thing with its parent, and answers through it when it
/// was thawed.
const SHARE: &str = include_str!("outside/share.c");

const SCRIPT: &str = r#"
cd /tmp
gcc -Wall -o share share.c || exit
for what in memory memfd deleted offset eventfd timerfd epoll inotify pipe appended listed sealed; do
	cg=/sys/fs/cgroup/$what
	mkdir $cg
	rm -f child thawed file
	./share $what $cg > said &
	until [ -s child ]; do :; done
	child=$(cat child)
	until grep -q '^\(35\|230\) ' /proc/$child/syscall; do :; done
	echo 1 > $cg/cgroup.freeze
	until grep -q 'frozen 1' $cg/cgroup.events; do :; done
	/opt/crucible/checkpoint -o image -l log $child && echo "$what: saved" || echo "$what: refused"
	sed "s/^/$what: /" log
	echo 0 > $cg/cgroup.freeze
	touch thawed
	wait
	sed "s/^/$what: /" said
done
"#;

const REFUSED: &[(&str, &str)] = &[
    ("memory", "zero (deleted): has no name"),
    ("memfd", "memfd:shared (deleted): has no name"),
    ("deleted", "deleted: has no name"),
    ("offset", "file: has an offset"),
    ("eventfd", "has a state of its own"),
    ("timerfd", "has a state of its own"),
    ("epoll", "has a state of its own"),
    ("inotify", "has a state of its own"),
    ("pipe", "pipe:["),
];

/// Appended to, a directory that nothing was read of, memory that nobody can change.
const SAVED: &[&str] = &["appended", "listed", "sealed"];

#[test]
fn what_is_shared_with_a_task_outside_is_refused() {
    let (_directory, mut guest) = boot();
    guest.prepare(None).expect("an empty guest");
    let words = [
        "/bin/bash".to_owned(),
        "-c".to_owned(),
        format!("cat > /tmp/share.c <<'END'\n{SHARE}END\n{SCRIPT}"),
    ];
    let run = guest
        .exec(&words, &BTreeMap::new(), "/", LONG)
        .expect("the script's end");
    guest.shutdown().expect("shutdown");
    assert!(run.success(), "{run:?}");
    let said = run.stdout;
    for (what, words) in REFUSED {
        assert!(said.contains(&format!("{what}: refused")), "{said}");
        assert!(
            said.lines()
                .any(|line| line.starts_with(&format!("{what}: pid ")) && line.contains(words)),
            "{what}: {said}"
        );
    }
    for what in SAVED {
        assert!(said.contains(&format!("{what}: saved")), "{said}");
    }
    for what in REFUSED.iter().map(|(what, _)| what).chain(SAVED) {
        assert!(
            said.contains(&format!("{what}: still shared")),
            "{what}: {said}"
        );
    }
}
