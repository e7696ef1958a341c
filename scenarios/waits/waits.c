// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * One process for each system call that waits, most with a timeout that is far away. The
 * awaited event or a signal ends each call. The result of the call then depends on all of its
 * arguments, which the kernel has kept while it was interrupted by the freeze.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "workload.h"

#define FAR 5000

static struct {
	atomic_int word, other, never;
} *board;

/* The pipe that ends a wait. */
static int ends[2];
static pid_t parent;

static void handler(int signal)
{
	printf("handler of signal %d\n", signal);
}

static const char *range(struct timespec left)
{
	return left.tv_sec < FAR && left.tv_sec > FAR / 2 ? "most" : left.tv_sec < FAR ? "little" :
	       "too much";
}

static void sleeps(clockid_t clock)
{
	const struct timespec far = { .tv_sec = FAR };
	struct timespec left = { .tv_sec = -1 };
	int error = clock_nanosleep(clock, 0, &far, &left);

	printf("%s, left: %s\n", strerror(error), range(left));
}

static void monotonic(void)
{
	sleeps(CLOCK_MONOTONIC);
}

static void realtime(void)
{
	sleeps(CLOCK_REALTIME);
}

static void boottime(void)
{
	sleeps(CLOCK_BOOTTIME);
}

static void tai(void)
{
	sleeps(CLOCK_TAI);
}

/* The parent's CPU-time clock, which advances little. */
static void cpu_time(void)
{
	clockid_t clock;

	check(clock_getcpuclockid(parent, &clock), "clock_getcpuclockid");
	sleeps(clock);
}

static void tell_polled(int result, const struct pollfd *fds)
{
	printf("%d, events %#x %#x %#x\n", result, fds[0].revents, fds[1].revents, fds[2].revents);
}

static void polls(void)
{
	struct pollfd fds[3] = { { -1, POLLIN, 7 }, { ends[0], POLLIN | POLLRDHUP, 7 },
				 { ends[0], POLLPRI, 7 } };

	tell_polled(poll(fds, 3, FAR * 1000), fds);
}

/* Its mask holds back SIGUSR2, which is pending afterwards. */
static void ppolls(void)
{
	const struct timespec far = { .tv_sec = FAR };
	struct pollfd fds[3] = { { -1, POLLIN, 7 }, { ends[0], POLLIN, 7 }, { -1, POLLIN, 7 } };
	sigset_t mask;
	int result;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR2);
	result = ppoll(fds, 3, &far, &mask);
	tell_polled(result, fds);
}

static void selects(void)
{
	struct timeval far = { .tv_sec = FAR };
	fd_set in, out;
	int result;

	FD_ZERO(&in);
	FD_ZERO(&out);
	FD_SET(ends[0], &in);
	result = select(ends[0] + 1, &in, &out, NULL, &far);
	printf("%d, %d, left: %s\n", result, FD_ISSET(ends[0], &in),
	       range((struct timespec){ .tv_sec = far.tv_sec }));
}

static void epolls(void)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 0x123456789abcULL };
	int epoll = epoll_create1(EPOLL_CLOEXEC), result;

	check(epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event), "epoll");
	event.data.u64 = 0;
	/* the freeze ends it */
	do
		result = epoll_wait(epoll, &event, 1, FAR * 1000);
	while (result < 0 && errno == EINTR);
	printf("%d, events %#x of %llu\n", result, event.events,
	       (unsigned long long)event.data.u64);
}

static long futex(atomic_int *at, int operation, int value, void *time, int bits)
{
	long result = syscall(SYS_futex, at, operation, value, time, NULL, bits);

	return result < 0 ? -errno : result;
}

/* Shared, for a duration. */
static void futex_waits(void)
{
	struct timespec far = { .tv_sec = FAR };

	printf("woken: %ld\n", futex(&board->word, FUTEX_WAIT, 3, &far, 0));
}

/* A shared futex, with a timeout and a bit mask. */
static void futex_until(void)
{
	struct timespec far;

	check(clock_gettime(CLOCK_REALTIME, &far), "clock_gettime");
	far.tv_sec += FAR;
	printf("woken: %ld\n", futex(&board->other, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 5,
				     &far, 4));
}

/* Private: no other process can wake it. */
static void futex_private(void)
{
	struct timespec far = { .tv_sec = FAR };

	printf("ended: %ld\n", futex(&board->never, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, &far, 0));
}

static void suspends(void)
{
	sigset_t mask;
	int result;

	sigfillset(&mask);
	sigdelset(&mask, SIGUSR1);
	result = sigsuspend(&mask);
	printf("%d, %s", result, strerror(errno));
	sigprocmask(SIG_BLOCK, NULL, &mask);
	printf(", blocked: USR1 %d, HUP %d\n", sigismember(&mask, SIGUSR1),
	       sigismember(&mask, SIGHUP));
}

static void timed_wait(void)
{
	const struct timespec far = { .tv_sec = FAR };
	siginfo_t info = {};
	sigset_t mask;
	int result;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	/* as above */
	do
		result = sigtimedwait(&mask, &info, &far);
	while (result < 0 && errno == EINTR);
	printf("signal %d\n", result == SIGUSR1);
}

enum by { SIGNAL, BYTE, WORD };

static const struct {
	const char *name;
	void (*run)(void);
	enum by by;
	long call;
} kinds[] = {
	{ "monotonic", monotonic, SIGNAL, SYS_clock_nanosleep },
	{ "realtime", realtime, SIGNAL, SYS_clock_nanosleep },
	{ "boottime", boottime, SIGNAL, SYS_clock_nanosleep },
	{ "tai", tai, SIGNAL, SYS_clock_nanosleep },
	{ "CPU time", cpu_time, SIGNAL, SYS_clock_nanosleep },
	{ "poll", polls, BYTE, SYS_poll },
	{ "ppoll", ppolls, BYTE, SYS_ppoll },
	{ "select", selects, BYTE, SYS_pselect6 },
	{ "epoll", epolls, BYTE, SYS_epoll_wait },
	{ "futex", futex_waits, WORD, SYS_futex },
	{ "futex until", futex_until, WORD, SYS_futex },
	{ "private futex", futex_private, SIGNAL, SYS_futex },
	{ "sigsuspend", suspends, SIGNAL, SYS_rt_sigsuspend },
	{ "sigtimedwait", timed_wait, SIGNAL, SYS_rt_sigtimedwait },
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* Waits until a process sleeps in a system call. */
static void wait_for_call(pid_t pid, long call)
{
	char path[64], text[128], expected[32];
	ssize_t length;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	snprintf(expected, sizeof(expected), "%ld ", call);
	do {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		check(fd < 0, path);
		length = read(fd, text, sizeof(text) - 1);
		close(fd);
		text[length > 0 ? length : 0] = 0;
	} while (strncmp(text, expected, strlen(expected)));
}

int main(void)
{
	const struct sigaction action = { .sa_handler = handler };
	pid_t pids[KINDS];
	int start[KINDS];

	nonce_draw();
	parent = getpid();
	board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(board == MAP_FAILED, "mmap");
	board->word = 3;
	board->other = 5;
	check(sigaction(SIGUSR1, &action, NULL) || sigaction(SIGUSR2, &action, NULL), "sigaction");
	for (size_t n = 0; n < KINDS; n++) {
		make_pipe(ends);
		start[n] = ends[1];
		pids[n] = forked();
		if (!pids[n]) {
			kinds[n].run();
			fflush(stdout);
			_exit(n);
		}
		wait_for_call(pids[n], kinds[n].call);
	}

	flush_and_stop_here();

	for (size_t n = 0; n < KINDS; n++) {
		printf("%s: ", kinds[n].name);
		fflush(stdout);
		switch (kinds[n].by) {
		case SIGNAL:
			kill(pids[n], SIGUSR1);
			break;
		case BYTE:
			kill(pids[n], kinds[n].run == ppolls ? SIGUSR2 : SIGCONT);
			send_byte(start[n]);
			break;
		case WORD:
			/* skip the first call: it cannot return */
			futex(&board->other, FUTEX_WAKE_BITSET, 1, NULL, 2);
			/* the child may still be asleep in the interrupted call */
			while (futex(kinds[n].run == futex_waits ? &board->word : &board->other,
				     FUTEX_WAKE_BITSET, 1, NULL, 4) == 0)
				sched_yield();
			break;
		}
		printf("ended with %d\n", wait_for_child(pids[n]) >> 8);
		fflush(stdout);
	}
	nonce_print();
	return 0;
}
