// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Open files and memory that a process shares with its parent, which is outside the tree: the
//! restarted process would have a copy of its own. checkpoint(2) refuses, and neither process
//! notices. An object is saved if sharing it has no visible effect.

mod common;

use std::collections::BTreeMap;

use common::{LONG, boot};

/// Source of a program whose child, in its own cgroup, shares one object with its parent, and
/// answers through it once it has been thawed.
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

/// An appended file, a directory that has not been read from, and sealed memory.
const SAVED: &[&str] = &["appended", "listed", "sealed"];

/// A child in a user namespace that maps only user 0, with a pipe, a socket and a memfd, one of
/// which belongs to an unmapped user. Its parent checkpoints it.
const FOREIGN: &str = r#"
cd /tmp
cat > foreign.py <<'END'
import ctypes, os, socket, sys, time
what = sys.argv[1]
ends = os.pipe()
alone = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
memory = os.memfd_create("memory")
mine = {"pipe": ends[0], "socket": alone.fileno(), "memory": memory}
if what in mine:
    os.fchown(mine[what], 1234, 1234)
if ctypes.CDLL(None).unshare(0x10000000):
    raise OSError("unshare")
for name, text in ("uid_map", "0 0 1"), ("setgroups", "deny"), ("gid_map", "0 0 1"):
    with open("/proc/self/" + name, "w") as file:
        file.write(text)
child = os.fork()
if not child:
    time.sleep(1000)
for fd in list(ends) + [memory]:
    os.close(fd)
alone.close()
open("child", "w").write(str(child))
while not os.path.exists("frozen"):
    time.sleep(0.01)
os.execl("/opt/crucible/checkpoint", "checkpoint", "-o", "image", "-l", "log", str(child))
END
for what in nothing pipe socket memory; do
	cg=/sys/fs/cgroup/$what
	mkdir $cg
	rm -f child frozen log said
	python3 foreign.py $what < /dev/null >> said 2>&1 &
	checkpoint=$!
	until [ -s child ]; do :; done
	child=$(cat child)
	echo $child > $cg/cgroup.procs
	until grep -q '^\(35\|230\) ' /proc/$child/syscall; do :; done
	echo 1 > $cg/cgroup.freeze
	until grep -q 'frozen 1' $cg/cgroup.events; do :; done
	touch frozen
	wait $checkpoint && echo "$what: saved" || echo "$what: refused"
	sed "s/^/$what: /" log said
	echo 1 > $cg/cgroup.kill
done
"#;

#[test]
fn an_object_of_an_unmapped_user_is_refused() {
    let output = run_script(FOREIGN);
    assert!(output.contains("nothing: saved"), "{output}");
    for (what, name) in [
        ("pipe", "pipe:["),
        ("socket", "socket:["),
        ("memory", "inode:["),
    ] {
        assert!(output.contains(&format!("{what}: refused")), "{output}");
        assert!(
            output
                .lines()
                .any(|line| line.starts_with(&format!("{what}: pid "))
                    && line.contains(name)
                    && line
                        .contains("belongs to a user or group outside the tree's user namespace")),
            "{what}: {output}"
        );
    }
}

fn run_script(script: &str) -> String {
    let (_directory, mut guest) = boot();
    guest.prepare(None).expect("an empty guest");
    let argv = ["/bin/bash".to_owned(), "-c".to_owned(), script.to_owned()];
    let run = guest
        .exec(&argv, &BTreeMap::new(), "/", LONG)
        .expect("the script to end");
    guest.shutdown().expect("shutdown");
    assert!(run.success(), "{run:?}");
    run.stdout
}

#[test]
fn an_object_shared_with_a_task_outside_is_refused() {
    let output = run_script(&format!("cat > /tmp/share.c <<'END'\n{SHARE}END\n{SCRIPT}"));
    for (what, expected) in REFUSED {
        assert!(output.contains(&format!("{what}: refused")), "{output}");
        assert!(
            output
                .lines()
                .any(|line| line.starts_with(&format!("{what}: pid ")) && line.contains(expected)),
            "{what}: {output}"
        );
    }
    for what in SAVED {
        assert!(output.contains(&format!("{what}: saved")), "{output}");
    }
    for what in REFUSED.iter().map(|(what, _)| what).chain(SAVED) {
        assert!(
            output.contains(&format!("{what}: still shared")),
            "{what}: {output}"
        );
    }
}
