// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Epoll files: their items, and which of them are ready. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "session.h"
#include "workload.h"

static void watch(int epoll, int fd, uint32_t events, const char *name)
{
	struct epoll_event event = { .events = events, .data.ptr = (void *)name };

	check(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "EPOLL_CTL_ADD");
}

/* Prints the ready items in the kernel's order. */
static void print_ready(const char *when, int epoll)
{
	struct epoll_event events[16];
	int n = epoll_wait(epoll, events, 16, 0);

	check(n < 0, "epoll_wait");
	printf("%s:", when);
	for (int i = 0; i < n; i++)
		printf(" %s %#x", (const char *)events[i].data.ptr, events[i].events);
	printf("\n");
}

static void make_nonblocking_pipe(int ends[2])
{
	check(pipe2(ends, O_NONBLOCK), "pipe2");
}

static void put(int fd)
{
	check(write(fd, "x", 1) != 1, "write");
}

void epolls(void)
{
	int early[2], edge[2], once[2], closed[2], late[2], quiet[2], first[2], epoll, errors;
	struct epoll_event again = { .events = EPOLLIN | EPOLLONESHOT };

	make_nonblocking_pipe(early);
	make_nonblocking_pipe(edge);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	check(epoll < 0, "epoll_create1");
	make_nonblocking_pipe(once);
	make_nonblocking_pipe(closed);
	make_nonblocking_pipe(late);
	make_nonblocking_pipe(quiet);
	make_nonblocking_pipe(first);

	watch(epoll, early[0], EPOLLIN, "early");
	watch(epoll, edge[0], EPOLLIN | EPOLLET, "edge");
	watch(epoll, edge[1], EPOLLOUT | EPOLLET | EPOLLEXCLUSIVE, "edge-out");
	watch(epoll, once[0], EPOLLIN | EPOLLONESHOT, "once");
	watch(epoll, closed[0], EPOLLIN | EPOLLONESHOT | EPOLLRDHUP, "closed");
	watch(epoll, late[0], EPOLLIN | EPOLLPRI, "late");
	watch(epoll, quiet[0], EPOLLIN, "quiet");
	watch(epoll, first[0], EPOLLIN | EPOLLET, "first");
	/* the same file by a different descriptor, with different data */
	watch(epoll, dup(early[0]), EPOLLIN, "twin");

	put(edge[1]);
	put(once[1]);
	put(closed[1]);
	print_ready("before", epoll);
	/* a disarmed item and an edge that has been reported: not reported again */
	print_ready("nothing", epoll);
	put(first[1]);
	put(late[1]);
	put(early[1]);
	close(closed[1]);

	stop_here();

	print_ready("after", epoll);
	print_ready("again", epoll);
	put(edge[1]);
	print_ready("a new edge", epoll);
	again.data.ptr = "rearmed";
	check(epoll_ctl(epoll, EPOLL_CTL_MOD, once[0], &again), "EPOLL_CTL_MOD");
	print_ready("armed again", epoll);
	print_ready("and disarmed", epoll);
	check(epoll_ctl(epoll, EPOLL_CTL_DEL, early[0], NULL), "EPOLL_CTL_DEL");
	print_ready("deleted", epoll);
	again.events = EPOLLOUT | EPOLLEXCLUSIVE;
	errors = epoll_ctl(epoll, EPOLL_CTL_MOD, edge[1], &again);
	printf("an exclusive item cannot be changed: %d\n", errors && errno == EINVAL);
	errors = epoll_ctl(epoll, EPOLL_CTL_ADD, quiet[0], &again);
	printf("an item exists already: %d\n", errors && errno == EEXIST);
	put(quiet[1]);
	print_ready("quiet no more", epoll);
	printf("close-on-exec: %d\n", fcntl(epoll, F_GETFD) == FD_CLOEXEC);
}

/*
 * An inner epoll file has a higher descriptor than the outer one; a child has both, and its
 * writes to the event counter are seen here. The timer expires after the event.
 */
void nested(void)
{
	struct itimerspec time = { .it_value.tv_nsec = 1 };
	int outer, inner, count, timer, signals, go[2];
	struct signalfd_siginfo info;
	uint64_t value;
	sigset_t mask;
	pid_t child;
	int status;

	check(pipe(go), "pipe");
	outer = epoll_create1(0);
	inner = epoll_create1(0);
	count = eventfd(0, EFD_NONBLOCK);
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGUSR2);
	check(sigprocmask(SIG_BLOCK, &mask, NULL), "sigprocmask");
	signals = signalfd(-1, &mask, SFD_NONBLOCK);
	check(outer < 0 || inner < 0 || count < 0 || timer < 0 || signals < 0, "creating them");
	watch(outer, inner, EPOLLIN, "inner");
	watch(inner, count, EPOLLIN, "count");
	watch(inner, timer, EPOLLIN, "timer");
	watch(inner, signals, EPOLLIN, "signals");
	check(kill(getpid(), SIGUSR2), "kill");
	fflush(stdout);
	child = fork();
	check(child < 0, "fork");
	if (!child) {
		receive_byte(go[0]);
		value = 6;
		check(write(count, &value, sizeof(value)) != sizeof(value), "write");
		_exit(9);
	}

	stop_here();

	print_ready("the signal, outside", outer);
	print_ready("the signal, inside", inner);
	check(read(signals, &info, sizeof(info)) != sizeof(info), "read");
	printf("signal %d of this process: %d\n", info.ssi_signo,
	       info.ssi_pid == (uint32_t)getpid());
	print_ready("read", outer);
	wake(go[1]);
	status = wait_for_child(child);
	printf("the child exited %d\n", WEXITSTATUS(status));
	print_ready("the count, outside", outer);
	print_ready("the count, inside", inner);
	check(read(count, &value, sizeof(value)) != sizeof(value), "read");
	printf("count %ju\n", (uintmax_t)value);
	print_ready("read", outer);
	check(timerfd_settime(timer, 0, &time, NULL), "timerfd_settime");
	while (read(timer, &value, sizeof(value)) < 0)
		check(errno != EAGAIN, "read");
	check(timerfd_settime(timer, 0, &time, NULL), "timerfd_settime");
	check(epoll_wait(outer, &(struct epoll_event){ 0 }, 1, 10000) != 1, "epoll_wait");
	print_ready("the timer, inside", inner);
	check(raise(SIGUSR1), "raise");
	print_ready("all", inner);
}
