/*
 * An example of each feature that the debugger uses, selected by argv[1]. It
 * writes to stderr, because the order with gdb's output to stdout would vary.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int total;
static volatile int handled;

static int scale(int value, int factor)
{
	int result = value * factor;

	return result;
}

static int work(int rounds)
{
	int sum = 0;

	for (int i = 0; i < rounds; i++) {
		int scaled = scale(i, 3);

		sum += scaled;
		total = sum;
	}
	return sum;
}

static void on_signal(int number)
{
	handled = handled * 100 + number;
}

static void signals(void)
{
	signal(SIGUSR1, on_signal);
	signal(SIGUSR2, on_signal);
	raise(SIGUSR1);
	raise(SIGUSR2);
	raise(SIGUSR1);
	fprintf(stderr, "handled %d\n", handled);
}

static void in_child(void)
{
	getppid();
	total = work(4);
	_exit(total);
}

static void children(void)
{
	int status = 0;
	pid_t pid;

	getppid();
	pid = fork();
	if (!pid)
		in_child();
	waitpid(pid, &status, 0);
	fprintf(stderr, "the forked child returned %d\n", WEXITSTATUS(status));
	pid = vfork();
	if (!pid)
		_exit(7);
	waitpid(pid, &status, 0);
	fprintf(stderr, "the vforked child returned %d\n", WEXITSTATUS(status));
}

static pthread_barrier_t both;

static void *in_thread(void *arg)
{
	pthread_barrier_wait(&both);
	total += work(*(int *)arg);
	pthread_barrier_wait(&both);
	return NULL;
}

/* Number of links of /proc/PID/task of a process with one thread: 2, and 1 for each thread. */
#define ALONE 3

static void threads(void)
{
	struct stat tasks;
	pthread_t thread;
	int rounds = 5;

	pthread_barrier_init(&both, NULL, 2);
	pthread_create(&thread, NULL, in_thread, &rounds);
	pthread_barrier_wait(&both);
	pthread_barrier_wait(&both);
	pthread_join(thread, NULL);
	/*
	 * The thread disappears only after gdb has been notified of its exit. If main exited
	 * before that, gdb would sometimes report this thread as exited, too.
	 */
	while (stat("/proc/self/task", &tasks) || tasks.st_nlink > ALONE)
		sched_yield();
	fprintf(stderr, "total %d\n", total);
}

static void clocks(void)
{
	struct timespec first, second;

	clock_gettime(CLOCK_MONOTONIC, &first);
	clock_gettime(CLOCK_MONOTONIC, &second);
	fprintf(stderr, "time goes %s\n", second.tv_sec > first.tv_sec ||
		(second.tv_sec == first.tv_sec &&
		 second.tv_nsec >= first.tv_nsec) ? "on" : "back");
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "signals"))
		signals();
	else if (!strcmp(what, "children"))
		children();
	else if (!strcmp(what, "threads"))
		threads();
	else if (!strcmp(what, "clocks"))
		clocks();
	else if (!strcmp(what, "exec"))
		execl("/proc/self/exe", argv[0], "work", NULL);
	else
		fprintf(stderr, "worked %d\n", work(6));
	return 0;
}
// SPDX-License-Identifier: GPL-2.0-only
