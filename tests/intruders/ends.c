// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Ways to kill tasks, and checks that they have killed all tasks of a restart. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "intruder.h"

int gone(void)
{
	char path[128], text[128] = "";
	int fd;

	snprintf(path, sizeof(path), "%s/cgroup.events", cgroup);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		fail("%s: %m", path);
	close(fd);
	return !!strstr(text, "populated 0");
}

static int ended_status;

static int ended(void)
{
	return waitpid(first, &ended_status, WNOHANG) == first;
}

/* Writes to a file of the cgroup. */
static void put(const char *file, const char *text)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", cgroup, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail("%s: %m", path);
	close(fd);
}

/* Number of OOM killer calls for the cgroup; kills may be counted in a different cgroup. */
static int calls_of_oom_killer(void)
{
	char path[128], text[512] = "", *line;
	int fd;

	snprintf(path, sizeof(path), "%s/memory.events", cgroup);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		fail("%s: %m", path);
	close(fd);
	line = strstr(text, "\noom ");
	if (!line)
		fail("%s: %s", path, text);
	return atoi(line + strlen("\noom "));
}

void end_it(const char *how, const void *rest, size_t len)
{
	int called = 0;

	if (!strcmp(how, "cgroup")) {
		put("cgroup.kill", "1");
	} else if (!strcmp(how, "memory")) {
		put("memory.max", "0");
		/* if no task had memory yet, the OOM killer had no victim */
		called = calls_of_oom_killer();
		if (!called)
			write_all(feed, rest, len);
	} else {
		if (!strcmp(how, "log")) {
			char bad[4 * HEAD];

			/* not a valid record, so that each task logs an error */
			memset(bad, 0xff, sizeof(bad));
			write(feed, bad, sizeof(bad));
		}
		if (kill(first, SIGKILL))
			fail("kill: %m");
	}
	until(ended, "the caller has exited");
	until(gone, "all created tasks have exited");
	if (called)
		puts("the OOM killer was called");
}

void fill_log(void)
{
	int ends[2];
	char byte = 'x';

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK))
		fail("pipe: %m");
	while (write(ends[1], &byte, 1) == 1)
		;
	/* writes to the log block */
	if (fcntl(ends[1], F_SETFL, 0))
		fail("fcntl: %m");
	log_end = ends[1];
}
