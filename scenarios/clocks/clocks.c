// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Uses CPU time, is stopped, and reads every CPU clock again: none may have decreased, or
 * advanced while the process did not exist.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/times.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "workload.h"

/* CPU time that is used before the event, in s. */
#define USED 1.0
/* CPU time that a process may use between two reads, on a slow machine, in s. */
#define ROOM (2.0 * slowness())

static double slowness(void)
{
	const char *text = getenv("SLOWNESS");

	return text ? atof(text) : 1;
}

static double now(clockid_t clock)
{
	struct timespec t;

	if (clock_gettime(clock, &t))
		die("clock_gettime");
	return t.tv_sec + t.tv_nsec / 1e9;
}

static double seconds(struct timeval t)
{
	return t.tv_sec + t.tv_usec / 1e6;
}

static void use(clockid_t clock, double until)
{
	while (now(clock) < until)
		;
}

/* utime and stime of /proc/self/stat, in s. */
static void read_stat(double *user, double *system)
{
	char text[1024], *after;
	unsigned long u, s;
	FILE *file = fopen("/proc/self/stat", "r");
	size_t n;

	if (!file)
		die("/proc/self/stat");
	n = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[n] = 0;
	after = strrchr(text, ')');
	if (!after || sscanf(after, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
			     &u, &s) != 2)
		die("the fields of /proc/self/stat");
	*user = u / (double)sysconf(_SC_CLK_TCK);
	*system = s / (double)sysconf(_SC_CLK_TCK);
}

enum {
	PROCESS, THREAD, CLOCK, TIMES_USER, TIMES_SYSTEM, USAGE_USER, USAGE_SYSTEM,
	USAGE_THREAD, STAT_USER, STAT_SYSTEM, SWITCHES, FAULTS, NR_VALUES
};

static const char *const names[] = {
	"CLOCK_PROCESS_CPUTIME_ID", "CLOCK_THREAD_CPUTIME_ID", "clock", "times: user",
	"times: system", "getrusage: user", "getrusage: system", "getrusage: thread",
	"stat: user", "stat: system", "context switches", "faults",
};

static void look(double *v)
{
	double tick = sysconf(_SC_CLK_TCK);
	struct rusage usage;
	struct tms t;

	v[PROCESS] = now(CLOCK_PROCESS_CPUTIME_ID);
	v[THREAD] = now(CLOCK_THREAD_CPUTIME_ID);
	v[CLOCK] = clock() / (double)CLOCKS_PER_SEC;
	times(&t);
	v[TIMES_USER] = t.tms_utime / tick;
	v[TIMES_SYSTEM] = t.tms_stime / tick;
	getrusage(RUSAGE_SELF, &usage);
	v[USAGE_USER] = seconds(usage.ru_utime);
	v[USAGE_SYSTEM] = seconds(usage.ru_stime);
	/* counters, which increase by far less than a newly started program needs */
	v[SWITCHES] = usage.ru_nvcsw + usage.ru_nivcsw;
	v[FAULTS] = usage.ru_minflt;
	getrusage(RUSAGE_THREAD, &usage);
	v[USAGE_THREAD] = seconds(usage.ru_utime) + seconds(usage.ru_stime);
	read_stat(&v[STAT_USER], &v[STAT_SYSTEM]);
}

static void *use_some(void *arg)
{
	(void)arg;
	use(CLOCK_THREAD_CPUTIME_ID, USED);
	return NULL;
}

/* One thread has used CPU time and exited; one thread and the leader are alive. */
static void own(void)
{
	double before[NR_VALUES], after[NR_VALUES];
	pthread_t thread;
	int i;

	if (pthread_create(&thread, NULL, use_some, NULL) || pthread_join(thread, NULL))
		die("a thread");
	for (i = 0; i < 200; i++)
		usleep(100);
	use(CLOCK_THREAD_CPUTIME_ID, USED);
	look(before);
	syscall(SYS_getppid);
	look(after);
	for (i = 0; i < NR_VALUES; i++)
		if (after[i] < before[i])
			printf("%s went back\n", names[i]);
		else if (i < SWITCHES && after[i] > before[i] + ROOM)
			printf("%s ran on\n", names[i]);
		else
			printf("%s continues\n", names[i]);
}

static pid_t start_child(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (!pid) {
		use(CLOCK_PROCESS_CPUTIME_ID, USED);
		_exit(3);
	}
	return pid;
}

static void tell(const char *what, double used)
{
	printf("%s: %s\n", what, used < USED * 0.9 ? "its time is lost" :
	       used > USED + ROOM ? "too much" : "as much as it used");
}

static void children(void)
{
	pid_t waited = start_child(), dead = start_child();
	struct rusage usage;
	siginfo_t info;
	struct tms t;
	int status;

	if (waitpid(waited, &status, 0) != waited || waitid(P_PID, dead, &info, WEXITED | WNOWAIT))
		die("wait");
	syscall(SYS_getppid);
	times(&t);
	tell("waited for", (t.tms_cutime + t.tms_cstime) / (double)sysconf(_SC_CLK_TCK));
	if (wait4(dead, &status, 0, &usage) != dead)
		die("wait4");
	tell("dead", seconds(usage.ru_utime) + seconds(usage.ru_stime));
	getrusage(RUSAGE_CHILDREN, &usage);
	tell("both, by half", (seconds(usage.ru_utime) + seconds(usage.ru_stime)) / 2);
}

static volatile sig_atomic_t over;

static void on_limit(int signal)
{
	(void)signal;
	over = 1;
}

static void limit(void)
{
	struct rlimit lim = { .rlim_cur = 2, .rlim_max = RLIM_INFINITY };

	if (setrlimit(RLIMIT_CPU, &lim) || signal(SIGXCPU, on_limit) == SIG_ERR)
		die("RLIMIT_CPU");
	use(CLOCK_PROCESS_CPUTIME_ID, USED);
	syscall(SYS_getppid);
	/* the limit is checked at ticks, which a busy machine misses */
	while (!over && now(CLOCK_PROCESS_CPUTIME_ID) < lim.rlim_cur + 5 * ROOM)
		;
	printf("SIGXCPU: %s\n", over ? "came" : "did not come");
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";

	nonce_draw();
	if (!strcmp(kind, "own"))
		own();
	else if (!strcmp(kind, "children"))
		children();
	else
		limit();
	nonce_print();
	return 0;
}
