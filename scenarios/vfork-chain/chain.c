// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * vfork inside vfork inside vfork. Each level writes to memory that all share, and reads
 * the values written by the level below, which can only have been written while the level
 * itself waited.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

#define DEPTH 3

static volatile int marks[DEPTH + 1];
static char *const leaf[] = { "./leaf", "below the chain", NULL };

static void level(int depth);

/* Each vfork has its own stack frame, so that the child does not overwrite its parent's. */
static __attribute__((noinline)) void descend(int depth)
{
	pid_t pid = vfork();
	int status;

	if (pid < 0)
		_exit(100);
	if (!pid) {
		level(depth + 1);
		if (depth + 1 == DEPTH) {
			execv(leaf[0], leaf);
			_exit(101);
		}
		_exit(40 + depth);
	}
	dprintf(1, "level %d: child %d, its mark %d\n", depth, pid, marks[depth + 1]);
	if (waitpid(pid, &status, 0) != pid)
		_exit(102);
	dprintf(1, "level %d: child ended with %d\n", depth, WEXITSTATUS(status));
}

static void level(int depth)
{
	marks[depth] = depth * 11;
	if (depth < DEPTH)
		descend(depth);
	else
		syscall(SYS_getppid);
}

int main(void)
{
	nonce_draw();
	level(0);
	nonce_print();
	return 0;
}
