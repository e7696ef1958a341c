// SPDX-License-Identifier: GPL-2.0-only
/* Tasks that wait for another task, or for a program outside their tree. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stuck.h"

#define IMAGE	"/run/stuck.image"
#define V1	"/run/stuck.v1"

/* A system call whose supervisor has read the notification, but not answered. */
void seccomp_notification(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(code) / sizeof(*code), code };
	struct seccomp_notif asked = { 0 };
	struct seccomp_notif_resp answer = { 0 };
	pid_t pid = fork_with(CLONE_FILES);

	CHECK(pid >= 0);
	if (!pid) {
		join();
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		shared->fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
				     SECCOMP_FILTER_FLAG_NEW_LISTENER |
				     SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &prog);
		CHECK(shared->fd >= 0);
		_exit(syscall(SYS_getppid) == 77 ? 7 : 1);
	}
	while (shared->fd < 0)
		pass_time();
	CHECK(!ioctl(shared->fd, SECCOMP_IOCTL_NOTIF_RECV, &asked));
	wait_for_place(pid, "seccomp_do_user_notification");
	checkpoint(pid);
	answer.id = asked.id;
	answer.val = 77;
	CHECK(!ioctl(shared->fd, SECCOMP_IOCTL_NOTIF_SEND, &answer));
	ends(pid);
}

/* The init of a pid namespace with a process that a tracer outside has not reaped. */
void pid_namespace(void)
{
	char path[64];
	pid_t pid, child;
	int status;

	pid = fork_with(CLONE_NEWPID);
	CHECK(pid >= 0);
	if (!pid) {
		join();
		pid = fork();
		CHECK(pid >= 0);
		if (!pid) {
			for (;;)
				pause();
		}
		shared->tid = 1;
		while (!shared->done)
			sched_yield();
		_exit(7);
	}
	while (!shared->tid)
		pass_time();
	/* the child's pid in this namespace */
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	child = atoi(get(path));
	CHECK(child > 0);
	CHECK(!ptrace(PTRACE_SEIZE, child, 0, 0));
	shared->done = 1;
	wait_for_place(pid, "zap_pid_ns_processes");
	checkpoint(pid);
	CHECK(waitpid(child, &status, __WALL) == child);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	ends(pid);
}

static void *sleeping_thread(void *unused)
{
	shared->tid = gettid();
	for (;;)
		pause();
	return unused;
}

/*
 * A program that the kernel starts: it reads its standard input once the test
 * lets it.
 */
void read_when_told(void)
{
	char bytes[4096];

	while (access(GO, F_OK))
		pass_time();
	while (read(0, bytes, sizeof(bytes)) > 0)
		;
}

/*
 * A process with two threads whose core goes to a pipe that has no active reader
 * yet.
 */
void core_dump(void)
{
	char pattern[128];
	pid_t pid;

	snprintf(pattern, sizeof(pattern), "%s", get("/proc/sys/kernel/core_pattern"));
	unlink(GO);
	put("/proc/sys/kernel/core_pattern", "|/work/stuck core-reader");
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		pthread_t thread;

		join();
		fill_memory(1 << 20);
		CHECK(!pthread_create(&thread, NULL, sleeping_thread, NULL));
		while (!shared->tid)
			pass_time();
		abort();
	}
	wait_for_place(pid, "pipe_write");
	wait_for_place(shared->tid, "do_exit");
	checkpoint(pid);
	CHECK(close(open(GO, O_WRONLY | O_CREAT, 0600)) == 0);
	ends(pid);
	put("/proc/sys/kernel/core_pattern", pattern);
}

/* Creates a task that reads from an empty pipe; sets *end to the other end. */
static pid_t reader_of_pipe(int *end)
{
	int ends_of[2];
	char byte;
	pid_t pid;

	CHECK(!pipe(ends_of));
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		join();
		_exit(read(ends_of[0], &byte, 1) == 1 ? 7 : 1);
	}
	*end = ends_of[1];
	return pid;
}

/* A task that the freezer of cgroup v1 holds as well. */
void frozen_by_v1(void)
{
	char number[16];
	int end;
	pid_t pid = reader_of_pipe(&end);

	CHECK(!mkdir(V1, 0700) || errno == EEXIST);
	CHECK(!mount("none", V1, "cgroup", 0, "freezer"));
	CHECK(!mkdir(V1 "/stuck", 0755));
	snprintf(number, sizeof(number), "%d", pid);
	put(V1 "/stuck/cgroup.procs", number);
	put(V1 "/stuck/freezer.state", "FROZEN");
	wait_for_place(pid, "__refrigerator");
	checkpoint(pid);
	put(V1 "/stuck/freezer.state", "THAWED");
	CHECK(write(end, "x", 1) == 1);
	ends(pid);
	CHECK(!rmdir(V1 "/stuck"));
	CHECK(!umount(V1));
}

/* A read from an empty pipe: a sleep that the freeze interrupts. */
void empty_pipe(void)
{
	int end;
	pid_t pid = reader_of_pipe(&end);

	wait_for_place(pid, "pipe_read");
	/* not saved, because both ends are also open here; but it freezes */
	run_checkpoint(pid, FREEZES);
	CHECK(write(end, "x", 1) == 1);
	ends(pid);
}

/* Leaves the caller without any descriptor of ours, in a session of its own. */
static void detach(int in)
{
	int out = open("/dev/null", O_RDWR);

	CHECK(setsid() > 0);
	CHECK(dup2(in < 0 ? out : in, 0) == 0);
	CHECK(dup2(out, 1) == 1 && dup2(out, 2) == 2);
	CHECK(!close_range(3, ~0U, 0));
}

/*
 * A tree in which a program calls restart(2) with an image that stops arriving in the
 * middle.
 */
void stalled_restart(void)
{
	char *sleeper[] = { "/bin/sleep", "1000", NULL };
	char *restart[] = { "/opt/crucible/restart", "--pids", NULL };
	int image[2], fd, left;
	struct stat size;
	char *bytes;
	pid_t saved, pid;

	saved = fork();
	CHECK(saved >= 0);
	if (!saved) {
		join();
		detach(-1);
		execv(sleeper[0], sleeper);
		_exit(2);
	}
	wait_for_place(saved, "hrtimer_nanosleep");
	run_checkpoint(saved, FREEZES);
	CHECK(!kill(saved, SIGKILL) && waitpid(saved, NULL, 0) == saved);

	fd = open(IMAGE, O_RDONLY);
	CHECK(fd >= 0 && !fstat(fd, &size));
	bytes = malloc(size.st_size);
	CHECK(bytes && read(fd, bytes, size.st_size) == size.st_size);
	CHECK(!pipe(image));
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		join();
		detach(image[0]);
		execv(restart[0], restart);
		_exit(2);
	}
	close(image[0]);
	CHECK(write(image[1], bytes, size.st_size / 2) == size.st_size / 2);
	for (;;) {
		CHECK(!ioctl(image[1], FIONREAD, &left));
		if (!left)
			break;
		pass_time();
	}
	wait_for_place(pid, "wait_parked");
	checkpoint(pid);
	CHECK(write(image[1], bytes + size.st_size / 2, size.st_size - size.st_size / 2) ==
	      size.st_size - size.st_size / 2);
	/* the caller waits for the root of the restarted tree */
	wait_for_place(pid, "do_wait");
	CHECK(!kill(saved, SIGKILL));
	ends(pid);
}

/*
 * A task that is killed while a second checkpoint(2) reads it, which waits because no
 * process reads its image.
 */
void stalled_checkpoint(void)
{
	char number[16], children[64], bytes[4096];
	char *other[] = { "/opt/crucible/checkpoint", number, NULL };
	int image[2], status;
	pid_t pid, caller, child;

	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		join();
		detach(-1);
		CHECK(!munmap(shared, sizeof(*shared)));
		fill_memory(1 << 20);
		child = fork();
		if (!child) {
			for (;;)
				pause();
		}
		CHECK(waitpid(child, &status, 0) == child);
		_exit(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 7 : 1);
	}
	snprintf(children, sizeof(children), "/proc/%d/task/%d/children", pid, pid);
	while (child = atoi(get(children)), !child)
		pass_time();
	put(CGROUP "/cgroup.freeze", "1");
	while (!strstr(get(CGROUP "/cgroup.events"), "frozen 1"))
		pass_time();
	CHECK(!pipe(image));
	snprintf(number, sizeof(number), "%d", pid);
	caller = fork();
	CHECK(caller >= 0);
	if (!caller) {
		dup2(image[1], 1);
		close(image[0]);
		close(image[1]);
		execv(other[0], other);
		_exit(2);
	}
	close(image[1]);
	wait_for_place(caller, "pipe_write");
	CHECK(!kill(child, SIGKILL));
	wait_for_place(child, "ckpt_wait_unheld");
	put(CGROUP "/cgroup.freeze", "0");
	checkpoint(pid);
	while (read(image[0], bytes, sizeof(bytes)) > 0)
		;
	CHECK(waitpid(caller, &status, 0) == caller);
	ends(pid);
}
