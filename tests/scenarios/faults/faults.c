// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Fails in the way that its argument names, with or without a restart. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "restarted.h"

static int say(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	return fd < 0 || write(fd, text, strlen(text)) < 0;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";

	remember_pipe();
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
	if (!strcmp(how, "reset") && is_restarted()) {
		say("/proc/sysrq-trigger", "b");
		pause();
	}
	return 0;
}
