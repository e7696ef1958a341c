// SPDX-License-Identifier: Apache-2.0 OR MIT
/* All ways to reach a task or an object of a restart in progress. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ioprio.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "intruder.h"

/* Pids of processes other than the test's own. */
static int is_ours(pid_t pid)
{
	return pid == self || pid == first || pid == shared->thief;
}

static int waited_before;

static int waited_again(void)
{
	return __atomic_load_n(&shared->waited, __ATOMIC_ACQUIRE) > waited_before + 1;
}

/* A low priority of I/O: the lowest of its best-effort class. */
#define LOW_IOPRIO	IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7)

static void move(pid_t pid, const char *path)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		fail("%s: %m", path);
	if (dprintf(fd, "%d", pid) >= 0 || errno != ESRCH)
		tell("%s takes %d", path, pid);
	close(fd);
}

static void on_number(pid_t pid)
{
	char path[64], byte;
	struct iovec local = { .iov_base = &byte, .iov_len = 1 };
	struct iovec remote = { .iov_base = (void *)0x400000, .iov_len = 1 };
	struct rlimit limit;
	cpu_set_t cpus, all;
	int fd;

	memset(&all, 0xff, sizeof(all));
	if (!kill(pid, 0) || errno != ESRCH)
		tell("kill(%d, 0) finds it", pid);
	if (!kill(pid, SIGUSR1) || errno != ESRCH)
		tell("kill(%d, SIGUSR1) finds it", pid);
	if (!syscall(SYS_tgkill, pid, pid, SIGUSR1) || errno != ESRCH)
		tell("tgkill(%d) finds it", pid);
	if (!syscall(SYS_tkill, pid, SIGUSR1) || errno != ESRCH)
		tell("tkill(%d) finds it", pid);
	fd = syscall(SYS_pidfd_open, pid, 0);
	if (fd >= 0) {
		int file = syscall(SYS_pidfd_getfd, fd, 0, 0);

		tell("pidfd_open(%d) opens it; descriptor 0: %d", pid, file);
		close(fd);
	}
	if (!ptrace(PTRACE_SEIZE, pid, 0, 0) || errno != ESRCH)
		tell("PTRACE_SEIZE finds %d", pid);
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (open(path, O_RDONLY) >= 0 || errno != ENOENT)
		tell("%s is there", path);
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	if (open(path, O_RDONLY) >= 0 || errno != ENOENT)
		tell("%s is there", path);
	/* ENOSYS: depends on the configuration */
	if (process_vm_readv(pid, &local, 1, &remote, 1, 0) >= 0 ||
	    (errno != ESRCH && errno != ENOSYS))
		tell("process_vm_readv finds %d", pid);
	if (!sched_getaffinity(pid, sizeof(cpus), &cpus) || errno != ESRCH)
		tell("sched_getaffinity finds %d", pid);
	if (!prlimit(pid, RLIMIT_CORE, NULL, &limit) || errno != ESRCH)
		tell("prlimit finds %d", pid);
	if (!setpriority(PRIO_PROCESS, pid, 19) || errno != ESRCH)
		tell("setpriority finds %d", pid);
	if (!syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, pid, LOW_IOPRIO) || errno != ESRCH)
		tell("ioprio_set finds %d", pid);
	if (!sched_setaffinity(pid, sizeof(all), &all) || errno != ESRCH)
		tell("sched_setaffinity finds %d", pid);
	if (getpgid(pid) >= 0 || errno != ESRCH)
		tell("getpgid finds %d", pid);
	if (getsid(pid) >= 0 || errno != ESRCH)
		tell("getsid finds %d", pid);
	if (!syscall(SYS_kcmp, pid, self, KCMP_VM, 0, 0) || errno != ESRCH)
		tell("kcmp finds %d", pid);
	if (!syscall(SYS_checkpoint, pid, -1, 1UL, -1) || errno != ESRCH)
		tell("checkpoint finds %d", pid);
	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	move(pid, path);
	snprintf(path, sizeof(path), "%s/tasks", version1);
	move(pid, path);
}

/* SIGIO for a descriptor must not reach an owner that is hidden. */
static void on_owner(int type, pid_t pid)
{
	struct f_owner_ex owner = { .type = type, .pid = pid };
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		fail("socketpair: %m");
	/* the owner may be a number that is not in use yet */
	if (!fcntl(ends[0], F_SETOWN_EX, &owner)) {
		if (fcntl(ends[0], F_SETFL, O_ASYNC) || send(ends[1], "i", 1, 0) != 1 ||
		    send(ends[1], "u", 1, MSG_OOB) != 1)
			fail("SIGIO, SIGURG: %m");
	} else if (errno != ESRCH) {
		fail("F_SETOWN_EX: %m");
	}
	close(ends[0]);
	close(ends[1]);
}

/* Tries the numbers after the restarting process's, which its new processes have. */
static void on_numbers(void)
{
	for (pid_t pid = first + 1; pid < first + NUMBERS; pid++)
		if (!is_ours(pid))
			on_number(pid);
}

static void on_owners(void)
{
	for (pid_t pid = first + 1; pid < first + NUMBERS; pid++) {
		if (is_ours(pid))
			continue;
		on_owner(F_OWNER_TID, pid);
		on_owner(F_OWNER_PID, pid);
	}
	on_owner(F_OWNER_PGRP, first);
}

static void expect_empty(const char *path)
{
	char text[256] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		fail("%s: %m", path);
	close(fd);
	if (text[0])
		tell("%s lists %s", path, text);
}

/* Lists the cgroup of a version 1 hierarchy: hidden tasks must not appear. */
static void on_version1(const char *file)
{
	char path[128];
	FILE *list;
	int pid;

	snprintf(path, sizeof(path), "%s/intruder/%s", version1, file);
	list = fopen(path, "re");
	if (!list)
		fail("%s: %m", path);
	while (fscanf(list, "%d", &pid) == 1)
		if (!is_ours(pid))
			tell("%s lists %d", path, pid);
	fclose(list);
}

static void on_lists(void)
{
	struct dirent *entry;
	char path[128];
	DIR *dir;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	expect_empty(path);
	snprintf(path, sizeof(path), "%s/cgroup.threads", cgroup);
	expect_empty(path);
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", first, first);
	expect_empty(path);
	dir = opendir("/proc");
	while ((entry = readdir(dir))) {
		pid_t pid = atoi(entry->d_name);

		if (pid > first && pid < first + NUMBERS && !is_ours(pid))
			tell("/proc lists %d", pid);
	}
	closedir(dir);
	on_version1("tasks");
	on_version1("cgroup.procs");
}

/* Sends signals to many: all processes that are not targets ignore them. */
static void on_many(void)
{
	if (kill(-first, SIGWINCH))
		fail("kill(-%d): %m", first);
	if (kill(-1, SIGURG))
		fail("kill(-1): %m");
	if (setpriority(PRIO_PGRP, first, 1) ||
	    syscall(SYS_ioprio_set, IOPRIO_WHO_PGRP, first, LOW_IOPRIO))
		fail("priorities of a group: %m");
	if (setpriority(PRIO_USER, 0, 1) ||
	    syscall(SYS_ioprio_set, IOPRIO_WHO_USER, 0, LOW_IOPRIO))
		fail("priorities of a user: %m");
}

static void on_terminals(void)
{
	DIR *dir = opendir("/dev/pts");
	struct dirent *entry;
	char path[300];

	while (dir && (entry = readdir(dir))) {
		int discipline = 27, fd;	/* N_NULL */

		if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/dev/pts/%s", entry->d_name);
		fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			continue;
		tell("%s can be opened", path);
		ioctl(fd, TIOCSETD, &discipline);
		write(fd, "intruder", 8);
		close(fd);
	}
	if (dir)
		closedir(dir);
}

static void on_names(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "\0victim" };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		fail("socket: %m");
	if (sendto(fd, "intruder", 8, MSG_DONTWAIT, (struct sockaddr *)&name,
		   sizeof(sa_family_t) + 7) >= 0)
		tell("a datagram is taken");
	close(fd);
}

static void on_caller(void)
{
	if (!syscall(SYS_checkpoint, first, -1, 1UL, -1))
		tell("a checkpoint of the caller of restart(2) succeeds");
}

static void on_wait(void)
{
	waited_before = __atomic_load_n(&shared->waited, __ATOMIC_ACQUIRE);
	until(waited_again, "the caller's second thread has called wait again");
	if (shared->stolen)
		tell("wait4(__WALL) of another thread finds %d", shared->stolen);
}

static const struct {
	const char *name;
	void (*try)(void);
} doors[] = {
	{ "numbers", on_numbers },
	{ "owners", on_owners },
	{ "lists", on_lists },
	{ "many", on_many },
	{ "terminals", on_terminals },
	{ "names", on_names },
	{ "caller", on_caller },
	{ "wait", on_wait },
};

/* Tries all doors, or one by name. Returns the restarting process's status, -1 if it runs. */
int attack(const char *door)
{
	size_t i, tried = 0;
	int status;

	for (i = 0; i < sizeof(doors) / sizeof(doors[0]); i++) {
		if (door && strcmp(door, doors[i].name))
			continue;
		doors[i].try();
		tried++;
	}
	if (!tried)
		fail("no such door: %s", door);
	return waitpid(first, &status, WNOHANG) == first ? status : -1;
}
