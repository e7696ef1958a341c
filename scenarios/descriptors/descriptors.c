// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * State of descriptors and open files, other than content.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "workload.h"

static void high(void)
{
	struct rlimit limit = { 20000, 20000 };
	int fd, i;

	check(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
	for (i = 3; i < 10003; i++)
		check(dup2(0, i) != i, "dup2");
	check(dup2(1, 19999) != 19999, "dup2");
	limit.rlim_cur = 64;
	limit.rlim_max = 1024;
	check(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
	flush_and_stop_here();
	for (i = fd = 0; fd < 20000; fd++)
		i += fcntl(fd, F_GETFD) == 0;
	check(getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
	printf("%d descriptors, and limits of %d and %d\n", i, (int)limit.rlim_cur,
	       (int)limit.rlim_max);
	check(dup(0) >= 0, "a descriptor above the limit");
}

static void pipes(void)
{
	int ends[2];
	char buf[64];
	struct stat st;
	ssize_t n;

	check(pipe2(ends, O_DIRECT), "pipe2");
	check(write(ends[1], "one", 3) != 3 || write(ends[1], "two", 3) != 3, "write");
	check(fchown(ends[0], 1000, 50) || fchmod(ends[0], 0640), "fchown");
	flush_and_stop_here();
	check(write(ends[1], "three", 5) != 5, "write");
	while ((n = read(ends[0], buf, sizeof(buf))) > 0) {
		printf("packet %.*s\n", (int)n, buf);
		if (n == 5)
			break;
	}
	check(fstat(ends[0], &st), "fstat");
	printf("the pipe is %o of %u:%u, flags %o %o\n", st.st_mode, st.st_uid, st.st_gid,
	       fcntl(ends[0], F_GETFL), fcntl(ends[1], F_GETFL));
}

/* A partly read directory, and flags that only fcntl(2) sets. */
static void bits(void)
{
	int fd = open("hinted", O_CREAT | O_RDWR, 0644), i, n = 0;
	uint64_t hint = RWH_WRITE_LIFE_SHORT;
	struct dirent *entry;
	char name[16];
	DIR *dir;

	check(fd < 0 || fcntl(fd, F_SETSIG, 35), "F_SETSIG");
	check(fcntl(fd, F_SET_RW_HINT, &hint), "F_SET_RW_HINT");
	check(mkdir("many", 0755), "mkdir");
	for (i = 0; i < 1000; i++) {
		sprintf(name, "many/%d", i);
		check(mknod(name, S_IFREG | 0600, 0), "mknod");
	}
	dir = opendir("many");
	check(!dir, "opendir");
	while (n < 300 && readdir(dir))
		n++;
	flush_and_stop_here();
	while ((entry = readdir(dir)))
		n++;
	hint = 0;
	fcntl(fd, F_GET_RW_HINT, &hint);
	printf("%d entries, signal %d, hint %d\n", n, fcntl(fd, F_GETSIG), (int)hint);
	for (i = 0; i < 1000; i++) {
		sprintf(name, "many/%d", i);
		unlink(name);
	}
	rmdir("many");
}

/* An epoll file watches a second one, which becomes ready first. */
static void order(void)
{
	int outer = epoll_create1(0), inner = epoll_create1(0), first[2], second[2], i, n;
	struct epoll_event events[8], event = { .events = EPOLLIN };

	check(pipe(first) || pipe(second), "pipe");
	event.data.u32 = 1;
	check(epoll_ctl(inner, EPOLL_CTL_ADD, first[0], &event), "epoll_ctl");
	event.data.u32 = 2;
	check(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event), "epoll_ctl");
	event.data.u32 = 3;
	check(epoll_ctl(outer, EPOLL_CTL_ADD, second[0], &event), "epoll_ctl");
	check(write(first[1], "x", 1) != 1 || write(second[1], "x", 1) != 1, "write");
	flush_and_stop_here();
	n = epoll_wait(outer, events, 8, 0);
	for (i = 0; i < n; i++)
		printf("ready %d\n", (int)events[i].data.u32);
}

/*
 * One wake-up makes several items ready, in an order that depends on the order of addition, not
 * on their descriptors or files: descriptors of one file, and signalfds for one signal.
 */
static void wake(void)
{
	const int numbers[] = { 52, 50, 53, 51 };
	struct epoll_event events[8], event = { .events = EPOLLIN };
	int epoll = epoll_create1(0), ends[2], i, n;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	check(sigprocmask(SIG_BLOCK, &set, NULL), "sigprocmask");
	check(epoll < 0 || pipe(ends), "pipe");
	for (i = 0; i < 4; i++) {
		check(dup2(ends[0], numbers[i]) < 0, "dup2");
		event.data.u32 = numbers[i];
		check(epoll_ctl(epoll, EPOLL_CTL_ADD, numbers[i], &event), "epoll_ctl");
	}
	for (i = 0; i < 4; i++) {
		int fd = signalfd(-1, &set, SFD_NONBLOCK);

		check(fd < 0 || dup2(fd, numbers[i] + 10) < 0, "signalfd");
		close(fd);
		event.data.u32 = numbers[i] + 10;
		check(epoll_ctl(epoll, EPOLL_CTL_ADD, numbers[i] + 10, &event), "epoll_ctl");
	}
	/* add one of them again, which makes it the last */
	event.data.u32 = 52;
	check(epoll_ctl(epoll, EPOLL_CTL_DEL, 52, NULL) ||
	      epoll_ctl(epoll, EPOLL_CTL_ADD, 52, &event), "epoll_ctl");
	flush_and_stop_here();
	check(write(ends[1], "x", 1) != 1 || kill(getpid(), SIGUSR1), "write");
	n = epoll_wait(epoll, events, 8, 0);
	for (i = 0; i < n; i++)
		printf("ready %d\n", (int)events[i].data.u32);
}

static void give(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = "";
	struct iovec iov = { "x", 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	*(int *)CMSG_DATA(cmsg) = fd;
	check(sendmsg(socket, &msg, 0) != 1, "sendmsg");
}

static int take(int socket)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};

	check(recvmsg(socket, &msg, 0) != 1 || !msg.msg_controllen, "recvmsg");
	return *(int *)CMSG_DATA(CMSG_FIRSTHDR(&msg));
}

/*
 * The messages to a socket contain a second socket, which has a name, and the socket itself:
 * when the tree is killed, no task can reach either, but the name stays in use.
 */
static void names(void)
{
	struct sockaddr_un name = { AF_UNIX, "\0crucible-in-flight" };
	socklen_t len = offsetof(struct sockaddr_un, sun_path) + 19;
	int named = socket(AF_UNIX, SOCK_DGRAM, 0), ends[2], other;

	check(named < 0 || bind(named, (struct sockaddr *)&name, len), "bind");
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
	give(ends[0], named);
	give(ends[0], ends[1]);
	close(named);
	close(ends[0]);
	flush_and_stop_here();
	named = take(ends[1]);
	len = sizeof(name);
	check(getsockname(named, (struct sockaddr *)&name, &len), "getsockname");
	printf("it is %s\n", name.sun_path + 1);
	other = take(ends[1]);
	check(close(other), "close");
}

int main(int argc, char **argv)
{
	nonce_draw();
	if (argc < 2)
		return 2;
	if (!strcmp(argv[1], "high"))
		high();
	else if (!strcmp(argv[1], "pipes"))
		pipes();
	else if (!strcmp(argv[1], "bits"))
		bits();
	else if (!strcmp(argv[1], "order"))
		order();
	else if (!strcmp(argv[1], "wake"))
		wake();
	else
		names();
	nonce_print();
	return 0;
}
