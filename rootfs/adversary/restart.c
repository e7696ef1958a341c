// SPDX-License-Identifier: Apache-2.0 OR MIT
/* A restart(2) that is attacked: its caller in namespaces of its own, its image, and leftovers. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "adversary.h"

#define LOW_FILES	200
#define RESTART_EQUAL_MOUNTS	2UL

static int has_begun(void) { return __atomic_load_n(&shared->begun, __ATOMIC_ACQUIRE); }

static void *steal(void *unused)
{
	while (!__atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE)) {
		pid_t pid = waitpid(-1, NULL, __WALL | WNOHANG);

		if (pid >= 0)
			shared->stolen = pid ?: -1;
		sched_yield();
	}
	return unused;
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

static void call_restart(int image, int log, int tree)
{
	struct rlimit low = { LOW_FILES, LOW_FILES };
	struct sched_param none = { };
	pthread_t thread;
	cpu_set_t one;
	long root;

	setpgid(0, 0);
	signal(SIGUSR2, on_signal);
	if (wants("limits") && setrlimit(RLIMIT_NOFILE, &low))
		fail("setrlimit: %m");
	if (wants("scheduling")) {
		CPU_ZERO(&one);
		CPU_SET(0, &one);
		sched_setaffinity(0, sizeof(one), &one);
		sched_setscheduler(0, SCHED_BATCH, &none);
	}
	if (wants("reap"))
		pthread_create(&thread, NULL, steal, NULL);
	if (wants("cage"))
		cage();
	__atomic_store_n(&shared->begun, 1, __ATOMIC_RELEASE);
	root = syscall(SYS_restart, tree, image, RESTART_EQUAL_MOUNTS, log);
	shared->error = errno;
	shared->ret = root;
	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
	if (wants("reap"))
		pthread_join(thread, NULL);
	__atomic_store_n(&shared->over, 1, __ATOMIC_RELEASE);
	/* the caller is the parent of the tree */
	if (root > 0 && waitpid(root, &shared->status, __WALL) == root)
		__atomic_store_n(&shared->reaped, 1, __ATOMIC_RELEASE);
	_exit(0);
}

/* The init of the namespaces: starts the attacker and the caller of restart(2). */
static void init(int image, int log, int tree)
{
	sigset_t none;
	pid_t pid;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		fail("mounting proc: %m");
	pid = forked();
	if (!pid)
		call_restart(image, log, tree);
	shared->caller = pid;
	if (!forked()) {
		close(image);
		attacker();
	}
	close(image);
	while (wait(NULL) > 0 || errno == EINTR)
		;
	_exit(0);
}

/* Maps ids as newuidmap(1) does; terminals belong to the group 5. */
static void map_ids(pid_t pid, int go)
{
	char path[64], text[64], byte;

	read(go, &byte, 1);
	snprintf(text, sizeof(text), "%d %d 1", USER, USER);
	snprintf(path, sizeof(path), "/proc/%d/uid_map", pid);
	must_put(path, text);
	snprintf(text, sizeof(text), "5 5 1\n%d %d 1\n", USER, USER);
	snprintf(path, sizeof(path), "/proc/%d/gid_map", pid);
	must_put(path, text);
	_exit(0);
}

static pid_t begin_restart(int *feed, int log)
{
	int ends[2], tree = open(TREE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	pid_t user;

	if (tree < 0 || pipe2(ends, O_CLOEXEC))
		fail("pipe: %m");
	user = forked();
	if (!user) {
		int go[2], there[2];
		char byte;

		close(ends[1]);
		must_put(CGROUP "/user/cgroup.procs", "0");
		if (pipe2(go, O_CLOEXEC) || pipe2(there, O_CLOEXEC))
			fail("pipe: %m");
		if (!forked()) {
			close(there[0]);
			map_ids(getppid(), go[0]);
		}
		close(there[1]);
		become_user();
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID))
			fail("unshare: %m");
		write(go[1], "x", 1);
		/* the end of the mapper */
		read(there[0], &byte, 1);
		wait(NULL);
		pid_t pid = forked();

		if (!pid)
			init(ends[0], log, tree);
		close(ends[0]);
		shared->init = pid;
		waitpid(pid, NULL, 0);
		_exit(0);
	}
	close(ends[0]);
	close(tree);
	*feed = ends[1];
	return user;
}

static void write_all(int fd, const unsigned char *at, size_t len)
{
	while (len) {
		struct pollfd room = { .fd = fd, .events = POLLOUT };
		ssize_t n = poll(&room, 1, limit * 1000) == 1 ? write(fd, at, len) : 0;

		if (!n)
			tell("the image is no longer read");
		if (n <= 0)
			return;
		at += n;
		len -= n;
	}
}

static int feed_end;

static int all_taken(void)
{
	int n = 0;

	return is_over() || ioctl(feed_end, FIONREAD, &n) || !n;
}

static long number_in(const char *path, const char *name)
{
	char line[256];
	long number = -1;
	size_t len = strlen(name);
	FILE *file = fopen(path, "re");

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, len) && line[len] == ':')
			number = strtol(line + len + 1, NULL, 10);
	if (file)
		fclose(file);
	return number;
}

/*
 * Checks that a restarted task has no more rights than its caller. Root checks
 * from outside.
 */
static void check_task(pid_t pid, int forged)
{
	char path[64], line[256], ns[64] = "", mine[64] = "";
	unsigned int ids[4];
	struct rlimit files;
	cpu_set_t cpus;
	long filters, least = (wants("cage") ? 1 : 0) + (forged ? 0 : 1);
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if ((sscanf(line, "Uid: %u %u %u %u", &ids[0], &ids[1], &ids[2], &ids[3]) == 4 ||
		     sscanf(line, "Gid: %u %u %u %u", &ids[0], &ids[1], &ids[2], &ids[3]) == 4))
			for (int i = 0; i < 4; i++)
				if (ids[i] != USER)
					tell("task %d has %s", pid, line);
	if (file)
		fclose(file);
	filters = number_in(path, "Seccomp_filters");
	/* 0: a zombie */
	if (number_in(path, "VmSize") < 0)
		return;
	if (filters < least)
		tell("task %d has %ld seccomp filters instead of %ld", pid, filters, least);
	if (wants("cage") && number_in(path, "NoNewPrivs") != 1)
		tell("task %d may gain privileges", pid);
	snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
	if (readlink(path, ns, sizeof(ns) - 1) > 0 &&
	    readlink("/proc/self/ns/user", mine, sizeof(mine) - 1) > 0 && !strcmp(ns, mine))
		tell("task %d is in the user namespace of the machine", pid);
	if (!prlimit(pid, RLIMIT_NOFILE, NULL, &files) && wants("limits") &&
	    files.rlim_max > LOW_FILES)
		tell("task %d may open %lu files", pid, (unsigned long)files.rlim_max);
	int policy = sched_getscheduler(pid);

	if (policy == SCHED_FIFO || policy == SCHED_RR ||
	    (policy == SCHED_BATCH && !forged && wants("scheduling")))
		tell("task %d has the scheduling policy %d", pid, policy);
	if (getpriority(PRIO_PROCESS, pid) < 0)
		tell("task %d has the nice value %d", pid, getpriority(PRIO_PROCESS, pid));
	if (wants("scheduling") && !sched_getaffinity(pid, sizeof(cpus), &cpus) &&
	    CPU_COUNT(&cpus) < sysconf(_SC_NPROCESSORS_ONLN))
		tell("task %d is pinned to the caller's CPUs", pid);
	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", pid);
	if (contains(path, "-"))
		tell("task %d has a negative oom_score_adj", pid);
}

static int was_reaped(void)
{
	return __atomic_load_n(&shared->reaped, __ATOMIC_ACQUIRE) || is_empty();
}

/* Restarts an image; returns the result. */
const char *restart(struct image *image, int nth)
{
	int forged = 0, feed, log = a_log(), record, fd;
	static char result[64];
	size_t at;
	pid_t user;

	read_pids(image);
	for (int i = 0; i < nr_chosen; i++)
		forged += forge(image, attack_names[i]);
	reachable = 0;
	must_put(TREE "/cgroup.freeze", "1");
	if (truncate(OUT, 0))
		fail(OUT ": %m");
	user = begin_restart(&feed, log);
	feed_end = feed;
	if (!until(has_begun))
		fail("the caller does not begin");
	record = 1 + nth % (records(image) - 1);
	at = end_of(image, record);
	write_all(feed, image->data, at);
	if (!until(all_taken))
		tell("the image is not read at record %d", record);
	let_attack(1);
	if (wants("reap") && shared->stolen)
		tell("wait4(__WALL) of another thread finds a task of the restart");
	if (wants("kill-namespace"))
		kill(shared->init, SIGKILL);
	/*
	 * at the first records the cgroup has no task that cgroup.kill could
	 * kill
	 */
	int populated = !is_empty();

	let_attack(wants("kill-namespace") ? 1 : 2);
	int killed = wants("kill-caller") || wants("kill-cgroup") || wants("kill-namespace");

	if (!killed && !wants("cut"))
		write_all(feed, image->data + at, image->size - at);
	/* killed tasks must exit while the pipe still stalls */
	if (killed && !is_over() && !until(is_empty)) {
		tell("a restart that was killed after record %d has left tasks", record);
		close(feed);
	}
	if (!killed || (wants("kill-cgroup") && !populated))
		close(feed);
	if (wants("full-log") && !killed) {
		/* the caller writes its log lines last */
		put(CGROUP "/user/cgroup.kill", "1");
		snprintf(result, sizeof(result), "killed");
	} else if (wants("kill-caller") || wants("kill-namespace")) {
		snprintf(result, sizeof(result), "killed");
	} else if (!until(is_over)) {
		tell("restart(2) does not end after record %d", record);
		snprintf(result, sizeof(result), "hangs");
	} else if (shared->ret < 0) {
		snprintf(result, sizeof(result), "%s", strerrorname_np(shared->error));
		if (!until(is_empty))
			tell("a failed restart has left tasks");
		if (!killed && !wants("cut") && !forged && !may_change)
			tell("restart(2) fails: %s", strerror(shared->error));
	} else {
		snprintf(result, sizeof(result), "restarted");
		list_tree();
		for (int i = 0; i < nr_pids; i++)
			check_task(pids[i], forged);
		if (wants("executable")) {
			fd = open(SECRET, O_WRONLY | O_CLOEXEC);
			if (fd < 0)
				tell("a file of root cannot be written: %s", strerror(errno));
			close(fd);
		}
		must_put(TREE "/cgroup.freeze", "0");
		if (!until(was_reaped))
			tell("the restarted tree does not end");
		if (contains(OUT, "a secret is read") || contains(OUT, "core dump") ||
		    contains(OUT, "setuid(0)"))
			tell("the tree has a right that its user does not have");
		if (!may_change && !forged && !contains(OUT, "unharmed\n")) {
			char text[256] = "";

			fd = open(OUT, O_RDONLY | O_CLOEXEC);
			if (read(fd, text, sizeof(text) - 1) < 0)
				text[0] = '\0';
			close(fd);
			tell("the restarted tree says: %s", text);
		}
		if (wants("cage") && !access(MADE, F_OK))
			tell("the caller's seccomp filter is not in force");
	}
	if (killed)
		close(feed);
	put(CGROUP "/user/cgroup.kill", "1");
	put(TREE "/cgroup.kill", "1");
	put(TREE "/cgroup.freeze", "0");
	waitpid(user, NULL, 0);
	if (!until(all_empty))
		tell("tasks are left");
	close(log);
	return result;
}
