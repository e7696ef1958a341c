// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Threads whose scheduling differs from that of their creator, each reported by the thread itself
 * after the event; and a process whose use exceeds its limits.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "workload.h"

#define NR_THREADS 6
#define QUEUED 40

/* struct sched_attr of linux/sched/types.h. */
struct attr {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
	uint32_t util_min, util_max;
};

static pthread_barrier_t ready;
/* the threads print in order */
static sem_t turn[NR_THREADS + 1];

static void set(uint32_t policy, int nice, uint32_t priority, uint64_t slice)
{
	struct attr attr = {
		.size = sizeof(attr), .policy = policy, .nice = nice,
		.priority = priority, .runtime = slice,
	};

	if (syscall(SYS_sched_setattr, 0, &attr, 0))
		die("sched_setattr");
}

static void pin(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
}

static void tell(const char *who)
{
	struct attr attr = { .size = sizeof(attr) };
	cpu_set_t cpus;

	if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) ||
	    sched_getaffinity(0, sizeof(cpus), &cpus))
		die("sched_getattr");
	printf("%s: policy %u, nice %d, priority %u, reset %llu, %s, slice %llu us\n", who,
	       attr.policy, attr.nice, attr.priority, (unsigned long long)attr.flags & 1,
	       CPU_COUNT(&cpus) == sysconf(_SC_NPROCESSORS_ONLN) ? "all CPUs" : "some CPUs",
	       (unsigned long long)((attr.policy == SCHED_OTHER || attr.policy == SCHED_IDLE) &&
				    attr.runtime > 50000000 ? attr.runtime / 1000 : 0));
}

static const char *const names[] = {
	"plain", "batch", "round robin", "sliced", "sliced and idle", "sliced and FIFO before",
};

/* Unlike sched_setattr(2), does not change the slice. */
static void set_policy(int policy, int priority)
{
	struct sched_param param = { .sched_priority = priority };

	if (sched_setscheduler(0, policy, &param))
		die("sched_setscheduler");
}

static void *thread(void *arg)
{
	long i = (long)arg;

	switch (i) {
	case 1:
		set(SCHED_BATCH, 5, 0, 0);
		break;
	case 2:
		set(SCHED_RR, 0, 7, 0);
		break;
	case 3:
		set(SCHED_OTHER, -3, 0, 77000000);
		break;
	case 4:
		set(SCHED_OTHER, 0, 0, 77000000);
		set_policy(SCHED_IDLE, 0);
		break;
	case 5:
		set(SCHED_OTHER, 0, 0, 66000000);
		set_policy(SCHED_FIFO, 3);
		break;
	}
	pthread_barrier_wait(&ready);
	while (sem_wait(&turn[i]))
		;
	if (i == 5)
		set_policy(SCHED_OTHER, 0);
	tell(names[i]);
	sem_post(&turn[i + 1]);
	return NULL;
}

/* The leader has a real-time policy and a single CPU, set after it created the others. */
static void threads(void)
{
	pthread_t made[NR_THREADS];
	long i;

	pthread_barrier_init(&ready, NULL, NR_THREADS + 1);
	for (i = 0; i <= NR_THREADS; i++)
		sem_init(&turn[i], 0, 0);
	for (i = 0; i < NR_THREADS; i++)
		start_thread(&made[i], thread, (void *)i);
	pthread_barrier_wait(&ready);
	pin(0);
	set(SCHED_FIFO, 0, 3, 0);
	syscall(SYS_getppid);
	tell("first");
	set(SCHED_OTHER, 10, 0, 0);
	sem_post(&turn[0]);
	while (sem_wait(&turn[NR_THREADS]))
		;
}

static void *idle(void *arg)
{
	(void)arg;
	for (;;)
		pause();
	return NULL;
}

static void lower(int what, rlim_t to)
{
	struct rlimit lim = { to, to };

	if (setrlimit(what, &lim))
		die("setrlimit");
}

/* RLIMIT_NPROC does not apply to root, so it becomes a different user. */
static void limits(void)
{
	union sigval value = { .sival_int = 0 };
	sigset_t all;
	pthread_t made;
	int i, got = 0, high;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	for (i = 0; i < 3; i++)
		start_thread(&made, idle, NULL);
	for (i = 0; i < QUEUED; i++, value.sival_int++)
		if (sigqueue(getpid(), SIGRTMIN, value))
			die("sigqueue");
	high = fcntl(0, F_DUPFD, 900);
	if (high < 0)
		die("F_DUPFD");
	lower(RLIMIT_NPROC, 1);
	lower(RLIMIT_SIGPENDING, 2);
	lower(RLIMIT_NOFILE, 16);
	lower(RLIMIT_RTPRIO, 0);
	if (setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000))
		die("setresuid");
	syscall(SYS_getppid);
	for (i = 0; i < QUEUED; i++) {
		siginfo_t info;
		struct timespec none = { 0, 0 };

		if (sigtimedwait(&all, &info, &none) == SIGRTMIN && info.si_value.sival_int == i)
			got++;
	}
	printf("%d of %d signals in order\n", got, QUEUED);
	printf("descriptor above the limit: %s\n", fcntl(high, F_GETFD) < 0 ? "gone" : "there");
	printf("another thread: %s\n",
	       strerror(pthread_create(&made, NULL, idle, NULL)));
}

int main(int argc, char **argv)
{
	nonce_draw();
	if (argc > 1 && !strcmp(argv[1], "threads"))
		threads();
	else
		limits();
	nonce_print();
	/* the idle threads exit with the process */
	fflush(stdout);
	_exit(0);
}
