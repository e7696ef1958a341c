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
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CGROUP	"/sys/fs/cgroup/stuck"
#define LIMIT	60	/* time limit, in seconds, for the task to reach its place */

#define CHECK(what) \
	do { \
		if (!(what)) \
			die(#what, __LINE__); \
	} while (0)

/* Memory shared by the task and the process that ends its sleep. */
struct shared {
	volatile int fd;
	volatile int tid;
	volatile int done;
	char *area;
};

static struct shared *shared;

static void die(const char *what, int line)
{
	fprintf(stderr, "stuck.c:%d: %s: %s\n", line, what, strerror(errno));
	kill(0, SIGKILL);
	exit(2);
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	CHECK(fd >= 0);
	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static char *get(const char *path)
{
	static char text[4096];
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[n < 0 ? 0 : n] = 0;
	return text;
}

static void pass_time(void)
{
	static time_t end;

	if (!end)
		end = time(NULL) + LIMIT;
	errno = ETIME;
	CHECK(time(NULL) < end);
	sched_yield();
}

/* Waits until a task's kernel stack contains this function. */
static void wait_for_place(pid_t pid, const char *function)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/stack", pid);
	while (!strstr(get(path), function))
		pass_time();
}

/* Moves the caller into the cgroup that is frozen. */
static void join(void)
{
	put(CGROUP "/cgroup.procs", "0");
}

/*
 * Runs the checkpoint, which must fail with a message and leave no task frozen.
 * Its log goes to standard output; /run is not on a disk.
 */
static void checkpoint(pid_t root)
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
		      "--limit", "2", "-o", "/run/stuck.image", number, NULL);
		die("execl", __LINE__);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	printf("checkpoint exits %d\n", WEXITSTATUS(status));
	printf("cgroup.freeze is %s", get(CGROUP "/cgroup.freeze"));
	fflush(stdout);
}

/* Waits for the task, which must complete its work. */
static void ends(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	printf("the task exits %d\n",
	       WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
}

/* Forks. CLONE_FILES shares the descriptors, so that the parent can be the supervisor. */
static pid_t fork_with(unsigned long flags)
{
	return syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
}

/* A system call whose supervisor has read the notification, but not answered. */
static void seccomp_notification(void)
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

/* A system call that writes to memory whose content the userfaultfd monitor must provide. */
static void userfault(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register all = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_zeropage zero = { 0 };
	struct uffd_msg message;
	size_t size = sysconf(_SC_PAGESIZE);
	pid_t pid = fork_with(CLONE_FILES);

	CHECK(pid >= 0);
	if (!pid) {
		char *area = mmap(NULL, size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
		int from = open("/proc/self/comm", O_RDONLY);

		join();
		all.range.start = (uintptr_t)area;
		all.range.len = size;
		CHECK(fd >= 0 && from >= 0 && area != MAP_FAILED);
		CHECK(!ioctl(fd, UFFDIO_API, &api));
		CHECK(!ioctl(fd, UFFDIO_REGISTER, &all));
		shared->area = area;
		shared->fd = fd;
		_exit(read(from, area, 16) == 6 && !memcmp(area, "stuck\n", 6) ? 7 : 1);
	}
	while (shared->fd < 0)
		pass_time();
	CHECK(read(shared->fd, &message, sizeof(message)) == sizeof(message));
	CHECK(message.event == UFFD_EVENT_PAGEFAULT);
	wait_for_place(pid, "handle_userfault");
	checkpoint(pid);
	zero.range.start = (uintptr_t)shared->area;
	zero.range.len = size;
	CHECK(!ioctl(shared->fd, UFFDIO_ZEROPAGE, &zero));
	ends(pid);
}

/* The init of a pid namespace with a process that a tracer outside has not reaped. */
static void pid_namespace(void)
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

/* A write to a file system that an administrator has frozen. */
static void frozen_file_system(void)
{
	int disk = open("/work", O_RDONLY | O_DIRECTORY);
	pid_t pid;

	CHECK(disk >= 0);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		int fd = open("/work/written", O_WRONLY | O_CREAT, 0600);

		CHECK(fd >= 0);
		join();
		shared->tid = 1;
		while (!shared->done)
			sched_yield();
		_exit(write(fd, "x", 1) == 1 ? 7 : 1);
	}
	while (!shared->tid)
		pass_time();
	CHECK(!ioctl(disk, FIFREEZE, 0));
	shared->done = 1;
	wait_for_place(pid, "percpu_rwsem_wait");
	checkpoint(pid);
	CHECK(!ioctl(disk, FITHAW, 0));
	ends(pid);
}

/* A read from an empty pipe: a sleep that the freeze interrupts. */
static void empty_pipe(void)
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
	wait_for_place(pid, "pipe_read");
	/* not saved, because both ends are also open here; but it freezes */
	checkpoint(pid);
	CHECK(write(ends_of[1], "x", 1) == 1);
	ends(pid);
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
		{ "pidns", pid_namespace },
		{ "fsfreeze", frozen_file_system },
		{ "pipe", empty_pipe },
	};

	int given;

	CHECK(argc == 2);
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
		cases[i].run();
		rmdir(CGROUP);
		hand_over(given);
		return 0;
	}
	die(argv[1], __LINE__);
}
