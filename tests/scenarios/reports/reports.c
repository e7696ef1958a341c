// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Detects its restart, and then has the kernel make a mistake (drivers/misc/lkdtm).
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "restarted.h"

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		exit(101);
	close(fd);
}

int main(int argc, char **argv)
{
	pid_t child;

	if (argc != 2)
		return 100;
	remember_pipe();
	printf("ready\n");
	fflush(stdout);
	syscall(SYS_getppid);
	if (!is_restarted())
		return 0;
	/* A hung task is reported after some seconds instead of two minutes. */
	put("/proc/sys/kernel/hung_task_timeout_secs", "5");
	/* The report may kill the child, or the child may never end. */
	child = fork();
	if (!child) {
		put("/sys/kernel/debug/provoke-crash/DIRECT", argv[1]);
		_exit(0);
	}
	if (child < 0)
		return 102;
	waitpid(child, NULL, 0);
	return 0;
}
