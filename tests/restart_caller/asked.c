// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Writes the state that prctl(2) and other calls report to the file "before", a line each; when
 * the file "go" exists, also to "after".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/ioprio.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_GET_MDWE
#define PR_GET_MDWE		66
#endif
#ifndef PR_GET_MEMORY_MERGE
#define PR_GET_MEMORY_MERGE	68
#endif
#ifndef PR_GET_IO_FLUSHER
#define PR_GET_IO_FLUSHER	58
#endif

static const struct {
	const char *name;
	int option;
	unsigned long arg;
	int pointer;		/* address of an int that the call sets */
} options[] = {
	{ "timer slack", PR_GET_TIMERSLACK },
	{ "huge pages disabled", PR_GET_THP_DISABLE },
	{ "no gain of execution", PR_GET_MDWE },
	{ "memory merge", PR_GET_MEMORY_MERGE },
	{ "flushes", PR_GET_IO_FLUSHER },
	{ "machine check", PR_MCE_KILL_GET },
	{ "dumpable", PR_GET_DUMPABLE },
	{ "keeps capabilities", PR_GET_KEEPCAPS },
	{ "secure bits", PR_GET_SECUREBITS },
	{ "no new privileges", PR_GET_NO_NEW_PRIVS },
	{ "store bypass", PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS },
	{ "indirect branch", PR_GET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH },
	{ "time stamps", PR_GET_TSC, 0, 1 },
	{ "reaper", PR_GET_CHILD_SUBREAPER, 0, 1 },
	{ "parent's death", PR_GET_PDEATHSIG, 0, 1 },
};

static int number_in(const char *path)
{
	FILE *file = fopen(path, "re");
	int number = -1;

	if (!file || fscanf(file, "%d", &number) != 1)
		number = -1;
	if (file)
		fclose(file);
	return number;
}

static void report(const char *path)
{
	FILE *out = fopen("partial", "we");
	struct sigaction action;
	sigset_t blocked;
	stack_t stack;
	mode_t mask;
	int ignored = 0;

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		int value = -1, ret;
		unsigned long arg = options[i].pointer ? (unsigned long)&value : options[i].arg;

		ret = prctl(options[i].option, arg, 0, 0, 0);
		fprintf(out, "%s: %d %d\n", options[i].name, ret < 0 ? -errno : ret, value);
	}
	fprintf(out, "personality: %#x\n", personality(0xffffffff));
	fprintf(out, "I/O priority: %#lx\n", syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0));
	fprintf(out, "nice: %d\n", getpriority(PRIO_PROCESS, 0));
	fprintf(out, "policy: %#x\n", sched_getscheduler(0));
	fprintf(out, "oom_score_adj: %d\n", number_in("/proc/self/oom_score_adj"));
	fprintf(out, "group: %d %d\n", getpgrp(), getsid(0));
	fprintf(out, "cores: %#x\n", number_in("/proc/self/coredump_filter"));
	mask = umask(0);
	umask(mask);
	fprintf(out, "umask: %#o\n", mask);
	sigaltstack(NULL, &stack);
	fprintf(out, "stack: %#x\n", stack.ss_flags);
	sigprocmask(SIG_BLOCK, NULL, &blocked);
	fprintf(out, "blocked: %d\n", !sigisemptyset(&blocked));
	for (int sig = 1; sig < SIGRTMAX; sig++)
		ignored += !sigaction(sig, NULL, &action) && action.sa_handler != SIG_DFL;
	fprintf(out, "ignored: %d\n", ignored);
	fclose(out);
	rename("partial", path);
}

int main(void)
{
	report("before");
	while (access("go", F_OK))
		usleep(1000);
	report("after");
	return 0;
}
