// SPDX-License-Identifier: GPL-2.0-only
/*
 * A tracer that dies while its tracee is in a stop: the tracee continues, or is
 * killed with PTRACE_O_EXITKILL. argv[1] selects the stop; argv[2] is "kill" for
 * the latter.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

static volatile int seen;

static void on_signal(int number)
{
	seen = number;
}

/* The first process reaps it, as a child subreaper, when the tracer has died. */
static void tracee(int ready, int go)
{
	char c;

	signal(SIGUSR1, on_signal);
	check(write(ready, "r", 1) != 1, "write");
	check(read(go, &c, 1) != 1, "read");
	getpgrp();
	raise(SIGUSR1);
	printf("the tracee continues, and has received signal %d\n", seen);
	fflush(stdout);
	_exit(9);
}

static void go_to_stop(pid_t pid, const char *stop)
{
	int status;

	for (;;) {
		check(ptrace(PTRACE_SYSCALL, pid, NULL, NULL), "syscall");
		status = wait_for_child(pid);
		check(!WIFSTOPPED(status), "stopped");
		if (!strcmp(stop, "signal") ? WSTOPSIG(status) == SIGUSR1 :
					      WSTOPSIG(status) == (SIGTRAP | 0x80))
			return;
	}
}

static void tracer(const char *stop, int kill_it)
{
	long options = PTRACE_O_TRACESYSGOOD;
	int ready[2], go[2];
	char c;
	pid_t pid;

	if (kill_it)
		options |= PTRACE_O_EXITKILL;
	check(pipe(ready) || pipe(go), "pipe");
	pid = fork();
	check(pid < 0, "fork");
	if (!pid)
		tracee(ready[1], go[0]);
	check(read(ready[0], &c, 1) != 1, "read");
	check(ptrace(PTRACE_SEIZE, pid, NULL, options), "seize");
	if (strcmp(stop, "none")) {
		/*
		 * the tracee is in its read, or on the way to it: read is its
		 * next call
		 */
		check(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL), "interrupt");
		wait_for_child(pid);
		check(write(go[1], "x", 1) != 1, "write");
		go_to_stop(pid, stop);
	}
	/* the event of the checkpoint */
	getppid();
	raise(SIGKILL);
}

int main(int argc, char **argv)
{
	int status, ends = 0;
	pid_t pid;

	check(argc < 3, "arguments");
	check(prctl(PR_SET_CHILD_SUBREAPER, 1), "subreaper");
	pid = fork();
	check(pid < 0, "fork");
	if (!pid)
		tracer(argv[1], !strcmp(argv[2], "kill"));
	while ((pid = waitpid(-1, &status, 0)) > 0) {
		ends++;
		if (WIFSIGNALED(status))
			printf("end %d: killed by signal %d\n", ends, WTERMSIG(status));
		else
			printf("end %d: status %d\n", ends, WEXITSTATUS(status));
	}
	check(errno != ECHILD || ends != 2, "ends");
	return 0;
}
