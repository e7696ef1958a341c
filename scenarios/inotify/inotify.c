// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Inotify files, and their events after the event of the checkpoint. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

static int failures;

/* Prints whether a condition holds; if not, the program's exit status is 1. */
static void expect(int holds, const char *what)
{
	printf("%s: %s\n", what, holds ? "yes" : "NO");
	failures += !holds;
}

static int made(int flags)
{
	int fd = inotify_init1(flags);

	check(fd < 0, "inotify_init1");
	return fd;
}

static int watch(int fd, const char *path, uint32_t mask)
{
	int wd = inotify_add_watch(fd, path, mask);

	check(wd < 0, "inotify_add_watch");
	return wd;
}

static void touch(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0644);

	check(fd < 0 || close(fd), path);
}

static void append(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_APPEND);

	check(fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) || close(fd), path);
}

/* Expects this event next; later events stay queued. */
static uint32_t expect_event(int fd, int wd, uint32_t mask, const char *name)
{
	static char buffer[65536] __attribute__((aligned(8)));
	static int at, end, of = -1;
	struct inotify_event *event;
	const char *got;

	if (of != fd || at == end) {
		check(at != end && of >= 0, "some events of the last read were not checked");
		end = read(fd, buffer, sizeof(buffer));
		at = 0;
		of = fd;
		if (end < 0) {
			printf("%s instead of event %x\n", strerrorname_np(errno), mask);
			failures++;
			end = 0;
			return 0;
		}
	}
	event = (struct inotify_event *)(buffer + at);
	at += sizeof(*event) + event->len;
	got = event->len ? event->name : "";
	printf("watch %d, event %x, \"%s\"%s\n", event->wd, event->mask, got,
	       event->cookie ? ", with a cookie" : "");
	if (event->wd != wd || event->mask != mask || strcmp(got, name)) {
		printf("NOT watch %d, event %x, \"%s\"\n", wd, mask, name);
		failures++;
	}
	return event->cookie;
}

static void expect_none(int fd)
{
	char buffer[512];

	expect(read(fd, buffer, sizeof(buffer)) < 0 && errno == EAGAIN, "nothing more");
}

static void watches(void)
{
	int fd = made(IN_NONBLOCK | IN_CLOEXEC), dir, gone, file, once, link;

	check(mkdir("dir", 0755) || mkdir("other", 0755) || symlink("file", "link"), "directories");
	touch("file");
	touch("once");
	dir = watch(fd, "dir", IN_CREATE | IN_DELETE | IN_ONLYDIR);
	gone = watch(fd, "other", IN_ALL_EVENTS);
	file = watch(fd, "file", IN_MODIFY | IN_ATTRIB);
	once = watch(fd, "once", IN_OPEN | IN_ONESHOT);
	link = watch(fd, "link", IN_ATTRIB | IN_DONT_FOLLOW);
	check(watch(fd, "dir", IN_MASK_ADD | IN_MOVED_TO | IN_EXCL_UNLINK) != dir, "IN_MASK_ADD");
	check(inotify_rm_watch(fd, gone), "inotify_rm_watch");
	expect_event(fd, gone, IN_IGNORED, "");

	stop_here();

	expect_none(fd);
	touch("dir/new");
	expect_event(fd, dir, IN_CREATE, "new");
	check(rename("dir/new", "dir/newer"), "rename");
	expect_event(fd, dir, IN_MOVED_TO, "newer");
	check(unlink("dir/newer"), "unlink");
	expect_event(fd, dir, IN_DELETE, "newer");
	append("file", "text");
	expect_event(fd, file, IN_MODIFY, "");
	touch("once");
	expect_event(fd, once, IN_OPEN, "");
	expect_event(fd, once, IN_IGNORED, "");
	touch("once");
	check(fchmodat(AT_FDCWD, "file", 0600, 0), "fchmodat");
	expect_event(fd, file, IN_ATTRIB, "");
	check(lchown("link", 0, 0), "lchown");
	expect_event(fd, link, IN_ATTRIB, "");
	expect_none(fd);
	expect(watch(fd, "file", IN_CLOSE) == file, "a watched file keeps its descriptor");
	append("file", "");
	expect_event(fd, file, IN_CLOSE_WRITE, "");
	expect(inotify_rm_watch(fd, gone) < 0 && errno == EINVAL, "one that was removed");
	expect(watch(fd, "other", IN_CREATE) == link + 1, "the next descriptor");
	expect(fcntl(fd, F_GETFD) == FD_CLOEXEC && fcntl(fd, F_GETFL) & O_NONBLOCK, "flags");
	check(unlink("file"), "unlink");
	check(inotify_rm_watch(fd, dir), "inotify_rm_watch");
	expect_event(fd, file, IN_IGNORED, "");
	expect_event(fd, dir, IN_IGNORED, "");
	expect_none(fd);
}

static void events(void)
{
	int fd = made(IN_NONBLOCK), dir, file, length, before;
	uint32_t cookie;

	check(mkdir("dir", 0755), "mkdir");
	touch("dir/gone");
	dir = watch(fd, "dir", IN_ALL_EVENTS & ~IN_OPEN);
	file = watch(fd, "dir/gone", IN_DELETE_SELF | IN_ATTRIB);
	touch("dir/a");
	check(rename("dir/a", "dir/a name that is longer than the others are"), "rename");
	check(mkdir("dir/sub", 0755), "mkdir");
	check(unlink("dir/gone"), "unlink");
	append("dir/a name that is longer than the others are", "once, ");
	check(ioctl(fd, FIONREAD, &before), "FIONREAD");

	stop_here();

	check(ioctl(fd, FIONREAD, &length), "FIONREAD");
	expect(length == before, "as much to read");
	/* merged with the equal event at the end of the queue */
	append("dir/a name that is longer than the others are", "");
	expect_event(fd, dir, IN_CREATE, "a");
	expect_event(fd, dir, IN_CLOSE_WRITE, "a");
	cookie = expect_event(fd, dir, IN_MOVED_FROM, "a");
	expect(cookie && cookie == expect_event(fd, dir, IN_MOVED_TO,
						"a name that is longer than the others are"),
	       "the same cookie");
	expect_event(fd, dir, IN_CREATE | IN_ISDIR, "sub");
	expect_event(fd, file, IN_ATTRIB, "");
	expect_event(fd, file, IN_DELETE_SELF, "");
	expect_event(fd, file, IN_IGNORED, "");
	expect_event(fd, dir, IN_DELETE, "gone");
	expect_event(fd, dir, IN_MODIFY, "a name that is longer than the others are");
	expect_event(fd, dir, IN_CLOSE_WRITE, "a name that is longer than the others are");
	expect_none(fd);
	check(inotify_rm_watch(fd, dir), "inotify_rm_watch");
	expect_event(fd, dir, IN_IGNORED, "");
}

/* Counts two alternating events: equal ones in a row would be merged. */
static int count(int fd, int wd, int *overflows)
{
	char buffer[4096] __attribute__((aligned(8)));
	int n = 0, wrong = 0;
	ssize_t got;

	*overflows = 0;
	while ((got = read(fd, buffer, sizeof(buffer))) > 0) {
		for (char *at = buffer; at < buffer + got;) {
			struct inotify_event *event = (struct inotify_event *)at;

			at += sizeof(*event) + event->len;
			if (event->mask == IN_Q_OVERFLOW) {
				wrong += event->wd != -1;
				++*overflows;
				continue;
			}
			wrong += event->wd != wd || *overflows ||
				 event->mask != (n % 2 ? IN_CLOSE_WRITE : IN_OPEN);
			n++;
		}
	}
	expect(!wrong, "in their order");
	return n;
}

static void overflow(void)
{
	int fd = made(IN_NONBLOCK), wd, n, overflows;

	touch("file");
	wd = watch(fd, "file", IN_OPEN | IN_CLOSE_WRITE);
	for (n = 0; n < 9000; n++)
		touch("file");

	stop_here();

	n = count(fd, wd, &overflows);
	printf("%d events\n", n);
	expect(n == 16384 && overflows == 1, "a full queue and its overflow event");
	touch("file");
	expect(count(fd, wd, &overflows) == 2 && !overflows, "and empty again");
}

static void blocked(void)
{
	char buffer[512] __attribute__((aligned(8)));
	struct inotify_event *event = (void *)buffer;
	int fd = made(0), wd, ready[2], status;
	pid_t child;

	check(mkdir("dir", 0755) || pipe(ready), "dir");
	wd = watch(fd, "dir", IN_CREATE);
	fflush(stdout);
	child = fork();
	check(child < 0, "fork");
	if (!child) {
		check(write(ready[1], "", 1) != 1, "write");
		if (read(fd, buffer, sizeof(buffer)) <= 0)
			_exit(1);
		_exit(event->wd == wd && event->mask == IN_CREATE && !strcmp(event->name, "one") ?
			      21 :
			      2);
	}
	check(read(ready[0], buffer, 1) != 1, "read");
	/* gives the child time to sleep */
	usleep(200000);

	stop_here();

	touch("dir/one");
	status = wait_for_child(child);
	printf("the child exited %d\n", WEXITSTATUS(status));
	touch("dir/two");
	expect_event(fd, wd, IN_CREATE, "two");
}

static void print_ready(const char *when, int epoll)
{
	struct epoll_event events[4];
	int n = epoll_wait(epoll, events, 4, 0);

	check(n < 0, "epoll_wait");
	printf("%s:", when);
	for (int i = 0; i < n; i++)
		printf(" %s %#x", (const char *)events[i].data.ptr, events[i].events);
	printf("\n");
}

static void epolls(void)
{
	struct epoll_event level = { .events = EPOLLIN, .data.ptr = "level" },
			   edge = { .events = EPOLLIN | EPOLLET, .data.ptr = "edge" };
	int epoll = epoll_create1(0), one = made(IN_NONBLOCK), other = made(IN_NONBLOCK);
	int wd, second;

	check(mkdir("dir", 0755) || mkdir("quiet", 0755), "mkdir");
	check(epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, one, &level) ||
		      epoll_ctl(epoll, EPOLL_CTL_ADD, other, &edge),
	      "epoll_ctl");
	wd = watch(one, "quiet", IN_CREATE);
	second = watch(other, "dir", IN_CREATE);
	touch("dir/told");
	print_ready("before", epoll);
	print_ready("told", epoll);

	stop_here();

	print_ready("after", epoll);
	touch("dir/new");
	touch("quiet/new");
	print_ready("new", epoll);
	expect_event(one, wd, IN_CREATE, "new");
	expect_event(other, second, IN_CREATE, "told");
	expect_event(other, second, IN_CREATE, "new");
	print_ready("read", epoll);
}

static void renamed(void)
{
	int fd = made(IN_NONBLOCK), file, dir, root, proc;

	check(mkdir("dir", 0755) || mkdir("dir/sub", 0755) || mkdir("/tmp/watched", 0755), "mkdir");
	touch("dir/file");
	file = watch(fd, "dir/file", IN_MODIFY);
	dir = watch(fd, "dir/sub", IN_CREATE);
	root = watch(fd, "/etc", IN_CREATE);
	proc = watch(fd, "/tmp/watched", IN_CREATE);
	check(rename("dir/file", "file") || rename("dir", "moved"), "rename");

	stop_here();

	append("file", "text");
	expect_event(fd, file, IN_MODIFY, "");
	touch("moved/sub/new");
	expect_event(fd, dir, IN_CREATE, "new");
	touch("/etc/new");
	expect_event(fd, root, IN_CREATE, "new");
	touch("/tmp/watched/new");
	expect_event(fd, proc, IN_CREATE, "new");
	check(unlink("/etc/new") || unlink("/tmp/watched/new") || rmdir("/tmp/watched"), "unlink");
	expect_event(fd, proc, IN_IGNORED, "");
	expect_none(fd);
}

static void unseen(void)
{
	int fd = made(IN_NONBLOCK), dir, open_one, deleted, self;
	char *memory, text[8];

	/* not the directory of the nonce, which observers of this program read */
	check(mkdir("dir", 0755), "mkdir");
	open_one = open("dir/open", O_RDWR | O_CREAT, 0644);
	deleted = open("dir/deleted", O_RDWR | O_CREAT, 0644);
	check(open_one < 0 || write(open_one, "open one", 8) != 8, "open");
	check(deleted < 0 || write(deleted, "deleted", 7) != 7 || unlink("dir/deleted"), "deleted");
	memory = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, open_one, 0);
	check(memory == MAP_FAILED, "mmap");
	dir = watch(fd, "dir", IN_ALL_EVENTS);
	self = watch(fd, "/proc/self/exe", IN_ALL_EVENTS);
	watch(fd, "dir/open", IN_ALL_EVENTS);

	stop_here();

	expect_none(fd);
	expect(memory[0] == 'o' && pread(deleted, text, 7, 0) == 7 && !memcmp(text, "deleted", 7),
	       "what is in them");
	expect_event(fd, dir, IN_ACCESS, "deleted");
	check(close(open("dir", O_RDONLY)), "open");
	expect_event(fd, dir, IN_OPEN | IN_ISDIR, "");
	expect_event(fd, dir, IN_CLOSE_NOWRITE | IN_ISDIR, "");
	expect(self == dir + 1, "watches");
}

static void passed(void)
{
	char control[CMSG_SPACE(sizeof(int))] = "", byte;
	struct iovec iov = { "i", 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	int fd = made(IN_NONBLOCK), wd, ends[2];

	check(mkdir("dir", 0755) || socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
	wd = watch(fd, "dir", IN_CREATE);
	touch("dir/before");
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	*(int *)CMSG_DATA(cmsg) = fd;
	check(sendmsg(ends[0], &msg, 0) != 1 || close(fd), "sendmsg");

	stop_here();

	touch("dir/after");
	iov.iov_base = &byte;
	check(recvmsg(ends[1], &msg, 0) != 1 || byte != 'i', "recvmsg");
	fd = *(int *)CMSG_DATA(CMSG_FIRSTHDR(&msg));
	expect_event(fd, wd, IN_CREATE, "before");
	expect_event(fd, wd, IN_CREATE, "after");
	expect_none(fd);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "watches", watches }, { "events", events }, { "overflow", overflow },
	{ "blocked", blocked }, { "epoll", epolls },  { "renamed", renamed },
	{ "unseen", unseen },	{ "passed", passed },
};

int main(int argc, char **argv)
{
	nonce_draw();
	for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		if (argc > 1 && !strcmp(argv[1], cases[n].name)) {
			cases[n].run();
			nonce_print();
			return failures ? 2 : 0;
		}
	}
	return 1;
}
