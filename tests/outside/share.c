// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * share WHAT CGROUP: a child in CGROUP sleeps until the file `thawed` exists, and then changes an
 * object that it shares with its parent, which checks it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *what;
static int fd = -1, ends[2];
static char *memory;

static void check(int failed, const char *why)
{
	if (failed) {
		perror(why);
		exit(1);
	}
}

static int is(const char *name)
{
	return !strcmp(what, name);
}

static void *map_shared(int file, int prot)
{
	int flags = MAP_SHARED | (file < 0 ? MAP_ANONYMOUS : 0);
	void *at = mmap(NULL, 4096, prot, flags, file, 0);

	check(at == MAP_FAILED, "mmap");
	return at;
}

static void set_up(void)
{
	if (is("memory")) {
		memory = map_shared(-1, PROT_READ | PROT_WRITE);
	} else if (is("memfd")) {
		fd = memfd_create("shared", 0);
		check(ftruncate(fd, 4096), "ftruncate");
		memory = map_shared(fd, PROT_READ | PROT_WRITE);
	} else if (is("sealed")) {
		fd = memfd_create("sealed", MFD_ALLOW_SEALING);
		check(write(fd, "s", 1) != 1 || ftruncate(fd, 4096), "write");
		check(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW), "seal");
		memory = map_shared(fd, PROT_READ);
		close(fd);
	} else if (is("deleted")) {
		fd = open("deleted", O_CREAT | O_RDWR, 0600);
		check(ftruncate(fd, 4096) || unlink("deleted"), "deleted");
		memory = map_shared(fd, PROT_READ | PROT_WRITE);
		close(fd);
	} else if (is("offset")) {
		fd = open("file", O_CREAT | O_RDWR, 0600);
	} else if (is("appended")) {
		fd = open("file", O_CREAT | O_WRONLY | O_APPEND, 0600);
	} else if (is("listed")) {
		fd = open("/tmp", O_RDONLY | O_DIRECTORY);
	} else if (is("eventfd")) {
		fd = eventfd(0, 0);
	} else if (is("timerfd")) {
		fd = timerfd_create(CLOCK_MONOTONIC, 0);
	} else if (is("epoll")) {
		fd = epoll_create1(0);
	} else if (is("inotify")) {
		fd = inotify_init();
	} else {
		check(pipe(ends), "pipe");
	}
}

static void change(void)
{
	const struct itimerspec soon = { .it_value = { 5000, 0 } };
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = 7 };
	uint64_t one = 1;

	if (is("sealed"))
		check(memory[0] != 's', "sealed");
	else if (memory)
		memory[0] = 'x';
	else if (is("offset") || is("appended"))
		check(write(fd, "child", 5) != 5, "write");
	else if (is("eventfd"))
		check(write(fd, &one, 8) != 8, "write");
	else if (is("timerfd"))
		check(timerfd_settime(fd, 0, &soon, NULL), "timerfd_settime");
	else if (is("epoll"))
		check(epoll_ctl(fd, EPOLL_CTL_ADD, 0, &event) && 0, "epoll_ctl");
	else if (is("inotify"))
		check(inotify_add_watch(fd, "/tmp", IN_CREATE) < 0, "inotify_add_watch");
	else if (is("pipe"))
		check(write(ends[1], "x", 1) != 1, "write");
}

static int seen(void)
{
	struct itimerspec left;
	char byte;
	uint64_t count;

	if (is("sealed"))
		return memory[0] == 's';
	if (memory)
		return memory[0] == 'x';
	if (is("offset"))
		return lseek(fd, 0, SEEK_CUR) == 5;
	if (is("appended"))
		return lseek(fd, 0, SEEK_END) == 5;
	if (is("listed"))
		return faccessat(fd, "share", F_OK, 0) == 0;
	if (is("eventfd"))
		return read(fd, &count, 8) == 8;
	if (is("timerfd"))
		return !timerfd_gettime(fd, &left) && left.it_value.tv_sec > 4000;
	if (is("pipe"))
		return read(ends[0], &byte, 1) == 1;
	return is("epoll") || is("inotify");
}

static void put(const char *path, int number)
{
	FILE *file = fopen(path, "w");

	check(!file || fprintf(file, "%d", number) < 0 || fclose(file), path);
}

int main(int argc, char **argv)
{
	const struct timespec tick = { 0, 1000000 };
	char procs[256];
	int status;
	pid_t pid;

	if (argc != 3)
		return 2;
	what = argv[1];
	set_up();
	/* the child must not share the standard files */
	pid = fork();
	check(pid < 0, "fork");
	if (!pid) {
		check(!freopen("/dev/null", "r", stdin) || !freopen("/dev/null", "w", stdout) ||
		      !freopen("/dev/null", "w", stderr), "/dev/null");
		while (access("thawed", F_OK))
			nanosleep(&tick, NULL);
		change();
		return 0;
	}
	snprintf(procs, sizeof(procs), "%s/cgroup.procs", argv[2]);
	put(procs, pid);
	put("child", pid);
	check(waitpid(pid, &status, 0) != pid || status, "the child");
	puts(seen() ? "still shared" : "no longer shared");
	return 0;
}
