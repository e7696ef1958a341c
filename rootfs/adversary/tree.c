// SPDX-License-Identifier: Apache-2.0 OR MIT
/* The victim's tree: its start, its checkpoint, its image and its end. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "adversary.h"

#define GONE		"/work/adversary.gone"

static int is_frozen(void) { return contains(TREE "/cgroup.events", "frozen 1"); }
int is_empty(void) { return contains(TREE "/cgroup.events", "populated 0"); }

void become_user(void)
{
	if (setgroups(0, NULL) || setresgid(USER, USER, USER) || setresuid(USER, USER, USER) ||
	    prctl(PR_SET_DUMPABLE, 1))
		fail("becoming the user: %m");
}

void write_file(const char *path, const char *text, int mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	if (fd < 0 || fchmod(fd, mode) || write(fd, text, strlen(text)) < 0)
		fail("%s: %m", path);
	close(fd);
}

pid_t forked(void)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork: %m");
	return pid;
}

/* Starts the victim as the user, and freezes it once its state is complete. */
pid_t start_victim(void)
{
	int go[2], memory = -1;
	pid_t pid;
	char byte;

	if (wants("unlinked"))
		write_file(GONE, TEXT, 0600);
	/* memory that the harness keeps open */
	if (wants("shared-memory"))
		memory = memfd_create("shared", 0);
	if (pipe2(go, O_CLOEXEC))
		fail("pipe: %m");
	/* above the pids of a new namespace */
	put("/proc/sys/kernel/ns_last_pid", "5000");
	pid = forked();
	if (!pid) {
		int null = open("/dev/null", O_RDONLY), out = open(OUT, O_WRONLY);

		close(go[1]);
		must_put(TREE "/cgroup.procs", "0");
		read(go[0], &byte, 1);
		become_user();
		if (wants("namespace") && unshare(CLONE_NEWUSER))
			fail("unshare: %m");
		dup2(null, 0);
		dup2(out, 1);
		dup2(out, 2);
		setsid();
		for (int fd = 3; fd < 64; fd++)
			if (fd != memory)
				fcntl(fd, F_SETFD, FD_CLOEXEC);
		execl("/work/victim", "victim", "adversary", NULL);
		_exit(127);
	}
	while (!contains(TREE "/cgroup.events", "populated 1"))
		sched_yield();
	must_put(TREE "/cgroup.freeze_at", "syscall 110 1");
	close(go[0]);
	close(go[1]);
	if (!until(is_frozen))
		fail("the victim does not reach its event");
	if (wants("unlinked"))
		unlink(GONE);
	return pid;
}

void list_tree(void)
{
	FILE *file = fopen(TREE "/cgroup.threads", "re");

	for (nr_pids = 0; nr_pids < MAX_PIDS && file; nr_pids++)
		if (fscanf(file, "%d", &pids[nr_pids]) != 1)
			break;
	if (file)
		fclose(file);
}

/* Checkpoints as the user; returns 0 or an errno. */
static int checkpoint_as_user(pid_t root, int fd, unsigned long flags)
{
	pid_t pid = forked();
	int status;

	if (!pid) {
		int log = open(LOG, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

		become_user();
		_exit(syscall(SYS_checkpoint, root, fd, flags, log) ? errno : 0);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

/* The cgroup may count as frozen before all tasks are at rest. */
int check_at_rest(pid_t root)
{
	time_t end = time(NULL) + limit;
	int error;

	do {
		error = checkpoint_as_user(root, -1, 1);
	} while (error == EAGAIN && time(NULL) <= end);
	return error;
}

static void let_end(pid_t root)
{
	must_put(TREE "/cgroup.freeze", "0");
	if (root > 0)
		waitpid(root, NULL, 0);
}

void end_tree(pid_t root)
{
	put(TREE "/cgroup.kill", "1");
	let_end(root);
	if (!until(is_empty))
		tell("tasks of the tree cannot be killed");
}

void save(void)
{
	pid_t root = start_victim();
	int fd = open(IMAGE, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	int error = check_at_rest(root);

	if (!error)
		error = checkpoint_as_user(root, fd, 0);
	if (error)
		fail("checkpointing the victim: %s", strerror(error));
	close(fd);
	end_tree(root);
}

struct image load(const char *path)
{
	struct image image;
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st))
		fail("%s: %m", path);
	image.size = st.st_size;
	image.data = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (image.data == MAP_FAILED)
		fail("%s: %m", path);
	close(fd);
	return image;
}
