// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * The attacks of a process of the same user while a checkpoint(2) or a restart(2) stalls. The table
 * in engine/src/adversary.rs has the gain that each tries to make.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "adversary.h"

/* number of descriptors to take */
#define FDS	24

/* During restart(2) each success is a gain, because the tasks are hidden. */
static void expect_hidden(int found, const char *call, pid_t pid)
{
	if (found && !reachable)
		tell("%s finds task %d of an unfinished restart", call, pid);
}

static void seize(void)
{
	for (int i = 0; i < nr_pids; i++)
		expect_hidden(!ptrace(PTRACE_SEIZE, pids[i], 0, 0) || errno != ESRCH,
			      "PTRACE_SEIZE", pids[i]);
}

static void take_files(void)
{
	struct itimerspec soon = { .it_value.tv_nsec = 1000, .it_interval.tv_nsec = 1000000 };

	for (int i = 0; i < nr_pids; i++) {
		int task = syscall(SYS_pidfd_open, pids[i], 0);

		expect_hidden(task >= 0, "pidfd_open", pids[i]);
		for (int fd = 0; task >= 0 && fd < FDS; fd++) {
			int taken = syscall(SYS_pidfd_getfd, task, fd, 0);
			char byte;

			if (taken < 0)
				continue;
			expect_hidden(1, "pidfd_getfd", pids[i]);
			if (!reachable) {
				timerfd_settime(taken, 0, &soon, NULL);
				fcntl(taken, F_SETFL, O_NONBLOCK);
				pread(taken, &byte, 1, 0);
			}
			close(taken);
		}
		if (task >= 0)
			close(task);
	}
}

static void open_proc(void)
{
	static const char *const files[] = { "mem", "maps", "fd", "environ", "status", "cwd" };
	char path[64];

	for (int i = 0; i < nr_pids; i++)
		for (size_t f = 0; f < sizeof(files) / sizeof(files[0]); f++) {
			snprintf(path, sizeof(path), "/proc/%d/%s", pids[i], files[f]);
			int fd = open(path, O_RDONLY | O_CLOEXEC);

			expect_hidden(fd >= 0 || errno != ENOENT, path, pids[i]);
			if (fd >= 0)
				close(fd);
		}
}

static void terminals(void)
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
		if (!reachable)
			tell("%s of an unfinished restart can be opened", path);
		ioctl(fd, TIOCSETD, &discipline);
		for (int i = 0; i < 100; i++)
			if (write(fd, "intruder", 8) < 0)
				break;
		close(fd);
	}
	if (dir)
		closedir(dir);
}

static void signal_tasks(void)
{
	for (int i = 0; i < nr_pids; i++) {
		expect_hidden(!kill(pids[i], SIGUSR1), "kill", pids[i]);
		expect_hidden(!syscall(SYS_tkill, pids[i], SIGUSR1), "tkill", pids[i]);
	}
}

static void kill_tasks(void)
{
	for (int i = 0; i < nr_pids; i++)
		expect_hidden(!kill(pids[i], SIGKILL), "kill", pids[i]);
}

/* Only targets do not ignore this signal. */
static void signal_many(void)
{
	kill(-1, SIGWINCH);
	kill(0, SIGWINCH);
	if (shared->caller)
		kill(-shared->caller, SIGURG);
}

static void lower(void)
{
	struct rlimit limit = { 0, 0 };

	for (int i = 0; i < nr_pids; i++) {
		expect_hidden(!setpriority(PRIO_PROCESS, pids[i], 19), "setpriority", pids[i]);
		expect_hidden(!prlimit(pids[i], RLIMIT_CORE, &limit, NULL), "prlimit", pids[i]);
	}
}

static void move(void)
{
	char number[16];

	for (int i = 0; i < nr_pids; i++) {
		snprintf(number, sizeof(number), "%d", pids[i]);
		expect_hidden(!put(OTHER "/cgroup.procs", number), "cgroup.procs", pids[i]);
	}
}

static void child_cgroup(void)
{
	if (mkdir(CHILD, 0755) && errno != EEXIST)
		tell("mkdir " CHILD ": %s", strerror(errno));
}

static void thaw(void)
{
	put(TREE "/cgroup.freeze", "0");
}

static void thaw_and_freeze(void)
{
	for (int i = 0; i < 20; i++) {
		put(TREE "/cgroup.freeze", "0");
		put(TREE "/cgroup.freeze", "1");
	}
}

/* A second checkpoint: of the unfinished tree, or of the same tree. */
static void checkpoint_too(void)
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	for (int i = 0; i < nr_pids; i++)
		expect_hidden(!syscall(SYS_checkpoint, pids[i], null, 0UL, -1),
			      "checkpoint(2)", pids[i]);
	if (shared->caller && !syscall(SYS_checkpoint, shared->caller, null, 0UL, -1))
		tell("the caller was checkpointed in the middle of its call");
	close(null);
}

/* A tree with tasks that the user may not trace. */
static void strangers(void)
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	if (!syscall(SYS_checkpoint, reachable ? 1 : getppid(), null, 0UL, -1))
		tell("checkpoint(2) of a stranger succeeds");
	else if (reachable && errno != EPERM)
		tell("checkpoint(2) of a stranger: %s", strerror(errno));
	close(null);
}

static void names(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "\0victim" };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && sendto(fd, "intruder", 8, MSG_DONTWAIT, (struct sockaddr *)&name,
			      sizeof(sa_family_t) + 7) >= 0 && !reachable)
		tell("a socket of an unfinished restart takes a datagram");
	close(fd);
}

static void signal_caller(void)
{
	kill(shared->caller, SIGUSR2);
}

static void stop_caller(void)
{
	int i;

	for (i = 0; i < 3; i++) {
		kill(shared->caller, SIGSTOP);
		sched_yield();
		kill(shared->caller, SIGCONT);
	}
}

static void kill_caller(void)
{
	kill(shared->caller, SIGKILL);
}

static void kill_cgroup(void)
{
	if (put(TREE "/cgroup.kill", "1"))
		fail("cgroup.kill: %m");
}

static void nothing(void)
{
}

const struct attack attacks[] = {
	/* the harness checks these */
	{ "reap", BEFORE, nothing },
	{ "cage", BEFORE, nothing },
	{ "limits", BEFORE, nothing },
	{ "full-log", BEFORE, nothing },
	{ "scheduling", BEFORE, nothing },
	{ "unlinked", BEFORE, nothing },
	{ "shared-memory", BEFORE, nothing },
	{ "namespace", BEFORE, nothing },
	{ "dumpable", BEFORE, nothing },
	{ "executable", BEFORE, nothing },
	{ "securebits", BEFORE, nothing },
	{ "identity", BEFORE, nothing },
	{ "capabilities", BEFORE, nothing },
	{ "realtime", BEFORE, nothing },
	{ "nice", BEFORE, nothing },
	{ "alarm", BEFORE, nothing },
	{ "privileges", BEFORE, nothing },
	{ "raise-limits", BEFORE, nothing },
	{ "unsealed", BEFORE, nothing },
	{ "proc-file", BEFORE, nothing },
	{ "seccomp-stop", BEFORE, nothing },
	{ "setuid-program", BEFORE, nothing },
	{ "seize", STALL, seize },
	{ "take-files", STALL, take_files },
	{ "open-proc", STALL, open_proc },
	{ "terminals", STALL, terminals },
	{ "signal-tasks", STALL, signal_tasks },
	{ "kill-tasks", STALL, kill_tasks },
	{ "signal-many", STALL, signal_many },
	{ "lower", STALL, lower },
	{ "move", STALL, move },
	{ "child-cgroup", STALL, child_cgroup },
	{ "thaw", STALL, thaw },
	{ "thaw-and-freeze", STALL, thaw_and_freeze },
	{ "checkpoint-too", STALL, checkpoint_too },
	{ "strangers", STALL, strangers },
	{ "names", STALL, names },
	{ "signal-caller", STALL, signal_caller },
	{ "stop-caller", STALL, stop_caller },
	{ "kill-caller", END, kill_caller },
	{ "kill-cgroup", END, kill_cgroup },
	{ "kill-namespace", END, nothing },
	{ "cut", END, nothing },
	{ NULL, STALL, NULL },
};

const struct attack *attack_named(const char *name)
{
	for (const struct attack *attack = attacks; attack->name; attack++)
		if (!strcmp(attack->name, name))
			return attack;
	fail("no such attack: %s", name);
}
