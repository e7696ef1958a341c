// SPDX-License-Identifier: GPL-2.0-only
/* Resources with a queue of bytes, messages or events. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <termios.h>
#include <unistd.h>

#include "tree.h"
#include "workload.h"

static void make_pipe_bytes(struct item *item)
{
	make_pipe(item->fd);
	if (item->number % 2)
		item->kept = fcntl(item->fd[1], F_SETPIPE_SZ, 8192);
	put_pattern(item->fd[1], item->number, 1 + item->number % BYTES);
}

static const char *verify_pipe_bytes(struct item *item)
{
	int left;

	if (item->number % 2 && fcntl(item->fd[0], F_GETPIPE_SZ) != item->kept)
		return "another size";
	if (ioctl(item->fd[0], FIONREAD, &left) < 0 || left != 1 + item->number % BYTES)
		return "another number of bytes";
	return has_pattern(item->fd[0], item->number, left) ? NULL : "other bytes";
}

static void make_eventfd(struct item *item)
{
	item->fd[0] = eventfd(1 + item->number, item->number % 2 ? EFD_SEMAPHORE : 0);
	check(item->fd[0] < 0, "eventfd");
}

static const char *verify_eventfd(struct item *item)
{
	uint64_t count;

	if (read(item->fd[0], &count, sizeof(count)) != sizeof(count))
		return "nothing to read";
	return count == (item->number % 2 ? 1 : 1 + (uint64_t)item->number) ? NULL : "another count";
}

static void make_signalfd(struct item *item)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 5);
	check(pthread_sigmask(SIG_BLOCK, &set, NULL), "pthread_sigmask");
	item->fd[0] = signalfd(-1, &set, 0);
	check(item->fd[0] < 0, "signalfd");
	queue_signal(SIGRTMIN + 5, item->number);
}

static const char *verify_signalfd(struct item *item)
{
	struct signalfd_siginfo info;

	if (read(item->fd[0], &info, sizeof(info)) != sizeof(info))
		return "nothing to read";
	return (int)info.ssi_signo == SIGRTMIN + 5 && info.ssi_int == item->number ? NULL :
										      "another signal";
}

static void make_timerfd(struct item *item)
{
	const struct itimerspec far = {
		.it_value.tv_sec = 5000 + item->number, .it_interval.tv_sec = 7 + item->number,
	};

	item->fd[0] = timerfd_create(item->number % 2 ? CLOCK_MONOTONIC : CLOCK_BOOTTIME, 0);
	check(item->fd[0] < 0 || timerfd_settime(item->fd[0], 0, &far, NULL) < 0, "timerfd");
}

static const char *verify_timerfd(struct item *item)
{
	struct itimerspec now;

	if (timerfd_gettime(item->fd[0], &now) < 0 ||
	    now.it_interval.tv_sec != 7 + item->number)
		return "another interval";
	return now.it_value.tv_sec > 1000 + item->number &&
	       now.it_value.tv_sec <= 5000 + item->number ? NULL : "another time";
}

static void make_epoll(struct item *item)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 0x1234500000 + item->number };

	make_pipe(item->fd);
	item->fd[2] = epoll_create1(0);
	check(item->fd[2] < 0, "epoll_create1");
	check(epoll_ctl(item->fd[2], EPOLL_CTL_ADD, item->fd[0], &event) < 0, "epoll_ctl");
	if (item->number % 2)
		put_pattern(item->fd[1], item->number, 1);
}

static const char *verify_epoll(struct item *item)
{
	struct epoll_event event;

	if (epoll_wait(item->fd[2], &event, 1, 0) != item->number % 2)
		return "another number of events";
	if (!(item->number % 2))
		put_pattern(item->fd[1], item->number, 1);
	if (epoll_wait(item->fd[2], &event, 1, 0) != 1)
		return "no event";
	return event.data.u64 == 0x1234500000 + (uint64_t)item->number ? NULL : "other data";
}

static void make_inotify(struct item *item)
{
	char name[64], file[80];

	snprintf(name, sizeof(name), "watched.%d", own_id);
	check(mkdir(name, 0755) < 0, name);
	item->fd[0] = inotify_init1(IN_NONBLOCK);
	check(item->fd[0] < 0, "inotify_init1");
	item->kept = inotify_add_watch(item->fd[0], name, IN_CREATE | IN_DELETE);
	check(item->kept < 0, "inotify_add_watch");
	item->fd[1] = open(name, O_RDONLY | O_DIRECTORY);
	check(item->fd[1] < 0, name);
	snprintf(file, sizeof(file), "%s/before", name);
	check(item->number % 2 && mkdir(file, 0755) < 0, file);
}

static int has_event(struct item *item, const char *name)
{
	char buffer[512] __attribute__((aligned(8)));
	const struct inotify_event *event = (void *)buffer;

	return read(item->fd[0], buffer, sizeof(struct inotify_event) + 16) > 0 &&
	       event->wd == item->kept && event->mask == (IN_CREATE | IN_ISDIR) &&
	       !strcmp(event->name, name);
}

static const char *verify_inotify(struct item *item)
{
	if (item->number % 2 && !has_event(item, "before"))
		return "an event is lost";
	if (mkdirat(item->fd[1], "after", 0755) < 0 || !has_event(item, "after"))
		return "the watch is lost";
	return NULL;
}

static void make_sockets(struct item *item, int type)
{
	check(socketpair(AF_UNIX, type, 0, item->fd) < 0, "socketpair");
	put_pattern(item->fd[0], item->number, 1 + item->number % 900);
	put_pattern(item->fd[0], item->number + 1, 10);
	put_pattern(item->fd[1], item->number + 2, 5);
}

static const char *verify_stream(struct item *item)
{
	return has_pattern(item->fd[1], item->number, 1 + item->number % 900) &&
	       has_pattern(item->fd[1], item->number + 1, 10) &&
	       has_pattern(item->fd[0], item->number + 2, 5) ? NULL : "other bytes";
}

static const char *verify_messages(struct item *item)
{
	char buffer[1000];

	/* The limits of messages are kept. */
	if (recv(item->fd[1], buffer, sizeof(buffer), MSG_PEEK) != 1 + item->number % 900)
		return "another message";
	return verify_stream(item);
}

static void make_stream(struct item *item)
{
	make_sockets(item, SOCK_STREAM);
}

static void make_datagram(struct item *item)
{
	make_sockets(item, SOCK_DGRAM);
}

static void make_seqpacket(struct item *item)
{
	make_sockets(item, SOCK_SEQPACKET);
}

/* A pipe in an unread message. */
static void make_passed(struct item *item)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {};
	char byte = 'x';
	struct iovec iov = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control.bytes, .msg_controllen = sizeof(control.bytes),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	check(socketpair(AF_UNIX, SOCK_STREAM, 0, item->fd) < 0, "socketpair");
	make_pipe(item->fd + 2);
	put_pattern(item->fd[3], item->number, 20);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &item->fd[2], sizeof(int));
	check(sendmsg(item->fd[0], &message, 0) != 1, "sendmsg");
	close(item->fd[2]);
	close(item->fd[3]);
}

static const char *verify_passed(struct item *item)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {};
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control.bytes, .msg_controllen = sizeof(control.bytes),
	};
	struct cmsghdr *header;
	int fd;

	if (recvmsg(item->fd[1], &message, 0) != 1 || byte != 'x')
		return "another message";
	header = CMSG_FIRSTHDR(&message);
	if (!header || header->cmsg_type != SCM_RIGHTS)
		return "no descriptor";
	memcpy(&fd, CMSG_DATA(header), sizeof(int));
	return has_pattern(fd, item->number, 20) && read(fd, &byte, 1) == 0 ? NULL : "another pipe";
}

static void make_terminal(struct item *item)
{
	struct termios settings;
	const struct winsize size = { .ws_row = 20 + item->number % 50, .ws_col = 90 };

	item->fd[0] = posix_openpt(O_RDWR | O_NOCTTY);
	check(item->fd[0] < 0 || unlockpt(item->fd[0]) < 0, "posix_openpt");
	item->fd[1] = open(ptsname(item->fd[0]), O_RDWR | O_NOCTTY);
	check(item->fd[1] < 0 || tcgetattr(item->fd[1], &settings) < 0, "a terminal");
	settings.c_lflag &= ~(ECHO | (item->number % 2 ? ICANON : 0));
	check(tcsetattr(item->fd[1], TCSANOW, &settings) < 0, "tcsetattr");
	check(ioctl(item->fd[0], TIOCSWINSZ, &size) < 0, "TIOCSWINSZ");
	check(write(item->fd[0], "typed\n", 6) != 6 || write(item->fd[1], "shown", 5) != 5, "write");
}

static const char *verify_terminal(struct item *item)
{
	struct termios settings;
	struct winsize size;
	char buffer[16];

	if (ioctl(item->fd[1], TIOCGWINSZ, &size) < 0 || size.ws_row != 20 + item->number % 50)
		return "another size";
	if (tcgetattr(item->fd[1], &settings) < 0 || settings.c_lflag & ECHO ||
	    (settings.c_lflag & ICANON ? 0 : 1) != item->number % 2)
		return "other settings";
	if (read(item->fd[1], buffer, 16) != 6 || memcmp(buffer, "typed\n", 6))
		return "other input";
	return read(item->fd[0], buffer, 16) == 5 && !memcmp(buffer, "shown", 5) ? NULL :
										    "other output";
}

const struct kind queue_kinds[] = {
	{ "pipe", make_pipe_bytes, verify_pipe_bytes },
	{ "eventfd", make_eventfd, verify_eventfd },
	{ "signalfd", make_signalfd, verify_signalfd },
	{ "timerfd", make_timerfd, verify_timerfd },
	{ "epoll", make_epoll, verify_epoll },
	{ "inotify", make_inotify, verify_inotify },
	{ "stream", make_stream, verify_stream },
	{ "datagram", make_datagram, verify_messages },
	{ "seqpacket", make_seqpacket, verify_messages },
	{ "passed-descriptor", make_passed, verify_passed },
	{ "terminal", make_terminal, verify_terminal },
	{}
};
