// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Detects its restart, and then behaves differently, which crucible must report.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "restarted.h"

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "tell";
	int restarted;

	remember_pipe();

	/* A watch of a file without a name is refused at the checkpoint. */
	if (!strcmp(how, "watch")) {
		int fd = open("watched", O_CREAT | O_WRONLY, 0600);

		if (fd < 0 || inotify_add_watch(inotify_init(), "watched", IN_MODIFY) < 0 ||
		    unlink("watched"))
			return 102;
	}
	if (!strcmp(how, "differ")) {
		unsigned int number = 0;

		if (getrandom(&number, sizeof(number), 0) < 0)
			return 103;
		printf("%u\n", number);
	}
	printf("ready\n");
	fflush(stdout);
	syscall(SYS_getppid);
	restarted = is_restarted();
	if (restarted && !strcmp(how, "hang"))
		for (;;)
			pause();
	if (restarted && !strcmp(how, "crash")) {
		int fd = open("/proc/sysrq-trigger", O_WRONLY);

		if (fd < 0 || write(fd, "c", 1) != 1)
			return 101;
	}
	if (restarted && !strcmp(how, "tell"))
		printf("restarted\n");
	printf("done\n");
	if (restarted && !strcmp(how, "warn")) {
		static const char report[] = "<4>WARNING: late\n";
		int fd = open("/dev/kmsg", O_WRONLY);

		if (fd < 0 || write(fd, report, sizeof(report) - 1) < 0)
			return 101;
	}
	return 0;
}
