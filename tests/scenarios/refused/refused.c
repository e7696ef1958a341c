// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Holds an object that cannot be checkpointed, in a child, and uses it after the event: a
 * refusal must not change it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/io.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	_exit(1);
}

static void check(int failed, const char *what)
{
	if (failed)
		die(what);
}

static void stop_here(void)
{
	syscall(SYS_getppid);
}

static void listening(void)
{
	struct sockaddr_un name = { AF_UNIX, "" };
	socklen_t size = sizeof(name);
	int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);

	check(server < 0 || client < 0, "socket");
	/* the kernel chooses a name */
	check(bind(server, (struct sockaddr *)&name, sizeof(name.sun_family)), "bind");
	check(listen(server, 1), "listen");
	stop_here();
	check(getsockname(server, (struct sockaddr *)&name, &size), "getsockname");
	check(connect(client, (struct sockaddr *)&name, size), "connect");
	check(accept(server, NULL, NULL) < 0, "accept");
}

static void internet(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	check(fd < 0, "socket");
	stop_here();
	check(setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &(int){ 1 }, sizeof(int)), "SO_BROADCAST");
}

static void give(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = "";
	struct iovec iov = { "file", 4 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	*(int *)CMSG_DATA(cmsg) = fd;
	check(sendmsg(socket, &msg, 0) != 4, "sendmsg");
}

/* A listening socket that only a message holds, with a pending connection. */
static void waiting(void)
{
	struct sockaddr_un name = { AF_UNIX, "" };
	socklen_t size = sizeof(name);
	int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
	int ends[2];

	check(server < 0 || client < 0, "socket");
	check(bind(server, (struct sockaddr *)&name, sizeof(name.sun_family)), "bind");
	check(listen(server, 1), "listen");
	check(getsockname(server, (struct sockaddr *)&name, &size), "getsockname");
	check(connect(client, (struct sockaddr *)&name, size), "connect");
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
	give(ends[0], server);
	close(server);
	stop_here();
	check(recv(ends[1], (char[4]){ 0 }, 4, 0) != 4, "recv");
	check(send(client, "x", 1, MSG_NOSIGNAL) >= 0, "send");
}

/* An epoll file that is in no descriptor table, only in a message. */
static void flying(void)
{
	int ends[2], epoll = epoll_create1(0);
	char byte;

	check(epoll < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
	give(ends[0], epoll);
	close(epoll);
	stop_here();
	check(recv(ends[1], &byte, 1, 0) != 1 || byte != 'f', "recv");
}

/* Watches a file that has been unlinked. */
static void watched(void)
{
	int fd = inotify_init1(IN_NONBLOCK), file = open("watched", O_CREAT | O_RDWR, 0644);
	char buffer[512];

	check(fd < 0 || file < 0, "inotify");
	check(inotify_add_watch(fd, "watched", IN_MODIFY) < 0 || unlink("watched"), "watched");
	stop_here();
	check(write(file, "x", 1) != 1, "write");
	check(read(fd, buffer, sizeof(buffer)) <= 0, "read");
}

static void lock(void)
{
	int fd = open("locked", O_CREAT | O_RDWR, 0644), other;

	check(fd < 0 || flock(fd, LOCK_EX), "flock");
	stop_here();
	other = open("locked", O_RDWR);
	check(other < 0 || !flock(other, LOCK_EX | LOCK_NB), "it is not locked");
}

static void fifo(void)
{
	int fd;

	check(mkfifo("fifo", 0644), "mkfifo");
	fd = open("fifo", O_RDWR);
	check(fd < 0 || write(fd, "x", 1) != 1, "fifo");
	stop_here();
	check(read(fd, (char[1]){ 0 }, 1) != 1, "read");
}

static void timer(void)
{
	struct sigevent none = { .sigev_notify = SIGEV_NONE };
	struct itimerspec time = { .it_value.tv_sec = 5000 };
	timer_t id;

	check(timer_create(CLOCK_PROCESS_CPUTIME_ID, &none, &id), "timer_create");
	check(timer_settime(id, 0, &time, NULL), "timer_settime");
	stop_here();
	check(timer_gettime(id, &time) || time.it_value.tv_sec < 4000, "timer_gettime");
}

static void locked_memory(void)
{
	static char memory[8192];

	check(mlock(memory, sizeof(memory)), "mlock");
	stop_here();
	check(munlock(memory, sizeof(memory)), "munlock");
}

static void semaphore(void)
{
	struct sembuf up = { .sem_op = 3, .sem_flg = SEM_UNDO };
	int id = semget(IPC_PRIVATE, 1, 0600);

	check(id < 0 || semop(id, &up, 1), "semop");
	stop_here();
	check(semctl(id, 0, GETVAL) != 3 || semctl(id, 0, IPC_RMID), "semctl");
}

/* The program continues writing to the pages that it has spliced into a pipe. */
static void vmsplice_case(void)
{
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec iov = { page, 4096 };
	char buf[4096];
	int ends[2];

	check(page == MAP_FAILED || pipe(ends), "pipe");
	memset(page, 'a', 4096);
	check(vmsplice(ends[1], &iov, 1, 0) != 4096, "vmsplice");
	stop_here();
	page[0] = 'b';
	check(read(ends[0], buf, sizeof(buf)) != 4096 || buf[0] != 'b', "it is a copy");
}

static void spliced(void)
{
	int fd = open("spliced", O_CREAT | O_RDWR, 0644), ends[2];
	char byte;

	check(fd < 0 || pipe(ends) || pwrite(fd, "a", 1, 0) != 1, "file");
	check(splice(fd, &(loff_t){ 0 }, ends[1], NULL, 1, 0) != 1, "splice");
	stop_here();
	check(pwrite(fd, "b", 1, 0) != 1, "pwrite");
	check(read(ends[0], &byte, 1) != 1 || byte != 'b', "it is a copy");
}

static void symlink_case(void)
{
	char target[16];
	int fd;

	check(symlink("nowhere", "link"), "symlink");
	fd = open("link", O_PATH | O_NOFOLLOW);
	check(fd < 0, "O_PATH");
	stop_here();
	check(readlinkat(fd, "", target, sizeof(target)) != 7, "readlinkat");
}

static void owner(void)
{
	int ends[2];

	check(pipe(ends) || fcntl(ends[0], F_SETOWN, getpid()), "F_SETOWN");
	stop_here();
	check(fcntl(ends[0], F_GETOWN) != getpid(), "F_GETOWN");
}

/* A removed owner, whose type the kernel keeps. */
static void no_owner(void)
{
	struct f_owner_ex owner;
	int ends[2];

	check(pipe(ends) || fcntl(ends[0], F_SETOWN, getpid()) ||
	      fcntl(ends[0], F_SETOWN, 0), "F_SETOWN");
	stop_here();
	check(fcntl(ends[0], F_GETOWN_EX, &owner) || owner.type != F_OWNER_PID || owner.pid,
	      "F_GETOWN_EX");
}

static void pidfd(void)
{
	int fd = syscall(SYS_pidfd_open, getpid(), 0);

	check(fd < 0, "pidfd_open");
	stop_here();
	check(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0), "pidfd_send_signal");
}

static void hung_up(void)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY), slave;

	check(master < 0 || grantpt(master) || unlockpt(master), "posix_openpt");
	slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	check(slave < 0 || close(master), "slave");
	stop_here();
	check(write(slave, "x", 1) != -1 || errno != EIO, "write");
}

static void attributes(void)
{
	int fd = open("attributes", O_CREAT | O_RDWR, 0644);
	char value[8];

	check(fd < 0 || fsetxattr(fd, "trusted.kept", "value", 5, 0), "fsetxattr");
	check(unlink("attributes"), "unlink");
	stop_here();
	check(fgetxattr(fd, "trusted.kept", value, sizeof(value)) != 5, "fgetxattr");
}

/* An open directory, over which a file system has been mounted afterwards. */
static void overmounted(void)
{
	int fd;

	check(mkdir("under", 0755) || close(creat("under/file", 0644)), "under");
	fd = open("under", O_RDONLY | O_DIRECTORY);
	check(fd < 0 || mount("over", "under", "tmpfs", 0, NULL), "mount");
	stop_here();
	check(faccessat(fd, "file", F_OK, 0) || umount("under"), "it is another directory");
}

/* A UTS namespace of its own. */
static void namespace(void)
{
	char name[64] = "";

	check(unshare(CLONE_NEWUTS) || sethostname("other", 5), "uts");
	stop_here();
	check(gethostname(name, sizeof(name)) || strcmp(name, "other"), "gethostname");
}

/* Its children will be in a different time namespace. */
static void children(void)
{
	int status;
	pid_t pid;

	check(unshare(CLONE_NEWTIME), "time");
	stop_here();
	pid = fork();
	if (!pid)
		_exit(7);
	check(pid < 0 || waitpid(pid, &status, 0) != pid || WEXITSTATUS(status) != 7, "fork");
}

/* An option without effect on a Unix socket, which getsockopt(2) reports. */
static void option(void)
{
	int ends[2], rate = 0;
	socklen_t size = sizeof(rate);

	check(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
	check(setsockopt(ends[1], SOL_SOCKET, SO_MAX_PACING_RATE, &(int){ 4096 }, sizeof(int)),
	      "SO_MAX_PACING_RATE");
	stop_here();
	check(getsockopt(ends[1], SOL_SOCKET, SO_MAX_PACING_RATE, &rate, &size) || rate != 4096,
	      "SO_MAX_PACING_RATE");
}

static void set_rmid_forced(const char *on)
{
	int fd = open("/proc/sys/kernel/shm_rmid_forced", O_WRONLY);

	check(fd < 0 || write(fd, on, 1) != 1, "shm_rmid_forced");
	close(fd);
}

/* An unattached segment that is removed when its creator exits. */
static void segment(void)
{
	int id = shmget(IPC_PRIVATE, 4096, 0600);
	struct shmid_ds ds;

	check(id < 0, "shmget");
	set_rmid_forced("1");
	stop_here();
	set_rmid_forced("0");
	check(shmctl(id, IPC_STAT, &ds) || ds.shm_cpid != getpid(), "shmctl");
	check(shmctl(id, IPC_RMID, NULL), "shmctl");
}

static void ports(void)
{
	check(ioperm(0x80, 1, 1), "ioperm");
	stop_here();
	outb(0, 0x80);
}

/* dnotify makes the caller the owner of the file, for its signals, and leaves an empty owner. */
static void directory(void)
{
	int fd;

	signal(SIGIO, SIG_IGN);
	check(mkdir("noticed", 0700), "mkdir");
	fd = open("noticed", O_RDONLY | O_DIRECTORY);
	check(fd < 0 || fcntl(fd, F_NOTIFY, DN_CREATE | DN_MULTISHOT), "F_NOTIFY");
	stop_here();
	check(fcntl(fd, F_NOTIFY, 0), "F_NOTIFY");
}

/* Returns true when a process sleeps in read(2). */
static int reads(pid_t pid)
{
	char path[64], text[64] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	fd = open(path, O_RDONLY);
	check(fd < 0 || read(fd, text, sizeof(text) - 1) < 0, path);
	close(fd);
	return !strncmp(text, "0 ", 2);
}

/*
 * A tracer that has ordered a single step dies while the tracee sleeps in the system call that is
 * the step. The trap after the call kills the tracee.
 */
static void step(void)
{
	int ends[2], status;
	pid_t tracee, tracer;
	char byte = 0;

	check(pipe(ends), "pipe");
	tracee = fork();
	if (!tracee)
		_exit(read(ends[0], &byte, 1) != 1);
	tracer = fork();
	if (!tracer) {
		while (!reads(tracee))
			sched_yield();
		check(ptrace(PTRACE_SEIZE, tracee, 0, 0), "PTRACE_SEIZE");
		check(ptrace(PTRACE_INTERRUPT, tracee, 0, 0), "PTRACE_INTERRUPT");
		check(waitpid(tracee, &status, 0) != tracee, "waitpid");
		check(ptrace(PTRACE_SINGLESTEP, tracee, 0, 0), "PTRACE_SINGLESTEP");
		while (!reads(tracee))
			sched_yield();
		_exit(0);
	}
	check(waitpid(tracer, &status, 0) != tracer || status, "the tracer");
	stop_here();
	check(write(ends[1], &byte, 1) != 1, "write");
	check(waitpid(tracee, &status, 0) != tracee, "waitpid");
	printf("the tracee: signal %d\n", WTERMSIG(status));
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "listening", listening }, { "internet", internet }, { "waiting", waiting },
	{ "flying", flying },	    { "watched", watched },   { "lock", lock },
	{ "fifo", fifo },	    { "timer", timer },	    { "mlock", locked_memory },
	{ "semaphore", semaphore }, { "vmsplice", vmsplice_case }, { "spliced", spliced },
	{ "symlink", symlink_case }, { "owner", owner },	    { "no-owner", no_owner },
	{ "pidfd", pidfd },
	{ "hung-up", hung_up },	    { "attributes", attributes }, { "overmounted", overmounted },
	{ "namespace", namespace }, { "children", children },
	{ "option", option },	    { "segment", segment },   { "ports", ports },
	{ "directory", directory }, { "step", step },
};

int main(int argc, char **argv)
{
	pid_t pid = fork();
	int status;

	if (pid) {
		check(waitpid(pid, &status, 0) != pid, "waitpid");
		return WIFEXITED(status) ? WEXITSTATUS(status) : 2;
	}
	for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		if (argc > 1 && !strcmp(argv[1], cases[n].name)) {
			cases[n].run();
			puts("as if nothing had happened");
			return 0;
		}
	}
	return 3;
}
