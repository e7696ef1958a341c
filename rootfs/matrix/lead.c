// SPDX-License-Identifier: Apache-2.0 OR MIT
/* The tracer's way to the stop: attaching, and the requests before the stop. */
#include "cell.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* Far more steps than any stop requires. */
#define MAX_STEPS 300

#define SYSCALL_STOP (SIGTRAP | 0x80)

/* Reports an error and kills all tasks of the cell. */
void give_up(const char *format, ...)
{
	char line[256];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	log_line("tracer", "%s", line);
	kill(-1, SIGKILL);
	_exit(0);
}

/* Calls ptrace(2) and logs its errno. */
long trace(const char *what, int request, pid_t pid, unsigned long addr, unsigned long data)
{
	long ret = ptrace(request, pid, addr, data);

	if (ret == -1 && errno)
		log_line(role_name(pid), "%s: %s", what, strerrorname_np(errno));
	return ret;
}

/* Calls ptrace(2) for a request that the cell requires: its failure ends the cell. */
void must(const char *what, int request, pid_t pid, unsigned long addr, unsigned long data)
{
	if (ptrace(request, pid, addr, data))
		give_up("excluded %s %s", what, strerrorname_np(errno));
}

/* Waits for a task's stop without consuming it. Returns its status, 0 if it has died. */
static int peek(pid_t pid)
{
	siginfo_t info = { };

	if (waitid(P_PID, pid, &info, WSTOPPED | WEXITED | WNOWAIT | __WALL))
		die("waitid");
	return info.si_code == CLD_TRAPPED || info.si_code == CLD_STOPPED ? info.si_status : 0;
}

static void expect(pid_t pid, int status)
{
	int came = peek(pid);

	if (came != status)
		give_up("no such stop: %#x came, not %#x", came, status);
}

/* Waits for a task and logs its stop or exit. */
void collect(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, __WALL) != pid)
		die("waitpid");
	if (WIFSTOPPED(status))
		log_stop(pid, status);
	else
		log_end(role_name(pid), status);
}

static int options_of(const struct cell *cell)
{
	return cell->stop->options | (cell->stop->plain ? 0 : PTRACE_O_TRACESYSGOOD) |
	       (cell->next == NEXT_EXITKILL ? PTRACE_O_EXITKILL : 0);
}

static void attach_to(const struct cell *cell, pid_t pid)
{
	if (cell->way == WAY_SEIZE) {
		must("seize", PTRACE_SEIZE, pid, 0, options_of(cell));
		return;
	}
	must("attach", PTRACE_ATTACH, pid, 0, 0);
	expect(pid, SIGSTOP);
	collect(pid);
	must("setoptions", PTRACE_SETOPTIONS, pid, 0, options_of(cell));
	must("cont", PTRACE_CONT, pid, 0, 0);
	/* until it is back in its read: before, it might take a signal for a different thread */
	while (state_of(pid) != 'S')
		sched_yield();
}

/* Attaches to the tracee, which is then at its starting point. */
pid_t attach(const struct cell *cell)
{
	volatile int *waits = &shared->tracee_waits;
	pid_t pid;

	if (cell->way == WAY_TRACEME) {
		pid = fork();
		if (pid < 0)
			die("fork");
		if (!pid)
			tracee(cell);
		/* it may be a thread other than the leader */
		while (!*waits)
			sched_yield();
		pid = shared->pids[ROLE_TRACEE];
	} else {
		while (!*waits || state_of(shared->pids[ROLE_TRACEE]) != 'S')
			sched_yield();
		pid = shared->pids[ROLE_TRACEE];
		attach_to(cell, pid);
		if (cell->threads == THREADS_TWO_TRACED)
			attach_to(cell, shared->pids[ROLE_SECOND]);
		if (write(channels.go[1], "g", 1) != 1)
			die("go");
	}
	expect(pid, SIGWINCH);
	collect(pid);
	if (cell->way == WAY_TRACEME)
		must("setoptions", PTRACE_SETOPTIONS, pid, 0, options_of(cell));
	return pid;
}

/* Waits until it sleeps in the read of its deed. */
static void await_read(pid_t pid)
{
	char path[40], wanted[40], line[40];

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	snprintf(wanted, sizeof(wanted), "%d %#x ", SYS_read, channels.feed[0]);
	do {
		int fd = open(path, O_RDONLY);
		ssize_t length = read(fd, line, sizeof(line) - 1);

		close(fd);
		line[length < 0 ? 0 : length] = 0;
		sched_yield();
	} while (strncmp(line, wanted, strlen(wanted)));
}

/* Waits until a task sleeps, is stopped, or has exited. */
static void await_rest(pid_t pid)
{
	while (!strchr("StTZ-", state_of(pid)))
		sched_yield();
}

static unsigned long ip_of(pid_t pid)
{
	return ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0);
}

static void step_to_syscall(pid_t pid)
{
	for (int n = 0; ip_of(pid) != (unsigned long)counted_syscall; n++) {
		if (n == MAX_STEPS)
			give_up("no such stop: the system call does not come");
		must("step", PTRACE_SINGLESTEP, pid, 0, 0);
		expect(pid, SIGTRAP);
		waitpid(pid, NULL, __WALL);
	}
	must("step", PTRACE_SINGLESTEP, pid, 0, 0);
	expect(pid, SIGTRAP);
}

static void step_emulated(pid_t pid)
{
	for (int n = 0; n < MAX_STEPS; n++) {
		must("sysemu-step", PTRACE_SYSEMU_SINGLESTEP, pid, 0, 0);
		if (peek(pid) != SIGTRAP) {
			expect(pid, SYSCALL_STOP);
			return;
		}
		waitpid(pid, NULL, __WALL);
	}
	give_up("no such stop: the system call does not come");
}

/* Resumes the tracee into its deed. Returns its tid, which exec in a second thread changes. */
static pid_t cont_to_deed(const struct cell *cell, pid_t pid)
{
	siginfo_t info;

	must("cont", PTRACE_CONT, pid, 0, 0);
	if (cell->stop->deed != DEED_EXEC)
		return pid;
	/* exec waits for the other threads to be gone, and they wait for their tracer */
	if (cell->threads == THREADS_TWO_TRACED)
		collect(shared->pids[ROLE_SECOND]);
	if (cell->threads != THREADS_OTHER)
		return pid;
	pid = shared->pids[ROLE_SECOND];
	shared->execed = 1;
	shared->pids[ROLE_SECOND] = 0;
	shared->pids[ROLE_TRACEE] = pid;
	while (waitid(P_PID, pid, &info, WSTOPPED | WEXITED | WNOWAIT | WNOHANG | __WALL))
		sched_yield();
	return pid;
}

static void lead_group(const struct cell *cell, pid_t pid)
{
	int signo = cell->stop->arg;

	must("cont", PTRACE_CONT, pid, 0, 0);
	expect(pid, signo);
	collect(pid);
	must("cont", PTRACE_CONT, pid, 0, signo);
	expect(pid, cell->way == WAY_SEIZE ? signo | PTRACE_EVENT_STOP << 8 : signo);
	/* the other thread takes part in the group stop, and must enter it first */
	if (cell->threads != THREADS_ONE)
		await_rest(shared->pids[ROLE_SECOND]);
}

static void lead_listen(const struct cell *cell, pid_t pid)
{
	lead_group(cell, pid);
	collect(pid);
	must("listen", PTRACE_LISTEN, pid, 0, 0);
	if (!cell->collected) {
		/* its next stop is reported only when the group stop is over */
		syscall(SYS_tkill, pid, SIGCONT);
		expect(pid, SIGTRAP | PTRACE_EVENT_STOP << 8);
	}
}

static bool has_child(const struct cell *cell)
{
	return (cell->stop->lead == LEAD_EVENT || cell->stop->lead == LEAD_NEWBORN) &&
	       (cell->stop->deed == DEED_FORK || cell->stop->deed == DEED_VFORK ||
		cell->stop->deed == DEED_CLONE);
}

/*
 * Leads the tracee to the stop of the cell. Returns the task in that stop, which has not been
 * waited for; all other tasks are at rest. Sets @born to the created task, if there is one.
 */
pid_t lead(const struct cell *cell, pid_t tracee, pid_t *born)
{
	const struct stop *stop = cell->stop;
	int event = SIGTRAP | stop->arg << 8;
	int call = stop->plain ? SIGTRAP : SYSCALL_STOP;
	unsigned long child = 0;

	switch (stop->lead) {
	case LEAD_SIGNAL:
		tracee = cont_to_deed(cell, tracee);
		expect(tracee, stop->arg);
		break;
	case LEAD_SENT:
		must("cont", PTRACE_CONT, tracee, 0, 0);
		await_read(tracee);
		syscall(SYS_tkill, tracee, stop->arg);
		expect(tracee, stop->arg);
		break;
	case LEAD_GROUP:
		lead_group(cell, tracee);
		break;
	case LEAD_LISTEN:
		lead_listen(cell, tracee);
		break;
	case LEAD_INTERRUPT:
		must("interrupt", PTRACE_INTERRUPT, tracee, 0, 0);
		must("cont", PTRACE_CONT, tracee, 0, 0);
		expect(tracee, SIGTRAP | PTRACE_EVENT_STOP << 8);
		break;
	case LEAD_INTERRUPT_READ:
		must("cont", PTRACE_CONT, tracee, 0, 0);
		await_read(tracee);
		must("interrupt", PTRACE_INTERRUPT, tracee, 0, 0);
		expect(tracee, SIGTRAP | PTRACE_EVENT_STOP << 8);
		break;
	case LEAD_EVENT:
	case LEAD_NEWBORN:
		tracee = cont_to_deed(cell, tracee);
		expect(tracee, event);
		break;
	case LEAD_EXIT:
		must("syscall", PTRACE_SYSCALL, tracee, 0, 0);
		expect(tracee, call);
		collect(tracee);
		/* fall through */
	case LEAD_ENTER:
		must("syscall", PTRACE_SYSCALL, tracee, 0, 0);
		expect(tracee, call);
		break;
	case LEAD_SYSEMU:
		must("sysemu", PTRACE_SYSEMU, tracee, 0, 0);
		expect(tracee, call);
		break;
	case LEAD_SYSEMU_STEP:
		step_emulated(tracee);
		break;
	case LEAD_STEP:
		must("step", PTRACE_SINGLESTEP, tracee, 0, 0);
		expect(tracee, SIGTRAP);
		break;
	case LEAD_BLOCK:
		must("block", cell->absent ? PTRACE_SINGLESTEP : PTRACE_SINGLEBLOCK, tracee, 0, 0);
		expect(tracee, SIGTRAP);
		break;
	case LEAD_STEP_SYSCALL:
		step_to_syscall(tracee);
		break;
	case LEAD_HANDLER:
		must("cont", PTRACE_CONT, tracee, 0, 0);
		expect(tracee, stop->arg);
		collect(tracee);
		must("step", PTRACE_SINGLESTEP, tracee, 0, stop->arg);
		expect(tracee, SIGTRAP);
		break;
	case LEAD_KILLED:
		must("cont", PTRACE_CONT, tracee, 0, 0);
		expect(tracee, SIGTERM);
		collect(tracee);
		must("cont", PTRACE_CONT, tracee, 0, SIGTERM);
		expect(tracee, event);
		break;
	}
	if (shared->pids[ROLE_SECOND])
		await_rest(shared->pids[ROLE_SECOND]);
	if (!has_child(cell))
		return tracee;
	if (ptrace(PTRACE_GETEVENTMSG, tracee, 0, &child))
		die("geteventmsg");
	await_rest(child);
	shared->pids[ROLE_CHILD] = child;
	*born = child;
	if (stop->lead != LEAD_NEWBORN)
		return tracee;
	expect(child, cell->way == WAY_SEIZE ? SIGTRAP | PTRACE_EVENT_STOP << 8 : SIGSTOP);
	return child;
}
