// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * One vfork, with a child that works and then executes a program, exits, or is killed
 * by a third process. The parent reports the child's progress when vfork returns:
 * complete work shows that the parent waited.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

#define WORK 2000000

static volatile long work;
static char *const leaf[] = { "./leaf", "executed", NULL };

static void do_work(void)
{
	syscall(SYS_getppid);
	for (long n = 0; n < WORK; n++)
		work++;
}

static void child(const char *how, volatile int *ready)
{
	if (!strcmp(how, "kill")) {
		*ready = getpid();
		for (;;)
			pause();
	}
	do_work();
	if (!strcmp(how, "exit"))
		_exit(9);
	execv(leaf[0], leaf);
	_exit(101);
}

/* Kills the child as soon as it exists. */
static pid_t killer(volatile int *ready)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	while (!*ready)
		sched_yield();
	syscall(SYS_getppid);
	kill(*ready, SIGKILL);
	_exit(0);
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "run";
	volatile int *ready;
	pid_t pid, third = 0;
	int status;
	long done;

	nonce_draw();
	ready = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (ready == MAP_FAILED)
		die("mmap");
	if (!strcmp(how, "kill"))
		third = killer(ready);
	if (!strcmp(how, "clone")) {
		pid = syscall(SYS_clone, CLONE_VFORK | SIGCHLD, NULL, NULL, NULL, 0);
		if (!pid)
			child(how, ready);
	} else {
		pid = vfork();
		if (!pid)
			child(how, ready);
	}
	if (pid < 0)
		die("vfork");
	/* the child may still run, and print */
	done = work;
	if (third && waitpid(third, &status, 0) != third)
		die("waitpid");
	status = wait_for_child(pid);
	printf("process %d waited for %d, which had done %ld\n", getpid(), pid, done);
	if (WIFEXITED(status))
		printf("it exited %d\n", WEXITSTATUS(status));
	else
		printf("it got signal %d\n", WTERMSIG(status));
	nonce_print();
	return 0;
}
