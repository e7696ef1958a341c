// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Signals in every state: blocked and queued with their values, in a handler on an alternate
 * stack, awaited in sigsuspend(), interrupting a read(), and stopping a process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

static void block(int signal)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, signal);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static void queue(int signal, int number)
{
	union sigval value = { .sival_int = number };

	if (sigqueue(getpid(), signal, value))
		die("sigqueue");
}

static const char *code(const siginfo_t *info)
{
	switch (info->si_code) {
	case SI_USER:
		return "kill";
	case SI_QUEUE:
		return "sigqueue";
	case SI_TKILL:
		return "tgkill";
	case CLD_EXITED:
		return "exited";
	default:
		return "?";
	}
}

static void set_timer(int which, long seconds, long interval)
{
	struct itimerval timer = {
		.it_value.tv_sec = seconds,
		.it_interval.tv_sec = interval,
	};

	if (setitimer(which, &timer, NULL))
		die("setitimer");
}

/* The time left may be up to 100 s less, because machines are slow, but not more. */
static void print_timer(const char *name, int which, long seconds)
{
	struct itimerval timer;

	getitimer(which, &timer);
	printf("%s: %s, interval %ld\n", name,
	       timer.it_value.tv_sec >= seconds - 100 && timer.it_value.tv_sec <= seconds ?
		       "what should remain" : "another time",
	       (long)timer.it_interval.tv_sec);
}

/* All signals stay queued until after the event, and are then received one by one. */
static void queued(void)
{
	sigset_t all, pending;
	siginfo_t info;
	pid_t child, self = getpid();
	int signal;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	child = forked();
	if (!child) {
		kill(self, SIGUSR2);
		_exit(23);
	}
	if (waitid(P_PID, child, &info, WEXITED | WNOWAIT))
		die("waitid");
	queue(SIGRTMIN + 2, 21);
	queue(SIGRTMIN + 1, 11);
	queue(SIGRTMIN + 2, 22);
	queue(SIGRTMIN + 1, 12);
	queue(SIGRTMIN + 2, 23);
	/* queued only once: it is not a real-time signal */
	queue(SIGUSR1, 1);
	queue(SIGUSR1, 2);
	pthread_kill(pthread_self(), SIGHUP);
	pthread_kill(pthread_self(), SIGRTMIN + 1);
	set_timer(ITIMER_REAL, 5000, 70);
	set_timer(ITIMER_VIRTUAL, 6000, 80);
	set_timer(ITIMER_PROF, 7000, 90);

	stop_here();

	print_timer("ITIMER_REAL", ITIMER_REAL, 5000);
	print_timer("ITIMER_VIRTUAL", ITIMER_VIRTUAL, 6000);
	print_timer("ITIMER_PROF", ITIMER_PROF, 7000);
	for (;;) {
		const struct timespec now = { 0 };

		/* glibc's sigtimedwait() reports SI_TKILL as SI_USER */
		signal = syscall(SYS_rt_sigtimedwait, &all, &info, &now, _NSIG / 8);
		if (signal < 0)
			break;
		printf("signal %d by %s, value %d, from %s, uid %u\n", signal, code(&info),
		       info.si_code == SI_QUEUE ? info.si_value.sival_int : 0,
		       info.si_pid == getpid() ? "itself" :
		       info.si_pid == child    ? "its child" : "another",
		       (unsigned int)info.si_uid);
		if (signal == SIGCHLD)
			printf("its status is %d\n", info.si_status);
	}
	sigpending(&pending);
	printf("nothing else is pending: %d\n", sigisemptyset(&pending));
	waitpid(child, NULL, 0);
}

static char stack[65536];
static volatile int handled;

/* Prints its stack, the siginfo, and the signals that are blocked while it runs. */
static void on_stack(int signal, siginfo_t *info, void *context)
{
	const ucontext_t *interrupted = context;
	sigset_t mask;
	stack_t now;
	char here;

	if (signal == SIGRTMIN)
		stop_here();
	sigaltstack(NULL, &now);
	sigprocmask(SIG_BLOCK, NULL, &mask);
	printf("handler of %d: value %d, on the alternate stack %d, which is in use %d\n", signal,
	       info->si_value.sival_int, &here >= stack && &here < stack + sizeof(stack),
	       now.ss_flags == SS_ONSTACK && now.ss_sp == stack);
	printf("blocked: the signal %d, one of sa_mask %d, one of the interrupted code %d, other %d\n",
	       sigismember(&mask, signal), sigismember(&mask, SIGWINCH),
	       sigismember(&mask, SIGURG), sigismember(&mask, SIGTERM));
	printf("the interrupted code had blocked: SIGURG %d, SIGWINCH %d\n",
	       sigismember(&interrupted->uc_sigmask, SIGURG),
	       sigismember(&interrupted->uc_sigmask, SIGWINCH));
	handled++;
}

/* A handler on an alternate stack, at its entry or in the middle. */
static void handler(int signal)
{
	struct sigaction action = { .sa_sigaction = on_stack,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK };
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) }, now;
	sigset_t mask;

	sigaltstack(&alternate, NULL);
	sigaddset(&action.sa_mask, SIGWINCH);
	sigaction(signal, &action, NULL);
	block(SIGURG);

	queue(signal, 77);

	sigaltstack(NULL, &now);
	sigprocmask(SIG_BLOCK, NULL, &mask);
	printf("handled %d, its alternate stack is set %d and in use %d\n", handled,
	       now.ss_sp == stack && now.ss_size == sizeof(stack),
	       now.ss_flags == SS_ONSTACK);
	printf("blocked: SIGURG %d, SIGWINCH %d, itself %d\n", sigismember(&mask, SIGURG),
	       sigismember(&mask, SIGWINCH), sigismember(&mask, signal));
}

static void on_usr1(int number)
{
	(void)number;
	handled++;
}

/* Returns true when a process sleeps in a system call, according to /proc. */
static int sleeps_in(pid_t pid, long call)
{
	char path[64], text[64] = "";
	char *end;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		die(path);
	close(fd);
	return strtol(text, &end, 10) == call && end != text;
}

static char state(pid_t pid)
{
	char path[64], text[256] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "r");
	if (!file || !fgets(text, sizeof(text), file))
		die(path);
	fclose(file);
	return strrchr(text, ')')[2];
}

/* Its mask lets SIGUSR1 through only while it waits. */
static int suspended(void)
{
	sigset_t mask, now;

	block(SIGUSR1);
	block(SIGURG);
	sigemptyset(&mask);
	sigaddset(&mask, SIGWINCH);
	if (sigsuspend(&mask) != -1 || errno != EINTR || !handled)
		return 1;
	sigprocmask(SIG_BLOCK, NULL, &now);
	return sigismember(&now, SIGUSR1) && sigismember(&now, SIGURG) &&
	       !sigismember(&now, SIGWINCH) ? 41 : 2;
}

/* Reads until there is a byte, or a signal interrupts it. */
static int reads(int fd, int flags)
{
	struct sigaction action = { .sa_handler = on_usr1, .sa_flags = flags };
	char byte;
	ssize_t n;

	sigaction(SIGUSR1, &action, NULL);
	n = read(fd, &byte, 1);
	if (n == 1)
		return handled ? 42 : 3;
	return n < 0 && errno == EINTR && handled ? 43 : 4;
}

static void print_end(const char *who, pid_t pid)
{
	int status;

	status = wait_for_child(pid);
	if (WIFEXITED(status))
		printf("%s exited %d\n", who, WEXITSTATUS(status));
	else
		printf("%s got signal %d\n", who, WTERMSIG(status));
}

/*
 * Calls that a signal interrupts or restarts, and a call that waits for the
 * signal.
 */
static void interrupted(void)
{
	pid_t suspends, restarts, breaks;
	int again[2], never[2];

	signal(SIGUSR1, on_usr1);
	make_pipe(again);
	make_pipe(never);
	suspends = forked();
	if (!suspends)
		_exit(suspended());
	restarts = forked();
	if (!restarts)
		_exit(reads(again[0], SA_RESTART));
	breaks = forked();
	if (!breaks)
		_exit(reads(never[0], 0));
	while (!sleeps_in(suspends, SYS_rt_sigsuspend) || !sleeps_in(restarts, SYS_read) ||
	       !sleeps_in(breaks, SYS_read))
		sched_yield();

	stop_here();

	kill(suspends, SIGUSR1);
	kill(restarts, SIGUSR1);
	kill(breaks, SIGUSR1);
	print_end("the child in sigsuspend()", suspends);
	print_end("the child without SA_RESTART", breaks);
	if (write(again[1], "", 1) != 1)
		die("write");
	print_end("the child with SA_RESTART", restarts);
}

static void *second(void *fd)
{
	char byte;

	if (read(*(int *)fd, &byte, 1) != 1)
		_exit(1);
	return fd;
}

/* Two threads, each in a read() of its own. */
static int stops(int main_fd, int second_fd)
{
	pthread_t thread;
	void *result;
	char byte;

	if (pthread_create(&thread, NULL, second, &second_fd))
		return 1;
	if (read(main_fd, &byte, 1) != 1)
		return 2;
	pthread_join(thread, &result);
	return result == &second_fd ? 51 : 3;
}

static void print_stop(const char *who, pid_t pid, int options)
{
	int status, got = waitpid(pid, &status, options | WNOHANG);

	if (got != pid)
		printf("%s: nothing new\n", who);
	else if (WIFSTOPPED(status))
		printf("%s: stopped by %d\n", who, WSTOPSIG(status));
	else
		printf("%s: %s\n", who, WIFCONTINUED(status) ? "continued" : "ended");
}

static void await(pid_t pid, int options)
{
	siginfo_t info;

	if (waitid(P_PID, pid, &info, options))
		die("waitid");
}

/* Three stopped processes: reported, not reported yet, and continued. */
static void stopped(void)
{
	int one[2], two[2], three[2];
	pid_t known, unknown, continued;

	make_pipe(one);
	make_pipe(two);
	make_pipe(three);
	known = forked();
	if (!known)
		_exit(stops(one[0], two[0]));
	unknown = forked();
	if (!unknown) {
		/* in an orphaned process group SIGTSTP would have no effect */
		setpgid(0, 0);
		raise(SIGTSTP);
		_exit(52);
	}
	continued = forked();
	if (!continued)
		_exit(reads(three[0], SA_RESTART));
	while (!sleeps_in(known, SYS_read))
		sched_yield();
	kill(known, SIGSTOP);
	await(known, WSTOPPED);
	await(unknown, WSTOPPED | WNOWAIT);
	kill(continued, SIGSTOP);
	await(continued, WSTOPPED);
	kill(continued, SIGCONT);
	await(continued, WCONTINUED | WNOWAIT);

	stop_here();

	print_stop("the known one", known, WUNTRACED | WCONTINUED);
	print_stop("the unknown one", unknown, WUNTRACED | WCONTINUED);
	print_stop("the unknown one again", unknown, WUNTRACED | WCONTINUED);
	print_stop("the continued one", continued, WUNTRACED | WCONTINUED);
	printf("their states: %c %c\n", state(known), state(unknown));
	kill(known, SIGCONT);
	await(known, WCONTINUED);
	puts("the known one: continued");
	if (write(one[1], "", 1) != 1 || write(two[1], "", 1) != 1)
		die("write");
	print_end("the known one", known);
	kill(unknown, SIGCONT);
	print_end("the unknown one", unknown);
	kill(continued, SIGKILL);
	print_end("the continued one", continued);
}

static void on_notice(int signal)
{
	printf("notified by signal %d\n", signal);
}

/* Runs after execve(): the exit signal of its child is now 17, SIGCHLD. */
static void adopt(int child, int end)
{
	int status;

	if (signal(SIGUSR1, on_notice) == SIG_ERR || signal(SIGCHLD, on_notice) == SIG_ERR)
		die("signal");
	stop_here();
	close(end);
	while (waitpid(child, &status, __WCLONE) < 0)
		if (errno != EINTR)
			die("waitpid");
	printf("its clone() child exited %d\n", WEXITSTATUS(status));
}

/* A child whose exit signal is SIGUSR1, unless its parent calls execve(). */
static void stranger(char *self)
{
	char child[16], end[16];
	int ends[2];
	pid_t pid;

	make_pipe(ends);
	fflush(stdout);
	pid = syscall(SYS_clone, SIGUSR1, NULL, NULL, NULL, 0);
	if (pid < 0)
		die("clone");
	if (!pid) {
		close(ends[1]);
		_exit(read(ends[0], child, 1) ? 1 : 44);
	}
	close(ends[0]);
	snprintf(child, sizeof(child), "%d", pid);
	snprintf(end, sizeof(end), "%d", ends[1]);
	execl(self, self, "adopt", child, end, NULL);
	die("execl");
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";

	nonce_draw();
	if (!strcmp(how, "stranger"))
		stranger(argv[0]);
	else if (!strcmp(how, "adopt") && argc == 4)
		adopt(atoi(argv[2]), atoi(argv[3]));
	else if (!strcmp(how, "queued"))
		queued();
	else if (!strcmp(how, "enter"))
		handler(SIGUSR1);
	else if (!strcmp(how, "inside"))
		handler(SIGRTMIN);
	else if (!strcmp(how, "interrupted"))
		interrupted();
	else if (!strcmp(how, "stopped"))
		stopped();
	else
		return 1;
	nonce_print();
	return 0;
}
