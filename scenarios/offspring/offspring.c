// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Children of one parent, each with a state that a new process does not have. All wait for a
 * byte; then each performs an action whose result depends on that state.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

#define SLACK 1111000
#define OWN_SLACK 2222000

static int go[2], ready[2];

static void handler(int signal)
{
	(void)signal;
}

static void wait_for_go(void)
{
	send_byte(ready[1]);
	receive_byte(go[0]);
}

/* Like fork(2), but at the end the parent gets this signal, or none. */
static pid_t forked_with(int signal)
{
	pid_t pid;

	fflush(stdout);
	pid = syscall(SYS_clone, signal, NULL, NULL, NULL, NULL);
	check(pid < 0, "clone");
	return pid;
}

/* It was created with a different scheduling policy, which its own children do not inherit. */
static void resets(void)
{
	struct sched_param param = { .sched_priority = 5 };
	int policy;
	pid_t pid;

	check(setpriority(PRIO_PROCESS, 0, -4), "setpriority");
	check(sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param), "FIFO");
	wait_for_go();
	policy = sched_getscheduler(0);
	pid = forked();
	if (!pid)
		_exit(sched_getscheduler(0) * 40 + getpriority(PRIO_PROCESS, 0));
	printf("policy %d, then %d\n", policy, wait_for_child(pid) >> 8);
}

/* The default is its parent's value at the time of the fork. */
static void slack(void)
{
	check(prctl(PR_SET_TIMERSLACK, OWN_SLACK), "slack");
	wait_for_go();
	printf("slack %d", prctl(PR_GET_TIMERSLACK));
	check(prctl(PR_SET_TIMERSLACK, 0), "slack");
	printf(", by default %d\n", prctl(PR_GET_TIMERSLACK));
}

static int set_score(const char *score)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC), result;

	check(fd < 0, "oom_score_adj");
	result = write(fd, score, strlen(score)) < 0 ? errno : 0;
	close(fd);
	return result;
}

/* An unprivileged process may not lower its score below what a privileged one has set. */
static void score(void)
{
	int low, between;

	check(set_score("300") || setresuid(1000, 1000, 1000) || prctl(PR_SET_DUMPABLE, 1), "score");
	check(set_score("600"), "score");
	wait_for_go();
	low = set_score("200");
	between = set_score("400");
	printf("score 200: %s, 400: %s\n", strerror(low), strerror(between));
}

static volatile sig_atomic_t on_stack, armed_within;
static char stack[1 << 16];

static void look_at_stack(int signal)
{
	char here;
	stack_t now;

	(void)signal;
	on_stack = &here >= stack && &here < stack + sizeof(stack);
	sigaltstack(NULL, &now);
	armed_within = now.ss_flags;
}

static void disarms(void)
{
	const stack_t own = { .ss_sp = stack, .ss_size = sizeof(stack), .ss_flags = 1U << 31 };
	const struct sigaction action = { .sa_handler = look_at_stack, .sa_flags = SA_ONSTACK };
	stack_t now;

	check(sigaltstack(&own, NULL) || sigaction(SIGUSR1, &action, NULL), "SS_AUTODISARM");
	wait_for_go();
	raise(SIGUSR1);
	sigaltstack(NULL, &now);
	printf("handled on the alternate stack: %d, flags in the handler %d, later %u\n", (int)on_stack,
	       (int)armed_within, now.ss_flags);
}

/* Only one instance of a standard signal is queued. */
static void blocks(void)
{
	sigset_t set;
	siginfo_t info;
	const struct timespec none = { 0, 0 };
	int count = 0, sum = 0;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 2);
	sigaddset(&set, SIGUSR1);
	check(sigprocmask(SIG_BLOCK, &set, NULL), "sigprocmask");
	for (int n = 0; n < 5; n++) {
		check(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){ .sival_int = n }), "sigqueue");
		check(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1), "tgkill");
	}
	wait_for_go();
	while (sigtimedwait(&set, &info, &none) > 0) {
		count++;
		sum = sum * 10 + (info.si_signo == SIGUSR1 ? info.si_code == SI_TKILL ? 8 : 9 :
				  info.si_value.sival_int);
	}
	printf("signals: %d, %d\n", count, sum);
}

static const struct {
	const char *name;
	void (*run)(void);
} kinds[] = {
	{ "resets", resets }, { "slack", slack }, { "score", score }, { "disarms", disarms },
	{ "blocks", blocks },
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* Waits until a child is in this state, and leaves the state to a later wait4(2). */
static void wait_for_state(pid_t pid, int options)
{
	siginfo_t info;

	check(waitid(P_PID, pid, &info, options | WNOWAIT), "waitid");
}

static void tell_group(const char *who, pid_t pid)
{
	int result = setpgid(pid, pid);

	printf("setpgid of the child that %s: %s\n", who, result ? strerror(errno) : "done");
}

/* Resumes a child, and returns its end. */
static void end(const char *who, pid_t pid, int start)
{
	send_byte(start);
	printf("%s: %d\n", who, wait_for_child(pid) >> 8);
}

static void tell_pending(const char *when)
{
	sigset_t pending;

	sigpending(&pending);
	printf("%s: SIGCHLD pending %d, SIGUSR2 %d\n", when, sigismember(&pending, SIGCHLD),
	       sigismember(&pending, SIGUSR2));
}

/* Returns the end of a pipe for which the next child waits. */
static int next_start(void)
{
	make_pipe(go);
	return go[1];
}

int main(int argc, char **argv)
{
	const struct timespec none = { 0, 0 };
	pid_t pids[KINDS], other, silent, copy, program, stopped, continued;
	int starts[KINDS], start[5], status;
	siginfo_t info;
	sigset_t set;

	if (argc > 1) {
		go[0] = atoi(argv[1]);
		ready[1] = atoi(argv[2]);
		wait_for_go();
		return 5;
	}
	nonce_draw();
	make_pipe(ready);
	signal(SIGCHLD, handler);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGUSR2);
	check(sigprocmask(SIG_BLOCK, &set, NULL), "sigprocmask");
	/* children inherit it as their default */
	check(prctl(PR_SET_TIMERSLACK, SLACK), "slack");

	for (size_t n = 0; n < KINDS; n++) {
		starts[n] = next_start();
		pids[n] = forked();
		if (!pids[n]) {
			kinds[n].run();
			fflush(stdout);
			_exit(n);
		}
		receive_byte(ready[0]);
	}
	start[0] = next_start();
	copy = forked();
	if (!copy) {
		wait_for_go();
		_exit(4);
	}
	receive_byte(ready[0]);
	start[1] = next_start();
	program = forked();
	if (!program) {
		char in[12], out[12];

		sprintf(in, "%d", go[0]);
		sprintf(out, "%d", ready[1]);
		execl(argv[0], argv[0], in, out, NULL);
		die("exec");
	}
	receive_byte(ready[0]);
	stopped = forked();
	if (!stopped) {
		/* in the parent's group, which may be orphaned, it would not stop */
		check(setpgid(0, 0), "setpgid");
		raise(SIGTTIN);
		_exit(6);
	}
	wait_for_state(stopped, WSTOPPED);
	start[2] = next_start();
	continued = forked();
	if (!continued) {
		raise(SIGSTOP);
		wait_for_go();
		_exit(8);
	}
	check(waitpid(continued, &status, WUNTRACED) != continued, "a stop");
	kill(continued, SIGCONT);
	receive_byte(ready[0]);
	wait_for_state(continued, WCONTINUED);
	check(sigtimedwait(&set, &info, &none) != SIGCHLD, "SIGCHLD");
	start[3] = next_start();
	other = forked_with(SIGUSR2);
	if (!other) {
		wait_for_go();
		_exit(9);
	}
	receive_byte(ready[0]);
	start[4] = next_start();
	silent = forked_with(0);
	if (!silent) {
		wait_for_go();
		_exit(10);
	}
	receive_byte(ready[0]);
	tell_pending("before");

	flush_and_stop_here();

	tell_group("has executed nothing", copy);
	tell_group("has executed a program", program);
	memset(&info, 0, sizeof(info));
	check(waitid(P_PID, stopped, &info, WSTOPPED | WNOHANG), "waitid");
	printf("stopped: code %d by %d\n", info.si_code, info.si_status);
	memset(&info, 0, sizeof(info));
	check(waitid(P_PID, continued, &info, WCONTINUED | WNOHANG), "waitid");
	printf("continued: code %d by %d\n", info.si_code, info.si_status);
	send_byte(start[3]);
	check(waitpid(other, &status, __WALL) != other, "the other one");
	printf("the other one: %d\n", status >> 8);
	tell_pending("after it");
	check(sigtimedwait(&set, &info, &none) != SIGUSR2, "SIGUSR2");
	send_byte(start[4]);
	check(waitpid(silent, &status, __WALL) != silent, "the silent one");
	printf("the silent one: %d\n", status >> 8);
	tell_pending("after it");
	for (size_t n = 0; n < KINDS; n++)
		end(kinds[n].name, pids[n], starts[n]);
	end("copy", copy, start[0]);
	end("program", program, start[1]);
	end("continued", continued, start[2]);
	kill(stopped, SIGCONT);
	printf("stopped: %d\n", wait_for_child(stopped) >> 8);
	tell_pending("at the end");
	nonce_print();
	return 0;
}
