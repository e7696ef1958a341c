// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Restarts an image through a pipe that stalls after a record, and in the meantime tries to reach
 * the tasks that are being restarted, or kills them.
 *
 *	intruder list IMAGE
 *		prints the number of records
 *	intruder attack IMAGE CGROUP RECORD VERSION1 [DOOR]
 *		tries all attacks, or one by name (doors.c); then writes the rest of the image
 *		and waits for the tree's exit; VERSION1 is a mounted cgroup hierarchy of
 *		version 1
 *	intruder end IMAGE CGROUP RECORD HOW
 *		HOW: kill (the caller of restart(2)), cgroup (cgroup.kill), log (the caller,
 *		whose log is a full pipe, after a damaged record), namespace (the init of the
 *		caller's pid namespace), memory (the OOM killer, by CGROUP's limit)
 *	intruder fail IMAGE CGROUP RECORD
 *		the image ends after the record, and the caller gets a signal: no task of the
 *		restart is left, and the caller is unchanged
 *	intruder restart IMAGE CGROUP 0
 *		no attack
 *	intruder cage IMAGE CGROUP 0
 *		a restart under a seccomp filter that forbids creating directories
 *
 * Exit status 1 and a line on stderr for each task or object that was reached, or not killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "intruder.h"

/* flags of restart(2): mount a proc of the new pid namespace, equal mounts */
#define RESTART_FLAGS	3UL

int reached;

void tell(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	reached = 1;
}

void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static unsigned char *image;
static size_t size;

static void load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		fail("%s: %m", path);
	size = st.st_size;
	image = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (image == MAP_FAILED)
		fail("%s: %m", path);
	close(fd);
}

/* Returns the offset of the end of record @nr, 0 if there are fewer records. */
static size_t end_of(int nr)
{
	size_t at = 0;

	while (nr-- && at < size) {
		uint64_t len;

		memcpy(&len, image + at + 8, sizeof(len));
		at += HEAD + len;
	}
	return at <= size && nr < 0 ? at : 0;
}

/*
 * Writes until the pipe has no reader: then the restart has ended, and has logged the
 * reason.
 */
void write_all(int fd, const void *data, size_t len)
{
	const char *at = data;

	while (len) {
		ssize_t n = write(fd, at, len);

		if (n < 0 && errno == EPIPE)
			return;
		if (n < 0)
			fail("writing the image: %m");
		at += n;
		len -= n;
	}
}

static int left_in(int fd)
{
	int n;

	if (ioctl(fd, FIONREAD, &n))
		fail("FIONREAD: %m");
	return n;
}

void until(int (*done)(void), const char *words)
{
	time_t end = time(NULL) + LIMIT;

	while (!done()) {
		if (time(NULL) > end)
			fail("not in %d s: %s", LIMIT, words);
		sched_yield();
	}
}

/*
 * The process that calls restart(2), with a second thread that waits for any
 * child.
 */
struct shared *shared;
const char *cgroup, *version1;
int log_end = STDERR_FILENO;
static int image_end;

static void *steal(void *unused)
{
	__atomic_store_n(&shared->thief, gettid(), __ATOMIC_RELEASE);
	while (!__atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE)) {
		pid_t pid = waitpid(-1, NULL, __WALL | WNOHANG);

		if (pid > 0 || (pid < 0 && errno != ECHILD) || !pid)
			shared->stolen = pid > 0 ? pid : -1;
		__atomic_add_fetch(&shared->waited, 1, __ATOMIC_RELEASE);
		sched_yield();
	}
	__atomic_store_n(&shared->thief, 0, __ATOMIC_RELEASE);
	return unused;
}

static int caged, fails, inside;
static volatile sig_atomic_t signals;

static void on_signal(int sig)
{
	(void)sig;
	signals++;
}

static int mounts_at_proc(void)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char line[1024];
	int n = 0;

	while (file && fgets(line, sizeof(line), file))
		n += !!strstr(line, " /proc ");
	if (file)
		fclose(file);
	return n;
}

/* Checks that no task of the restart is left, and that earlier state is unchanged. */
static void check_undone(pid_t child, int mounts)
{
	siginfo_t info = { };

	if (shared->error != EIO)
		tell("restart: %s", strerror(shared->error));
	if (mounts_at_proc() != mounts)
		tell("%d mounts at /proc instead of %d", mounts_at_proc(), mounts);
	if (signals != 2)
		tell("%d of 2 signals were handled", signals);
	if (waitid(P_PID, child, &info, WEXITED) || info.si_pid != child)
		tell("another child was taken: %s", strerror(errno));
	if (!waitid(P_ALL, 0, &info, WEXITED | WNOHANG | __WALL) || errno != ECHILD)
		tell("process %d is left", info.si_pid);
}

static void cage(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mkdir, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mkdirat, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(filter) / sizeof(filter[0]), filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		fail("seccomp: %m");
}

static int call_restart(void)
{
	int status, dir = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC), mounts;
	pthread_t thread;
	pid_t child = 0;
	long root;

	/* ignore the signals that the attacks send to many processes */
	for (int sig = 1; sig < SIGRTMAX; sig++)
		if (sig != SIGCHLD)
			signal(sig, SIG_IGN);
	if (fails) {
		siginfo_t info;

		signal(SIGUSR1, on_signal);
		signal(SIGUSR2, on_signal);
		child = fork();
		if (!child)
			_exit(0);
		if (child < 0 || waitid(P_PID, child, &info, WEXITED | WNOWAIT))
			fail("a child: %m");
		/* the thread would reap that child */
		shared->thief = -1;
	}
	/* before unshare(CLONE_NEWPID), after which no thread can be created */
	else if (pthread_create(&thread, NULL, steal, NULL))
		fail("pthread_create");
	if (dir < 0 || unshare(CLONE_NEWNS | CLONE_NEWPID) ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		fail("setting up the caller: %m");
	/* the tree did not have this mount */
	if (version1 && umount2(version1, MNT_DETACH))
		fail("%s: %m", version1);
	mounts = mounts_at_proc();
	if (caged)
		cage();
	__atomic_store_n(&shared->begun, 1, __ATOMIC_RELEASE);
	root = syscall(SYS_restart, dir, image_end, RESTART_FLAGS, log_end);
	shared->error = errno;
	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
	if (fails) {
		check_undone(child, mounts);
		return reached;
	}
	pthread_join(thread, NULL);
	__atomic_store_n(&shared->ret, root, __ATOMIC_RELEASE);
	if (root < 0)
		return 2;
	if (waitpid(root, &status, 0) != root)
		return 3;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 4;
}

pid_t first, self;
int feed;

/* Moves the caller of restart(2), and so its tasks, into the cgroup below @version1. */
static void enter_version1(void)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/intruder/tasks", version1);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1)
		fail("%s: %m", path);
	close(fd);
}

/* The init of a pid namespace, parent of the process that calls restart(2). */
static int init(void)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		return call_restart();
	return pid < 0 || waitpid(pid, &status, 0) != pid;
}

static void begin(void)
{
	int ends[2];

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || pipe2(ends, O_CLOEXEC))
		fail("beginning: %m");
	image_end = ends[0];
	feed = ends[1];
	self = getpid();
	if (version1)
		enter_version1();
	if (inside && unshare(CLONE_NEWPID))
		fail("a pid namespace: %m");
	first = fork();
	if (first < 0)
		fail("fork: %m");
	if (!first) {
		close(feed);
		setpgid(0, 0);
		_exit(inside ? init() : call_restart());
	}
	close(image_end);
	setpgid(first, first);
	/* only the restart reads the pipe: when it has ended, writing fails */
	signal(SIGPIPE, SIG_IGN);
}

static int has_begun(void)
{
	return __atomic_load_n(&shared->begun, __ATOMIC_ACQUIRE) &&
	       __atomic_load_n(&shared->thief, __ATOMIC_ACQUIRE);
}

static int all_taken(void)
{
	return !left_in(feed);
}

static int thief_is_gone(void)
{
	return !__atomic_load_n(&shared->thief, __ATOMIC_ACQUIRE);
}

int main(int argc, char **argv)
{
	int status, number;
	size_t at, early = 0;

	if (argc < 3)
		return 2;
	load(argv[2]);
	if (!strcmp(argv[1], "list")) {
		for (number = 0; end_of(number + 1) && end_of(number) < size; number++)
			;
		printf("%d\n", number);
		return 0;
	}
	if (argc < 5)
		return 2;
	cgroup = argv[3];
	at = end_of(atoi(argv[4]));
	if (!strcmp(argv[1], "end") && argc > 5 && !strcmp(argv[5], "log"))
		fill_log();
	if (!strcmp(argv[1], "attack") && argc > 5)
		version1 = argv[5];
	inside = !strcmp(argv[1], "end") && argc > 5 && !strcmp(argv[5], "namespace");
	caged = !strcmp(argv[1], "cage");
	fails = !strcmp(argv[1], "fail");
	/* the attacks send it to many processes */
	signal(SIGURG, SIG_IGN);
	signal(SIGWINCH, SIG_IGN);
	signal(SIGIO, SIG_IGN);
	begin();
	until(has_begun, "restart(2) begins");
	if (fails) {
		/* pending while the tasks are created */
		early = end_of(1);
		write_all(feed, image, early);
		until(all_taken, "the first record is read");
		if (kill(first, SIGUSR1))
			fail("kill: %m");
	}
	write_all(feed, image + early, at - early);
	until(all_taken, "the image is read");
	if (!strcmp(argv[1], "end")) {
		end_it(argv[5], image + at, size - at);
		return reached;
	}
	if (fails) {
		if (kill(first, SIGUSR2))
			fail("kill: %m");
		close(feed);
		if (waitpid(first, &status, 0) != first || status)
			tell("the caller has ended with %#x", status);
		until(gone, "all created tasks have exited");
		return reached;
	}
	if (!strcmp(argv[1], "attack")) {
		status = attack(argc > 6 ? argv[6] : NULL);
		if (status >= 0)
			fail("the caller has exited with %#x", status);
	}
	/* after the restart, any thread may reap the tree's root */
	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
	until(thief_is_gone, "the caller's second thread has exited");
	write_all(feed, image + at, size - at);
	close(feed);
	if (waitpid(first, &status, 0) != first)
		fail("waitpid: %m");
	if (shared->ret < 0)
		tell("restart: %s", strerror(shared->error));
	else if (!WIFEXITED(status) || WEXITSTATUS(status))
		tell("the restarted tree has ended with %#x", status);
	return reached;
}
