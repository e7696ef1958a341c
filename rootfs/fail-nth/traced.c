// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * State that the programs of crucible torture lack: a tracee in a signal-delivery-stop, with a
 * hardware watchpoint and two seccomp filters. Its tracer calls getppid(), and resumes it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int watched;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* Lets mkdir(2) fail with this errno. */
static void filter(int error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mkdir, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(code) / sizeof(code[0]), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		die("seccomp");
}

static int tracee(void)
{
	filter(ENOSPC);
	filter(ENOTTY);
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
		die("PTRACE_TRACEME");
	raise(SIGUSR1);
	watched = 1;
	return syscall(SYS_mkdir, "/", 0) == -1 ? errno : 0;
}

int main(void)
{
	long dr7 = 1 | 1 << 16 | 3 << 18;	/* local, on writes, of four bytes */
	int status, hits = 0;
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (!pid)
		_exit(tracee());
	if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
		die("waitpid");
	if (ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[0]), &watched) ||
	    ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[7]), dr7))
		die("PTRACE_POKEUSER");
	syscall(SYS_getppid);
	/* without the signal */
	while (ptrace(PTRACE_CONT, pid, NULL, NULL) == 0 && waitpid(pid, &status, 0) == pid &&
	       WIFSTOPPED(status))
		hits += WSTOPSIG(status) == SIGTRAP;
	printf("%s hit, %s\n", hits == 1 ? "once" : "not once",
	       WIFEXITED(status) && WEXITSTATUS(status) == ENOSPC ? "no space" :
	       WIFEXITED(status) && WEXITSTATUS(status) == ENOTTY ? "no terminal" : "otherwise");
	return 0;
}
