// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A tracer that is no longer allowed to attach to its tracees, and has their memory open. It
 * attached to them in a different order than that of their creation, and wait4(2) reports them in
 * the order of attachment.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

#define TRACEES 3
#define USER 1000

static volatile int secret = 1;

static void tracee(int number, int ready, int go)
{
	secret = 100 + number;
	send_byte(ready);
	receive_byte(go);
	/* not before the tracer has it */
	check(prctl(PR_SET_DUMPABLE, 0), "dumpable");
	raise(SIGURG);
	_exit(number);
}

static int memory_of(pid_t pid)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDONLY);
	return fd < 0 ? -errno : fd;
}

static void tracer(void)
{
	pid_t pids[TRACEES], pid;
	int ready[2], go[2], memory[TRACEES], value, status;
	siginfo_t info;

	check(setresgid(USER, USER, USER) || setresuid(USER, USER, USER), "setresuid");
	check(prctl(PR_SET_DUMPABLE, 1), "dumpable");
	make_pipe(ready);
	for (int n = 0; n < TRACEES; n++) {
		make_pipe(go);
		pids[n] = forked();
		if (!pids[n])
			tracee(n, ready[1], go[0]);
		memory[n] = go[1];
		receive_byte(ready[0]);
	}
	for (int n = TRACEES; n-- > 0;) {
		int start = memory[n];

		memory[n] = memory_of(pids[n]);
		check(memory[n] < 0, "memory");
		check(ptrace(PTRACE_SEIZE, pids[n], NULL, PTRACE_O_TRACEEXIT), "PTRACE_SEIZE");
		send_byte(start);
		/* it stops, and no process has waited for the stop yet */
		check(waitid(P_PID, pids[n], &info, WSTOPPED | WNOWAIT), "waitid");
	}

	flush_and_stop_here();

	for (int n = 0; n < TRACEES; n++) {
		check(pread(memory[n], &value, sizeof(value), (off_t)&secret) != sizeof(value), "pread");
		printf("the secret of %d: %d, opened again: %s\n", n, value,
		       strerror(-memory_of(pids[n])));
	}
	for (int n = 0; n < TRACEES; n++) {
		pid = waitpid(-1, &status, __WALL);
		for (value = 0; value < TRACEES && pids[value] != pid; value++)
			;
		printf("reported: %d by signal %d\n", value, WSTOPSIG(status));
		check(ptrace(PTRACE_GETSIGINFO, pid, NULL, &info), "siginfo");
		printf("of itself: %d, code %d\n", info.si_pid == pid, info.si_code);
	}
	for (int n = 0; n < TRACEES; n++) {
		unsigned long message = 0;

		check(ptrace(PTRACE_CONT, pids[n], NULL, 0), "PTRACE_CONT");
		check(waitpid(pids[n], &status, 0) != pids[n], "waitpid");
		check(ptrace(PTRACE_GETEVENTMSG, pids[n], NULL, &message), "message");
		printf("event %d, message %ld\n", status >> 16, message >> 8);
		check(ptrace(PTRACE_DETACH, pids[n], NULL, 0), "PTRACE_DETACH");
		printf("ended with %d\n", wait_for_child(pids[n]) >> 8);
	}
	fflush(stdout);
	_exit(7);
}

int main(void)
{
	pid_t pid;

	nonce_draw();
	pid = forked();
	if (!pid)
		tracer();
	printf("the tracer ended with %d\n", wait_for_child(pid) >> 8);
	nonce_print();
	return 0;
}
