// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * cell --list NUMBER
 * cell NAME blocks|absent
 *
 * Runs one cell in the current directory, as the first process of a pid namespace. Writes the
 * observations of the tracer, the tracee and the first process: tracer.log, seen.log, init.log.
 */
#include "cell.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct channels channels;

/* More than the number of processes in any cell. */
#define LAST_PID 40

static void open_channels(void)
{
	channels.counter = open("counter", O_RDWR | O_CREAT, 0600);
	shared->counter = channels.counter;
	if (pipe(channels.go) || pipe(channels.feed) || pipe(channels.park) ||
	    channels.counter < 0)
		die("channels");
}

static pid_t start(const struct cell *cell, void (*run)(const struct cell *))
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (!pid)
		run(cell);
	return pid;
}

static void run_tracee(const struct cell *cell)
{
	tracee(cell);
}

static void run_tracer(const struct cell *cell)
{
	tracer(cell);
}

/*
 * Wakes tasks that are still stopped after the tracer has died, which no other process would do;
 * they are not necessarily children of this process.
 */
static void wake_stopped(const struct cell *cell)
{
	for (pid_t pid = 2; pid < LAST_PID; pid++) {
		/* threads stop together with their leader */
		bool other = cell->threads == THREADS_OTHER && !shared->execed;
		bool child = pid != shared->pids[ROLE_TRACEE] && pid != shared->pids[ROLE_SECOND];

		if (pid == shared->pids[other ? ROLE_TRACEE : ROLE_SECOND] ||
		    (child && cell->stop->deed == DEED_CLONE) || state_of(pid) != 'T')
			continue;
		log_line(role_name(pid), "was left stopped");
		kill(pid, SIGCONT);
		while (state_of(pid) == 'T')
			sched_yield();
	}
}

/* Writes the observations of the other tasks to a file, for the comparison. */
static void keep_observations(void)
{
	int fd = open("seen.log", O_WRONLY | O_CREAT, 0600);
	unsigned int length = shared->used;

	if (length > sizeof(shared->text))
		die("too much was seen");
	if (fd < 0 || write(fd, shared->text, length) != length)
		die("seen.log");
}

static void reap(pid_t tracer, const struct cell *cell)
{
	int status;

	while (waitpid(tracer, &status, __WALL) != tracer)
		;
	log_end("tracer", status);
	for (;;) {
		pid_t pid = waitpid(-1, &status, WNOHANG | __WALL);

		if (pid < 0)
			return;
		if (pid) {
			log_end(role_name(pid), status);
			continue;
		}
		wake_stopped(cell);
		sched_yield();
	}
}

int main(int argc, char **argv)
{
	struct cell cell = { .program = "/proc/self/exe" };

	if (argc == 3 && !strcmp(argv[1], "--list")) {
		cells_list(atoi(argv[2]));
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "--after-exec")) {
		map_shared();
		tracee_after_exec();
	}
	if (argc != 3 || !cell_parse(&cell, argv[1]))
		die("what cell is that");
	/* both words have the same length, because the height of the stack depends on it */
	cell.absent = !strcmp(argv[2], "absent");
	map_shared();
	open_channels();
	log_open("init.log");
	if (cell.way != WAY_TRACEME) {
		volatile int *waits = &shared->tracee_waits;

		start(&cell, run_tracee);
		/* so that pids are always allocated in the same order */
		while (!*waits)
			sched_yield();
	}
	reap(start(&cell, run_tracer), &cell);
	keep_observations();
	return 0;
}
