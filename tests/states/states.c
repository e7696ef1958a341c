// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Sets up a combination of parts chosen by a number, calls getppid(2), the event, and checks that
 * each part is unchanged.
 *
 *	states list		prints the names of all parts
 *	states NUMBER		sets up some of them, chosen by NUMBER; prints a line for each,
 *				"NAME: as it was" or "NAME: lost: ...", and exits with 1 if
 *				anything was lost
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

static const char *part;	/* the current part, for messages */
static int lost;

static void must(int good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "%s: %s: %s\n", part, what, strerror(errno));
	exit(2);
}

static void same(int good, const char *format, ...)
{
	va_list args;

	if (good)
		return;
	printf("%s: lost: ", part);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	lost = 1;
}

static uint64_t seed;

static unsigned int draw(unsigned int n)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (seed >> 33) % n;
}

/* A child that performs a check on request and reports the result by its exit status. */
struct child {
	pid_t pid;
	int tell;
};

static struct child child(int (*look)(void))
{
	struct child c;
	int ends[2];
	char byte;

	must(!pipe2(ends, O_CLOEXEC), "pipe");
	c.pid = fork();
	must(c.pid >= 0, "fork");
	if (!c.pid) {
		close(ends[1]);
		if (read(ends[0], &byte, 1) != 1)
			_exit(99);
		_exit(look());
	}
	close(ends[0]);
	c.tell = ends[1];
	return c;
}

static int ask(struct child c)
{
	int status;

	if (write(c.tell, "?", 1) != 1 || waitpid(c.pid, &status, 0) != c.pid)
		return -1;
	close(c.tell);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Pages that two children share with each other, but no longer with their parent. */
static char *cow_pages;
static struct child cow_children[2];

static int cow_look(void)
{
	for (int i = 0; i < 16; i++)
		if (cow_pages[i * PAGE] != 'a' + i)
			return 1;
	cow_pages[0] = 'z';
	return 0;
}

static void cow_begin(void)
{
	cow_pages = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(cow_pages != MAP_FAILED, "mmap");
	for (int i = 0; i < 16; i++)
		cow_pages[i * PAGE] = 'a' + i;
	cow_children[0] = child(cow_look);
	cow_children[1] = child(cow_look);
	munmap(cow_pages, (1 + draw(15)) * PAGE);
}

static void cow_end(void)
{
	int a = ask(cow_children[0]), b = ask(cow_children[1]);

	same(!a && !b, "the children end with %d and %d", a, b);
}

/* The names of the executable and of a mapped file refer to different files now. */
static char *mapped;
static char exe_before[256];

static void read_maps(char *to)
{
	int fd = open("/proc/self/maps", O_RDONLY);
	size_t len = 0;
	ssize_t n;

	while ((n = read(fd, to + len, 16383 - len)) > 0)
		len += n;
	to[len] = '\0';
	close(fd);
}

static void replaced_begin(void)
{
	int fd = open("mapped", O_CREAT | O_RDWR | O_TRUNC, 0644);

	must(fd >= 0 && write(fd, "content", 7) == 7, "mapped");
	mapped = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, draw(2) ? MAP_PRIVATE : MAP_SHARED, fd, 0);
	must(mapped != MAP_FAILED, "mmap");
	mapped[8] = 'x';
	close(fd);
	close(creat("other", 0644));
	must(!rename("other", "mapped"), "rename");
	if (draw(2)) {
		must(!system("cp states replacement && mv replacement states"), "mv");
	}
	memset(exe_before, 0, sizeof(exe_before));
	must(readlink("/proc/self/exe", exe_before, sizeof(exe_before) - 1) > 0, "exe");
}

static void replaced_end(void)
{
	char exe[256] = "", maps[16384];

	same(!memcmp(mapped, "content\0x", 7), "the mapped file");
	same(readlink("/proc/self/exe", exe, sizeof(exe) - 1) > 0 && !strcmp(exe, exe_before),
	     "the executable is %s, not %s", exe, exe_before);
	read_maps(maps);
	same(strstr(maps, "/mapped (deleted)") != NULL, "/proc/self/maps has no mapped (deleted)");
	struct stat st;

	same(!stat("mapped", &st) && !st.st_size, "the file of that name now");
}

/* The vdso is unmapped; clocks are read by system calls. */
static struct child vdso_child;

static int vdso_look(void)
{
	struct timespec ts;

	return syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts) ? 1 : 0;
}

static void vdso_begin(void)
{
	int ends[2];
	char byte;

	must(!pipe2(ends, O_CLOEXEC), "pipe");
	vdso_child.pid = fork();
	must(vdso_child.pid >= 0, "fork");
	if (!vdso_child.pid) {
		char *at = (char *)getauxval(AT_SYSINFO_EHDR), maps[16384], *line;
		unsigned long from, to;

		close(ends[1]);
		read_maps(maps);
		for (line = strtok(maps, "\n"); line; line = strtok(NULL, "\n"))
			if ((strstr(line, "[vvar]") || strstr(line, "[vdso]")) &&
			    sscanf(line, "%lx-%lx", &from, &to) == 2)
				syscall(SYS_munmap, from, to - from);
		(void)at;
		if (syscall(SYS_read, ends[0], &byte, 1) != 1)
			_exit(99);
		_exit(vdso_look());
	}
	close(ends[0]);
	vdso_child.tell = ends[1];
}

static void vdso_end(void)
{
	int ret = ask(vdso_child);

	same(!ret, "the child without a vdso ends with %d", ret);
}

/* A descriptor above the current limit. */
static int high_fd;
static struct rlimit high_limit;

static void high_begin(void)
{
	struct rlimit limit;

	must(!getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
	high_limit = limit;
	limit.rlim_cur = limit.rlim_max;
	must(!setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
	high_fd = fcntl(eventfd(7, EFD_CLOEXEC), F_DUPFD_CLOEXEC, 2000 + draw(1000));
	must(high_fd >= 2000, "F_DUPFD");
	high_limit.rlim_cur = 1024;
	must(!setrlimit(RLIMIT_NOFILE, &high_limit), "setrlimit");
}

static void high_end(void)
{
	struct rlimit limit;
	uint64_t value = 0;

	same(read(high_fd, &value, 8) == 8 && value == 7, "descriptor %d", high_fd);
	same(!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur == high_limit.rlim_cur &&
	     limit.rlim_max == high_limit.rlim_max, "the limit");
}

/* A pipe in packet mode. */
static int packets[2];

static void packets_begin(void)
{
	must(!pipe2(packets, O_DIRECT | O_NONBLOCK | O_CLOEXEC), "pipe");
	must(write(packets[1], "one", 3) == 3 && write(packets[1], "second", 6) == 6, "write");
}

static void packets_end(void)
{
	char text[64];

	same(read(packets[0], text, 64) == 3 && !memcmp(text, "one", 3), "the first packet");
	same(read(packets[0], text, 64) == 6 && !memcmp(text, "second", 6), "the second packet");
	same(write(packets[1], "x", 1) == 1 && write(packets[1], "y", 1) == 1 &&
	     read(packets[0], text, 64) == 1, "it is in packet mode");
}

/* Pages that were spliced into a pipe and are still mapped. */
static int given[2];
static char *given_page;

static void given_begin(void)
{
	struct iovec iov;

	given_page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(given_page != MAP_FAILED && !pipe2(given, O_CLOEXEC), "pipe");
	memset(given_page, 'a', PAGE);
	/* otherwise a fork of a different part would make the next write copy it */
	must(!madvise(given_page, PAGE, MADV_DONTFORK), "madvise");
	iov = (struct iovec){ given_page, PAGE };
	must(vmsplice(given[1], &iov, 1, 0) == PAGE, "vmsplice");
}

static void given_end(void)
{
	char text[PAGE];

	given_page[5] = 'b';
	same(read(given[0], text, PAGE) == PAGE && text[5] == 'b', "the page is a copy");
}

/* An open file in /proc of a process that has exited. */
static int dead_fd;

static void dead_begin(void)
{
	static const char *const names[] = { "stat", "maps", "mem", "comm", "environ" };
	char path[64];
	pid_t pid = fork();

	must(pid >= 0, "fork");
	if (!pid) {
		pause();
		_exit(0);
	}
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, names[draw(4)]);
	dead_fd = open(path, O_RDONLY | O_CLOEXEC);
	must(dead_fd >= 0, path);
	must(!kill(pid, SIGKILL) && waitpid(pid, NULL, 0) == pid, "kill");
}

static void dead_end(void)
{
	char text[64];
	ssize_t n = read(dead_fd, text, sizeof(text));

	same(n < 0 ? errno == ESRCH : n == 0, "reading gives %zd", n);
}

/* A socket with an abstract name that is only in a message. */
static int flying[2];

static void flying_begin(void)
{
	char control[CMSG_SPACE(sizeof(int))] = "", byte = 'x';
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "\0flying" };
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	must(fd >= 0 && !bind(fd, (struct sockaddr *)&name, sizeof(sa_family_t) + 7), "bind");
	must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, flying), "socketpair");
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
	must(sendmsg(flying[0], &msg, 0) == 1, "sendmsg");
	close(fd);
}

static void flying_end(void)
{
	char control[CMSG_SPACE(sizeof(int))] = "", byte;
	struct sockaddr_un name;
	socklen_t len = sizeof(name);
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	int fd = -1;

	same(recvmsg(flying[1], &msg, 0) == 1 && msg.msg_controllen, "the message");
	if (msg.msg_controllen)
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
	same(!getsockname(fd, (struct sockaddr *)&name, &len) &&
	     len == sizeof(sa_family_t) + 7 && !memcmp(name.sun_path, "\0flying", 7), "its name");
}

/* A program in a memfd that is open and executable. */
static int program_fd;

static void program_begin(void)
{
	static const char text[] = "#!/bin/sh\nexit 23\n";

	program_fd = memfd_create("program", 0);
	must(program_fd >= 0 && write(program_fd, text, sizeof(text) - 1) > 0, "memfd");
	if (draw(2))
		must(!fcntl(program_fd, F_ADD_SEALS, 0) || errno == EPERM, "seal");
	char path[64];
	int fd;

	/* read-only, because a file open for writing cannot be executed */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", program_fd);
	fd = open(path, O_RDONLY);
	must(fd >= 0 && !close(program_fd), "reopen");
	program_fd = fd;
}

static void program_end(void)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		char *argv[] = { "program", NULL }, *envp[] = { NULL };

		fexecve(program_fd, argv, envp);
		_exit(errno);
	}
	waitpid(pid, &status, 0);
	same(WIFEXITED(status) && WEXITSTATUS(status) == 23, "fexecve: %s",
	     strerror(WEXITSTATUS(status)));
}

/* Times, owner and mode of an unlinked file, and of one that can be linked. */
static int nameless_fd, linkable;
static struct stat nameless_stat;

static void nameless_begin(void)
{
	struct timespec times[2] = { { 1000000, 5 }, { 2000000, 7 } };

	linkable = draw(2);
	if (linkable) {
		nameless_fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0640);
	} else {
		nameless_fd = open("unlinked", O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0640);
		unlink("unlinked");
	}
	must(nameless_fd >= 0 && write(nameless_fd, "content", 7) == 7, "file");
	must(!fchown(nameless_fd, 12, 34) && !fchmod(nameless_fd, 04711), "fchmod");
	must(!futimens(nameless_fd, times), "futimens");
	must(!fstat(nameless_fd, &nameless_stat), "fstat");
}

static void nameless_end(void)
{
	char text[16] = "", path[64];
	struct stat st;

	same(!fstat(nameless_fd, &st), "fstat");
	same(st.st_mode == nameless_stat.st_mode && st.st_uid == 12 && st.st_gid == 34,
	     "mode %o owner %u:%u", st.st_mode, st.st_uid, st.st_gid);
	same(st.st_mtim.tv_sec == 2000000 && st.st_mtim.tv_nsec == nameless_stat.st_mtim.tv_nsec &&
	     st.st_atim.tv_sec == 1000000, "times");
	same(pread(nameless_fd, text, 7, 0) == 7 && !strcmp(text, "content"), "content");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", nameless_fd);
	unlink("linked");
	same(linkable == !linkat(AT_FDCWD, path, AT_FDCWD, "linked", AT_SYMLINK_FOLLOW),
	     "linkat: %s", strerror(errno));
}

/* Flags of mappings, as the kernel shows them. */
#define FLAGGED 6
static char *flagged[FLAGGED];
static char flags_before[FLAGGED][256];

static void read_flags(const char *at, char *to)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	char line[512], wanted[32];
	int found = 0;

	snprintf(wanted, sizeof(wanted), "%lx-", (unsigned long)at);
	to[0] = '\0';
	while (fgets(line, sizeof(line), file)) {
		if (!strncmp(line, wanted, strlen(wanted)))
			found = 1;
		else if (found && !strncmp(line, "VmFlags:", 8)) {
			snprintf(to, 256, "%.255s", line);
			break;
		}
	}
	fclose(file);
}

static void flags_begin(void)
{
	static const int advices[] = {
		MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK, MADV_SEQUENTIAL, MADV_RANDOM,
	};

	for (int i = 0; i < FLAGGED; i++) {
		int droppable = i == 5;

		flagged[i] = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
				  (droppable ? 8 /* MAP_DROPPABLE */ : MAP_PRIVATE) |
				  MAP_ANONYMOUS | (draw(2) ? MAP_NORESERVE : 0), -1, 0);
		must(flagged[i] != MAP_FAILED, "mmap");
		flagged[i][0] = 'a' + i;
		if (i < 5)
			must(!madvise(flagged[i], 2 * PAGE, advices[draw(5)]), "madvise");
		else
			must(!mprotect(flagged[i], 2 * PAGE, PROT_READ), "mprotect");
		/* prevents merging of neighbours */
		must(mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED,
		     "mmap");
	}
	for (int i = 0; i < FLAGGED; i++)
		read_flags(flagged[i], flags_before[i]);
}

static void flags_end(void)
{
	for (int i = 0; i < FLAGGED; i++) {
		char flags[256];

		read_flags(flagged[i], flags);
		same(!strcmp(flags, flags_before[i]), "%.*s, not %.*s",
		     (int)strcspn(flags, "\n"), flags,
		     (int)strcspn(flags_before[i], "\n"), flags_before[i]);
		if (i < 5)
			same(flagged[i][0] == 'a' + i, "the content of mapping %d", i);
	}
}

/* CPU clocks continue: of the process, of reaped children and of a zombie. */
static struct timespec cpu_before;
static struct rusage children_before;
static pid_t cpu_zombie;

static void burn(void)
{
	struct timespec ts;

	do
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	while (ts.tv_nsec < 100000000 && !ts.tv_sec);
}

static void cpu_begin(void)
{
	siginfo_t info;
	pid_t pid;

	burn();
	for (int i = 0; i < 2; i++) {
		pid = fork();
		must(pid >= 0, "fork");
		if (!pid) {
			burn();
			_exit(0);
		}
		if (!i)
			must(waitpid(pid, NULL, 0) == pid, "waitpid");
		else
			must(!waitid(P_PID, pid, &info, WEXITED | WNOWAIT), "waitid");
	}
	cpu_zombie = pid;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu_before);
	getrusage(RUSAGE_CHILDREN, &children_before);
}

static long usec(struct timeval t)
{
	return t.tv_sec * 1000000 + t.tv_usec;
}

static void cpu_end(void)
{
	struct rusage children, zombie;
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	same(now.tv_sec > cpu_before.tv_sec ||
	     (now.tv_sec == cpu_before.tv_sec && now.tv_nsec >= cpu_before.tv_nsec),
	     "the process' clock went back");
	getrusage(RUSAGE_CHILDREN, &children);
	same(usec(children.ru_utime) + usec(children.ru_stime) >=
	     usec(children_before.ru_utime) + usec(children_before.ru_stime), "the children's time");
	same(wait4(cpu_zombie, NULL, 0, &zombie) == cpu_zombie &&
	     usec(zombie.ru_utime) + usec(zombie.ru_stime) > 20000, "the zombie's time");
}

/* A host name in a UTS namespace of its own. */
static void host_begin(void)
{
	must(!unshare(CLONE_NEWUTS) && !sethostname("elsewhere", 9), "uts");
}

static void host_end(void)
{
	char name[64] = "";

	gethostname(name, sizeof(name));
	same(!strcmp(name, "elsewhere"), "the host's name is %s", name);
}

/* The order in which epoll reports ready items. */
#define WATCHED 6
static int epoll_fd, watched[WATCHED], order[WATCHED];

static void epoll_begin(void)
{
	uint64_t one = 1;

	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	must(epoll_fd >= 0, "epoll_create");
	for (int i = 0; i < WATCHED; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.u32 = i };

		watched[i] = eventfd(0, EFD_CLOEXEC);
		must(!epoll_ctl(epoll_fd, EPOLL_CTL_ADD, watched[i], &event), "epoll_ctl");
		order[i] = i;
	}
	for (int i = WATCHED - 1; i > 0; i--) {
		int j = draw(i + 1), t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (int i = 0; i < WATCHED; i++)
		must(write(watched[order[i]], &one, 8) == 8, "write");
}

static void epoll_end(void)
{
	struct epoll_event events[WATCHED];

	same(epoll_wait(epoll_fd, events, WATCHED, 0) == WATCHED, "how many are ready");
	for (int i = 0; i < WATCHED; i++)
		same(events[i].data.u32 == (unsigned int)order[i], "place %d is %u's, not %d's", i,
		     events[i].data.u32, order[i]);
}

/* A child in the strict mode of seccomp: it can read, write and exit. */
static struct child strict;

static void strict_begin(void)
{
	int ends[2];
	char byte;

	must(!pipe2(ends, O_CLOEXEC), "pipe");
	strict.pid = fork();
	must(strict.pid >= 0, "fork");
	if (!strict.pid) {
		close(ends[1]);
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
		syscall(SYS_read, ends[0], &byte, 1);
		/* a forbidden call, which kills the child */
		if (byte == '?')
			syscall(SYS_getpid);
		syscall(SYS_exit, 5);
	}
	close(ends[0]);
	strict.tell = ends[1];
}

static void strict_end(void)
{
	int ret = ask(strict);

	same(ret == 128 + SIGKILL, "the child ends with %d", ret);
}

/* A pidfd, which checkpoint(2) refuses. */
static int pidfd;

static void pidfd_begin(void)
{
	pidfd = syscall(SYS_pidfd_open, getpid(), 0);
	must(pidfd >= 0, "pidfd_open");
}

static void pidfd_end(void)
{
	same(!syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0), "the pidfd");
}

static const struct {
	const char *name;
	void (*begin)(void);
	void (*end)(void);
} parts[] = {
	{ "copy-on-write", cow_begin, cow_end },
	{ "replaced-name", replaced_begin, replaced_end },
	{ "no-vdso", vdso_begin, vdso_end },
	{ "high-descriptor", high_begin, high_end },
	{ "packets", packets_begin, packets_end },
	{ "vmsplice", given_begin, given_end },
	{ "dead-process", dead_begin, dead_end },
	{ "flying-name", flying_begin, flying_end },
	{ "memfd-program", program_begin, program_end },
	{ "nameless", nameless_begin, nameless_end },
	{ "mapping-flags", flags_begin, flags_end },
	{ "cpu-time", cpu_begin, cpu_end },
	{ "namespace", host_begin, host_end },
	{ "epoll-order", epoll_begin, epoll_end },
	{ "strict", strict_begin, strict_end },
	{ "pidfd", pidfd_begin, pidfd_end },
};

#define PARTS ((int)(sizeof(parts) / sizeof(parts[0])))

int main(int argc, char **argv)
{
	int chosen[PARTS], n;

	if (argc != 2)
		return 2;
	if (!strcmp(argv[1], "list")) {
		for (int i = 0; i < PARTS; i++)
			puts(parts[i].name);
		return 0;
	}
	seed = strtoull(argv[1], NULL, 10) * 2654435761u + 1;
	for (int i = 0; i < 8; i++)
		draw(2);
	for (int i = 0; i < PARTS; i++)
		chosen[i] = i;
	for (int i = PARTS - 1; i > 0; i--) {
		int j = draw(i + 1), t = chosen[i];

		chosen[i] = chosen[j];
		chosen[j] = t;
	}
	n = 1 + draw(4);
	for (int i = 0; i < n; i++) {
		part = parts[chosen[i]].name;
		parts[chosen[i]].begin();
	}
	syscall(SYS_getppid);
	for (int i = 0; i < n; i++) {
		int before = lost;

		lost = 0;
		part = parts[chosen[i]].name;
		parts[chosen[i]].end();
		if (!lost)
			printf("%s: as it was\n", part);
		lost |= before;
	}
	fflush(stdout);
	return lost;
}
