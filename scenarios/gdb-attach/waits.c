/* Waits for SIGUSR1 with a second thread, then counts. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static volatile int counted;

static void count(void)
{
	counted++;
}

static void *thread(void *arg)
{
	sigset_t *set = arg;
	int number;

	sigaddset(set, SIGUSR2);
	sigwait(set, &number);
	return NULL;
}

int main(void)
{
	sigset_t set, other;
	FILE *ready;
	pthread_t t;
	int number;

	sigemptyset(&other);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigdelset(&set, SIGUSR2);
	pthread_create(&t, NULL, thread, &other);
	ready = fopen("ready", "w");
	if (!ready || fputs("ready\n", ready) < 0 || fclose(ready))
		return 1;
	sigwait(&set, &number);
	getppid();
	for (int i = 0; i < 3; i++)
		count();
	pthread_kill(t, SIGUSR2);
	pthread_join(t, NULL);
	/* gdb writes to stdout: the order of both outputs would vary */
	fprintf(stderr, "counted %d\n", counted);
	return 0;
}
// SPDX-License-Identifier: GPL-2.0-only
