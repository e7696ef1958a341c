/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Control files and waiting, for the programs that attack or fail calls in a guest. */
#ifndef HARNESS_H
#define HARNESS_H

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* defined by the program: the limit of until() in seconds, and its exit with status 2 */
extern int limit;
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Writes to a file that exists. Returns -1 with errno on failure. */
static inline int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -1;
	ret = write(fd, text, strlen(text)) < 0 ? -1 : 0;
	close(fd);
	return ret;
}

static inline void must_put(const char *path, const char *text)
{
	if (put(path, text))
		fail("%s to %s: %m", text, path);
}

/* Returns true when the first 4095 bytes of a file contain a text. */
static inline int contains(const char *path, const char *text)
{
	char all[4096] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (read(fd, all, sizeof(all) - 1) < 0)
		all[0] = '\0';
	close(fd);
	return !!strstr(all, text);
}

/* Waits until @done returns true. Returns false when it does not in time. */
static inline int until(int (*done)(void))
{
	time_t end = time(NULL) + limit;

	while (!done()) {
		if (time(NULL) > end)
			return 0;
		sched_yield();
	}
	return 1;
}

#endif
