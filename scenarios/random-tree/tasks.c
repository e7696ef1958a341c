// SPDX-License-Identifier: GPL-2.0-only
/* State of processes and threads. */
#define _GNU_SOURCE
#include <errno.h>
#include <fenv.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "tree.h"
#include "workload.h"

static void make_umask(struct item *item)
{
	umask(item->number & 0077);
}

static const char *verify_umask(struct item *item)
{
	return umask(022) == (item->number & 0077) ? NULL : "another umask";
}

static void make_nice(struct item *item)
{
	check(setpriority(PRIO_PROCESS, 0, 1 + item->number % 15) < 0, "setpriority");
}

static const char *verify_nice(struct item *item)
{
	return getpriority(PRIO_PROCESS, 0) == 1 + item->number % 15 ? NULL : "another value";
}

static void make_name(struct item *item)
{
	char name[16];

	snprintf(name, sizeof(name), "named %ld", item->number);
	check(prctl(PR_SET_NAME, name) < 0, "PR_SET_NAME");
}

static const char *verify_name(struct item *item)
{
	char name[16], now[16];

	snprintf(name, sizeof(name), "named %ld", item->number);
	return !prctl(PR_GET_NAME, now) && !strcmp(name, now) ? NULL : "another name";
}

static void make_limit(struct item *item)
{
	/*
	 * Sets the same hard limit in all processes, so that soft limits below it can be
	 * set again.
	 */
	const struct rlimit limit = { 300 + item->number % 100, 400 };

	check(setrlimit(RLIMIT_NOFILE, &limit) < 0, "setrlimit");
}

static const char *verify_limit(struct item *item)
{
	struct rlimit limit;

	return !getrlimit(RLIMIT_NOFILE, &limit) &&
	       limit.rlim_cur == 300 + (rlim_t)item->number % 100 &&
	       limit.rlim_max == 400 ? NULL : "other limits";
}

static void make_settings(struct item *item)
{
	check(prctl(PR_SET_PDEATHSIG, 1 + item->number % 30) < 0, "PR_SET_PDEATHSIG");
	check(prctl(PR_SET_TIMERSLACK, 1000 + item->number) < 0, "PR_SET_TIMERSLACK");
	check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0, "PR_SET_NO_NEW_PRIVS");
	check(prctl(PR_SET_CHILD_SUBREAPER, item->number % 2) < 0, "PR_SET_CHILD_SUBREAPER");
}

static const char *verify_settings(struct item *item)
{
	int signal = 0, reaper = -1;

	if (prctl(PR_GET_PDEATHSIG, &signal) < 0 || signal != 1 + item->number % 30)
		return "another death signal";
	if (prctl(PR_GET_TIMERSLACK) != 1000 + item->number)
		return "another timer slack";
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
		return "new privileges are allowed";
	return !prctl(PR_GET_CHILD_SUBREAPER, &reaper) && reaper == item->number % 2 ?
		       NULL : "another subreaper";
}

static volatile sig_atomic_t handled;

static void handler(int signal, siginfo_t *info, void *context)
{
	handled = info->si_value.sival_int;
}

static void make_handler(struct item *item)
{
	struct sigaction action = {
		.sa_sigaction = handler,
		.sa_flags = SA_SIGINFO | (item->number % 2 ? SA_RESTART : SA_RESETHAND),
	};

	sigaddset(&action.sa_mask, SIGUSR2);
	check(sigaction(SIGRTMIN + 2, &action, NULL) < 0, "sigaction");
	check(signal(SIGHUP, SIG_IGN) == SIG_ERR, "signal");
}

static const char *verify_handler(struct item *item)
{
	struct sigaction action;

	if (sigaction(SIGHUP, NULL, &action) < 0 || action.sa_handler != SIG_IGN)
		return "a signal is no longer ignored";
	if (sigaction(SIGRTMIN + 2, NULL, &action) < 0 || action.sa_sigaction != handler ||
	    !sigismember(&action.sa_mask, SIGUSR2) ||
	    !(action.sa_flags & (item->number % 2 ? SA_RESTART : SA_RESETHAND)))
		return "another handler";
	queue_signal(SIGRTMIN + 2, 1 + item->number);
	return handled == 1 + item->number ? NULL : "it is not called";
}

/* Two blocked signals with values, in their order. */
static void make_pending(struct item *item)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 3);
	check(pthread_sigmask(SIG_BLOCK, &set, NULL), "pthread_sigmask");
	queue_signal(SIGRTMIN + 3, item->number);
	queue_signal(SIGRTMIN + 3, item->number + 1);
}

static const char *verify_pending(struct item *item)
{
	const struct timespec now = {};
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 3);
	for (int at = 0; at < 2; at++)
		if (sigtimedwait(&set, &info, &now) != SIGRTMIN + 3 ||
		    info.si_value.sival_int != item->number + at || info.si_pid != getpid())
			return "another signal";
	return sigtimedwait(&set, &info, &now) < 0 ? NULL : "one signal more";
}

static void make_altstack(struct item *item)
{
	const stack_t stack = { .ss_sp = malloc(64 << 10), .ss_size = 64 << 10 };

	check(sigaltstack(&stack, NULL) < 0, "sigaltstack");
	item->memory = stack.ss_sp;
}

static const char *verify_altstack(struct item *item)
{
	stack_t stack;

	return !sigaltstack(NULL, &stack) && stack.ss_sp == item->memory &&
	       stack.ss_size == 64 << 10 ? NULL : "another stack";
}

static void make_interval(struct item *item)
{
	const struct itimerval far = {
		.it_value.tv_sec = 5000 + item->number, .it_interval.tv_sec = 11 + item->number,
	};

	check(setitimer(item->number % 2 ? ITIMER_REAL : ITIMER_VIRTUAL, &far, NULL) < 0,
	      "setitimer");
}

static const char *verify_interval(struct item *item)
{
	struct itimerval now;

	return !getitimer(item->number % 2 ? ITIMER_REAL : ITIMER_VIRTUAL, &now) &&
	       now.it_interval.tv_sec == 11 + item->number &&
	       now.it_value.tv_sec > 1000 + item->number &&
	       now.it_value.tv_sec <= 5000 + item->number ? NULL : "another timer";
}

static void make_posix_timer(struct item *item)
{
	struct sigevent event = {
		.sigev_notify = item->number % 2 ? SIGEV_SIGNAL : SIGEV_NONE,
		.sigev_signo = SIGRTMIN + 4,
	};
	const struct itimerspec far = { .it_value.tv_sec = 5000 + item->number };
	timer_t timer;

	check(timer_create(CLOCK_MONOTONIC, &event, &timer) < 0, "timer_create");
	check(timer_settime(timer, 0, &far, NULL) < 0, "timer_settime");
	item->memory = timer;
}

static const char *verify_posix_timer(struct item *item)
{
	struct itimerspec now;

	return !timer_gettime(item->memory, &now) && now.it_value.tv_sec > 1000 + item->number &&
	       now.it_value.tv_sec <= 5000 + item->number ? NULL : "another timer";
}

static void make_rounding(struct item *item)
{
	static const int modes[] = { FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO, FE_TONEAREST };

	check(fesetround(modes[item->number % 4]), "fesetround");
	item->kept = fegetround();
}

static const char *verify_rounding(struct item *item)
{
	return fegetround() == item->kept ? NULL : "another mode";
}

/* A thread that waits in one of several ways until all waits end. */
struct waiting {
	pthread_t thread;
	sem_t semaphore;
	long number;
};

static void *wait_for_go(void *argument)
{
	struct waiting *waiting = argument;
	struct pollfd entry = { .fd = go, .events = POLLIN };

	switch (waiting->number % 4) {
	case 0:
		wait_for_end();
		break;
	case 1:
		while (poll(&entry, 1, -1) < 0 && errno == EINTR)
			;
		break;
	case 2:
		while (sem_wait(&waiting->semaphore) < 0 && errno == EINTR)
			;
		break;
	case 3:
		/* A timer that expires repeatedly. */
		while (!poll(&entry, 1, 20))
			;
		break;
	}
	return (void *)(waiting->number + 1);
}

static void make_thread(struct item *item)
{
	struct waiting *waiting = calloc(1, sizeof(*waiting));

	check(!waiting || sem_init(&waiting->semaphore, 0, 0) < 0, "sem_init");
	waiting->number = item->number;
	start_thread(&waiting->thread, wait_for_go, waiting);
	item->memory = waiting;
}

static const char *verify_thread(struct item *item)
{
	struct waiting *waiting = item->memory;
	void *result;

	sem_post(&waiting->semaphore);
	return !pthread_join(waiting->thread, &result) && (long)result == item->number + 1 ?
		       NULL : "another result";
}

const struct kind task_kinds[] = {
	{ "umask", make_umask, verify_umask },
	{ "nice", make_nice, verify_nice },
	{ "name", make_name, verify_name },
	{ "limit", make_limit, verify_limit },
	{ "settings", make_settings, verify_settings },
	{ "handler", make_handler, verify_handler },
	{ "pending", make_pending, verify_pending },
	{ "altstack", make_altstack, verify_altstack },
	{ "interval", make_interval, verify_interval },
	{ "posix-timer", make_posix_timer, verify_posix_timer },
	{ "rounding", make_rounding, verify_rounding },
	{ "thread", make_thread, verify_thread },
	{}
};
