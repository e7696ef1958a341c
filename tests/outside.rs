// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Relations that must be checkpointed completely or not at all: if a tracer, a tracee or the
//! other end of a socket pair is outside the tree, checkpoint(2) refuses and names it, and neither
//! side notices.

mod common;

use std::collections::BTreeMap;

use common::{LONG, boot};

/// Makes strace follow a sleep, freezes both in their cgroup, checkpoints the tree of one of the
/// two, and thaws. Arguments: options of strace; `tracer` or `tracee`.
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

/// Makes a process in its own cgroup share a socket pair with its parent, freezes it,
/// checkpoints it, thaws it, and has it answer. Argument: the ends that the child closes.
const SOCKETS: &str = r#"
cg=/sys/fs/cgroup/outside
mkdir $cg
cat > /tmp/share.c <<'END'
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int ends[2], status;
	char byte;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || (pid = fork()) < 0)
		return 1;
	if (!pid) {
		if (argv[1][0] == 'h')
			close(ends[0]);
		return read(ends[1], &byte, 1) == 1 ? 7 : 1;
	}
	FILE *procs = fopen("/sys/fs/cgroup/outside/cgroup.procs", "w");
	fprintf(procs, "%d", pid);
	fclose(procs);
	FILE *child = fopen("/tmp/child", "w");
	fprintf(child, "%d", pid);
	fclose(child);
	while (access("/tmp/thawed", F_OK))
		usleep(1000);
	if (write(ends[0], "x", 1) != 1 || waitpid(pid, &status, 0) != pid)
		return 1;
	printf("the child exited %d\n", WEXITSTATUS(status));
}
END
gcc -o /tmp/share /tmp/share.c || exit
/tmp/share "$1" &
until [ -s /tmp/child ]; do :; done
child=$(cat /tmp/child)
until grep -q '^0 ' /proc/$child/syscall; do :; done
echo 1 > $cg/cgroup.freeze
until grep -q 'frozen 1' $cg/cgroup.events; do :; done
/opt/crucible/checkpoint -o /tmp/image -l /tmp/log $child && echo saved
cat /tmp/log
echo 0 > $cg/cgroup.freeze
touch /tmp/thawed
wait
"#;

fn refusal(options: &str, root: &str) -> String {
    run_script(&[SCRIPT, "outside", options, root])
}

fn run_script(script: &[&str]) -> String {
    let (_directory, mut guest) = boot();
    guest.prepare(None).expect("an empty guest");
    let argv = ["/bin/bash", "-c"].iter().chain(script);
    let argv: Vec<String> = argv.map(ToString::to_string).collect();
    let run = guest
        .exec(&argv, &BTreeMap::new(), "/", LONG)
        .expect("the script to end");
    guest.shutdown().expect("shutdown");
    assert!(run.success(), "{run:?}");
    assert!(!run.stdout.contains("saved"), "{run:?}");
    run.stdout
}

#[test]
fn a_tracer_outside_is_reported() {
    let output = refusal("", "tracee");
    assert!(
        output.contains("sleep: is traced by pid TRACER (strace), which is not in the tree"),
        "{output}"
    );
}

#[test]
fn a_tracee_outside_is_reported() {
    // With -D the tracer is not the tracee's parent but its orphaned grandchild.
    let output = refusal("-D", "tracer");
    assert!(
        output.contains("strace: traces pid TRACEE (sleep), which is not in the tree"),
        "{output}"
    );
}

#[test]
fn a_socket_whose_peer_is_outside_is_refused() {
    let output = run_script(&[SOCKETS, "outside", "here"]);
    assert!(
        output.contains("is connected to a socket outside the tree"),
        "{output}"
    );
    assert!(output.contains("the child exited 7"), "{output}");
}

#[test]
fn a_socket_that_is_open_outside_is_refused() {
    let output = run_script(&[SOCKETS, "outside", "nothing"]);
    assert!(
        output.contains("is held 2 times, 1 of them in the tree"),
        "{output}"
    );
    assert!(output.contains("the child exited 7"), "{output}");
}
