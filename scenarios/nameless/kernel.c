// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Inodes that cannot have a name: memory, a pipe, sockets. Their owner, mode and times, including
 * the change time; and the credentials that a file was opened with.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "workload.h"

#define OBJECTS 5

static const char *const names[OBJECTS] = { "memory", "reading", "writing", "one", "other" };

static int same_time(struct statx_timestamp a, struct statx_timestamp b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static void look(int fd, struct statx *st)
{
	if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, st))
		die("statx");
}

/* Makes it a set-user-id object of a different owner, with old times. */
static void adorn(int fd, uid_t owner)
{
	const struct timespec times[2] = { { 1000000007, 123456789 }, { 7, 5 } };

	if (fchown(fd, owner, owner + 1) || fchmod(fd, 06751) || futimens(fd, times))
		die("owner, mode and times");
}

void kernel(void)
{
	struct statx before[OBJECTS], after;
	int fds[OBJECTS];
	char *memory;

	fds[0] = memfd_create("memory", 0);
	if (fds[0] < 0 || ftruncate(fds[0], 4096) || pipe(fds + 1) ||
	    socketpair(AF_UNIX, SOCK_STREAM, 0, fds + 3))
		die("objects");
	memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	if (memory == MAP_FAILED)
		die("mmap");
	memory[0] = 'm';
	for (int i = 0; i < OBJECTS; i++)
		adorn(fds[i], 1000 + 10 * (i == 2 ? 1 : i));
	for (int i = 0; i < OBJECTS; i++)
		look(fds[i], &before[i]);
	flush_and_stop_here();
	for (int i = 0; i < OBJECTS; i++) {
		look(fds[i], &after);
		printf("%s: %o of %u:%u, accessed %lld.%09u, modified %lld.%09u\n", names[i],
		       after.stx_mode, after.stx_uid, after.stx_gid,
		       (long long)after.stx_atime.tv_sec, after.stx_atime.tv_nsec,
		       (long long)after.stx_mtime.tv_sec, after.stx_mtime.tv_nsec);
		printf("%s: same change time %d, same creation time %d\n", names[i],
		       same_time(before[i].stx_ctime, after.stx_ctime),
		       same_time(before[i].stx_btime, after.stx_btime));
	}
}

static int open_nameless(void)
{
	int fd = open(".", O_TMPFILE | O_RDWR, 0600);

	if (fd < 0)
		die("O_TMPFILE");
	return fd;
}

static void drop(int capability)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &head, data))
		die("capget");
	data[0].effective &= ~(1U << capability);
	data[0].permitted &= ~(1U << capability);
	if (syscall(SYS_capset, &head, data))
		die("capset");
}

static void link_by_descriptor(const char *name, int fd)
{
	int failed = linkat(fd, "", AT_FDCWD, name, AT_EMPTY_PATH);

	printf("%s: %s\n", name, failed ? strerror(errno) : "linked");
	fflush(stdout);
}

/*
 * Without CAP_DAC_READ_SEARCH a task may link a descriptor only if it was opened with the
 * credentials that the task has now: not earlier ones, nor those of its parent.
 */
void opener(void)
{
	int earlier = open_nameless(), own, ready[2], go[2], status, path;
	char byte;
	pid_t pid;

	drop(CAP_DAC_READ_SEARCH);
	own = open_nameless();
	path = open("nameless.c", O_PATH);
	if (path < 0 || pipe(ready) || pipe(go))
		die("open");
	fflush(stdout);
	pid = fork();
	if (!pid) {
		int mine = open_nameless();

		/* wait until the parent has linked its own file */
		if (write(ready[1], "", 1) != 1 || read(go[0], &byte, 1) != 1)
			die("the parent");
		link_by_descriptor("the-child-s", mine);
		link_by_descriptor("the-parent-s", own);
		_exit(0);
	}
	if (pid < 0 || read(ready[0], &byte, 1) != 1)
		die("the child");
	flush_and_stop_here();
	link_by_descriptor("earlier", earlier);
	link_by_descriptor("own", own);
	link_by_descriptor("path", path);
	if (write(go[1], "", 1) != 1 || waitpid(pid, &status, 0) != pid)
		die("the child");
}
