// SPDX-License-Identifier: GPL-2.0-only
/*
 * A parent, its child and a thread of the child. All of them wait until the
 * parent gets SIGUSR1, make some system calls, and exit.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

static void wait_for(int fd)
{
	char c;

	check(read(fd, &c, 1) != 1, "read");
}

static void *thread(void *arg)
{
	wait_for(*(int *)arg);
	getppid();
	return NULL;
}

/* The thread runs first and is joined, so that the order is always the same. */
static int child(int first, int second)
{
	pthread_t t;

	check(pthread_create(&t, NULL, thread, &first), "thread");
	pthread_join(t, NULL);
	wait_for(second);
	getppid();
	return 5;
}

int main(void)
{
	sigset_t set;
	int status, number, first[2], second[2];
	pid_t pid;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	check(pipe(first) || pipe(second), "pipe");
	pid = fork();
	check(pid < 0, "fork");
	if (!pid)
		_exit(child(first[0], second[0]));
	check(sigwait(&set, &number), "sigwait");
	check(write(first[1], "a", 1) != 1 || write(second[1], "b", 1) != 1,
	      "write");
	status = wait_for_child(pid);
	printf("the child returned %d\n", WEXITSTATUS(status));
	return 0;
}
