// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Threads in different states when getppid() is called: three wait for a mutex, one for a
 * condition, one computes. Afterwards they continue, and each reports whether its name,
 * signal mask, thread-local data and alternate stack are unchanged.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "workload.h"

#define WAITERS 3

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t robust;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int go;
static atomic_int arrived, stop;
static _Thread_local long own;
static long order[WAITERS];
static double sum;
static long rounds;

static void arrive(const char *name)
{
	prctl(PR_SET_NAME, name);
	own = syscall(SYS_gettid);
	atomic_fetch_add(&arrived, 1);
}

static int keeps(const char *name, int signal)
{
	char now[16];
	sigset_t mask;

	prctl(PR_GET_NAME, now);
	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	return !strcmp(now, name) && own == syscall(SYS_gettid) &&
	       sigismember(&mask, signal);
}

static void block(int signal)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, signal);
	pthread_sigmask(SIG_BLOCK, &mask, NULL);
}

static void *waiter(void *argument)
{
	long index = (long)argument;
	char stack[16384];
	stack_t alt = { .ss_sp = stack, .ss_size = sizeof(stack) };
	stack_t now;

	block(SIGRTMIN + index);
	if (sigaltstack(&alt, NULL))
		die("sigaltstack");
	arrive("waiter");
	pthread_mutex_lock(&gate);
	sigaltstack(NULL, &now);
	order[index] = keeps("waiter", SIGRTMIN + index) && now.ss_sp == stack;
	pthread_mutex_unlock(&gate);
	return NULL;
}

static void *sleeper(void *argument)
{
	(void)argument;
	block(SIGUSR1);
	/* exits while it holds the mutex, so the next owner gets EOWNERDEAD */
	pthread_mutex_lock(&robust);
	pthread_mutex_lock(&lock);
	arrive("sleeper");
	while (!go)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
	return (void *)(long)keeps("sleeper", SIGUSR1);
}

static void *counter(void *argument)
{
	double value = 1;
	long n = 0;

	(void)argument;
	block(SIGUSR2);
	arrive("counter");
	/* floating point state is always live */
	while (!atomic_load(&stop)) {
		value = value * 0.5 + 0.5;
		n++;
	}
	sum = value;
	rounds = n;
	return (void *)(long)keeps("counter", SIGUSR2);
}

int main(void)
{
	pthread_t waiters[WAITERS], sleeps, counts;
	pthread_mutexattr_t attributes;
	void *result;
	int error;

	nonce_draw();
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attributes);
	pthread_mutex_lock(&gate);
	for (long n = 0; n < WAITERS; n++)
		start_thread(&waiters[n], waiter, (void *)n);
	start_thread(&sleeps, sleeper, NULL);
	start_thread(&counts, counter, NULL);
	while (atomic_load(&arrived) < WAITERS + 2)
		sched_yield();

	/* the event: all other threads wait or compute */
	syscall(SYS_getppid);

	pthread_mutex_unlock(&gate);
	for (long n = 0; n < WAITERS; n++) {
		pthread_join(waiters[n], NULL);
		printf("waiter %ld kept its own state: %ld\n", n, order[n]);
	}
	pthread_mutex_lock(&lock);
	go = 1;
	pthread_cond_signal(&changed);
	pthread_mutex_unlock(&lock);
	pthread_join(sleeps, &result);
	printf("sleeper kept its own state: %ld\n", (long)result);
	error = pthread_mutex_lock(&robust);
	printf("the robust mutex lost its owner: %d\n", error == EOWNERDEAD);
	pthread_mutex_consistent(&robust);
	pthread_mutex_unlock(&robust);
	atomic_store(&stop, 1);
	pthread_join(counts, &result);
	printf("counter kept its own state: %ld, counted: %d, to %.6f\n", (long)result,
	       rounds > 0, sum);
	nonce_print();
	return 0;
}
