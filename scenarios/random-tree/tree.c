// SPDX-License-Identifier: GPL-2.0-only
/*
 * Builds a tree of processes by a recipe, lets it be checkpointed when it is complete, and then
 * verifies each part. A line of the recipe is
 *
 *	process ID PARENT HOW	a child of the process PARENT; the first one is the program itself
 *	item ID KIND NUMBER a resource of the process
 *
 * HOW is fork, session (in a session of its own), vfork (its parent waits in clone(CLONE_VFORK)
 * until it ends, so it is the last child), stopped, traced (in a stop for a signal),
 * traced-syscall (in a stop at the entry of a system call), or zombie.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tree.h"
#include "workload.h"

#define PROCESSES 64
#define ITEMS 32

struct process {
	int id, parent;
	char how[16];
	struct item items[ITEMS];
	int nr_items;
	pid_t pid;
};

static struct process processes[PROCESSES];
static int nr_processes;
static int ready[2], go_pipe[2];
int go;
int own_id;
/* The directory in which all processes start. */
static int home;

static const struct kind *const lists[] = {
	file_kinds, queue_kinds, memory_kinds, task_kinds, refused_kinds
};

unsigned char pattern(long number, long at)
{
	return number * 7 + at * 31 + (at >> 8);
}

void put_pattern(int fd, long number, size_t size)
{
	unsigned char bytes[BYTES];

	for (size_t at = 0; at < size; at++)
		bytes[at] = pattern(number, at);
	check(write(fd, bytes, size) != (ssize_t)size, "write");
}

int has_pattern(int fd, long number, size_t size)
{
	unsigned char bytes[BYTES + 1];
	size_t done = 0;

	while (done < size) {
		ssize_t got = read(fd, bytes + done, size - done);

		if (got <= 0)
			return 0;
		done += got;
	}
	for (size_t at = 0; at < size; at++)
		if (bytes[at] != pattern(number, at))
			return 0;
	return 1;
}

void queue_signal(int signal, int value)
{
	siginfo_t info = {
		.si_signo = signal, .si_code = SI_QUEUE, .si_value.sival_int = value,
	};

	info.si_pid = getpid();
	info.si_uid = getuid();
	check(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), signal, &info) < 0, "a signal");
}

void wait_for_end(void)
{
	ssize_t got;
	char byte;

	do
		got = read(go, &byte, 1);
	while (got < 0 && errno == EINTR);
	/* With any other result, the call was not made correctly. */
	check(got, "the end of the wait");
}

int own_file(const char *what, int flags, char *name, size_t size)
{
	static int serial;
	int fd;

	snprintf(name, size, "%s.%d.%d", what, own_id, serial++);
	fd = open(name, flags | O_CREAT | O_EXCL, 0644);
	check(fd < 0, name);
	return fd;
}

static const struct kind *kind(const char *name)
{
	for (size_t list = 0; list < sizeof(lists) / sizeof(*lists); list++)
		for (const struct kind *kind = lists[list]; kind->name; kind++)
			if (!strcmp(kind->name, name))
				return kind;
	fprintf(stderr, "there is no kind %s\n", name);
	exit(2);
}

static struct process *find(int id)
{
	for (int at = 0; at < nr_processes; at++)
		if (processes[at].id == id)
			return &processes[at];
	fprintf(stderr, "there is no process %d\n", id);
	exit(2);
}

static int is(const struct process *process, const char *how)
{
	return !strcmp(process->how, how);
}

/* Returns true for a process that is in a stop when it is checkpointed. */
static int halts(const struct process *process)
{
	return is(process, "stopped") || !strncmp(process->how, "traced", 6);
}

static void read_recipe(char *recipe)
{
	FILE *file = fmemopen(recipe, strlen(recipe), "r");
	char line[128], word[32];

	check(!file, "a recipe");
	while (fgets(line, sizeof(line), file)) {
		struct process *process = &processes[nr_processes];
		long number;
		int id;

		if (sscanf(line, "process %d %d %15s", &id, &process->parent, process->how) == 3) {
			process->id = id;
			nr_processes++;
		} else if (sscanf(line, "item %d %31s %ld", &id, word, &number) == 3) {
			process = find(id);
			process->items[process->nr_items++] = (struct item){
				.kind = kind(word), .number = number,
			};
		} else {
			fprintf(stderr, "no line of a recipe: %s", line);
			exit(2);
		}
		/*
		 * The program itself must not wait, nor a process that is stopped before it
		 * could.
		 */
		if (is(process, "vfork") &&
		    (process->parent == processes[0].id || halts(find(process->parent)))) {
			fprintf(stderr, "process %d cannot wait in vfork\n", process->parent);
			exit(2);
		}
		if (nr_processes == PROCESSES || process->nr_items == ITEMS) {
			fprintf(stderr, "the recipe is too long\n");
			exit(2);
		}
	}
	fclose(file);
}

static void be(struct process *self);

static void start(struct process *child)
{
	int status;

	if (is(child, "vfork")) {
		/*
		 * It has its own memory, so that it does not disturb its
		 * parent.
		 */
		child->pid = syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
		check(child->pid < 0, "clone");
		if (!child->pid)
			be(child);
		return;
	}
	child->pid = fork();
	check(child->pid < 0, "fork");
	if (!child->pid)
		be(child);
	if (is(child, "zombie")) {
		siginfo_t info;

		check(waitid(P_PID, child->pid, &info, WEXITED | WNOWAIT) < 0, "waitid");
	} else if (halts(child)) {
		check(waitpid(child->pid, &status, WUNTRACED) != child->pid, "waitpid");
		check(!WIFSTOPPED(status), "a stop");
	}
	if (is(child, "traced-syscall")) {
		check(ptrace(PTRACE_SETOPTIONS, child->pid, 0, PTRACE_O_TRACESYSGOOD) < 0, "options");
		check(ptrace(PTRACE_SYSCALL, child->pid, 0, 0) < 0, "PTRACE_SYSCALL");
		check(waitpid(child->pid, &status, 0) != child->pid, "waitpid");
		check(WSTOPSIG(status) != (SIGTRAP | 0x80), "a stop at a system call");
	}
}

/* Resumes a child that would otherwise stay in its stop or wait. */
static void release(struct process *child, FILE *out)
{
	siginfo_t info = {};
	struct __ptrace_syscall_info call = {};

	if (is(child, "stopped")) {
		check(waitid(P_PID, child->pid, &info, WSTOPPED | WNOHANG | WNOWAIT) < 0, "waitid");
		/* The parent has already waited for this stop. */
		fprintf(out, "child %d: %s\n", child->id, info.si_pid ? "stopped anew" : "stopped");
		check(kill(child->pid, SIGCONT) < 0, "kill");
	} else if (is(child, "traced")) {
		check(ptrace(PTRACE_GETSIGINFO, child->pid, 0, &info) < 0, "PTRACE_GETSIGINFO");
		fprintf(out, "child %d: signal %d\n", child->id, info.si_signo);
		check(ptrace(PTRACE_DETACH, child->pid, 0, 0) < 0, "PTRACE_DETACH");
	} else if (is(child, "traced-syscall")) {
		check(ptrace(PTRACE_GET_SYSCALL_INFO, child->pid, sizeof(call), &call) < 0, "call");
		fprintf(out, "child %d: op %d call %lld\n", child->id, call.op,
			(long long)call.entry.nr);
		check(ptrace(PTRACE_DETACH, child->pid, 0, 0) < 0, "PTRACE_DETACH");
	}
}

static void tell_ready(void)
{
	check(write(ready[1], "", 1) != 1, "ready");
}

static void children(struct process *self, void (*each)(struct process *))
{
	for (int at = 0; at < nr_processes; at++)
		if (processes[at].parent == self->id && !is(&processes[at], "vfork"))
			each(&processes[at]);
}

/* Runs a process of the tree, from its start to its end. */
static void be(struct process *self)
{
	struct process *vforked = NULL;
	int wrong = 0, status;
	char name[32];
	FILE *out;

	if (is(self, "zombie"))
		_exit(self->id);
	own_id = self->id;
	if (is(self, "session"))
		check(setsid() < 0, "setsid");
	if (self->parent) {
		close(go_pipe[1]);
		close(ready[0]);
	}
	snprintf(name, sizeof(name), "out.%d", self->id);
	out = fdopen(openat(home, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644), "w");
	check(!out, name);
	for (int at = 0; at < self->nr_items; at++)
		self->items[at].kind->make(&self->items[at]);
	for (int at = 0; at < nr_processes; at++)
		if (processes[at].parent == self->id && is(&processes[at], "vfork"))
			vforked = &processes[at];
	children(self, start);

	if (!self->parent) {
		/* The program itself: once all others are ready, it is checkpointed. */
		for (int at = 1; at < nr_processes; at++)
			if (!is(&processes[at], "zombie"))
				receive_byte(ready[0]);
		flush_and_stop_here();
		close(go_pipe[1]);
	} else {
		if (halts(self)) {
			if (!is(self, "stopped"))
				check(ptrace(PTRACE_TRACEME, 0, 0, 0) < 0, "PTRACE_TRACEME");
			tell_ready();
			raise(SIGSTOP);
		} else {
			tell_ready();
		}
		if (vforked)
			start(vforked);
		wait_for_end();
	}
	for (int at = 0; at < self->nr_items; at++) {
		struct item *item = &self->items[at];
		const char *what = item->kind->verify(item);

		fprintf(out, "%s: %s\n", item->kind->name, what ? what : "as it was");
		wrong += !!what;
	}
	for (int at = 0; at < nr_processes; at++) {
		struct process *child = &processes[at];
		pid_t got;

		if (child->parent != self->id)
			continue;
		release(child, out);
		do
			got = waitpid(child->pid, &status, 0);
		while (got < 0 && errno == EINTR);
		check(got != child->pid, "waitpid");
		fprintf(out, "child %d: status %#x\n", child->id, status);
		wrong += status != (is(child, "zombie") ? child->id << 8 : 0);
	}
	fclose(out);
	if (self->parent)
		_exit(wrong ? 3 : 0);
	/* All others have ended. */
	check(fchdir(home) < 0, "fchdir");
	for (int at = 0; at < nr_processes; at++) {
		char line[256];

		if (is(&processes[at], "zombie"))
			continue;
		snprintf(name, sizeof(name), "out.%d", processes[at].id);
		out = fopen(name, "re");
		check(!out, name);
		while (fgets(line, sizeof(line), out))
			printf("%d %s", processes[at].id, line);
		fclose(out);
	}
	nonce_print();
	exit(wrong ? 3 : 0);
}

int main(int argc, char **argv)
{
	check(argc != 2, "usage: tree RECIPE");
	read_recipe(argv[1]);
	check(!nr_processes || processes[0].parent, "a first process");
	home = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	check(home < 0, "home");
	nonce_draw();
	make_pipe(ready);
	make_pipe(go_pipe);
	go = go_pipe[0];
	be(&processes[0]);
}
