// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * restart IMAGE: restart(2) by the caller's own rights and into its own cgroup; says what came of
 * it. Findings go to standard error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* When the caller's first child was created, as proc has it. */
static void tell_start(void)
{
	char path[64], stat[1024], *field;
	FILE *file = fopen("/proc/thread-self/children", "r");
	int pid, n;

	if (!file || fscanf(file, "%d", &pid) != 1)
		return;
	fclose(file);
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "r");
	if (!file || !fgets(stat, sizeof(stat), file))
		return;
	fclose(file);
	field = strrchr(stat, ')');
	for (n = 2; field && n < 22; n++)
		field = strchr(field + 1, ' ');
	if (field)
		printf("restart: it began at %.*s\n", (int)strcspn(field + 1, " "), field + 1);
}

int main(int argc, char **argv)
{
	int fd = argc == 2 ? open(argv[1], O_RDONLY) : -1;
	long pid = fd < 0 ? -1 : syscall(SYS_RESTART, -1, fd, 0, 2);

	if (pid < 0) {
		printf("restart: %s\n", strerror(errno));
		return 1;
	}
	printf("restart: done\n");
	tell_start();
	kill(pid, SIGKILL);
	waitpid(pid, NULL, __WALL);
	return 0;
}
