// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Attacks a checkpoint(2) or a restart(2) of an unprivileged user in the middle.
 *
 *	adversary restart NTH ATTACK...
 *		the image comes by a pipe, which stalls after record NTH
 *	adversary checkpoint NTH ATTACK...
 *		the image goes into a pipe, which is not read beyond page NTH
 *
 * Numbers are taken modulo the number of records or pages. At the stall, a process of the same user
 * attacks (attacks.c). For a restart all of them are in a user and a pid namespace of that user;
 * the harness is root and outside. The image is that of "./victim adversary", made when there is
 * none. Afterwards the tree must be as it should be, or the call must have failed, and nothing may
 * be left or gained.
 *
 * Prints a line about the run. Exit status 1 and a line on stderr for each thing that was gained,
 * reached or left, 2 if the harness has failed. PATIENCE in the environment is a factor for time
 * limits.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
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
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "adversary.h"

#define IMAGE		"/work/adversary.image"
#define OUT		"/work/adversary.out"
#define LOG		"/work/adversary.log"
#define SECRET		"/work/adversary.secret"
#define GONE		"/work/adversary.gone"
#define MADE		"/work/adversary.made"
#define TEXT		"TOPSECRET\n"
#define LOW_FILES	200
#define RESTART_EQUAL_MOUNTS	2UL

struct shared *shared;
pid_t pids[MAX_PIDS];
int nr_pids, reachable;
static const struct attack *chosen[32];
static const char *names[32];
static int nr_chosen, limit = 20;

void tell(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	__atomic_add_fetch(&shared->reached, 1, __ATOMIC_RELAXED);
}

void fail(const char *format, ...)
{
	va_list args;

	fputs("the harness has failed: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	_exit(2);
}

static int wants(const char *name)
{
	for (int i = 0; i < nr_chosen; i++)
		if (!strcmp(names[i], name))
			return 1;
	return 0;
}

int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -1;
	ret = write(fd, text, strlen(text)) < 0 ? -1 : 0;
	close(fd);
	return ret;
}

static void must_put(const char *path, const char *text)
{
	if (put(path, text))
		fail("%s to %s: %m", text, path);
}

static int contains(const char *path, const char *text)
{
	char all[4096] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (read(fd, all, sizeof(all) - 1) < 0)
		all[0] = '\0';
	close(fd);
	return !!strstr(all, text);
}

/* Returns false when it does not become true in time. */
static int until(int (*done)(void))
{
	time_t end = time(NULL) + limit;

	while (!done()) {
		if (time(NULL) > end)
			return 0;
		sched_yield();
	}
	return 1;
}

static int is_frozen(void) { return contains(TREE "/cgroup.events", "frozen 1"); }
static int is_empty(void) { return contains(TREE "/cgroup.events", "populated 0"); }
static int all_empty(void) { return contains(CGROUP "/cgroup.events", "populated 0"); }
static int has_begun(void) { return __atomic_load_n(&shared->begun, __ATOMIC_ACQUIRE); }
static int is_over(void) { return __atomic_load_n(&shared->over, __ATOMIC_ACQUIRE); }
static int is_done(void)
{
	return __atomic_load_n(&shared->done, __ATOMIC_ACQUIRE) == shared->go;
}

static void own(const char *dir)
{
	static const char *const files[] = {
		"", "/cgroup.procs", "/cgroup.threads", "/cgroup.freeze", "/cgroup.kill",
	};
	char path[256];

	if (mkdir(dir, 0755) && errno != EEXIST)
		fail("%s: %m", dir);
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", dir, files[i]);
		if (chown(path, USER, USER))
			fail("%s: %m", path);
	}
}

static void become_user(void)
{
	if (setgroups(0, NULL) || setresgid(USER, USER, USER) || setresuid(USER, USER, USER) ||
	    prctl(PR_SET_DUMPABLE, 1))
		fail("becoming the user: %m");
}

static void write_file(const char *path, const char *text, int mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	if (fd < 0 || fchmod(fd, mode) || write(fd, text, strlen(text)) < 0)
		fail("%s: %m", path);
	close(fd);
}

static pid_t forked(void)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork: %m");
	return pid;
}

static void prepare(void)
{
	own(CGROUP);
	own(TREE);
	own(OTHER);
	own(CGROUP "/user");
	own(CGROUP "/a");
	own(CGROUP "/b");
	if (access(SECRET, F_OK))
		write_file(SECRET, TEXT, 0600);
	if (access(OUT, F_OK))
		write_file(OUT, "", 0666);
	rmdir(MADE);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGWINCH, SIG_IGN);
	signal(SIGURG, SIG_IGN);
}

/* Starts the victim as the user, and freezes it once its state is complete. */
static pid_t start_victim(void)
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

static void list_tree(void)
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
static int check_at_rest(pid_t root)
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

static void end_tree(pid_t root)
{
	put(TREE "/cgroup.kill", "1");
	let_end(root);
	if (!until(is_empty))
		tell("tasks of the tree cannot be killed");
}

static void save(void)
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

static struct image load(const char *path)
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

/* The attacker: acts each time that the harness tells it to. */
static void attacker(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int turn = 1;; turn++) {
		while (__atomic_load_n(&shared->go, __ATOMIC_ACQUIRE) < turn)
			usleep(500);
		for (int i = 0; i < nr_chosen; i++)
			if (chosen[i]->when == (turn == 1 ? STALL : END))
				chosen[i]->act();
		__atomic_store_n(&shared->done, turn, __ATOMIC_RELEASE);
	}
}

static void let_attack(int turn)
{
	__atomic_store_n(&shared->go, turn, __ATOMIC_RELEASE);
	if (!until(is_done))
		tell("the attacker hangs");
}

static void on_signal(int sig)
{
	(void)sig;
}

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

static int a_log(void)
{
	int ends[2], log = open(LOG, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	if (!wants("full-log"))
		return log;
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK))
		fail("pipe: %m");
	while (write(ends[1], "x", 1) == 1)
		;
	fcntl(ends[1], F_SETFL, 0);
	return ends[1];
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
	/* it is the parent of the tree */
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

/* As newuidmap(1) does; terminals belong to the group 5. */
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
			tell("the image is not read any more");
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

/* Checks that a restarted task has no more than its caller. Root looks from outside. */
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
		tell("task %d is pinned as the caller", pid);
	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", pid);
	if (contains(path, "-"))
		tell("task %d has a negative oom_score_adj", pid);
}

static int was_reaped(void)
{
	return __atomic_load_n(&shared->reaped, __ATOMIC_ACQUIRE) || is_empty();
}

/* Returns true when the attacks may make the call fail, or change what the tree sees. */
static int may_change;

/* Restarts an image; returns what became of it. */
static const char *restart(struct image *image, int nth)
{
	int forged = 0, feed, log = a_log(), record, fd;
	static char result[64];
	size_t at;
	pid_t user;

	read_pids(image);
	for (int i = 0; i < nr_chosen; i++)
		forged += forge(image, names[i]);
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
	/* at the first records cgroup.kill has nobody to kill */
	int populated = !is_empty();

	let_attack(wants("kill-namespace") ? 1 : 2);
	int killed = wants("kill-caller") || wants("kill-cgroup") || wants("kill-namespace");

	if (!killed && !wants("cut"))
		write_all(feed, image->data + at, image->size - at);
	/* who is killed must go while the pipe still stalls */
	if (killed && !is_over() && !until(is_empty)) {
		tell("tasks of a killed restart are left behind record %d", record);
		close(feed);
	}
	if (!killed || (wants("kill-cgroup") && !populated))
		close(feed);
	if (wants("full-log") && !killed) {
		/* the caller writes its lines in the end */
		put(CGROUP "/user/cgroup.kill", "1");
		snprintf(result, sizeof(result), "killed");
	} else if (wants("kill-caller") || wants("kill-namespace")) {
		snprintf(result, sizeof(result), "killed");
	} else if (!until(is_over)) {
		tell("restart(2) does not end behind record %d", record);
		snprintf(result, sizeof(result), "hangs");
	} else if (shared->ret < 0) {
		snprintf(result, sizeof(result), "%s", strerrorname_np(shared->error));
		if (!until(is_empty))
			tell("tasks are left behind a failed restart");
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
				tell("a file of root's cannot be written: %s", strerror(errno));
			close(fd);
		}
		must_put(TREE "/cgroup.freeze", "0");
		if (!until(was_reaped))
			tell("the restarted tree does not end");
		if (contains(OUT, "a secret is read") || contains(OUT, "core dump") ||
		    contains(OUT, "setuid(0)"))
			tell("the tree may do what its user may not");
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

static int filled;

static int is_full(void)
{
	return is_over() || (!ioctl(feed_end, FIONREAD, &filled) && filled == 4096);
}

static const char *checkpoint(int nth)
{
	static char result[64], again[80];
	struct image old = load(IMAGE), image = { };
	int ends[2], pages = old.size / 4096, page = nth % pages, error;
	pid_t root = start_victim(), caller, enemy;
	int refused = wants("shared-memory") || wants("namespace") || wants("unlinked");

	list_tree();
	reachable = 1;
	error = check_at_rest(root);
	if (error && !refused)
		fail("the victim cannot be checkpointed: %s", strerror(error));
	/* what is refused at once has no stall */
	if (error) {
		end_tree(root);
		snprintf(result, sizeof(result), "%s", strerrorname_np(error));
		return result;
	}
	if (wants("shared-memory") || wants("namespace"))
		tell("a tree with %s is saved", wants("namespace") ? "another user namespace" :
		     "memory that it shares with a task outside");
	image.data = malloc(old.size + (1 << 20));
	if (!image.data || pipe2(ends, O_CLOEXEC) || fcntl(ends[1], F_SETPIPE_SZ, 4096) != 4096)
		fail("pipe: %m");
	feed_end = ends[0];
	caller = forked();
	if (!caller) {
		int log = a_log();

		close(ends[0]);
		must_put(CGROUP "/user/cgroup.procs", "0");
		become_user();
		signal(SIGUSR2, on_signal);
		signal(SIGPIPE, SIG_IGN);
		shared->ret = syscall(SYS_checkpoint, root, ends[1], 0UL, log);
		shared->error = errno;
		__atomic_store_n(&shared->over, 1, __ATOMIC_RELEASE);
		_exit(0);
	}
	shared->caller = caller;
	enemy = forked();
	if (!enemy) {
		close(ends[0]);
		close(ends[1]);
		must_put(CGROUP "/user/cgroup.procs", "0");
		become_user();
		attacker();
	}
	close(ends[1]);
	for (int i = 0; i <= page; i++) {
		if (!until(is_full))
			tell("checkpoint(2) does not go on behind page %d", i);
		if (is_over())
			break;
		if (i < page) {
			if (read(ends[0], image.data + image.size, 4096) != 4096)
				fail("reading the image: %m");
			image.size += 4096;
		}
	}
	let_attack(1);
	let_attack(2);
	if (wants("cut"))
		close(ends[0]);
	while (!wants("cut") && !wants("kill-caller")) {
		struct pollfd there = { .fd = ends[0], .events = POLLIN };
		ssize_t n = poll(&there, 1, limit * 1000) == 1 ?
			read(ends[0], image.data + image.size, 4096) : -1;

		/* a call that fails may wait for the reader of its log */
		if (n < 0 && !wants("full-log"))
			tell("checkpoint(2) does not go on at byte %zu", image.size);
		if (n <= 0 || image.size > old.size + (1 << 19))
			break;
		image.size += n;
	}
	/* a call that fails writes its lines in the end, and nobody reads a full log */
	if (wants("full-log") && !until(is_over))
		kill(caller, SIGKILL);
	if (waitpid(caller, NULL, 0) != caller)
		fail("waitpid: %m");
	kill(enemy, SIGKILL);
	waitpid(enemy, NULL, 0);
	if (!is_over())
		snprintf(result, sizeof(result), "killed");
	else if (shared->ret < 0)
		snprintf(result, sizeof(result), "%s", strerrorname_np(shared->error));
	else
		snprintf(result, sizeof(result), "saved");
	if (image.size && memmem(image.data, image.size, TEXT, strlen(TEXT)))
		tell("the image has the content of a file that the user may not read");
	if (!strcmp(result, "EPERM") || !strcmp(result, "EAGAIN") || !strcmp(result, "EINTR"))
		may_change |= wants("seize") || wants("signal-caller");
	if (is_over() && shared->ret < 0 && !may_change && !wants("cut"))
		tell("checkpoint(2) fails: %s", strerror(shared->error));
	/* the tree itself must be unharmed */
	truncate(OUT, 0);
	if (is_over() && !kill(root, 0) && !may_change) {
		must_put(TREE "/cgroup.freeze", "0");
		if (!until(is_empty) || !contains(OUT, "unharmed\n"))
			tell("the checkpointed tree is harmed");
	}
	if (!access(CHILD, F_OK)) {
		pid_t pid;

		put(TREE "/cgroup.freeze", "0");
		pid = forked();
		if (!pid) {
			must_put(CHILD "/cgroup.procs", "0");
			_exit(0);
		}
		for (time_t end = time(NULL) + limit; waitpid(pid, NULL, WNOHANG) != pid;)
			if (time(NULL) > end) {
				tell("a cgroup that was made during a checkpoint stays frozen");
				kill(pid, SIGKILL);
				break;
			}
	}
	end_tree(root);
	if (strcmp(result, "saved"))
		return result;
	/* a saved tree restarts, by whatever it was attacked */
	nr_chosen = 0;
	memset(shared, 0, offsetof(struct shared, reached));
	image.data = realloc(image.data, image.size);
	read_pids(&image);
	snprintf(again, sizeof(again), "saved, %s", restart(&image, records(&image) - 2));
	if (!strstr(again, "restarted"))
		tell("checkpoint(2) has succeeded, but the image does not restart");
	return again;
}

static const char *setuid_program(void)
{
	pid_t pid;
	int status;

	if (access("/work/rooted", F_OK) && system(
		"cd /work && printf 'int pause(void); int main(void) { for (;;) pause(); }' > r.c && "
		"gcc -static -O1 -o rooted r.c && chown 0:0 rooted && chmod 4755 rooted"))
		fail("a setuid program cannot be built");
	pid = forked();
	if (!pid) {
		int null = open("/dev/null", O_WRONLY);

		must_put(CGROUP "/user/cgroup.procs", "0");
		become_user();
		dup2(null, 1);
		dup2(null, 2);
		chdir("/work");
		execl("/work/setuid", "setuid", CGROUP, "/work/rooted", NULL);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 1)
		tell("a program of root's was saved");
	else if (!WIFEXITED(status) || (WEXITSTATUS(status) && WEXITSTATUS(status) != 3))
		fail("setuid has ended with %#x", status);
	return WEXITSTATUS(status) == 3 ? "missed" : "refused";
}

static int has_no_process(void)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	struct stat st;
	char path[300];
	int left = 0;

	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%s", entry->d_name);
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' && !stat(path, &st) &&
		    st.st_uid == USER)
			left = 1;
	}
	if (dir)
		closedir(dir);
	return !left;
}

/* Returns true when the user can create the first namespace of each kind. */
static int has_no_namespace(void)
{
	static const char *const kinds[] = { "user", "pid", "mnt" };
	char path[64], old[3][32] = { };
	int status;
	pid_t pid;

	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "/proc/sys/user/max_%s_namespaces", kinds[i]);
		FILE *file = fopen(path, "re");

		if (!file || !fgets(old[i], sizeof(old[i]), file))
			fail("%s: %m", path);
		fclose(file);
		must_put(path, "1");
	}
	pid = forked();
	if (!pid) {
		become_user();
		_exit(unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID) ? errno : 0);
	}
	waitpid(pid, &status, 0);
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "/proc/sys/user/max_%s_namespaces", kinds[i]);
		must_put(path, old[i]);
	}
	return !status;
}

static int removed(const char *path)
{
	return !rmdir(path) || errno == ENOENT;
}

static int cgroups_are_removed(void)
{
	return removed(CHILD) && removed(TREE) && removed(OTHER) && removed(CGROUP "/a") &&
	       removed(CGROUP "/b") && removed(CGROUP "/user") && removed(CGROUP);
}

int main(int argc, char **argv)
{
	const char *result, *patience = getenv("PATIENCE");
	struct image image;
	int nth;

	if (argc < 3 || argc > 35)
		return 2;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		return 2;
	limit *= patience ? atoi(patience) : 1;
	nth = atoi(argv[2]);
	prepare();
	if (access(IMAGE, F_OK))
		save();
	for (int i = 3; i < argc; i++) {
		names[nr_chosen] = argv[i];
		chosen[nr_chosen++] = attack_named(argv[i]);
	}
	may_change = !!getenv("MAY_CHANGE");
	image = load(IMAGE);
	if (wants("setuid-program"))
		result = setuid_program();
	else if (!strcmp(argv[1], "checkpoint"))
		result = checkpoint(nth);
	else
		result = restart(&image, nth);
	put(CGROUP "/cgroup.kill", "1");
	if (!until(all_empty) || !until(has_no_process))
		tell("a process is left");
	if (!until(has_no_namespace))
		tell("a namespace is left");
	if (!until(cgroups_are_removed))
		tell("a cgroup is left: %s", strerror(errno));
	printf("%s\n", result);
	return !!shared->reached;
}
