// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * The kernel counts user and system time by ticks, and scales the counts to the time that a task
 * has really used. It keeps each value that it has reported, so that no later value is smaller.
 * Here the first sums are far too large: most of the time is used between ticks.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ask.h"
#include "inside.h"
#include "workload.h"

#define MS 1000000LL

enum mode { USER, SYSTEM };

static long long now(clockid_t clock)
{
	struct timespec time;

	check(clock_gettime(clock, &time), "clock_gettime");
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Uses this much CPU time of the thread in this mode. */
static void burn(enum mode mode, long long time)
{
	static char buffer[1 << 18];
	long long end = now(CLOCK_THREAD_CPUTIME_ID) + time;
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	volatile unsigned int spin;

	check(zero < 0, "/dev/zero");
	while (now(CLOCK_THREAD_CPUTIME_ID) < end) {
		if (mode == SYSTEM)
			check(read(zero, buffer, sizeof(buffer)) != sizeof(buffer), "read");
		else
			for (spin = 0; spin < 50000; spin++)
				;
	}
	close(zero);
}

/* Uses CPU time between the ticks of the kernel, and sleeps at each tick. */
static void evade(enum mode mode)
{
	struct timespec tick, next;

	check(clock_getres(CLOCK_MONOTONIC_COARSE, &tick), "clock_getres");
	for (int n = 0; n < 30; n++) {
		check(clock_gettime(CLOCK_MONOTONIC_COARSE, &next), "clock_gettime");
		next.tv_nsec += tick.tv_nsec + tick.tv_nsec / 16;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
		burn(mode, tick.tv_nsec / 2);
	}
}

/* Makes the process and the thread report too much time in the other mode. */
static void deceive(enum mode hidden)
{
	struct rusage usage;

	evade(hidden);
	burn(!hidden, 16 * MS);
	getrusage(RUSAGE_SELF, &usage);
	getrusage(RUSAGE_THREAD, &usage);
	burn(hidden, 80 * MS);
}

static void *thread(void *mode)
{
	evade(*(enum mode *)mode);
	burn(*(enum mode *)mode, 80 * MS);
	return NULL;
}

static void thread_dies(enum mode mode)
{
	pthread_t id;

	start_thread(&id, thread, &mode);
	check(pthread_join(id, NULL), "pthread_join");
}

/* The parent waits for it, so that its times count for its parent. */
static void child_dies(void)
{
	pid_t pid = forked();
	int fd;

	if (!pid) {
		fd = open("written", O_WRONLY | O_CREAT | O_TRUNC, 0600);
		check(fd < 0 || write(fd, "data", 4) != 4 || fsync(fd), "written");
		evade(USER);
		burn(SYSTEM, 20 * MS);
		burn(USER, 20 * MS);
		_exit(0);
	}
	check(wait_for_child(pid), "a child");
}

/* Reads the times, notifies the parent, waits for it, and reads them again. */
static void in_child(int ready, int go)
{
	static const char *const names[] = { "process", "thread" };
	static const int whose[] = { RUSAGE_SELF, RUSAGE_THREAD };
	struct rusage before[2], after;

	deceive(SYSTEM);
	for (int i = 0; i < 2; i++)
		getrusage(whose[i], &before[i]);
	send_byte(ready);
	receive_byte(go);
	for (int i = 0; i < 2; i++) {
		getrusage(whose[i], &after);
		printf("user time of the %s of the child: %s, system time: %s\n", names[i],
		       timercmp(&after.ru_utime, &before[i].ru_utime, <) ? "went back" : "goes on",
		       timercmp(&after.ru_stime, &before[i].ru_stime, <) ? "went back" : "goes on");
	}
	fflush(stdout);
}

void used(void)
{
	int ready[2], go[2];
	pid_t pid;

	child_dies();
	make_pipe(ready);
	make_pipe(go);
	pid = forked();
	if (!pid) {
		in_child(ready[1], go[0]);
		_exit(0);
	}
	receive_byte(ready[0]);
	thread_dies(USER);
	/* voluntary switches, more than a restart makes */
	for (int n = 0; n < 500; n++)
		usleep(1);
	deceive(USER);

	ask_before();
	ask_after();

	send_byte(go[1]);
	printf("the child ended with %d\n", wait_for_child(pid));
}
