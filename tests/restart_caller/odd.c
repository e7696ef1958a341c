// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * odd IMAGE LOG: calls restart(2) with non-default values of all state that a child inherits, into
 * its own cgroup and namespaces.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/ioprio.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SYS_restart		501
#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER	57
#endif

static char space[1 << 16];

static void must(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(1);
}

static void write_to(const char *path, const char *text)
{
	FILE *file = fopen(path, "we");

	must(file && fputs(text, file) >= 0 && !fclose(file), path);
}

int main(int argc, char **argv)
{
	int image = argc == 3 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
	int log = argc == 3 ? open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;
	struct sched_param param = { };
	stack_t stack = { .ss_sp = space, .ss_size = sizeof(space) };
	sigset_t all;
	long pid;

	must(image >= 0 && log >= 0, "the image, the log");
	sigfillset(&all);
	must(!sigprocmask(SIG_BLOCK, &all, NULL), "sigprocmask");
	for (int sig = 1; sig < SIGRTMAX; sig++)
		if (sig != SIGCHLD)
			signal(sig, SIG_IGN);
	must(!sigaltstack(&stack, NULL), "sigaltstack");
	umask(077);
	write_to("/proc/self/oom_score_adj", "500");
	write_to("/proc/self/coredump_filter", "0x7f");
	must(personality(ADDR_NO_RANDOMIZE | MMAP_PAGE_ZERO) >= 0, "personality");
	must(!setpriority(PRIO_PROCESS, 0, 7), "nice");
	must(!sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &param), "SCHED_BATCH");
	must(!syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0,
		      IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7)), "ioprio_set");
	must(!prctl(PR_SET_TIMERSLACK, 777777), "PR_SET_TIMERSLACK");
	must(!prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "PR_SET_THP_DISABLE");
	must(!prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0), "PR_SET_IO_FLUSHER");
	must(!prctl(PR_SET_KEEPCAPS, 1), "PR_SET_KEEPCAPS");
	must(!prctl(PR_SET_CHILD_SUBREAPER, 1), "PR_SET_CHILD_SUBREAPER");
	/* not supported by all machines */
	prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
	prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0);
	prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE, 0, 0);
	must(!prctl(PR_SET_DUMPABLE, 0), "PR_SET_DUMPABLE");
	/* no code may read a clock from here on */
	must(!prctl(PR_SET_TSC, PR_TSC_SIGSEGV), "PR_SET_TSC");
	pid = syscall(SYS_restart, -1, image, 0UL, log);
	must(!prctl(PR_SET_TSC, PR_TSC_ENABLE), "PR_SET_TSC");
	must(pid > 0, "restart");
	puts("restarted");
	return 0;
}
