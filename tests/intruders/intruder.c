// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Restarts an image through a pipe that stalls behind a record, and tries meanwhile to get
 * hold of what is being restarted, or ends it.
 *
 *	intruder list IMAGE
 *		prints the number of records
 *	intruder attack IMAGE CGROUP RECORD
 *		every attack there is; then the rest of the image, and the tree's end
 *	intruder end IMAGE CGROUP RECORD HOW
 *		HOW: kill (the restarter), cgroup (cgroup.kill), log (the restarter, whose
 *		log is a full pipe, after a damaged record)
 *	intruder fail IMAGE CGROUP RECORD
 *		the image ends there, after a signal to the restarter: nothing is left of the
 *		restart, and what is the restarter's is as before
 *	intruder restart IMAGE CGROUP 0
 *		no attack at all
 *	intruder cage IMAGE CGROUP 0
 *		a restart from under a seccomp filter that lets nobody make directories
 *
 * Exit status 1 and a line on stderr for each thing that was reached, or not ended.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/kcmp.h>
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
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SYS_checkpoint	500
#define SYS_restart	501
/* what restart(2) is told: a proc of the new pid namespace, and the same mounts */
#define RESTART_FLAGS	3UL
/* end of patience, seconds */
#define LIMIT		60
/* what the kernel's struct ckpt_rec takes */
#define HEAD		24
/* as many processes as are looked for beyond the first */
#define NUMBERS		32

static int reached;

static void tell(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	reached = 1;
}

static void fail(const char *format, ...)
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

/* Where record @nr ends; 0 where there are not so many. */
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

/* Until nobody reads any more: then the restart has ended, and told why. */
static void write_all(int fd, const void *data, size_t len)
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

static void until(int (*done)(void), const char *words)
{
	time_t end = time(NULL) + LIMIT;

	while (!done()) {
		if (time(NULL) > end)
			fail("not in %d s: %s", LIMIT, words);
		sched_yield();
	}
}

/*
 * The restarter: a process of its own, with a second thread that waits for
 * children, whoever they are.
 */
struct shared {
	int begun;		/* the first thread is about to call restart(2) */
	int stop;		/* the second thread is to end */
	int waited;		/* it has tried once more */
	int stolen;		/* pid of what it got; 0 for nothing */
	int thief;		/* its own number */
	long ret;		/* of restart(2) */
	int error;
};

static struct shared *shared;
static const char *cgroup;
static int image_end, log_end = STDERR_FILENO;

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

static int caged, fails;
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

/* Nothing of it is left, and what was there before is untouched. */
static void check_undone(pid_t child, int mounts)
{
	siginfo_t info = { };

	if (shared->error != EIO)
		tell("restart: %s", strerror(shared->error));
	if (mounts_at_proc() != mounts)
		tell("%d mounts at /proc instead of %d", mounts_at_proc(), mounts);
	if (!signals)
		tell("a signal was lost");
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

static int restarter(void)
{
	int status, dir = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC), mounts;
	pthread_t thread;
	pid_t child = 0;
	long root;

	/* signals to many are for those that are being restarted */
	for (int sig = 1; sig < SIGRTMAX; sig++)
		if (sig != SIGCHLD)
			signal(sig, SIG_IGN);
	if (fails) {
		siginfo_t info;

		signal(SIGUSR2, on_signal);
		child = fork();
		if (!child)
			_exit(0);
		if (child < 0 || waitid(P_PID, child, &info, WEXITED | WNOWAIT))
			fail("a child: %m");
		/* it would take that child */
		shared->thief = -1;
	}
	/* before there is another namespace for children, which a thread is not for */
	else if (pthread_create(&thread, NULL, steal, NULL))
		fail("pthread_create");
	if (dir < 0 || unshare(CLONE_NEWNS | CLONE_NEWPID) ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		fail("the restarter: %m");
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

static pid_t first, self;
static int feed;

/* Numbers that are somebody else's. */
static int is_ours(pid_t pid)
{
	return pid == self || pid == first || pid == shared->thief;
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
	first = fork();
	if (first < 0)
		fail("fork: %m");
	if (!first) {
		close(feed);
		setpgid(0, 0);
		_exit(restarter());
	}
	close(image_end);
	setpgid(first, first);
	/* nobody reads it but the restarter: without one, writing tells */
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

static int waited_before;

static int waited_again(void)
{
	return __atomic_load_n(&shared->waited, __ATOMIC_ACQUIRE) > waited_before + 1;
}

/*
 * Attacks
 */

static void on_number(pid_t pid)
{
	char path[64], byte;
	struct iovec local = { .iov_base = &byte, .iov_len = 1 };
	struct iovec remote = { .iov_base = (void *)0x400000, .iov_len = 1 };
	struct rlimit limit;
	cpu_set_t cpus;
	int fd;

	if (!kill(pid, 0) || errno != ESRCH)
		tell("kill(%d, 0) finds it", pid);
	if (!kill(pid, SIGUSR1) || errno != ESRCH)
		tell("kill(%d, SIGUSR1) finds it", pid);
	fd = syscall(SYS_pidfd_open, pid, 0);
	if (fd >= 0) {
		int file = syscall(SYS_pidfd_getfd, fd, 0, 0);

		tell("pidfd_open(%d) opens it; descriptor 0: %d", pid, file);
		close(fd);
	}
	if (!ptrace(PTRACE_SEIZE, pid, 0, 0) || errno != ESRCH)
		tell("PTRACE_SEIZE finds %d", pid);
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (open(path, O_RDONLY) >= 0 || errno != ENOENT)
		tell("%s is there", path);
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	if (open(path, O_RDONLY) >= 0 || errno != ENOENT)
		tell("%s is there", path);
	/* ENOSYS: not in every configuration */
	if (process_vm_readv(pid, &local, 1, &remote, 1, 0) >= 0 ||
	    (errno != ESRCH && errno != ENOSYS))
		tell("process_vm_readv finds %d", pid);
	if (!sched_getaffinity(pid, sizeof(cpus), &cpus) || errno != ESRCH)
		tell("sched_getaffinity finds %d", pid);
	if (!prlimit(pid, RLIMIT_CORE, NULL, &limit) || errno != ESRCH)
		tell("prlimit finds %d", pid);
	if (!setpriority(PRIO_PROCESS, pid, 19) || errno != ESRCH)
		tell("setpriority finds %d", pid);
	if (getpgid(pid) >= 0 || errno != ESRCH)
		tell("getpgid finds %d", pid);
	if (!syscall(SYS_kcmp, pid, self, KCMP_VM, 0, 0) || errno != ESRCH)
		tell("kcmp finds %d", pid);
	if (!syscall(SYS_checkpoint, pid, -1, 1UL, -1) || errno != ESRCH)
		tell("checkpoint finds %d", pid);
	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && (dprintf(fd, "%d", pid) >= 0 || errno != ESRCH))
		tell("cgroup.procs takes %d", pid);
	close(fd);
}

/* The numbers behind the restarter's, one of each process that it has created. */
static void on_numbers(void)
{
	for (pid_t pid = first + 1; pid < first + NUMBERS; pid++)
		if (!is_ours(pid))
			on_number(pid);
}

static void expect_empty(const char *path)
{
	char text[256] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		fail("%s: %m", path);
	close(fd);
	if (text[0])
		tell("%s lists %s", path, text);
}

static void on_lists(void)
{
	struct dirent *entry;
	char path[128];
	DIR *dir;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	expect_empty(path);
	snprintf(path, sizeof(path), "%s/cgroup.threads", cgroup);
	expect_empty(path);
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", first, first);
	expect_empty(path);
	dir = opendir("/proc");
	while ((entry = readdir(dir))) {
		pid_t pid = atoi(entry->d_name);

		if (pid > first && pid < first + NUMBERS && !is_ours(pid))
			tell("/proc lists %d", pid);
	}
	closedir(dir);
}

/* What is not blocked kills us: these are ignored by everybody who is not the target. */
static void on_many(void)
{
	if (kill(-first, SIGWINCH))
		fail("kill(-%d): %m", first);
	if (kill(-1, SIGURG))
		fail("kill(-1): %m");
	setpriority(PRIO_PGRP, first, 1);
}

static void on_terminals(void)
{
	DIR *dir = opendir("/dev/pts");
	struct dirent *entry;
	char path[300];

	while (dir && (entry = readdir(dir))) {
		int discipline = 27, fd;	/* N_NULL */

		if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/dev/pts/%s", entry->d_name);
		fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			continue;
		tell("%s can be opened", path);
		ioctl(fd, TIOCSETD, &discipline);
		write(fd, "intruder", 8);
		close(fd);
	}
	if (dir)
		closedir(dir);
}

static void on_names(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "\0victim" };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		fail("socket: %m");
	if (sendto(fd, "intruder", 8, MSG_DONTWAIT, (struct sockaddr *)&name,
		   sizeof(sa_family_t) + 7) >= 0)
		tell("a datagram is taken");
	close(fd);
}

static void on_restarter(void)
{
	if (!syscall(SYS_checkpoint, first, -1, 1UL, -1))
		tell("a checkpoint of the restarter succeeds");
}

static int attack(void)
{
	int status;

	waited_before = __atomic_load_n(&shared->waited, __ATOMIC_ACQUIRE);
	on_numbers();
	on_lists();
	on_many();
	on_terminals();
	on_names();
	on_restarter();
	until(waited_again, "the restarter's second thread has waited");
	if (shared->stolen)
		tell("wait4(__WALL) of another thread finds %d", shared->stolen);
	return waitpid(first, &status, WNOHANG) == first ? status : -1;
}

/*
 * Ends
 */

static int gone(void)
{
	char path[128], text[128] = "";
	int fd;

	snprintf(path, sizeof(path), "%s/cgroup.events", cgroup);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		fail("%s: %m", path);
	close(fd);
	return !!strstr(text, "populated 0");
}

static int ended_status;

static int ended(void)
{
	return waitpid(first, &ended_status, WNOHANG) == first;
}

static void end_it(const char *how)
{
	char path[128];
	int fd;

	if (!strcmp(how, "cgroup")) {
		snprintf(path, sizeof(path), "%s/cgroup.kill", cgroup);
		fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, "1", 1) != 1)
			fail("%s: %m", path);
		close(fd);
	} else {
		if (!strcmp(how, "log")) {
			char rest[4 * HEAD];

			/* no record is like it: everybody has something to say */
			memset(rest, 0xff, sizeof(rest));
			write(feed, rest, sizeof(rest));
		}
		if (kill(first, SIGKILL))
			fail("kill: %m");
	}
	until(ended, "the restarter is gone");
	until(gone, "what it has created is gone");
}

static void fill_log(void)
{
	int ends[2];
	char byte = 'x';

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK))
		fail("pipe: %m");
	while (write(ends[1], &byte, 1) == 1)
		;
	/* the restarter's end waits */
	if (fcntl(ends[1], F_SETFL, 0))
		fail("fcntl: %m");
	log_end = ends[1];
}

int main(int argc, char **argv)
{
	int status, number;
	size_t at;

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
	caged = !strcmp(argv[1], "cage");
	fails = !strcmp(argv[1], "fail");
	/* what is for many is not for us */
	signal(SIGURG, SIG_IGN);
	signal(SIGWINCH, SIG_IGN);
	begin();
	until(has_begun, "restart(2) begins");
	write_all(feed, image, at);
	until(all_taken, "the image is read");
	if (!strcmp(argv[1], "end")) {
		end_it(argv[5]);
		return reached;
	}
	if (fails) {
		if (kill(first, SIGUSR2))
			fail("kill: %m");
		close(feed);
		if (waitpid(first, &status, 0) != first || status)
			tell("the restarter has ended with %#x", status);
		until(gone, "what it has created is gone");
		return reached;
	}
	if (!strcmp(argv[1], "attack")) {
		status = attack();
		if (status >= 0)
			fail("the restarter is gone: %#x", status);
	}
	/* when it is there, the tree's root is anybody's to wait for */
	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
	until(thief_is_gone, "the restarter's second thread ends");
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
