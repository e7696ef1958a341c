// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A child whose leader has exited when a different thread calls getppid(). From then on only
 * the other threads hold the process's memory, files, handlers and timer. The leader stays a
 * zombie, and the parent is notified when the last thread has exited.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

#define STATUS 7

static atomic_int deaths;
static sem_t alarmed, stop;
static char *heap;
static int file = -1;

static void on_alarm(int signal)
{
	(void)signal;
	sem_post(&alarmed);
}

static void on_death(int signal)
{
	(void)signal;
	atomic_fetch_add(&deaths, 1);
}

/* Returns the state letter of this process's leader in /proc. */
static char first_state(void)
{
	char path[64], text[256], *end;
	int fd;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", getpid());
	fd = open(path, O_RDONLY);
	if (fd < 0)
		die(path);
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		die("stat");
	text[n] = 0;
	end = strrchr(text, ')');
	return end && end[1] == ' ' ? end[2] : '?';
}

static void await(sem_t *semaphore)
{
	while (sem_wait(semaphore))
		if (errno != EINTR)
			die("sem_wait");
}

static void *other(void *argument)
{
	(void)argument;
	prctl(PR_SET_NAME, "lives");
	await(&stop);
	return "the other thread was notified";
}

static void *survivor(void *argument)
{
	pthread_t thread;
	void *said;
	char text[32] = "";

	(void)argument;
	prctl(PR_SET_NAME, "lives");
	while (first_state() != 'Z')
		sched_yield();
	start_thread(&thread, other, NULL);

	syscall(SYS_getppid);

	printf("its first thread: %c\n", first_state());
	printf("first again: %s\n", kill(getpid(), 0) ? strerror(errno) : "there");
	printf("memory: %s\n", heap);
	if (lseek(file, 0, SEEK_SET) || read(file, text, sizeof(text) - 1) < 0)
		die("file");
	printf("file: %s\n", text);
	await(&alarmed);
	printf("the timer came\n");
	sem_post(&stop);
	pthread_join(thread, &said);
	puts(said);
	nonce_print();
	fflush(stdout);
	/* exit status of the process, which the last thread's exit does not set */
	exit(STATUS);
}

static void child(void)
{
	struct itimerval timer = { .it_value.tv_usec = 500000 };
	pthread_t thread;

	prctl(PR_SET_NAME, "gone");
	if (sem_init(&alarmed, 0, 0) || sem_init(&stop, 0, 0))
		die("sem_init");
	signal(SIGALRM, on_alarm);
	heap = strdup("data on the heap");
	file = open("text", O_RDWR | O_CREAT, 0600);
	if (!heap || file < 0 || write(file, "what was written", 16) != 16)
		die("prepare");
	if (setitimer(ITIMER_REAL, &timer, NULL))
		die("setitimer");
	start_thread(&thread, survivor, NULL);
	pthread_exit(NULL);
}

int main(void)
{
	int status;
	pid_t pid, early;

	nonce_draw();
	signal(SIGCHLD, on_death);
	fflush(stdout);
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid)
		child();
	/* neither call reports the zombie while its process is alive */
	early = waitpid(pid, &status, WNOHANG);
	if (early || waitpid(pid, &status, 0) != pid)
		die("waitpid");
	if (!WIFEXITED(status))
		return 1;
	printf("the parent: exit status %d, SIGCHLD for %d exit\n", WEXITSTATUS(status),
	       atomic_load(&deaths));
	return WEXITSTATUS(status) != STATUS || atomic_load(&deaths) != 1;
}
