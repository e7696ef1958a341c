// SPDX-License-Identifier: GPL-2.0-only
/*
 * One thread arms and disarms the triggers' static key, so that the kernel
 * patches its own text; a second thread, on a different CPU, executes that text
 * by receiving signals.
 *
 * Usage: toggle FREEZE_AT COUNT
 * FREEZE_AT is cgroup.freeze_at of a cgroup without tasks. Ends after at least
 * COUNT toggles and COUNT signals.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_bool done;
static atomic_ulong signals;

static void handler(int sig)
{
	(void)sig;
	atomic_fetch_add(&signals, 1);
}

static void stay_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		err(1, "sched_setaffinity");
}

static void *run_through(void *unused)
{
	(void)unused;
	stay_on(1);
	while (!done)
		raise(SIGUSR1);
	return NULL;
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = handler };
	pthread_t thread;

	if (argc != 3)
		errx(2, "usage: toggle FREEZE_AT COUNT");
	int fd = open(argv[1], O_WRONLY);
	if (fd < 0)
		err(1, "%s", argv[1]);
	sigaction(SIGUSR1, &sa, NULL);
	if (pthread_create(&thread, NULL, run_through, NULL))
		errx(1, "pthread_create");
	stay_on(0);
	unsigned long wanted = strtoul(argv[2], NULL, 10);
	for (unsigned long n = 0; n < wanted || signals < wanted; n++) {
		if (write(fd, "vfork 1000000\n", 14) != 14 ||
		    write(fd, "\n", 1) != 1)
			err(1, "write to %s", argv[1]);
	}
	done = true;
	pthread_join(thread, NULL);
	return 0;
}
