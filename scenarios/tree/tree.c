// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A tree of processes that all wait when getppid() is called: a reader on an empty
 * pipe, a grandchild whose parent sleeps in wait(), a session of its own, a zombie.
 * Pipes have content, signals are pending with their values. After that each process
 * reports its state.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

static volatile sig_atomic_t usr1;
static int *shared;

static void on_usr1(int number)
{
	(void)number;
	usr1++;
}

static void ready(int fd)
{
	if (write(fd, "r", 1) != 1)
		die("ready");
}

static void wait_ready(int fd, int count)
{
	char byte;

	while (count--)
		if (read(fd, &byte, 1) != 1)
			die("wait_ready");
}

static void report(const char *who, pid_t pid, int status)
{
	if (WIFEXITED(status))
		printf("%s (%d) exited %d\n", who, pid, WEXITSTATUS(status));
	else
		printf("%s (%d) got signal %d\n", who, pid, WTERMSIG(status));
}

/* Reads a line when the parent writes one, and returns it through a second pipe. */
static int reader(int from, int to, int up)
{
	char line[32];
	ssize_t length;

	ready(up);
	length = read(from, line, sizeof(line));
	if (length <= 0 || write(to, line, length) != length)
		return 1;
	return 11;
}

/* Waits for a grandchild, which exits when the pipe is closed. */
static int middle(int from, int up)
{
	int status;
	char byte;
	pid_t pid = forked();

	if (!pid) {
		ready(up);
		_exit(read(from, &byte, 1) == 0 ? 21 : 1);
	}
	close(from);
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return 1;
	return WEXITSTATUS(status) + 1;
}

/* Leads a session; reports its ids on request. */
static int leader(int up)
{
	sigset_t none, block;

	sigemptyset(&none);
	sigemptyset(&block);
	sigaddset(&block, SIGUSR1);
	sigprocmask(SIG_BLOCK, &block, NULL);
	if (setsid() < 0)
		return 1;
	ready(up);
	while (!usr1)
		if (sigsuspend(&none) != -1 || errno != EINTR)
			return 1;
	sigprocmask(SIG_BLOCK, NULL, &none);
	*shared = getsid(0) == getpid() && getpgrp() == getpid() &&
		  sigismember(&none, SIGUSR1);
	return 31;
}

int main(void)
{
	struct sigaction action = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };
	int up[2], down[2], back[2], close_me[2], full[2], status;
	pid_t reads, middles, leads, zombie;
	union sigval value;
	char buffer[9000];
	sigset_t block;
	siginfo_t info;
	FILE *deleted;

	nonce_draw();
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		die("mmap");
	sigaction(SIGUSR1, &action, NULL);
	make_pipe(up);
	make_pipe(down);
	make_pipe(back);
	make_pipe(full);

	reads = forked();
	if (!reads)
		_exit(reader(down[0], back[1], up[1]));
	wait_ready(up[0], 1);
	make_pipe(close_me);
	middles = forked();
	if (!middles) {
		close(close_me[1]);
		_exit(middle(close_me[0], up[1]));
	}
	close(close_me[0]);
	wait_ready(up[0], 1);
	leads = forked();
	if (!leads)
		_exit(leader(up[1]));
	wait_ready(up[0], 1);
	zombie = forked();
	if (!zombie)
		_exit(7);
	if (waitid(P_PID, zombie, &info, WEXITED | WNOWAIT))
		die("waitid");

	memset(buffer, 'x', sizeof(buffer));
	if (write(full[1], buffer, sizeof(buffer)) != sizeof(buffer))
		die("write");
	deleted = fopen("deleted", "w+");
	if (!deleted || fputs("content of a deleted file", deleted) < 0 || fflush(deleted))
		die("deleted");
	unlink("deleted");
	sigemptyset(&block);
	sigaddset(&block, SIGUSR2);
	sigaddset(&block, SIGRTMIN);
	sigaddset(&block, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &block, NULL);
	for (int n = 1; n <= 3; n++) {
		value.sival_int = 100 + n;
		if (sigqueue(getpid(), SIGRTMIN, value))
			die("sigqueue");
	}
	kill(getpid(), SIGUSR2);

	/* the event: all other processes wait */
	syscall(SYS_getppid);

	value.sival_int = 200;
	sigqueue(getpid(), SIGRTMIN + 1, value);
	sigemptyset(&block);
	sigaddset(&block, SIGRTMIN);
	sigaddset(&block, SIGRTMIN + 1);
	for (int n = 0; n < 4; n++) {
		int number = sigwaitinfo(&block, &info);

		printf("signal rtmin+%d value %d from self %d\n", number - SIGRTMIN,
		       info.si_value.sival_int, info.si_pid == getpid());
	}
	sigpending(&block);
	printf("SIGUSR2 pending %d\n", sigismember(&block, SIGUSR2));

	memset(buffer, 0, sizeof(buffer));
	for (size_t have = 0; have < sizeof(buffer);) {
		ssize_t n = read(full[0], buffer + have, sizeof(buffer) - have);

		if (n <= 0)
			die("read full");
		have += n;
	}
	for (size_t n = 0; n < sizeof(buffer); n++)
		if (buffer[n] != 'x') {
			printf("byte %zu of the pipe is lost\n", n);
			return 1;
		}
	puts("the pipe kept its content");
	rewind(deleted);
	if (!fgets(buffer, sizeof(buffer), deleted))
		die("deleted");
	printf("%s\n", buffer);

	if (write(down[1], "through two pipes", 18) != 18 || read(back[0], buffer, 18) != 18)
		die("back");
	printf("%s\n", buffer);
	close(close_me[1]);
	kill(leads, SIGUSR1);
	status = wait_for_child(reads);
	report("reader", reads, status);
	status = wait_for_child(middles);
	report("middle", middles, status);
	status = wait_for_child(leads);
	report("leader", leads, status);
	printf("the leader still led its session: %d\n", *shared);
	if (waitpid(zombie, &status, WNOHANG) != zombie)
		die("zombie");
	report("zombie", zombie, status);
	reads = forked();
	if (!reads)
		_exit(0);
	printf("the next process is %d\n", reads);
	waitpid(reads, &status, 0);
	nonce_print();
	return 0;
}
