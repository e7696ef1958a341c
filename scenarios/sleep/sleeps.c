// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * One process for each way to sleep, all for the same time, and one that counts
 * ticks. The time between checkpoint and restart must not count: so a sleep is
 * measured in ticks, which stop in between, too.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "workload.h"

/* Scaled by the slowness of the guest. */
#define SECONDS 4
/* Long enough that late ticks of a busy machine do not make a sleep seem short. */
#define TICK_MS 250

struct board {
	atomic_long ticks;
	atomic_int word;
	struct {
		long ticks;
		int error;
	} slept[7];
};

static struct board *board;

static struct timespec asked = { .tv_sec = SECONDS };
static long asked_ticks;

static int by_nanosleep(void)
{
	return nanosleep(&asked, NULL);
}

static int by_clock(void)
{
	errno = clock_nanosleep(CLOCK_BOOTTIME, 0, &asked, NULL);
	return errno ? -1 : 0;
}

static int by_poll(void)
{
	return poll(NULL, 0, asked.tv_sec * 1000);
}

static int by_futex(void)
{
	int result = syscall(SYS_futex, &board->word, FUTEX_WAIT, 0, &asked, NULL, 0);

	return result == -1 && errno == ETIMEDOUT ? 0 : -1;
}

static int by_select(void)
{
	struct timeval time = { .tv_sec = asked.tv_sec };

	return select(0, NULL, NULL, NULL, &time);
}

static int by_pselect(void)
{
	sigset_t mask;

	sigfillset(&mask);
	return pselect(0, NULL, NULL, NULL, &asked, &mask);
}

static void on_alarm(int number)
{
	(void)number;
}

static int by_itimer(void)
{
	struct itimerval timer = { .it_value.tv_sec = asked.tv_sec };

	signal(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &timer, NULL);
	return pause() == -1 && errno == EINTR ? 0 : -1;
}

static const struct {
	const char *name;
	int (*sleep)(void);
} kinds[] = {
	{ "nanosleep", by_nanosleep }, { "clock_nanosleep", by_clock },
	{ "poll", by_poll },	       { "futex", by_futex },
	{ "select", by_select },       { "pselect", by_pselect },
	{ "setitimer", by_itimer },
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static void tick(void)
{
	const struct timespec period = { .tv_nsec = TICK_MS * 1000000L };

	for (;;) {
		while (nanosleep(&period, NULL))
			;
		if (atomic_fetch_add(&board->ticks, 1) == asked_ticks / 2)
			sched_yield();
	}
}

/*
 * A sleep that ends at the restart has half of the ticks, and one that starts again
 * there has one and a half times as many. Smaller deviations are due to the machine:
 * a sleep continues while its task is frozen, when the ticker stands still, and a
 * busy machine freezes slowly and ticks late.
 */
static const char *judged(long ticks)
{
	long more_or_less = asked_ticks * 3 / 8;

	if (ticks < asked_ticks - more_or_less)
		return "too short";
	return ticks > asked_ticks + more_or_less ? "too long" : "as long as asked";
}

int main(void)
{
	pid_t ticker, pids[KINDS];
	int status;

	nonce_draw();
	if (getenv("SLOWNESS"))
		asked.tv_sec *= atoi(getenv("SLOWNESS"));
	asked_ticks = asked.tv_sec * 1000 / TICK_MS;
	board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED)
		die("mmap");
	for (size_t n = 0; n < KINDS; n++) {
		pids[n] = fork();
		if (!pids[n]) {
			board->slept[n].error = kinds[n].sleep() ? errno : 0;
			board->slept[n].ticks = atomic_load(&board->ticks);
			_exit(0);
		}
	}
	/* created last, so that all others sleep when it causes the event */
	ticker = fork();
	if (!ticker)
		tick();
	for (size_t n = 0; n < KINDS; n++) {
		status = wait_for_child(pids[n]);
		printf("%s: %s, %s\n", kinds[n].name, judged(board->slept[n].ticks),
		       board->slept[n].error ? strerror(board->slept[n].error) :
					       "ended by itself");
	}
	kill(ticker, SIGKILL);
	waitpid(ticker, &status, 0);
	nonce_print();
	return 0;
}
