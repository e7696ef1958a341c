// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * setuid CGROUP PROGRAM: tries to get an image of PROGRAM, whose owner is another user, by
 * executing it behind the moment at which checkpoint(2) asks whether the caller may trace the
 * task, and before the task is frozen.
 *
 * Both checkpoint(2) and a write to cgroup.freeze take the lock of all cgroups. Who moves a
 * process between cgroups has it for as long as RCU takes. So, each of these as soon as the one
 * before it is seen asleep: a mover, a process that freezes, the caller of checkpoint(2). Then the
 * child executes PROGRAM. It depends on the scheduler whether the child is at rest when the caller
 * goes on; so all of it is done until one try has met the moment.
 *
 * CGROUP has the cgroups a, b, and tree; all are the user's. Says on standard output what came of
 * it: "refused", or "dumped" and exit status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SYS_checkpoint	500
/* end of patience */
#define TRIES		2000
/* about as long as RCU takes to forget a mover, microseconds */
#define PAUSE		50000

static const char *cgroups;

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

/* Writes a number to a file of one of the cgroups. */
static int put(const char *cgroup, const char *file, long number)
{
	char path[256], text[32];
	int fd, n, len;

	snprintf(path, sizeof(path), "%s/%s/%s", cgroups, cgroup, file);
	len = snprintf(text, sizeof(text), "%ld", number);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = write(fd, text, len);
	close(fd);
	return n == len ? 0 : -1;
}

/* The value of a line of /proc/PID/status; an empty one where there is none. */
static void status(pid_t pid, const char *name, char *value, size_t size)
{
	char path[64], line[256];
	FILE *file;

	*value = 0;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)))
			snprintf(value, size, "%s", line + strlen(name));
	if (file)
		fclose(file);
}

/* Waits until @pid sleeps for a lock; false where it has ended, or anything else. */
static int waits(pid_t pid)
{
	char state[256];
	siginfo_t info;

	for (;;) {
		status(pid, "State:\t", state, sizeof(state));
		if (state[0] == 'D')
			return 1;
		info.si_pid = 0;
		if (waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid)
			return 0;
	}
}

static pid_t begin(void)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork");
	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

static int end(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		fail("waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A child in the cgroup tree, which executes @program when @start is written to. */
static pid_t begin_child(const char *program, int *start)
{
	int ready[2], go[2];
	pid_t child;
	char byte;

	if (pipe2(ready, O_CLOEXEC) || pipe2(go, O_CLOEXEC))
		fail("pipe");
	child = begin();
	if (!child) {
		close(go[1]);
		if (put("tree", "cgroup.procs", 0) || write(ready[1], "x", 1) != 1 ||
		    read(go[0], &byte, 1) != 1)
			_exit(1);
		execl(program, program, NULL);
		_exit(1);
	}
	close(ready[1]);
	close(go[0]);
	if (read(ready[0], &byte, 1) != 1)
		fail("the child");
	close(ready[0]);
	*start = go[1];
	return child;
}

/* Whose the lock is, who freezes, who checkpoints: true when all three wait. */
static int queue(pid_t pids[3], pid_t child, int turn)
{
	pids[0] = begin();
	if (!pids[0])
		_exit(!!put(turn & 1 ? "a" : "b", "cgroup.procs", 0));
	if (!waits(pids[0]))
		return 0;
	pids[1] = begin();
	if (!pids[1])
		_exit(!!put("tree", "cgroup.freeze", 1));
	if (!waits(pids[1]))
		return 0;
	pids[2] = begin();
	if (!pids[2]) {
		int image = open("/dev/null", O_WRONLY | O_CLOEXEC);

		_exit(syscall(SYS_checkpoint, child, image, 0UL, -1) ? errno : 0);
	}
	return waits(pids[2]);
}

enum outcome { MISSED, REFUSED, DUMPED };

static enum outcome attempt(const char *program, int turn)
{
	enum outcome outcome = MISSED;
	int start, asked, result = -1;
	pid_t pids[3] = { };
	char uid[256] = "";
	pid_t child = begin_child(program, &start);
	unsigned int real, effective;

	/* a mover that comes soon after another has nothing to wait for: then it is a miss */
	usleep(PAUSE);
	/* the caller has asked whether it may trace the child, which still is the user's */
	asked = queue(pids, child, turn);
	if (asked && write(start, "x", 1) != 1)
		fail("the child's start");
	for (int i = 0; i < 3; i++)
		if (pids[i])
			result = end(pids[i]);
	if (asked) {
		status(child, "Uid:\t", uid, sizeof(uid));
		if (sscanf(uid, "%u %u", &real, &effective) != 2)
			fail("the child's uid");
		if (result == EPERM)
			outcome = REFUSED;
		else if (!result && real != effective)
			outcome = DUMPED;
	}
	if (put("tree", "cgroup.freeze", 0))
		fail("cgroup.freeze");
	close(start);
	kill(child, SIGKILL);
	end(child);
	return outcome;
}

int main(int argc, char **argv)
{
	enum outcome outcome = MISSED;
	int turn;

	if (argc != 3)
		return 2;
	cgroups = argv[1];
	for (turn = 0; turn < TRIES && outcome == MISSED; turn++)
		outcome = attempt(argv[2], turn);
	fprintf(stderr, "%d tries\n", turn);
	if (outcome == MISSED)
		return 3;
	puts(outcome == REFUSED ? "refused" : "dumped");
	return outcome != REFUSED;
}
