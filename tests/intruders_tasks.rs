// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Permissions of checkpoint(2) and restart(2), and their interaction with namespaces,
//! credentials, tracers and signals from outside. Each script runs as root in its own guest,
//! and switches to a different user where needed. The scripts do not depend on timing to be in the
//! middle of a checkpoint(2): its image goes to a pipe that no process reads.

mod common;

use common::scripts::{assert_lines, run_script};

#[test]
fn a_namespace_different_from_the_callers_is_refused_by_name() {
    let output = run_script(
        r#"
for option in -Ur -n -u -i -C -T; do
	begin unshare $option sleep 1000
	at_rest sleep
	freeze
	save --own-mounts
	end
done
# its child enters it, and it does not
begin unshare -T --fork sh -c 'echo $$ > /tmp/t/inner; exec sleep 1000'
until [ -s inner ]; do :; done
freeze
save --own-mounts
end
"#,
    );
    let names = [
        "its user namespace",
        "its network namespace",
        "its uts namespace",
        "its ipc namespace",
        "its cgroup namespace",
        "its time namespace",
    ];
    let refused = names.iter().flat_map(|name| ["refused", name]);
    let lines: Vec<&str> = refused
        .chain(["refused", "its children's time namespace"])
        .collect();
    assert_lines(&output, &lines);
    assert_eq!(output.matches("is not the caller's").count(), 7, "{output}");
}

#[test]
fn another_cgroup_of_version_one_is_refused() {
    let output = run_script(
        r#"
mkdir one
mount -t cgroup -o none,name=ours none one
mkdir one/below
begin sleep 1000
at_rest sleep
echo $root > one/below/cgroup.procs
freeze
save
echo $root > one/cgroup.procs
save
end
umount one
"#,
    );
    assert_lines(
        &output,
        &[
            "refused",
            "its cgroup in a version 1 hierarchy differs from the caller's",
            "saved",
        ],
    );
}

#[test]
fn mounts_of_its_own_are_permitted_listed_and_compared() {
    let output = run_script(
        r#"
mkdir data
begin unshare -m sh -c 'mount -t tmpfs -o size=1m ours /tmp/t/data; exec sleep 1000'
at_rest sleep
freeze
save
save --own-mounts
end
again() {
	unshare -m sh -c "$1; exec \"\$@\"" sh $tools/restart --pids --no-wait "${@:2}" \
		-i image -l log > pid 2> /dev/null
	case $? in 0) echo restarted; kill $(cat pid) ;; *) echo refused; cat log ;; esac
	until ! kill -0 $root 2> /dev/null; do :; done
}
again 'mount -t tmpfs -o size=1m ours data'
again 'mount -t tmpfs -o size=1m ours data' --equal-mounts
again : --equal-mounts
again 'mount -t tmpfs -o size=2m ours data' --equal-mounts
again 'mount -t tmpfs -o size=1m ours data; mount -t tmpfs over data' --equal-mounts
again 'mount -t tmpfs -o size=1m,ro ours data' --equal-mounts
"#,
    );
    let differs = ["refused", "the tree had this mount: ", "instead: "];
    let mut lines = vec![
        "refused",
        "its mount namespace is not the caller's: permit it (checkpoint --own-mounts)",
        "saved",
        "refused",
        "the tree had a mount namespace of its own: make equal mounts and confirm it",
        "restarted",
    ];
    for _ in 0..4 {
        lines.extend(differs);
    }
    assert_lines(&output, &lines);
}

#[test]
fn a_caller_that_may_not_trace_the_root_is_refused_first() {
    let output = run_script(
        r#"
# the caller is below this one, which would be found out by a walk through all of it
setpriv --reuid 1000 --clear-groups sh -c "$tools/checkpoint --check 1 2>&1" | head -1
echo $(setpriv --reuid 1000 --clear-groups cat /proc/1/ckpt_site 2>&1)
echo $(cat /proc/1/ckpt_site)
chown -R 1000 $cg
setpriv --reuid 1000 --clear-groups sh -c "echo vfork 1 | tee $cg/cgroup.freeze_at" 2>&1 > /dev/null
echo vfork 1 > $cg/cgroup.freeze_at && echo armed
"#,
    );
    assert_lines(
        &output,
        &[
            "the caller may not trace it",
            "Operation not permitted",
            "none",
            "Operation not permitted",
            "armed",
        ],
    );
}

#[test]
fn a_tracer_that_attaches_during_a_checkpoint_is_noticed() {
    let output = run_script(
        r#"
# Begins to trace a task that does not notice: PTRACE_SEIZE wakes nobody.
cat > seize.c <<'END'
#include <stdlib.h>
#include <sys/ptrace.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 2 || ptrace(PTRACE_SEIZE, atoi(argv[1]), 0, 0))
		return 1;
	for (;;)
		pause();
}
END
gcc -o big big.c && gcc -o seize seize.c || die gcc
begin ./big
at_rest big
until child=$(pgrep -P $root -x sleep); do :; done
at_rest sleep $child
freeze
stalled
./seize $child &
tracer=$!
until grep -q "^TracerPid:.$tracer$" /proc/$child/status; do :; done
drain
kill -9 $tracer
end
"#,
    );
    assert!(output.starts_with("refused\n"), "{output}");
    assert!(
        output.contains("is traced by pid") && output.contains("(seize)"),
        "{output}"
    );
}

#[test]
fn a_signal_does_not_restart_the_image() {
    let output = run_script(
        r#"
gcc -o big big.c || die gcc
begin ./big
at_rest big
freeze
stalled
kill -STOP $caller
kill -CONT $caller
drain
end
$tools/restart --pids --no-wait -i image -l log 2> /dev/null && echo restarted
cat log
kill $root
# a fatal one ends it
begin ./big
at_rest big
freeze
stalled
kill $caller
wait $caller
echo ended by $?
end
"#,
    );
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "saved", "{output}");
    assert!(lines.contains(&"restarted"), "{output}");
    assert_eq!(lines.last(), Some(&"ended by 143"), "{output}");
}

#[test]
fn a_cgroup_created_during_a_checkpoint_does_not_stay_frozen() {
    let output = run_script(
        r#"
gcc -o big big.c || die gcc
begin ./big
at_rest big
freeze
stalled
echo 0 > $cg/cgroup.freeze
mkdir $cg/child
grep frozen $cg/cgroup.events
drain
until grep -q 'frozen 0' $cg/cgroup.events; do :; done
timeout -s KILL 20 sh -c "echo \$\$ > $cg/child/cgroup.procs; echo alive"
end
"#,
    );
    assert_lines(&output, &["frozen 1", "saved", "alive"]);
}

#[test]
fn a_restart_gives_no_credentials_that_the_caller_could_not_set() {
    let output = run_script(
        r#"
# try WHAT CALLER-OPTIONS -- TREE-OPTIONS
try() {
	local with=() options
	while [ "$1" != -- ]; do with+=("$1"); shift; done
	shift
	begin setpriv "$@" sleep 1000
	at_rest sleep
	freeze
	save > /dev/null
	end
	setpriv "${with[@]}" $tools/restart --pids --no-wait -i image -l log > pid 2> /dev/null
	case $? in 0) echo restarted; kill $(cat pid) ;; *) echo refused: $(cat log) ;; esac
	until ! kill -0 $root 2> /dev/null; do :; done
}
caps="--inh-caps +all --ambient-caps +all"
no_pcap="--inh-caps +all,-setpcap --ambient-caps +all,-setpcap"
# as it is
try --securebits +noroot,+noroot_locked $caps -- --securebits +noroot,+noroot_locked
# what is locked stays as it is
try --securebits +noroot,+noroot_locked $caps -- --securebits +noroot_locked
# a bounding set is made smaller with CAP_SETPCAP only
try --securebits +noroot $caps -- --securebits +noroot --bounding-set -sys_time
try --securebits +noroot $no_pcap -- --securebits +noroot --bounding-set -sys_time
# no ambient capabilities where they may not be raised
cat > bits.c <<'END'
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 3 || prctl(PR_SET_SECUREBITS, strtoul(argv[1], NULL, 16)))
		return 1;
	execvp(argv[2], argv + 2);
	return 1;
}
END
gcc -o bits bits.c || die gcc
raised="--inh-caps +net_raw --ambient-caps +net_raw ./bits 40"
try $raised -- $raised
try ./bits 40 -- $raised
"#,
    );
    assert_lines(
        &output,
        &[
            "restarted",
            "refused: ",
            "restarted",
            "refused: ",
            "restarted",
            "refused: ",
        ],
    );
    assert_eq!(
        output
            .matches("that the caller may not set (-EPERM)")
            .count(),
        3,
        "{output}"
    );
}

#[test]
fn a_restarted_tree_does_not_inherit_the_callers_scheduling() {
    let output = run_script(
        r#"
begin sleep 1000
at_rest sleep
freeze
save
end
chrt -f 9 $tools/restart --pids --no-wait -i image -l log > /dev/null || cat log
chrt -p $root | head -1
kill $root
until ! kill -0 $root 2> /dev/null; do :; done
nice -n 7 $tools/restart --pids --no-wait -i image -l log > /dev/null || cat log
echo nice $(ps -o ni= -p $root)
kill $root
"#,
    );
    assert_lines(&output, &["saved", "SCHED_OTHER", "nice 0"]);
}

#[test]
fn a_timer_that_expires_during_a_checkpoint_is_not_lost() {
    let output = run_script(
        r#"
cat > alarm.c <<'END'
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>
#include <unistd.h>

/* More signals than a pipe and the kernel's buffer hold; then one that a timer sends. */
int main(void)
{
	struct itimerval timer = { .it_value.tv_sec = 6 };
	struct timespec limit = { 20, 0 };
	union sigval value = { 0 };
	sigset_t all, alarm;
	int i;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	for (i = 0; i < 3000; i++)
		if (sigqueue(getpid(), SIGRTMIN, value))
			return 1;
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	setitimer(ITIMER_REAL, &timer, NULL);
	while (access("go", F_OK))
		usleep(1000);
	puts(sigtimedwait(&alarm, NULL, &limit) == SIGALRM ? "SIGALRM came" : "SIGALRM is lost");
}
END
gcc -o alarm alarm.c || die gcc
begin ./alarm
at_rest alarm
freeze
save
# it is written as far as the middle of the signals
stalled
head -c $(($(stat -c %s image) - 204 * 1024)) <&9 > first
until grep -q '^500 ' /proc/$caller/syscall && grep -q '^State:.S' /proc/$caller/status; do :; done
# SIGALRM is the 14th
until [ $((0x$(sed -n 's/^ShdPnd:.//p' /proc/$root/status) >> 13 & 1)) = 1 ]; do :; done
drain
end
cat first image | $tools/restart --pids --no-wait -l log > /dev/null || cat log
touch go
until grep SIGALRM out; do :; done
"#,
    );
    assert_lines(&output, &["saved", "saved", "SIGALRM came"]);
}

#[test]
fn waiting_for_a_lock_held_outside_can_be_killed() {
    let output = run_script(
        r#"
cat > hold.c <<'END'
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Writes to a pipe from memory that is never there: with the pipe's lock held. */
int main(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register all = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC), ends[2];
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FILE *file;
	pid_t pid;

	all.range.start = (unsigned long)page;
	all.range.len = 4096;
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &all) ||
	    pipe(ends) || (pid = fork()) < 0)
		return 1;
	if (!pid) {
		close(fd);
		return read(ends[0], &pid, 1);
	}
	file = fopen("child", "w");
	fprintf(file, "%d", pid);
	fclose(file);
	while (access("go", F_OK))
		usleep(1000);
	return write(ends[1], page, 4096);
}
END
gcc -o hold hold.c || die gcc
./hold < /dev/null > /dev/null 2>&1 &
holder=$!
until [ -s child ]; do :; done
root=$(cat child)
echo $root > $cg/cgroup.procs
until grep -q '^0 ' /proc/$root/syscall; do :; done
freeze
touch go
until grep -q '^1 ' /proc/$holder/syscall; do :; done
$tools/checkpoint -o image -l log $root 2> /dev/null &
caller=$!
# it waits for the lock
until grep -q '^500 ' /proc/$caller/syscall; do
	kill -0 $caller || die "checkpoint ended: $(cat log)"
done
kill -9 $caller
wait $caller
echo ended by $?
kill -9 $holder $root
echo 0 > $cg/cgroup.freeze
wait $holder || :
"#,
    );
    assert_lines(&output, &["ended by 137"]);
}
