// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A process and its child "worker", which calls getppid() alone, with other threads, or from a
 * vfork child "spawned" that it waits for. Prints the end of the worker.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS	3
/* so much memory that most of the image is pages */
#define MEMORY	(1024 * 1024)

static pthread_barrier_t all_there;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void name(const char *comm)
{
	if (prctl(PR_SET_NAME, comm))
		die("PR_SET_NAME");
}

static void *thread(void *unused)
{
	(void)unused;
	name("thread");
	pthread_barrier_wait(&all_there);
	while (pause())
		;
	return NULL;
}

static void start_threads(void)
{
	pthread_t id;

	if (pthread_barrier_init(&all_there, NULL, THREADS + 1))
		die("barrier");
	for (int n = 0; n < THREADS; n++)
		if (pthread_create(&id, NULL, thread, NULL))
			die("pthread_create");
	pthread_barrier_wait(&all_there);
}

static int wait_vfork(void)
{
	pid_t pid = vfork();
	int status;

	if (!pid) {
		prctl(PR_SET_NAME, "spawned");
		syscall(SYS_getppid);
		_exit(3);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		die("vfork");
	if (WIFSIGNALED(status))
		return 100 + WTERMSIG(status);
	return WEXITSTATUS(status);
}

static int work(const char *how)
{
	char *memory = malloc(MEMORY);

	if (!memory)
		die("malloc");
	memset(memory, 'm', MEMORY);
	name("worker");
	if (!strcmp(how, "vfork"))
		return wait_vfork();
	if (!strcmp(how, "threads"))
		start_threads();
	syscall(SYS_getppid);
	return memory[MEMORY - 1] == 'm' ? 3 : 1;
}

int main(int argc, char **argv)
{
	pid_t pid;
	int status;

	if (argc != 2)
		return 2;
	pid = fork();
	if (!pid)
		_exit(work(argv[1]));
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		die("fork");
	if (WIFSIGNALED(status))
		printf("worker: signal %d\n", WTERMSIG(status));
	else
		printf("worker: status %d\n", WEXITSTATUS(status));
	return 0;
}
