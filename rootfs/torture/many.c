// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A bit of everything that an image can hold, for crucible torture: two processes with
 * threads, one that waits in a vfork, a zombie, a pipe with content, a deleted file, shared
 * memory, queued signals. The vfork's child calls getppid() when all are there.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static pthread_barrier_t all_there;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void *thread(void *unused)
{
	(void)unused;
	pthread_barrier_wait(&all_there);
	while (pause())
		;
	return NULL;
}

static void start_threads(unsigned int count)
{
	pthread_t id;

	if (pthread_barrier_init(&all_there, NULL, count + 1))
		die("barrier");
	for (unsigned int n = 0; n < count; n++)
		if (pthread_create(&id, NULL, thread, NULL))
			die("pthread_create");
	pthread_barrier_wait(&all_there);
}

static pid_t forked(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	return pid;
}

static void wait_byte(int fd)
{
	char byte;

	if (read(fd, &byte, 1) != 1)
		die("read");
}

static void queue_signals(void)
{
	union sigval value = { .sival_int = 7 };
	sigset_t block;

	sigemptyset(&block);
	sigaddset(&block, SIGRTMIN);
	sigaddset(&block, SIGUSR1);
	sigprocmask(SIG_BLOCK, &block, NULL);
	if (sigqueue(getpid(), SIGRTMIN, value) || raise(SIGUSR1))
		die("signals");
}

int main(void)
{
	const struct itimerval hour = { .it_value.tv_sec = 3600 };
	int up[2], full[2];
	FILE *deleted;
	pid_t pid;
	siginfo_t info;

	if (pipe(up) || pipe(full) || write(full[1], "content", 7) != 7)
		die("pipe");
	if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		 0) == MAP_FAILED)
		die("mmap");
	deleted = fopen("deleted", "w+");
	if (!deleted || fputs("content", deleted) < 0 || fflush(deleted))
		die("deleted");
	unlink("deleted");
	queue_signals();
	if (setitimer(ITIMER_REAL, &hour, NULL))
		die("setitimer");

	if (!forked()) {
		start_threads(2);
		if (write(up[1], "r", 1) != 1)
			die("write");
		while (pause())
			;
	}
	wait_byte(up[0]);
	pid = forked();
	if (!pid)
		_exit(3);
	if (waitid(P_PID, pid, &info, WEXITED | WNOWAIT))
		die("waitid");
	start_threads(1);
	if (!forked()) {
		if (!vfork()) {
			syscall(SYS_getppid);
			_exit(0);
		}
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	return 0;
}
