// SPDX-License-Identifier: Apache-2.0 OR MIT
/* The tracer after the stop: its next request, and its observations. */
#include "cell.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Number of times that the tracee is resumed by the same request, before PTRACE_CONT. */
#define TIMES 8

/* More than the number of stops in any cell. */
#define MAX_STOPS 100

struct going {
	const struct cell *cell;
	pid_t subject;
	pid_t others[3];	/* the other tracees, 0 for none */
	bool detached;
	bool woken;		/* all threads run, after the subject was left in its stop */
	int request;		/* resumes the subject */
	int times;		/* remaining uses of @request; then PTRACE_CONT */
	int stops;
};

/* Logs the SIGCHLD that a stop has sent; at most one is pending. */
static void log_sigchld(const struct cell *cell)
{
	struct timespec now = { };
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	if (sigtimedwait(&set, &info, &now) < 0)
		log_line("tracer", "no SIGCHLD");
	else if (cell->threads != THREADS_ONE || cell->stop->deed == DEED_FORK ||
		 cell->stop->deed == DEED_VFORK || cell->stop->deed == DEED_CLONE)
		/* its task varies */
		log_line("tracer", "SIGCHLD");
	else
		log_line("tracer", "SIGCHLD code %d from %s status %#x", info.si_code,
			 role_name(info.si_pid), info.si_status);
}

static void go_on_by(struct going *going, const char *what, int request, int signo)
{
	if (request == PTRACE_SINGLEBLOCK && going->cell->absent)
		request = PTRACE_SINGLESTEP;
	must(what, request, going->subject, 0, signo);
	going->request = request;
	going->times = request == PTRACE_CONT ? 0 : TIMES;
}

static void cont(struct going *going, int signo)
{
	go_on_by(going, "cont", PTRACE_CONT, signo);
}

static void set_number(pid_t pid, long nr)
{
	must("pokeuser", PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, orig_rax), nr);
}

static void set_regs(pid_t pid)
{
	struct user_regs_struct regs;

	must("getregs", PTRACE_GETREGS, pid, 0, (unsigned long)&regs);
	regs.rip = (unsigned long)elsewhere;
	/* aligned as after a call, and below the red zone */
	regs.rsp = ((regs.rsp - 256) & ~15ul) - 8;
	must("setregs", PTRACE_SETREGS, pid, 0, (unsigned long)&regs);
}

static void set_siginfo(pid_t pid)
{
	siginfo_t info;

	must("getsiginfo", PTRACE_GETSIGINFO, pid, 0, (unsigned long)&info);
	info.si_pid = 4242;
	must("setsiginfo", PTRACE_SETSIGINFO, pid, 0, (unsigned long)&info);
}

static void set_sigmask(pid_t pid)
{
	unsigned long mask = 1ul << (SIGUSR1 - 1) | 1ul << (SIGUSR2 - 1) |
			     1ul << (SIGALRM - 1) | 1ul << (SIGCHLD - 1) | 1ul << (RT_SIGNAL - 1);

	must("setsigmask", PTRACE_SETSIGMASK, pid, sizeof(mask), (unsigned long)&mask);
}

static void detach(struct going *going, int signo)
{
	must("detach", PTRACE_DETACH, going->subject, 0, signo);
	going->detached = true;
}

/* Returns the signal to resume a task with after a stop that is not the cell's. */
static int signal_of(pid_t pid, int status)
{
	siginfo_t info;
	int signo = status >> 8;

	/* events, stops of system calls, steps */
	if (signo & ~0x7f || signo == SIGTRAP)
		return 0;
	/* a group stop without PTRACE_SEIZE, which has no signal to deliver */
	if (ptrace(PTRACE_GETSIGINFO, pid, 0, &info))
		return 0;
	/* the SIGSTOP of a new tracee is for its tracer only */
	if (signo == SIGSTOP && pid != shared->pids[ROLE_TRACEE])
		return 0;
	return signo;
}

/* Handles a stop or exit of a task other than the subject. */
static void handle_other(struct going *going, pid_t pid, int status)
{
	if (!WIFSTOPPED(status)) {
		log_end(role_name(pid), status);
		return;
	}
	/* the subject's exit may kill it before it reports this */
	if (going->woken) {
		ptrace(PTRACE_CONT, pid, 0, signal_of(pid, status));
		return;
	}
	log_stop(pid, status);
	if (++going->stops == MAX_STOPS)
		give_up("too many stops");
	trace("on", PTRACE_CONT, pid, 0, signal_of(pid, status));
}

/*
 * Resumes all other tasks until they sleep or have exited: the result of two tasks running
 * concurrently would vary.
 */
static void settle_others(struct going *going)
{
	for (unsigned int n = 0; n < sizeof(going->others) / sizeof(going->others[0]); n++) {
		pid_t pid = going->others[n];

		while (pid && pid != going->subject) {
			/* read the state first: a task that exits after this reports its exit */
			char state = state_of(pid);
			int status;
			pid_t reported = waitpid(pid, &status, __WALL | WNOHANG);

			if (reported > 0)
				handle_other(going, pid, status);
			else if (strchr(reported < 0 ? "SDTtZ-" : "SDZ-", state))
				break;
			else
				sched_yield();
		}
	}
}

/* All threads of a seized tracee report it, whether they were stopped or not. */
static void send_sigcont(struct going *going)
{
	syscall(SYS_tkill, going->subject, SIGCONT);
	settle_others(going);
}

/* Sends SIGKILL. A process that is already exiting stays in its stop. */
static void be_killed(struct going *going)
{
	if (state_of(going->subject) != 't')
		return;
	log_line(role_name(going->subject), "stays in its stop");
	cont(going, 0);
}

static void do_next(struct going *going)
{
	const struct cell *cell = going->cell;
	int pass = at_signal(cell->stop) ? cell->stop->arg : 0;
	pid_t pid = going->subject;

	switch (cell->next) {
	case NEXT_CONT:
		return cont(going, pass);
	case NEXT_CONT_0:
		return cont(going, 0);
	case NEXT_CONT_SIG:
		return cont(going, SIGUSR2);
	case NEXT_CONT_FATAL:
		return cont(going, SIGTERM);
	case NEXT_CONT_STOP:
		return cont(going, SIGSTOP);
	case NEXT_SYSCALL:
		return go_on_by(going, "syscall", PTRACE_SYSCALL, pass);
	case NEXT_STEP:
		return go_on_by(going, "step", PTRACE_SINGLESTEP, pass);
	case NEXT_BLOCK:
		return go_on_by(going, "block", PTRACE_SINGLEBLOCK, pass);
	case NEXT_SYSEMU:
		return go_on_by(going, "sysemu", PTRACE_SYSEMU, pass);
	case NEXT_SYSEMU_STEP:
		return go_on_by(going, "sysemu-step", PTRACE_SYSEMU_SINGLESTEP, pass);
	case NEXT_LISTEN:
		must("listen", PTRACE_LISTEN, pid, 0, 0);
		return send_sigcont(going);
	case NEXT_INTERRUPT:
		must("interrupt", PTRACE_INTERRUPT, pid, 0, 0);
		/* a listening tracee leaves its stop without a request */
		if (cell->stop->lead != LEAD_LISTEN || !cell->collected)
			cont(going, pass);
		return;
	case NEXT_CHANGE_NR:
		set_number(pid, SYS_getuid);
		return cont(going, pass);
	case NEXT_SKIP_NR:
		set_number(pid, -1);
		return cont(going, pass);
	case NEXT_SETREGS:
		set_regs(pid);
		return cont(going, pass);
	case NEXT_POKE_AX:
		must("pokeuser", PTRACE_POKEUSER, pid,
		     offsetof(struct user_regs_struct, rax), 0x77);
		return cont(going, pass);
	case NEXT_POKE:
		must("pokedata", PTRACE_POKEDATA, pid, (unsigned long)&shared->poked, 7);
		return cont(going, pass);
	case NEXT_SETSIGINFO:
		set_siginfo(pid);
		return cont(going, pass);
	case NEXT_SETSIGMASK:
		set_sigmask(pid);
		return cont(going, pass);
	case NEXT_SETOPTIONS:
		must("setoptions", PTRACE_SETOPTIONS, pid, 0,
		     PTRACE_O_TRACEEXIT | PTRACE_O_TRACESYSGOOD);
		return cont(going, pass);
	case NEXT_QUEUE:
		syscall(SYS_tkill, pid, SIGUSR2);
		return cont(going, pass);
	case NEXT_SIGCONT:
		send_sigcont(going);
		/* a listening tracee leaves its stop without a request */
		if (cell->stop->lead != LEAD_LISTEN || !cell->collected)
			cont(going, pass);
		return;
	case NEXT_DETACH:
		return detach(going, pass);
	case NEXT_DETACH_SIG:
		return detach(going, SIGUSR2);
	case NEXT_KILL:
		must("kill", PTRACE_KILL, pid, 0, 0);
		return be_killed(going);
	case NEXT_SIGKILL:
		kill(pid, SIGKILL);
		return be_killed(going);
	case NEXT_EXIT:
	case NEXT_EXITKILL:
		_exit(5);
	case NEXT_KILLED:
		kill(getpid(), SIGKILL);
		return;
	case NR_NEXTS:
		break;
	}
}

static void handle(struct going *going, pid_t pid, int status)
{
	int request = PTRACE_CONT;

	if (pid != going->subject || !WIFSTOPPED(status)) {
		handle_other(going, pid, status);
		return;
	}
	log_stop(pid, status);
	if (++going->stops == MAX_STOPS)
		give_up("too many stops");
	settle_others(going);
	if (going->times > 0) {
		going->times--;
		request = going->request;
	}
	trace("on", request, pid, 0, signal_of(pid, status));
}

/* Wakes the subject if it was left stopped: no other task would. True if it has exited. */
static bool left_alone(struct going *going)
{
	pid_t pid = going->subject;
	char state = state_of(pid);

	if (state == 'T') {
		log_line(role_name(pid), "was left stopped");
		going->woken = true;
		kill(pid, SIGCONT);
		while (state_of(pid) == 'T')
			sched_yield();
	}
	sched_yield();
	return state == 'Z' || state == '-';
}

static void watch(struct going *going)
{
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, __WALL | (going->detached ? WNOHANG : 0));

		if (pid > 0)
			handle(going, pid, status);
		else if (!going->detached || (left_alone(going) && pid < 0))
			return;
	}
}

void tracer(const struct cell *cell)
{
	struct going going = { .cell = cell };
	sigset_t set;
	pid_t tracee;
	int status;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	shared->pids[ROLE_TRACER] = getpid();
	log_open("tracer.log");
	tracee = attach(cell);
	log_sigchld(cell);
	going.subject = lead(cell, tracee, &going.others[0]);
	/* exec has changed the tracee's tid to that of its leader */
	going.others[1] = shared->pids[ROLE_TRACEE];
	if (cell->threads == THREADS_TWO_TRACED)
		going.others[2] = shared->pids[ROLE_SECOND];
	if (cell->collected && cell->stop->lead != LEAD_LISTEN)
		collect(going.subject);
	/* the event: a checkpoint may happen here */
	getppid();
	if (!cell->collected)
		collect(going.subject);
	else if (waitpid(going.subject, &status, __WALL | WNOHANG))
		log_line("tracer", "is notified again: %#x", status);
	else
		log_stop(going.subject, 0);
	log_sigchld(cell);
	if (write(channels.feed[1], "f", 1) != 1)
		die("feed");
	/* a tracer that exits leaves the other tasks as they are */
	if (cell->next < NEXT_EXIT)
		settle_others(&going);
	do_next(&going);
	watch(&going);
	_exit(0);
}
