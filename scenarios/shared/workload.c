// SPDX-License-Identifier: Apache-2.0 OR MIT
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

uint64_t nonce;

void die(const char *what)
{
	perror(what);
	exit(1);
}

void check(int failed, const char *what)
{
	if (failed)
		die(what);
}

void nonce_draw(void)
{
	FILE *file;

	if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce))
		die("getrandom");
	file = fopen("nonce", "w");
	if (!file || fprintf(file, "%016" PRIx64 "\n", nonce) < 0 || fclose(file))
		die("nonce");
}

void nonce_print(void)
{
	printf("nonce %016" PRIx64 "\n", nonce);
}

void stop_here(void)
{
	syscall(SYS_getppid);
}

void flush_and_stop_here(void)
{
	fflush(stdout);
	stop_here();
}

pid_t forked(void)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	check(pid < 0, "fork");
	return pid;
}

int wait_for_child(pid_t pid)
{
	int status;

	check(waitpid(pid, &status, 0) != pid, "waitpid");
	return status;
}

void start_thread(pthread_t *thread, void *(*run)(void *), void *argument)
{
	check(pthread_create(thread, NULL, run, argument), "pthread_create");
}

void make_pipe(int ends[2])
{
	check(pipe(ends), "pipe");
}

void send_byte(int fd)
{
	fflush(stdout);
	check(write(fd, "", 1) != 1, "send");
}

void receive_byte(int fd)
{
	char byte;

	check(read(fd, &byte, 1) != 1, "receive");
}
