// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * stops KIND: a process in a state that a forged image could misrepresent.
 *
 *	seccomp	in a SECCOMP stop; the tracer is its parent
 *	signal	in a signal-delivery stop, without any filter
 *	strict	in read(2), one of the four calls of the strict mode
 *
 * It or its parent creates the file "there" before it reaches that state.
 */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(1);
}

static void there(void)
{
	must(creat("there", 0644) >= 0, "there");
}

static void strict(void)
{
	int ends[2];

	must(!pipe(ends), "pipe");
	there();
	must(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT), "strict mode");
	for (;;)
		read(ends[0], ends, 1);
}

static void ask_tracer(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(filter) / sizeof(filter[0]), filter };

	must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
	     !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), "seccomp");
}

int main(int argc, char **argv)
{
	int filtered = argc > 1 && !strcmp(argv[1], "seccomp"), status;
	pid_t child;

	if (argc > 1 && !strcmp(argv[1], "strict"))
		strict();
	child = fork();
	must(child >= 0, "fork");
	if (!child) {
		prctl(PR_SET_NAME, "tracee");
		must(!ptrace(PTRACE_TRACEME, 0, 0, 0), "PTRACE_TRACEME");
		raise(SIGSTOP);
		ask_tracer();
		syscall(SYS_getppid);
		_exit(0);
	}
	must(waitpid(child, &status, 0) == child && WIFSTOPPED(status), "the first stop");
	if (filtered) {
		must(!ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESECCOMP) &&
		     !ptrace(PTRACE_CONT, child, 0, 0), "PTRACE_O_TRACESECCOMP");
		must(waitpid(child, &status, 0) == child &&
		     status >> 8 == (SIGTRAP | PTRACE_EVENT_SECCOMP << 8), "the stop");
	}
	there();
	for (;;)
		pause();
}
