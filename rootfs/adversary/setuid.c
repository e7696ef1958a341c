// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * setuid CGROUP PROGRAM: tries to get an image of PROGRAM, which is set-user-id of a different
 * user, by executing it after checkpoint(2) has checked that the caller may trace the task, and
 * before the task is frozen.
 *
 * Both checkpoint(2) and a write to cgroup.freeze take the lock of all cgroups. Moving a process
 * between cgroups holds it for an RCU grace period. So these are started in turn, each when the
 * one before is asleep: a mover, several processes that freeze, the caller of checkpoint(2). Then
 * the child executes PROGRAM. It depends on the scheduler whether the child is at rest when the
 * caller continues, which several freezing processes make more likely; so all of this is repeated
 * until a try has hit the window.
 *
 * CGROUP has the cgroups a, b, and tree; the user owns all of them. The image is the file "image".
 * Prints the result: "refused", or "dumped" and exit status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SYS_checkpoint	500
/* maximum number of tries */
#define TRIES		300
/* about an RCU grace period, after which a mover waits again, microseconds */
#define PAUSE		50000
#define FREEZERS	5

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

static pid_t begin(void)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork");
	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

/* A process that performs an action on request and reports its result. */
struct helper {
	pid_t pid;
	int go, done, stat;
};

static void helper(struct helper *helper, int (*act)(int))
{
	int go[2], done[2], number, result;
	char path[64];

	if (pipe2(go, O_CLOEXEC) || pipe2(done, O_CLOEXEC))
		fail("pipe");
	helper->pid = begin();
	if (!helper->pid) {
		while (read(go[0], &number, sizeof(number)) == sizeof(number)) {
			result = act(number);
			if (write(done[1], &result, sizeof(result)) != sizeof(result))
				break;
		}
		_exit(1);
	}
	helper->go = go[1];
	helper->done = done[0];
	snprintf(path, sizeof(path), "/proc/%d/stat", helper->pid);
	helper->stat = open(path, O_RDONLY | O_CLOEXEC);
	if (helper->stat < 0)
		fail(path);
}

static void go(struct helper *helper, int number)
{
	if (write(helper->go, &number, sizeof(number)) != sizeof(number))
		fail("a helper");
}

static int result(struct helper *helper)
{
	int result;

	if (read(helper->done, &result, sizeof(result)) != sizeof(result))
		fail("a helper's result");
	return result;
}

/* Waits until it sleeps for a lock; returns false if it completes without sleeping. */
static int waits(struct helper *helper)
{
	struct pollfd done = { .fd = helper->done, .events = POLLIN };

	do {
		char text[128] = "", *state;

		if (pread(helper->stat, text, sizeof(text) - 1, 0) < 0)
			fail("stat");
		state = strrchr(text, ')');
		if (state && state[2] == 'D')
			return 1;
	} while (!poll(&done, 1, 0));
	return 0;
}

static int move(int turn)
{
	return put(turn & 1 ? "a" : "b", "cgroup.procs", 0);
}

static int freeze(int on)
{
	return put("tree", "cgroup.freeze", on);
}

static int checkpoint(int pid)
{
	static int image = -1;

	if (image < 0)
		image = open("image", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (image < 0 || ftruncate(image, 0) || lseek(image, 0, SEEK_SET))
		fail("image");
	return syscall(SYS_checkpoint, pid, image, 0UL, -1) ? errno : 0;
}

static struct helper mover, freezers[FREEZERS], caller;

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

enum outcome { MISSED, REFUSED, DUMPED };

/*
 * Results: number of tries in which all helpers were asleep, and the number of times that the
 * caller got each errno.
 */
static int in_line, errors[256];

/* Returns true when the child's effective user is the caller, like its real user. */
static int is_the_callers(pid_t child)
{
	unsigned int real, effective;
	char path[64], line[256];
	int known = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", child);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		known |= sscanf(line, "Uid: %u %u", &real, &effective) == 2;
	if (!known)
		fail(path);
	fclose(file);
	return real == effective;
}

static enum outcome attempt(const char *program, int turn)
{
	enum outcome outcome = MISSED;
	int start, asked = 0, error = -1, told_to = 0, asleep;
	pid_t child = begin_child(program, &start);

	/* a mover right after an earlier one does not wait, which misses the window */
	usleep(PAUSE);
	go(&mover, turn);
	asleep = waits(&mover);
	while (asleep && told_to < FREEZERS) {
		go(&freezers[told_to], 1);
		asleep = waits(&freezers[told_to++]);
	}
	if (asleep) {
		go(&caller, child);
		asked = waits(&caller);
		/* it has checked that it may trace the child, which is still the user's */
		if (asked && write(start, "x", 1) != 1)
			fail("the child's start");
		error = result(&caller);
	}
	while (told_to)
		if (result(&freezers[--told_to]))
			fail("freezing");
	if (result(&mover))
		fail("moving");
	if (asked) {
		in_line++;
		errors[error & 255]++;
		if (error == EPERM)
			outcome = REFUSED;
		else if (!error && !is_the_callers(child))
			outcome = DUMPED;
	}
	if (freeze(0))
		fail("cgroup.freeze");
	close(start);
	kill(child, SIGKILL);
	if (waitpid(child, NULL, 0) != child)
		fail("waitpid");
	return outcome;
}

int main(int argc, char **argv)
{
	enum outcome outcome = MISSED;
	int turn;

	if (argc != 3)
		return 2;
	cgroups = argv[1];
	helper(&mover, move);
	for (int i = 0; i < FREEZERS; i++)
		helper(&freezers[i], freeze);
	helper(&caller, checkpoint);
	for (turn = 0; turn < TRIES && outcome == MISSED; turn++)
		outcome = attempt(argv[2], turn);
	fprintf(stderr, "%d tries, %d in line\n", turn, in_line);
	for (int error = 0; error < 256; error++)
		if (errors[error])
			fprintf(stderr, "%d: %s\n", errors[error], strerror(error));
	if (outcome == MISSED)
		return 3;
	puts(outcome == REFUSED ? "refused" : "dumped");
	return outcome != REFUSED;
}
