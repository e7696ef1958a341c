// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Credentials and limits of a process, and its family. */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "state.h"
#include "workload.h"

#define USER 1234
#define KEPT (1U << CAP_NET_BIND_SERVICE)

static const struct {
	const char *name;
	int resource;
	rlim_t soft, hard;
} limits[] = {
	{ "cpu", RLIMIT_CPU, 1000, 2000 },
	{ "fsize", RLIMIT_FSIZE, 1 << 24, 1 << 25 },
	{ "stack", RLIMIT_STACK, 1 << 22, 1 << 23 },
	{ "core", RLIMIT_CORE, 0, 4096 },
	{ "nofile", RLIMIT_NOFILE, 100, 200 },
	{ "nproc", RLIMIT_NPROC, 300, 400 },
	{ "sigpending", RLIMIT_SIGPENDING, 70, 80 },
	{ "nice", RLIMIT_NICE, 10, 20 },
};

#define LIMITS (sizeof(limits) / sizeof(limits[0]))

static void capabilities(int call, struct __user_cap_data_struct data[2])
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };

	check(syscall(call, &header, data), "capabilities");
}

/* Becomes an unprivileged user with two groups, one capability, and unusual settings. */
static void become(void)
{
	struct __user_cap_data_struct data[2] = { { KEPT, KEPT, KEPT } };
	const gid_t groups[] = { 31, 17 };

	for (size_t n = 0; n < LIMITS; n++) {
		const struct rlimit limit = { limits[n].soft, limits[n].hard };

		check(setrlimit(limits[n].resource, &limit), limits[n].name);
	}
	check(mkdir("dir", 0711) || chdir("dir"), "dir");
	umask(0123);
	check(setpriority(PRIO_PROCESS, 0, 7), "setpriority");
	check(personality(PER_LINUX | ADDR_NO_RANDOMIZE | UNAME26) < 0, "personality");
	check(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED), "securebits");
	check(prctl(PR_CAPBSET_DROP, CAP_SYS_TIME), "bounding set");
	check(prctl(PR_SET_KEEPCAPS, 1), "keepcaps");
	check(setgroups(2, groups), "setgroups");
	check(setresgid(USER + 1, USER + 2, USER + 3), "setresgid");
	check(setresuid(USER, USER, USER + 4), "setresuid");
	capabilities(SYS_capset, data);
	check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0),
	      "ambient");
	check(prctl(PR_SET_NAME, "someone else"), "name");
	check(prctl(PR_SET_DUMPABLE, 0), "dumpable");
	check(prctl(PR_SET_PDEATHSIG, SIGURG), "pdeathsig");
	check(prctl(PR_SET_CHILD_SUBREAPER, 1), "subreaper");
	check(prctl(PR_SET_TIMERSLACK, 123456), "timerslack");
	check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
}

static void describe(FILE *to)
{
	struct __user_cap_data_struct data[2];
	int number, count;
	gid_t groups[8];
	uid_t r, e, s;
	char text[256];
	mode_t mask;

	getresuid(&r, &e, &s);
	fprintf(to, "users: %u %u %u\n", r, e, s);
	getresgid(&r, &e, &s);
	fprintf(to, "groups: %u %u %u, besides", r, e, s);
	count = getgroups(8, groups);
	for (int n = 0; n < count; n++)
		fprintf(to, " %u", groups[n]);
	capabilities(SYS_capget, data);
	fprintf(to, "\ncapabilities: permitted %#x effective %#x inheritable %#x\n",
		data[0].permitted, data[0].effective, data[0].inheritable);
	fprintf(to, "ambient %d, in the bounding set: SYS_TIME %d, CHOWN %d\n",
		prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_BIND_SERVICE, 0, 0),
		prctl(PR_CAPBSET_READ, CAP_SYS_TIME), prctl(PR_CAPBSET_READ, CAP_CHOWN));
	fprintf(to, "securebits: %#x, no_new_privs: %d\n", prctl(PR_GET_SECUREBITS),
		prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	mask = umask(0);
	umask(mask);
	fprintf(to, "umask: %04o\ncwd: %s\n", mask, getcwd(text, sizeof(text)));
	for (size_t n = 0; n < LIMITS; n++) {
		struct rlimit limit;

		getrlimit(limits[n].resource, &limit);
		fprintf(to, "%s: %lu %lu\n", limits[n].name, limit.rlim_cur, limit.rlim_max);
	}
	prctl(PR_GET_NAME, text);
	fprintf(to, "nice: %d, personality: %#x, name: %s\n", getpriority(PRIO_PROCESS, 0),
		personality(0xffffffff), text);
	prctl(PR_GET_PDEATHSIG, &number);
	fprintf(to, "pdeathsig: %d", number);
	prctl(PR_GET_CHILD_SUBREAPER, &number);
	fprintf(to, ", subreaper: %d, dumpable: %d, timer slack: %d\n", number,
		prctl(PR_GET_DUMPABLE), prctl(PR_GET_TIMERSLACK));
}

void identity(void)
{
	char now[4096] = "", then[4096] = "";
	FILE *file;

	become();
	file = fmemopen(then, sizeof(then), "w");
	describe(file);
	fclose(file);

	stop_here();

	file = fmemopen(now, sizeof(now), "w");
	describe(file);
	fclose(file);
	fputs(now, stdout);
	printf("as before: %d\n", !strcmp(now, then));
	/* the state is in force, not only reported */
	printf("nice 7 -> 0: %d, setuid(0): %d, a 101st file: %d\n",
	       setpriority(PRIO_PROCESS, 0, 0), setuid(0), dup2(0, 100));
}

/* A grandchild gets a signal when its parent dies, and is then adopted by its grandparent. */
void family(void)
{
	int ready[2], go[2], never[2], status, number;
	pid_t middle, grandchild;
	sigset_t set;

	check(prctl(PR_SET_CHILD_SUBREAPER, 1), "subreaper");
	make_pipe(ready);
	make_pipe(go);
	make_pipe(never);
	middle = forked();
	if (!middle) {
		pid_t pid = forked();

		if (!pid) {
			sigemptyset(&set);
			sigaddset(&set, SIGUSR2);
			sigprocmask(SIG_BLOCK, &set, NULL);
			prctl(PR_SET_PDEATHSIG, SIGUSR2);
			send_byte(ready[1]);
			/* the freeze may interrupt the wait with EINTR */
			do
				number = sigwaitinfo(&set, NULL);
			while (number < 0 && errno == EINTR);
			_exit(number == SIGUSR2 ? 71 : 1);
		}
		receive_byte(go[0]);
		_exit(72);
	}
	receive_byte(ready[0]);

	stop_here();

	send_byte(go[1]);
	print_end("the middle one", middle);
	grandchild = wait(&status);
	printf("adopted: %d, parent-death signal: %d\n", grandchild > middle,
	       WIFEXITED(status) && WEXITSTATUS(status) == 71);
}
