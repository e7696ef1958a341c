// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * An example of every object that an image can contain, for crucible torture: two processes with
 * threads, a process that waits in a vfork, a zombie, a pipe with content, a deleted file, shared
 * memory, queued signals, timers, event files, a controlling terminal, watches, sockets with
 * messages that contain files, a tracee with a filter and a breakpoint. The vfork's child calls
 * getppid() when all of them exist.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pthread_barrier_t all_there;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void *thread(void *unused)
{
	(void)unused;
	pthread_barrier_wait(&all_there);
	while (pause())
		;
	return NULL;
}

static void start_threads(unsigned int count)
{
	pthread_t id;

	if (pthread_barrier_init(&all_there, NULL, count + 1))
		die("barrier");
	for (unsigned int n = 0; n < count; n++)
		if (pthread_create(&id, NULL, thread, NULL))
			die("pthread_create");
	pthread_barrier_wait(&all_there);
}

static pid_t forked(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	return pid;
}

static void wait_byte(int fd)
{
	char byte;

	if (read(fd, &byte, 1) != 1)
		die("read");
}

static void queue_signals(void)
{
	union sigval value = { .sival_int = 7 };
	sigset_t block;

	sigemptyset(&block);
	sigaddset(&block, SIGRTMIN);
	sigaddset(&block, SIGUSR1);
	sigprocmask(SIG_BLOCK, &block, NULL);
	if (sigqueue(getpid(), SIGRTMIN, value) || raise(SIGUSR1))
		die("signals");
}

static void watch(int epoll, int fd, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.fd = fd };

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		die("epoll_ctl");
}

static void open_event_files(void)
{
	const struct itimerspec hour = { .it_value.tv_sec = 3600, .it_interval.tv_sec = 60 };
	int outer = epoll_create1(0), inner = epoll_create1(0), timer;
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	timer = timerfd_create(CLOCK_REALTIME, 0);
	if (timer < 0 || timerfd_settime(timer, 0, &hour, NULL))
		die("timerfd");
	watch(outer, inner, EPOLLIN);
	watch(inner, eventfd(3, EFD_SEMAPHORE), EPOLLIN | EPOLLET);
	watch(inner, signalfd(-1, &signals, SFD_NONBLOCK), EPOLLIN);
	watch(outer, timer, EPOLLIN | EPOLLONESHOT);
}

/* A running timer, and one whose signal is pending. */
static void start_timers(void)
{
	const struct itimerspec hour = { .it_value.tv_sec = 3600 },
				soon = { { .tv_sec = 60 }, { .tv_nsec = 1 } };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
	sigset_t pending;
	timer_t timer;

	if (timer_create(CLOCK_BOOTTIME, &event, &timer) || timer_settime(timer, 0, &hour, NULL))
		die("timer");
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &soon, NULL))
		die("timer");
	do
		sigpending(&pending);
	while (!sigismember(&pending, SIGRTMIN));
}

/* The master stays open here, too, so that the terminal does not hang up. */
static void open_terminal(void)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY), slave;

	if (master < 0 || unlockpt(master) || setsid() < 0)
		die("posix_openpt");
	slave = open(ptsname(master), O_RDWR);
	if (slave < 0 || write(master, "line\nhalf", 9) != 9 || open("/dev/tty", O_RDWR) < 0)
		die("terminal");
}

static void send_file(int socket, int fd)
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
	if (sendmsg(socket, &msg, 0) != 4)
		die("sendmsg");
}

/* A partly read stream, a socket in its own queue, a bound socket, a socket with a closed peer. */
static void open_sockets(void)
{
	struct sockaddr_un name = { AF_UNIX, "" };
	int stream[2], dgram[2], packet[2], ends[2], one = 1, lone;
	char text[4];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, stream) || pipe(ends) ||
	    socketpair(AF_UNIX, SOCK_DGRAM, 0, dgram) ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packet))
		die("socketpair");
	if (write(stream[0], "content", 7) != 7 || read(stream[1], text, 4) != 4 ||
	    send(stream[0], "ab", 2, MSG_OOB) != 2)
		die("stream");
	send_file(stream[0], stream[1]);
	send_file(stream[0], ends[0]);
	close(ends[0]);
	if (setsockopt(dgram[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)))
		die("SO_PASSCRED");
	send_file(dgram[0], packet[1]);
	close(dgram[0]);
	send_file(packet[0], dgram[1]);
	shutdown(packet[0], SHUT_WR);
	lone = socket(AF_UNIX, SOCK_DGRAM, 0);
	if (lone < 0 || bind(lone, (struct sockaddr *)&name, sizeof(name.sun_family)))
		die("bind");
}

/* Watches a directory and a file; one watch has been removed, which is a queued event. */
static void open_watches(void)
{
	int fd = inotify_init1(IN_NONBLOCK), gone;
	FILE *file = fopen("watched", "w");

	if (fd < 0 || !file || fclose(file))
		die("inotify");
	gone = inotify_add_watch(fd, "/", IN_CREATE);
	if (gone < 0 || inotify_add_watch(fd, "watched", IN_ALL_EVENTS) < 0 ||
	    inotify_add_watch(fd, "/tmp", IN_CREATE | IN_EXCL_UNLINK | IN_ONESHOT) < 0 ||
	    inotify_rm_watch(fd, gone))
		die("watches");
	file = fopen("watched", "w");
	if (!file || fclose(file))
		die("watched");
}

/* Its tracer does not wait for it. */
static void start_tracee(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	const struct sock_fprog program = { 1, &allow };
	pid_t pid = forked();

	if (!pid) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
		    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) ||
		    ptrace(PTRACE_TRACEME))
			die("tracee");
		raise(SIGUSR2);
		_exit(0);
	}
	if (waitpid(pid, NULL, 0) != pid ||
	    ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_EXITKILL | PTRACE_O_TRACEFORK) ||
	    ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[0]), &all_there) ||
	    ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[7]), 0xd0001))
		die("ptrace");
}

int main(void)
{
	const struct itimerval hour = { .it_value.tv_sec = 3600 };
	int up[2], full[2];
	FILE *deleted;
	pid_t pid;
	siginfo_t info;

	if (pipe(up) || pipe(full) || write(full[1], "content", 7) != 7)
		die("pipe");
	if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		 0) == MAP_FAILED)
		die("mmap");
	deleted = fopen("deleted", "w+");
	if (!deleted || fputs("content", deleted) < 0 || fflush(deleted))
		die("deleted");
	unlink("deleted");
	queue_signals();
	if (setitimer(ITIMER_REAL, &hour, NULL))
		die("setitimer");

	if (!forked()) {
		open_terminal();
		open_event_files();
		open_sockets();
		open_watches();
		start_timers();
		start_tracee();
		start_threads(2);
		if (write(up[1], "r", 1) != 1)
			die("write");
		while (pause())
			;
	}
	wait_byte(up[0]);
	pid = forked();
	if (!pid)
		_exit(3);
	if (waitid(P_PID, pid, &info, WEXITED | WNOWAIT))
		die("waitid");
	start_threads(1);
	if (!forked()) {
		if (!vfork()) {
			syscall(SYS_getppid);
			_exit(0);
		}
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	return 0;
}
