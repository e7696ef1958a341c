// SPDX-License-Identifier: GPL-2.0-only
/*
 * The leader of a process has a root directory of its own. A second thread has unshared its
 * root directory and descriptors, and sees all files; its open files are found by its own
 * paths.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "workload.h"

static pthread_barrier_t barrier;

static void say(const char *who, int fd)
{
	char text[32] = "";
	struct stat st;

	check(pread(fd, text, sizeof(text) - 1, 0) < 0, "pread");
	printf("%s has '%s' open, and there is %s '/only-in-jail'\n", who, text,
	       stat("/only-in-jail", &st) ? "no" : "a");
}

static void *outside(void *unused)
{
	int fd;

	check(unshare(CLONE_FS | CLONE_FILES), "unshare");
	fd = open("/work/same-name", O_RDONLY);
	check(fd < 0, "open");
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	say("the other thread", fd);
	return unused;
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_CREAT | O_WRONLY, 0644);

	check(fd < 0 || write(fd, text, strlen(text)) < 0, path);
	close(fd);
}

int main(void)
{
	pthread_t thread;
	int fd;

	nonce_draw();
	check(mkdir("jail", 0755) || mkdir("jail/work", 0755), "mkdir");
	put("same-name", "outside");
	put("jail/work/same-name", "inside");
	put("jail/only-in-jail", "");
	pthread_barrier_init(&barrier, NULL, 2);
	start_thread(&thread, outside, NULL);
	pthread_barrier_wait(&barrier);
	check(chroot("jail") || chdir("/"), "chroot");
	fd = open("/work/same-name", O_RDONLY);
	check(fd < 0, "open");
	syscall(SYS_getppid);
	say("the first thread", fd);
	pthread_barrier_wait(&barrier);
	check(pthread_join(thread, NULL), "pthread_join");
	nonce_print();
	return 0;
}
