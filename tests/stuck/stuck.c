// SPDX-License-Identifier: GPL-2.0-only
/*
 * Lets a task sleep where a freeze does not reach it, checkpoints its tree with
 * `checkpoint --freeze`, which must name the task and thaw the tree, and then
 * ends the sleep. The task must then complete its work.
 *
 *	stuck CASE
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "stuck.h"

#define LIMIT	100	/* time limit, in seconds, for the task to reach its place */

struct shared *shared;

/* Thaws the disk of /work, if a case has frozen it. */
static void thaw(void)
{
	int disk = open("/work", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (disk < 0)
		return;
	/* fails if it is not frozen */
	ioctl(disk, FITHAW, 0);
	close(disk);
}

/*
 * Starts a process that thaws the disk once this one has ended in any way: the
 * agent writes there, too, and no later case could run. The process has a group of
 * its own, since the group of a case that takes too long is killed.
 */
static pid_t thaw_at_end(void)
{
	struct pollfd self = { .events = POLLIN };
	pid_t pid;

	self.fd = syscall(SYS_pidfd_open, getpid(), 0);
	CHECK(self.fd >= 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid) {
		/* the child may not have done so yet */
		CHECK(!setpgid(pid, pid));
		close(self.fd);
		return pid;
	}
	setpgid(0, 0);
	while (poll(&self, 1, -1) < 0 && errno == EINTR)
		;
	thaw();
	_exit(0);
}

void die(const char *what, const char *file, int line)
{
	int error = errno;

	/* standard error is on the disk that a case freezes */
	thaw();
	fprintf(stderr, "%s:%d: %s: %s\n", file, line, what, strerror(error));
	kill(0, SIGKILL);
	exit(2);
}

void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	CHECK(fd >= 0);
	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

char *get(const char *path)
{
	static char text[4096];
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[n < 0 ? 0 : n] = 0;
	return text;
}

/* Yields the CPU; returns true when the case has taken too long. */
static bool expired(void)
{
	static time_t end;

	if (!end)
		end = time(NULL) + LIMIT;
	sched_yield();
	return time(NULL) >= end;
}

void pass_time(void)
{
	errno = ETIME;
	CHECK(!expired());
}

/* Waits until a task's kernel stack contains this function, and prints the stack. */
void wait_for_place(pid_t pid, const char *function)
{
	char path[64], *stack, *line;

	snprintf(path, sizeof(path), "/proc/%d/stack", pid);
	while (stack = get(path), !strstr(stack, function)) {
		if (!expired())
			continue;
		thaw();
		fprintf(stderr, "%d is not in %s, but in\n%s", pid, function, stack);
		errno = ETIME;
		die("its place", __FILE__, __LINE__);
	}
	printf("stack of %d:", pid);
	/* [<0>] pipe_read+0x2f1/0x3f0 */
	for (line = strtok(stack, "\n"); line; line = strtok(NULL, "\n")) {
		char *name = strchr(line, ' ');

		if (name)
			printf("%.*s", (int)strcspn(name, "+"), name);
	}
	printf("\n");
}

/* Waits until the task reports that it has begun, and lets it continue. */
void let_go(void)
{
	while (!shared->tid)
		pass_time();
	shared->done = 1;
}

/* Waits until the other process lets the task continue. */
void begin(void)
{
	shared->tid = 1;
	while (!shared->done)
		sched_yield();
}

/* Moves the caller into the cgroup that is frozen. */
void join(void)
{
	put(CGROUP "/cgroup.procs", "0");
}

/*
 * Runs the checkpoint, with a time limit in seconds for the tree to freeze. Its log
 * goes to standard output; /run is not on a disk.
 */
void run_checkpoint(pid_t root, const char *limit)
{
	char number[16];
	int status;
	pid_t pid;

	snprintf(number, sizeof(number), "%d", root);
	fflush(stdout);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		dup2(1, 2);
		execl("/opt/crucible/checkpoint", "checkpoint", "--freeze",
		      "--limit", limit, "-o", "/run/stuck.image", number, NULL);
		die("execl", __FILE__, __LINE__);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	printf("checkpoint exits %d\n", WEXITSTATUS(status));
}

/* Runs the checkpoint, which must fail with a message and leave no task frozen. */
void checkpoint(pid_t root)
{
	run_checkpoint(root, "2");
	printf("cgroup.freeze is %s", get(CGROUP "/cgroup.freeze"));
	fflush(stdout);
}

/* Waits for the task, which must complete its work. */
void ends(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	printf("the task exits %d\n",
	       WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
	if (WIFSIGNALED(status) && WCOREDUMP(status))
		printf("with a core\n");
}

/* Forks. CLONE_FILES shares the descriptors, so that the parent can be the supervisor. */
pid_t fork_with(unsigned long flags)
{
	return syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
}

/* Allocates memory, and writes to all of it. */
void fill_memory(size_t size)
{
	char *memory = malloc(size);

	CHECK(memory);
	memset(memory, 1, size);
	/* the compiler must not drop it */
	__asm__ volatile("" : : "r"(memory) : "memory");
}

/* Copies the buffered output to the original standard output. */
static void hand_over(int to)
{
	char text[4096];
	ssize_t n;

	fflush(stdout);
	lseek(1, 0, SEEK_SET);
	while ((n = read(1, text, sizeof(text))) > 0)
		CHECK(write(to, text, n) == n);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} cases[] = {
		{ "seccomp", seccomp_notification },
		{ "userfault", userfault },
		{ "pages", userfault_pages },
		{ "event", userfault_event },
		{ "futex", userfault_futex },
		{ "pidns", pid_namespace },
		{ "core", core_dump },
		{ "fsfreeze", frozen_file_system },
		{ "freezing", freezing_file_system },
		{ "inode", freeing_inode },
		{ "entry", removed_proc_entry },
		{ "v1", frozen_by_v1 },
		{ "restart", stalled_restart },
		{ "checkpoint", stalled_checkpoint },
		{ "pipe", empty_pipe },
		{ "fanotify", permission_event },
		{ "fuse", fuse_request },
		{ "init", fuse_init },
		{ "flush", fuse_flush },
		{ "autofs", automount },
		{ "module", module_loading },
		{ "uring", uring_request },
	};
	pid_t guard;
	int given;

	CHECK(argc >= 2);
	/* as the program of core_pattern, or as modprobe */
	if (!strcmp(argv[1], "core-reader") || !strcmp(argv[1], "-q")) {
		read_when_told();
		return 0;
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shared != MAP_FAILED);
	shared->fd = -1;
	CHECK(!mkdir(CGROUP, 0755) || errno == EEXIST);
	/* standard output may be on the disk that a case freezes */
	given = dup(1);
	CHECK(given >= 0);
	CHECK(dup2(memfd_create("output", 0), 1) == 1);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		if (strcmp(cases[i].name, argv[1]))
			continue;
		guard = thaw_at_end();
		cases[i].run();
		rmdir(CGROUP);
		/* it must not thaw the disk of the next case */
		CHECK(!kill(guard, SIGKILL));
		CHECK(waitpid(guard, NULL, 0) == guard);
		hand_over(given);
		return 0;
	}
	die(argv[1], __FILE__, __LINE__);
}
