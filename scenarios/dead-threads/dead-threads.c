// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A tracer calls getppid() before it reaps its only tracee, a dead thread that is not the leader
 * of its process. argv[1] selects whether the process is dead by then, too: its parent, the same
 * process as the tracer, is notified only after the thread has been reaped.
 *
 * With "two-statuses" nothing is traced: the first thread of a zombie has exited with a different
 * status than its process, and /proc shows both.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

#define THREAD_STATUS 3
#define STATUS 5

static int to_child[2], from_child[2];

static void *second(void *argument)
{
	int tid = gettid();
	char go;

	prctl(PR_SET_NAME, "second");
	/* exits on request, when its tracer is attached */
	if (write(from_child[1], &tid, sizeof(tid)) != sizeof(tid) ||
	    read(to_child[0], &go, 1) != 1)
		die("second");
	syscall(SYS_exit, THREAD_STATUS);
	return argument;
}

static void child(void)
{
	pthread_t thread;
	char go;

	prctl(PR_SET_NAME, "first");
	start_thread(&thread, second, NULL);
	/* puts letters for the other thread back */
	while (read(to_child[0], &go, 1) == 1 && go != 'f')
		if (write(to_child[1], &go, 1) != 1)
			die("write");
	_exit(STATUS);
}

/* Returns the state letter of a task in /proc. */
static char state(int pid, int tid)
{
	char path[64], text[256], *end;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	file = fopen(path, "r");
	if (!file || !fgets(text, sizeof(text), file))
		die(path);
	fclose(file);
	end = strrchr(text, ')');
	return end ? end[2] : '?';
}

/* Returns the exit status that /proc shows: of the process, or of its first thread. */
static int shown_status(const char *format, int pid)
{
	char path[64], text[1024], *at;
	FILE *file;

	snprintf(path, sizeof(path), format, pid, pid);
	file = fopen(path, "r");
	if (!file || !fgets(text, sizeof(text), file))
		die(path);
	fclose(file);
	/* the last of the 52 fields */
	at = strrchr(text, ' ');
	return at ? atoi(at) : -1;
}

static void *last(void *argument)
{
	while (state(getpid(), getpid()) != 'Z')
		sched_yield();
	exit(STATUS);
	return argument;
}

static int two_statuses(void)
{
	int pid = forked(), status;

	if (!pid) {
		pthread_t thread;

		prctl(PR_SET_NAME, "first");
		start_thread(&thread, last, NULL);
		syscall(SYS_exit, THREAD_STATUS);
	}
	if (waitid(P_PID, pid, NULL, WEXITED | WNOWAIT))
		die("waitid");

	syscall(SYS_getppid);

	printf("of the first thread: %d\n", shown_status("/proc/%d/task/%d/stat", pid) >> 8);
	printf("of the process: %d\n", shown_status("/proc/%d/stat", pid) >> 8);
	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	printf("the process: exit status %d\n", WEXITSTATUS(status));
	nonce_print();
	return 0;
}

static void tell(char letter)
{
	if (write(to_child[1], &letter, 1) != 1)
		die("write");
}

static void await(int pid, int tid)
{
	while (state(pid, tid) != 'Z')
		sched_yield();
}

int main(int argc, char **argv)
{
	int dead = argc > 1 && !strcmp(argv[1], "dead");
	int pid, tid, status, early;

	nonce_draw();
	if (argc > 1 && !strcmp(argv[1], "two-statuses"))
		return two_statuses();
	if (pipe(to_child) || pipe(from_child))
		die("pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid)
		child();
	if (read(from_child[0], &tid, sizeof(tid)) != sizeof(tid))
		die("read");
	if (ptrace(PTRACE_SEIZE, tid, 0, 0))
		die("PTRACE_SEIZE");
	tell('s');
	await(pid, tid);
	if (dead) {
		tell('f');
		await(pid, pid);
	}

	syscall(SYS_getppid);

	early = waitpid(pid, &status, WNOHANG);
	printf("the process before its thread: %d\n", early);
	if (waitpid(tid, &status, __WALL) != tid)
		die("waitpid for the thread");
	printf("the thread: %s %d\n", WIFEXITED(status) ? "exit status" : "?",
	       WEXITSTATUS(status));
	if (!dead)
		tell('f');
	if (waitpid(pid, &status, 0) != pid)
		die("waitpid for the process");
	printf("the process: %s %d\n", WIFEXITED(status) ? "exit status" : "?",
	       WEXITSTATUS(status));
	early = waitpid(-1, &status, __WALL | WNOHANG);
	printf("then: %s\n", early < 0 ? strerror(errno) : "a child is left");
	nonce_print();
	return 0;
}
