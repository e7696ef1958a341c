// SPDX-License-Identifier: Apache-2.0 OR MIT
/* POSIX timers: their ids, the time left, and the signals they have sent. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "session.h"
#include "workload.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static struct {
	sigset_t signals;
	pid_t tid;
	int ready[2], go[2];
} other;

/* Returns the kernel's id; glibc's may differ. */
static int create(clockid_t clock, int notify, int signal, int value, pid_t thread)
{
	struct sigevent event = {
		.sigev_notify = notify,
		.sigev_signo = signal,
		.sigev_value.sival_int = value,
	};
	int id;

	event.sigev_notify_thread_id = thread;
	check(syscall(SYS_timer_create, clock, &event, &id), "timer_create");
	return id;
}

static void set(int id, int flags, long seconds, long nanoseconds, long interval)
{
	struct itimerspec time = {
		.it_value = { seconds, nanoseconds },
		.it_interval = { interval / 1000000000, interval % 1000000000 },
	};

	check(syscall(SYS_timer_settime, id, flags, &time, NULL), "timer_settime");
}

static void print_left(const char *what, int id, long most)
{
	struct itimerspec time;

	check(syscall(SYS_timer_gettime, id, &time), "timer_gettime");
	printf("%s, timer %d: ", what, id);
	if (!time.it_value.tv_sec && !time.it_value.tv_nsec)
		printf("not armed");
	else
		printf("armed, as it was: %d", time.it_value.tv_sec <= most &&
						     time.it_value.tv_sec > most - 200);
	printf(", interval %ld ns\n", time.it_interval.tv_nsec);
}

static void print_signal(const char *what, const sigset_t *signals)
{
	siginfo_t info;
	struct timespec none = { 0 };

	if (sigtimedwait(signals, &info, &none) < 0)
		printf("%s: %s\n", what, errno == EAGAIN ? "no signal" : "error");
	else
		printf("%s: signal %d of timer %d, code %d, value %d, overrun: %d\n", what,
		       info.si_signo - SIGRTMIN, info.si_timerid, info.si_code,
		       info.si_value.sival_int, info.si_overrun > 0);
}

static void *thread(void *unused)
{
	other.tid = gettid();
	wake(other.ready[1]);
	receive_byte(other.go[0]);
	print_signal("the thread", &other.signals);
	print_signal("the thread", &other.signals);
	return unused;
}

void timers(void)
{
	int left, absolute, none, ticks, gone, deleted, to_thread, quiet, once, boot, ran;
	struct timespec now;
	siginfo_t info;
	pthread_t second;

	sigemptyset(&other.signals);
	for (int n = 0; n < 8; n++)
		sigaddset(&other.signals, SIGRTMIN + n);
	check(sigprocmask(SIG_BLOCK, &other.signals, NULL), "sigprocmask");
	check(pipe(other.ready) || pipe(other.go), "pipe");
	start_thread(&second, thread, NULL);
	receive_byte(other.ready[0]);

	left = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 10, 0);
	gone = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 11, 0);
	absolute = create(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN, 12, 0);
	none = create(CLOCK_BOOTTIME, SIGEV_NONE, 0, 13, 0);
	ticks = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 1, 14, 0);
	deleted = create(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 2, 15, 0);
	to_thread = create(CLOCK_MONOTONIC, SIGEV_SIGNAL | SIGEV_THREAD_ID, SIGRTMIN + 3, 16,
			   other.tid);
	quiet = create(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 4, 17, 0);
	once = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 5, 18, 0);
	boot = create(CLOCK_BOOTTIME, SIGEV_SIGNAL, SIGRTMIN + 6, 19, 0);

	check(syscall(SYS_timer_delete, gone), "timer_delete");
	set(left, 0, 5000, 0, 7000);
	clock_gettime(CLOCK_REALTIME, &now);
	set(absolute, TIMER_ABSTIME, now.tv_sec + 4000, 0, 0);
	set(none, 0, 3000, 0, 0);
	/* two queued signals, whose delivery rearms their timers */
	set(ticks, 0, 0, 1000000, 2000000);
	set(to_thread, 0, 0, 1000000, 1000000000000);
	/* a signal that outlives its timer */
	set(deleted, 0, 0, 1, 0);
	set(once, 0, 0, 1, 0);
	nanosleep(&(struct timespec){ .tv_nsec = 30000000 }, NULL);
	check(syscall(SYS_timer_delete, deleted), "timer_delete");
	set(boot, 0, 0, 200000000, 0);

	stop_here();

	print_left("left", left, 5000);
	print_left("absolute", absolute, 4000);
	print_left("none", none, 3000);
	print_left("quiet", quiet, 0);
	print_left("once", once, 0);
	printf("deleted: %d\n", syscall(SYS_timer_delete, gone) && errno == EINVAL);
	/*
	 * the signal of ticks, with its overrun; and the signal of the deleted
	 * timer
	 */
	check(sigwaitinfo(&(sigset_t){ { 1ULL << (SIGRTMIN + 1 - 1) } }, &info) < 0, "sigwaitinfo");
	printf("ticks: timer %d, value %d, overrun: %d, timer_getoverrun: %d\n", info.si_timerid,
	       info.si_value.sival_int, info.si_overrun > 0,
	       syscall(SYS_timer_getoverrun, ticks) == info.si_overrun);
	check(sigwaitinfo(&(sigset_t){ { 1ULL << (SIGRTMIN + 1 - 1) } }, &info) < 0, "sigwaitinfo");
	printf("second signal: timer %d, overrun is less: %d\n", info.si_timerid,
	       info.si_overrun < 1000);
	set(ticks, 0, 0, 0, 0);
	print_left("ticks", ticks, 0);
	while (sigtimedwait(&(sigset_t){ { 1ULL << (SIGRTMIN + 1 - 1) } }, &info,
			    &(struct timespec){ 0 }) >= 0)
		;
	check(sigwaitinfo(&(sigset_t){ { 1ULL << (SIGRTMIN + 6 - 1) } }, &info) < 0, "sigwaitinfo");
	printf("boot: timer %d, value %d\n", info.si_timerid, info.si_value.sival_int);
	print_signal("queued", &other.signals);
	print_signal("queued", &other.signals);
	print_signal("queued", &other.signals);
	wake(other.go[1]);
	pthread_join(second, NULL);
	ran = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
	printf("the next is timer %d\n", ran);
}
