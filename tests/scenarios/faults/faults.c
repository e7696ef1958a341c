// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Goes wrong in the way that its argument names, with or without a restart. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int say(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	return fd < 0 || write(fd, text, strlen(text)) < 0;
}

static ino_t number_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		exit(100);
	return st.st_ino;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";
	int ends[2];
	ino_t before;

	if (pipe(ends))
		return 100;
	before = number_of(ends[0]);
	if (!strcmp(how, "warn") && say("/dev/kmsg", "<4>WARNING: early\n"))
		return 101;
	if (!strcmp(how, "differ")) {
		unsigned int number = 0;

		if (getrandom(&number, sizeof(number), 0) < 0)
			return 102;
		printf("%u\n", number);
	}
	if (!strcmp(how, "poll")) {
		/* A freeze, unlike most other ways to stop, ends this wait. */
		struct epoll_event event;
		int got = epoll_wait(epoll_create1(0), &event, 1, 3000);

		printf("%s\n", got < 0 && errno == EINTR ? "interrupted" : "timeout");
	}
	if (!strcmp(how, "wait"))
		pause();
	syscall(SYS_getppid);
	/* A restart cannot keep the inode number of a pipe. */
	if (!strcmp(how, "reset") && number_of(ends[0]) != before) {
		say("/proc/sysrq-trigger", "b");
		pause();
	}
	return 0;
}
