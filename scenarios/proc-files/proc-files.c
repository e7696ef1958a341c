// SPDX-License-Identifier: GPL-2.0-only
/*
 * Open files in /proc: of a thread, by two paths; of a process or a thread that has
 * exited, which can no longer be read; and the directory of such a process.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

static int open_at(const char *format, int a, int b, const char *name)
{
	char path[128];
	int n = snprintf(path, sizeof(path), format, a, b), fd;

	snprintf(path + n, sizeof(path) - n, "/%s", name);
	fd = open(path, O_RDONLY | O_NONBLOCK);
	check(fd < 0, path);
	return fd;
}

static pthread_barrier_t barrier;
static pid_t tid;

static void *second(void *unused)
{
	tid = syscall(SYS_gettid);
	check(pthread_setname_np(pthread_self(), "second"), "name");
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	return unused;
}

/* Prints the content, without numbers that differ from run to run. */
static void tell(const char *what, int fd)
{
	char text[64] = "";
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	text[strcspn(text, "\n")] = '\0';
	if (n < 0)
		printf("%s: %s\n", what, strerror(errno));
	else
		printf("%s: '%s'\n", what, text);
}

static const char *const names[] = { "comm", "maps", "environ", "status", "mem", "stat" };

#define NAMES (sizeof(names) / sizeof(names[0]))

int main(void)
{
	int of_thread[2], gone[NAMES], gone_first[NAMES], directory;
	pthread_t thread;
	pid_t pid;

	nonce_draw();
	pthread_barrier_init(&barrier, NULL, 2);
	start_thread(&thread, second, NULL);
	pthread_barrier_wait(&barrier);
	of_thread[0] = open_at("/proc/%d/task/%d", getpid(), tid, "comm");
	of_thread[1] = open_at("/proc/%d", tid, 0, "comm");

	pid = fork();
	check(pid < 0, "fork");
	if (!pid) {
		pause();
		_exit(0);
	}
	for (size_t i = 0; i < NAMES; i++)
		gone[i] = open_at("/proc/%d", pid, 0, names[i]);
	for (size_t i = 0; i < NAMES; i++)
		gone_first[i] = open_at("/proc/%d/task/%d", pid, pid, names[i]);
	directory = open_at("/proc/%d", pid, 0, "fd");
	check(kill(pid, SIGKILL) || waitpid(pid, NULL, 0) != pid, "kill");

	syscall(SYS_getppid);

	tell("the thread's name, by its process", of_thread[0]);
	tell("the thread's name", of_thread[1]);
	for (size_t i = 0; i < NAMES; i++)
		tell(names[i], gone[i]);
	for (size_t i = 0; i < NAMES; i++)
		tell(names[i], gone_first[i]);
	printf("its descriptors: %s\n", openat(directory, "0", O_RDONLY) < 0 ?
	       strerror(errno) : "there");
	/* the number is free */
	printf("the process: %s\n", kill(pid, 0) ? strerror(errno) : "there");
	pthread_barrier_wait(&barrier);
	check(pthread_join(thread, NULL), "pthread_join");
	nonce_print();
	return 0;
}
