// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A tracer with PTRACE_O_TRACEVFORKDONE, whose tracee calls vfork(2). The tracer prints each stop
 * of the tracee. The child is not traced, so the only stop of the vfork is the one after the wait.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(long ret, const char *what)
{
	if (ret < 0) {
		perror(what);
		exit(1);
	}
}

static void tracee(void)
{
	pid_t child;

	check(ptrace(PTRACE_TRACEME, 0, 0, 0), "traceme");
	raise(SIGSTOP);
	child = vfork();
	if (!child) {
		getppid();
		_exit(3);
	}
	check(child, "vfork");
	_exit(waitpid(child, NULL, 0) == child ? 0 : 1);
}

int main(void)
{
	unsigned long message;
	int status;
	pid_t pid;

	pid = fork();
	check(pid, "fork");
	if (!pid)
		tracee();
	check(waitpid(pid, &status, 0), "waitpid");
	check(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEVFORKDONE), "setoptions");
	check(ptrace(PTRACE_CONT, pid, 0, 0), "cont");
	for (;;) {
		check(waitpid(pid, &status, 0), "waitpid");
		if (!WIFSTOPPED(status))
			break;
		message = 0;
		if (status >> 16)
			check(ptrace(PTRACE_GETEVENTMSG, pid, 0, &message), "geteventmsg");
		printf("signal %d, event %d, child is %s\n", WSTOPSIG(status), status >> 16,
		       message == (unsigned long)pid + 1 ? "the next pid" : "another");
		/* SIGCHLD of the child is delivered; SIGTRAP belongs to the event */
		check(ptrace(PTRACE_CONT, pid, 0, status >> 16 ? 0 : WSTOPSIG(status)), "cont");
	}
	printf("exit status %d\n", WEXITSTATUS(status));
	return 0;
}
