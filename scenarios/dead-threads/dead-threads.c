// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A tracer of one thread, which is not the leader, has not reaped that dead thread yet when it
 * calls getppid(). argv[1] selects whether the process is dead by then, too: its parent, the
 * same process as the tracer, is notified only after the thread has been reaped.
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
