/*
 * A process with four threads, the second of which executes this program again. This
 * execve(2) kills the leader and the two other threads.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_barrier_t all_there;

static void *idles(void *unused)
{
	pthread_barrier_wait(&all_there);
	for (;;)
		pause();
	return unused;
}

static void *executes(void *unused)
{
	static char *argv[] = { "./execs", "again", "and a longer argument", "", NULL };
	static char *envp[] = { "FIRST=1", "EMPTY=", "LAST=end", NULL };

	pthread_barrier_wait(&all_there);
	execve("./execs", argv, envp);
	perror("execve");
	exit(1);
	return unused;
}

int main(int argc, char **argv, char **envp)
{
	pthread_t threads[3];

	if (argc > 1 && !strcmp(argv[1], "again")) {
		for (int i = 0; i < argc; i++)
			printf("argument %d: '%s'\n", i, argv[i]);
		for (int i = 0; envp[i]; i++)
			printf("environment: '%s'\n", envp[i]);
		printf("the first thread: %s\n", getpid() == gettid() ? "yes" : "no");
		return 11;
	}
	pthread_barrier_init(&all_there, NULL, 4);
	for (int i = 0; i < 3; i++)
		if (pthread_create(&threads[i], NULL, i ? idles : executes, NULL))
			return 1;
	pthread_barrier_wait(&all_there);
	for (;;)
		pause();
}
// SPDX-License-Identifier: GPL-2.0-only
