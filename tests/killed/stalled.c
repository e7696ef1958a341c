// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Checkpoints a frozen tree into a pipe that is not read beyond some byte, and kills tasks of
 * the tree in the meantime. They must stay at their sites until checkpoint(2) returns, at
 * whatever point it is, and be gone after that.
 *
 *	stalled CGROUP ROOT first|middle|last VICTIM read|kill IMAGE LOG
 *
 * VICTIM is the name of the task to kill, "all" or "none". With "kill" the process in
 * checkpoint(2) is killed, too, instead of reading its pipe. Prints the result of
 * checkpoint(2); exit status 1 and a line on stderr for each violation.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SYS_checkpoint	500
#define CHECKPOINT_OWN_MOUNTS	2	/* a container has some */
/* the smallest size of a pipe */
#define ROOM		4096
#define MAX_TASKS	64
/* timeout, seconds */
#define LIMIT		60
/* where a killed task waits for checkpoint(2) to end */
#define WAITS		"ckpt_wait_unheld"

static struct task {
	int tid;
	int tgid;
	char comm[32];
	char site[64];
	int dies;
} tasks[MAX_TASKS];

static int nr_tasks;

static void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

/* Reads /proc/TID/@file up to the first newline or NUL; -1 if it does not exist. */
static int proc(int tid, const char *file, char *text, size_t size)
{
	char path[64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", tid, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read(fd, text, size - 1);
	close(fd);
	if (n < 0)
		return -1;
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return 0;
}

/* Returns the state letter in /proc/TID/stat, 0 if there is no such task. */
static char state(int tid)
{
	char text[512], *end;

	if (proc(tid, "stat", text, sizeof(text)))
		return 0;
	end = strrchr(text, ')');
	return end ? end[2] : 0;
}

static int group_of(int tid)
{
	char path[64], line[256];
	int tgid = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "Tgid: %d", &tgid) == 1)
			break;
	if (file)
		fclose(file);
	return tgid;
}

static void list_tasks(const char *cgroup, const char *victim)
{
	int all = !strcmp(victim, "all"), group = 0, tid;
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s/cgroup.threads", cgroup);
	file = fopen(path, "re");
	while (file && fscanf(file, "%d", &tid) == 1) {
		struct task *t = &tasks[nr_tasks++];

		if (nr_tasks > MAX_TASKS)
			fail("more than %d tasks", MAX_TASKS);
		t->tid = tid;
		t->tgid = group_of(tid);
		if (proc(tid, "comm", t->comm, sizeof(t->comm)) ||
		    proc(tid, "ckpt_site", t->site, sizeof(t->site)))
			fail("task %d cannot be read", tid);
		if (!group && !strcmp(t->comm, victim))
			group = t->tgid;
	}
	if (!file || !nr_tasks)
		fail("no tasks in %s", cgroup);
	fclose(file);
	if (!group && !all && strcmp(victim, "none"))
		fail("no task named %s", victim);
	/* SIGKILL to a thread kills its whole process */
	for (int i = 0; i < nr_tasks; i++)
		tasks[i].dies = all || tasks[i].tgid == group;
}

static void kill_tasks(const char *cgroup, const char *victim)
{
	char path[256];
	int fd;

	if (!strcmp(victim, "none"))
		return;
	if (!strcmp(victim, "all")) {
		snprintf(path, sizeof(path), "%s/cgroup.kill", cgroup);
		fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, "1", 1) != 1)
			fail("%s: %m", path);
		close(fd);
		return;
	}
	for (int i = 0; i < nr_tasks; i++)
		if (!strcmp(tasks[i].comm, victim)) {
			if (syscall(SYS_tkill, tasks[i].tid, SIGKILL))
				fail("tkill %d: %m", tasks[i].tid);
			return;
		}
}

/* Describes a violation by a task while checkpoint(2) runs, NULL for none. */
static const char *out_of_place(const struct task *t)
{
	char text[64];

	if (proc(t->tid, "ckpt_site", text, sizeof(text)))
		return "is gone";
	if (strcmp(text, t->site))
		return "has left its site";
	if (proc(t->tid, "statm", text, sizeof(text)) || text[0] == '0')
		return "has no memory any more";
	if (!t->dies)
		return NULL;
	if (proc(t->tid, "wchan", text, sizeof(text)) || strcmp(text, WAITS))
		return "does not wait in " WAITS;
	return state(t->tid) == 'D' ? NULL : "does not sleep";
}

static void check_places(const char *when)
{
	for (int i = 0; i < nr_tasks; i++) {
		const char *words = out_of_place(&tasks[i]);

		if (words)
			fail("%s: %s (%d, %s) %s", when, tasks[i].comm,
			     tasks[i].tid, tasks[i].site, words);
	}
}

/* Repeats until @done; most files in /proc do not support poll(2). */
static void until(int (*done)(void *), void *what, const char *words)
{
	time_t end = time(NULL) + LIMIT;

	while (!done(what)) {
		if (time(NULL) > end)
			fail("not in %d s: %s", LIMIT, words);
		sched_yield();
	}
}

static int waits(void *task)
{
	return !out_of_place(task);
}

static int gone(void *task)
{
	char s = state(((struct task *)task)->tid);

	/* its parent is frozen and does not reap it */
	return !s || s == 'Z' || s == 'X';
}

struct reader {
	int from;		/* the pipe */
	int image;
	pid_t writer;
	long total;		/* bytes of the image */
	long taken;		/* bytes of the image that were read */
	int ended;		/* checkpoint(2) has returned */
};

/* Returns true when the caller sleeps in checkpoint(2) because the pipe is full. */
static int stalled(const struct reader *r)
{
	char text[64];
	int filled;

	if (ioctl(r->from, FIONREAD, &filled))
		fail("FIONREAD: %m");
	return filled == ROOM && state(r->writer) == 'S' &&
	       !proc(r->writer, "syscall", text, sizeof(text)) &&
	       atoi(text) == SYS_checkpoint &&
	       !proc(r->writer, "wchan", text, sizeof(text)) &&
	       strstr(text, "pipe_write");
}

/*
 * Returns true when the checkpoint has stalled, or has ended because it noticed a
 * killed task.
 */
static int comes_to_rest(void *what)
{
	struct reader *r = what;
	siginfo_t info = { };

	if (waitid(P_PID, r->writer, &info, WEXITED | WNOHANG | WNOWAIT))
		fail("waitid: %m");
	r->ended = info.si_pid != 0;
	return r->ended || stalled(r);
}

static void let_stall(struct reader *r)
{
	until(comes_to_rest, r, "the pipe is full, or checkpoint(2) has returned");
}

static void take_page(struct reader *r)
{
	char page[ROOM];

	/* a write of a page is atomic: the pipe contains a whole page or nothing */
	if (read(r->from, page, ROOM) != ROOM ||
	    write(r->image, page, ROOM) != ROOM)
		fail("taking a page: %m");
	r->taken += ROOM;
}

static void take_rest(struct reader *r)
{
	char page[ROOM];
	ssize_t n;

	while ((n = read(r->from, page, ROOM)) > 0) {
		if (write(r->image, page, n) != n)
			fail("writing the image: %m");
		r->taken += n;
	}
	if (n < 0)
		fail("reading the pipe: %m");
}

static int create(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		fail("%s: %m", path);
	return fd;
}

/* Returns the size of the image; the next one has the same size, as all tasks are frozen. */
static long length(int root, const char *path)
{
	time_t end = time(NULL) + LIMIT;
	int fd = create(path);
	struct stat st;

	/* tasks may still be running although the cgroup counts as frozen */
	while (syscall(SYS_checkpoint, root, fd, CHECKPOINT_OWN_MOUNTS, -1))
		if (errno != EAGAIN || time(NULL) > end || ftruncate(fd, 0) ||
		    lseek(fd, 0, SEEK_SET))
			fail("a first checkpoint: %m");
	if (fstat(fd, &st))
		fail("%s: %m", path);
	close(fd);
	return st.st_size;
}

static pid_t begin_checkpoint(int root, int ends[2], int log)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork: %m");
	if (pid)
		return pid;
	close(ends[0]);
	if (syscall(SYS_checkpoint, root, ends[1], CHECKPOINT_OWN_MOUNTS, log))
		_exit(errno);
	_exit(0);
}

int main(int argc, char **argv)
{
	struct reader r = { };
	int ends[2], root, status, log, killed;
	const char *cgroup, *victim;
	long from;

	if (argc != 8)
		return 2;
	cgroup = argv[1];
	root = atoi(argv[2]);
	victim = argv[4];
	killed = !strcmp(argv[5], "kill");
	list_tasks(cgroup, victim);
	r.total = length(root, argv[6]);
	/* leave more unread than the pipe holds, so that checkpoint(2) still waits */
	from = (r.total - 1) / ROOM * ROOM - ROOM;
	if (!strcmp(argv[3], "first"))
		from = 0;
	else if (!strcmp(argv[3], "middle"))
		from = from / 2 / ROOM * ROOM;

	if (pipe2(ends, O_CLOEXEC) || fcntl(ends[1], F_SETPIPE_SZ, ROOM) != ROOM)
		fail("pipe: %m");
	r.from = ends[0];
	r.image = create(argv[6]);
	log = create(argv[7]);
	r.writer = begin_checkpoint(root, ends, log);
	close(ends[1]);
	let_stall(&r);
	while (r.taken < from && !r.ended) {
		take_page(&r);
		let_stall(&r);
	}
	if (r.ended)
		fail("checkpoint(2) has returned after %ld of %ld bytes",
		     r.taken, r.total);

	kill_tasks(cgroup, victim);
	for (int i = 0; i < nr_tasks; i++)
		if (tasks[i].dies)
			until(waits, &tasks[i], "a killed task waits at its site");
	check_places("killed");
	if (killed && kill(r.writer, SIGKILL))
		fail("kill: %m");
	while (!killed && r.taken + 2 * ROOM < r.total) {
		take_page(&r);
		let_stall(&r);
		if (r.ended)
			break;
		check_places("reading on");
	}
	if (!killed)
		take_rest(&r);
	if (waitpid(r.writer, &status, 0) != r.writer)
		fail("waitpid: %m");
	for (int i = 0; i < nr_tasks; i++)
		if (tasks[i].dies)
			until(gone, &tasks[i], "a killed task is gone");

	if (WIFSIGNALED(status))
		printf("killed\n");
	else if (WEXITSTATUS(status))
		printf("%s\n", strerrorname_np(WEXITSTATUS(status)));
	else if (r.taken != r.total)
		fail("saved, but in %ld bytes instead of %ld", r.taken, r.total);
	else
		printf("saved\n");
	return 0;
}
