// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Detects its restart by the inode number of a pipe, which a restart cannot keep
 * (docs/reference/state.md), and then behaves differently, which crucible must report.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static ino_t number_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		exit(100);
	return st.st_ino;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "tell";
	int ends[2], restarted;
	ino_t before;

	if (pipe(ends))
		return 100;
	before = number_of(ends[0]);

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
	restarted = number_of(ends[0]) != before;
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
