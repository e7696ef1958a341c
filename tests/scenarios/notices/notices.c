// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Tells a restart by the one thing that is not restored, the time at which the process
 * was started, and then behaves otherwise: what crucible must not miss.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Field 22 of /proc/self/stat: clock ticks since boot. */
static unsigned long long start_time(void)
{
	char text[1024], *at;
	unsigned long long ticks;
	int fd = open("/proc/self/stat", O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n <= 0)
		exit(100);
	close(fd);
	text[n] = '\0';
	at = strrchr(text, ')');
	if (!at)
		exit(100);
	for (int field = 2; field < 22; field++) {
		at = strchr(at, ' ');
		if (!at++)
			exit(100);
	}
	ticks = strtoull(at, NULL, 10);
	return ticks;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "tell";
	unsigned long long before = start_time();
	int restarted;

	printf("ready\n");
	fflush(stdout);
	syscall(SYS_getppid);
	restarted = start_time() != before;
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
	return 0;
}
