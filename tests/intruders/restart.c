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

int main(int argc, char **argv)
{
	int fd = argc == 2 ? open(argv[1], O_RDONLY) : -1;
	long pid = fd < 0 ? -1 : syscall(SYS_RESTART, -1, fd, 0, 2);

	if (pid < 0) {
		printf("restart: %s\n", strerror(errno));
		return 1;
	}
	printf("restart: done\n");
	kill(pid, SIGKILL);
	waitpid(pid, NULL, __WALL);
	return 0;
}
