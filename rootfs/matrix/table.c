// SPDX-License-Identifier: Apache-2.0 OR MIT
/* The list of cells, and their names: STOP/WAY/NEXT/COLLECTED/THREADS. */
#include "cell.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>

static const struct stop stops[] = {
	{ "signal-kill", DEED_KILL, LEAD_SIGNAL, SIGUSR1 },
	{ "signal-tgkill", DEED_TGKILL, LEAD_SIGNAL, SIGUSR1 },
	{ "signal-queue", DEED_QUEUE, LEAD_SIGNAL, RT_SIGNAL },
	{ "signal-altstack", DEED_ALTSTACK, LEAD_SIGNAL, SIGUSR1 },
	{ "signal-fatal", DEED_FATAL, LEAD_SIGNAL, SIGTERM },
	{ "signal-segv", DEED_SEGV, LEAD_SIGNAL, SIGSEGV },
	{ "signal-int3", DEED_INT3, LEAD_SIGNAL, SIGTRAP },
	{ "signal-ignored", DEED_IGNORED, LEAD_SIGNAL, SIGHUP },
	{ "signal-timer", DEED_TIMER, LEAD_SIGNAL, SIGALRM },
	{ "signal-stop", DEED_STOP, LEAD_SIGNAL, SIGSTOP },
	{ "signal-in-read", DEED_READ, LEAD_SENT, SIGUSR1 },
	{ "signal-in-read-restart", DEED_READ, LEAD_SENT, SIGUSR1, .restarts = true },
	{ "group-stop", DEED_STOP, LEAD_GROUP, SIGSTOP },
	{ "group-tstp", DEED_TSTP, LEAD_GROUP, SIGTSTP },
	{ "listen", DEED_STOP, LEAD_LISTEN, SIGSTOP },
	{ "interrupt", DEED_SYSCALL, LEAD_INTERRUPT },
	{ "interrupt-in-read", DEED_READ, LEAD_INTERRUPT_READ },
	{ "fork", DEED_FORK, LEAD_EVENT, PTRACE_EVENT_FORK, PTRACE_O_TRACEFORK },
	{ "vfork", DEED_VFORK, LEAD_EVENT, PTRACE_EVENT_VFORK, PTRACE_O_TRACEVFORK },
	{ "vfork-done", DEED_VFORK, LEAD_EVENT, PTRACE_EVENT_VFORK_DONE,
	  PTRACE_O_TRACEVFORKDONE },
	{ "clone", DEED_CLONE, LEAD_EVENT, PTRACE_EVENT_CLONE, PTRACE_O_TRACECLONE },
	{ "newborn-fork", DEED_FORK, LEAD_NEWBORN, PTRACE_EVENT_FORK, PTRACE_O_TRACEFORK },
	{ "newborn-vfork", DEED_VFORK, LEAD_NEWBORN, PTRACE_EVENT_VFORK, PTRACE_O_TRACEVFORK },
	{ "newborn-clone", DEED_CLONE, LEAD_NEWBORN, PTRACE_EVENT_CLONE, PTRACE_O_TRACECLONE },
	{ "exec", DEED_EXEC, LEAD_EVENT, PTRACE_EVENT_EXEC, PTRACE_O_TRACEEXEC },
	{ "exec-legacy", DEED_EXEC, LEAD_SIGNAL, SIGTRAP },
	{ "exit", DEED_NONE, LEAD_EVENT, PTRACE_EVENT_EXIT, PTRACE_O_TRACEEXIT },
	{ "exit-killed", DEED_FATAL, LEAD_KILLED, PTRACE_EVENT_EXIT, PTRACE_O_TRACEEXIT },
	{ "seccomp", DEED_SECCOMP, LEAD_EVENT, PTRACE_EVENT_SECCOMP, PTRACE_O_TRACESECCOMP },
	{ "syscall-enter", DEED_SYSCALL, LEAD_ENTER },
	{ "syscall-exit", DEED_SYSCALL, LEAD_EXIT },
	{ "syscall-enter-plain", DEED_SYSCALL, LEAD_ENTER, .plain = true },
	{ "syscall-exit-plain", DEED_SYSCALL, LEAD_EXIT, .plain = true },
	{ "syscall-enter-read", DEED_READ, LEAD_ENTER },
	{ "sysemu", DEED_SYSCALL, LEAD_SYSEMU },
	{ "sysemu-step", DEED_SYSCALL, LEAD_SYSEMU_STEP },
	{ "step", DEED_STEPS, LEAD_STEP },
	{ "block", DEED_STEPS, LEAD_BLOCK },
	{ "step-syscall", DEED_SYSCALL, LEAD_STEP_SYSCALL },
	{ "step-handler", DEED_TGKILL, LEAD_HANDLER, SIGUSR1 },
};

static const char *const ways[NR_WAYS] = { "traceme", "attach", "seize" };

static const char *const nexts[NR_NEXTS] = {
	[NEXT_CONT] = "cont",
	[NEXT_CONT_0] = "cont-0",
	[NEXT_CONT_SIG] = "cont-sig",
	[NEXT_CONT_FATAL] = "cont-fatal",
	[NEXT_CONT_STOP] = "cont-stop",
	[NEXT_SYSCALL] = "syscall",
	[NEXT_STEP] = "step",
	[NEXT_BLOCK] = "block",
	[NEXT_SYSEMU] = "sysemu",
	[NEXT_SYSEMU_STEP] = "sysemu-step",
	[NEXT_LISTEN] = "listen",
	[NEXT_INTERRUPT] = "interrupt",
	[NEXT_CHANGE_NR] = "change-nr",
	[NEXT_SKIP_NR] = "skip-nr",
	[NEXT_SETREGS] = "setregs",
	[NEXT_POKE_AX] = "poke-ax",
	[NEXT_POKE] = "poke",
	[NEXT_SETSIGINFO] = "setsiginfo",
	[NEXT_SETSIGMASK] = "setsigmask",
	[NEXT_SETOPTIONS] = "setoptions",
	[NEXT_QUEUE] = "queue",
	[NEXT_SIGCONT] = "sigcont",
	[NEXT_DETACH] = "detach",
	[NEXT_DETACH_SIG] = "detach-sig",
	[NEXT_KILL] = "kill",
	[NEXT_SIGKILL] = "sigkill",
	[NEXT_EXIT] = "tracer-exits",
	[NEXT_KILLED] = "tracer-killed",
	[NEXT_EXITKILL] = "exitkill",
};

static const char *const collecteds[] = { "pending", "collected" };

static const char *const threadings[NR_THREADS] = { "one", "two", "two-traced", "other" };

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Returns true when a stop has a signal with which the tracee can be resumed. */
bool at_signal(const struct stop *stop)
{
	return stop->lead == LEAD_SIGNAL || stop->lead == LEAD_SENT;
}

static bool at_syscall(const struct stop *stop)
{
	return stop->lead == LEAD_ENTER || stop->lead == LEAD_SYSEMU ||
	       stop->lead == LEAD_SYSEMU_STEP || stop->deed == DEED_SECCOMP;
}

/*
 * Returns true when a cell differs from the others: without a signal to suppress, for
 * example, CONT with 0 does the same as CONT.
 */
static bool is_of_its_own(const struct stop *stop, enum next next)
{
	switch (next) {
	case NEXT_CONT_0:
		return at_signal(stop);
	case NEXT_CHANGE_NR:
	case NEXT_SKIP_NR:
		return at_syscall(stop);
	default:
		return true;
	}
}

/* Prints the cells of one stop; none if there is no such stop. */
void cells_list(unsigned int stop)
{
	if (stop >= COUNT(stops))
		return;
	for (int way = 0; way < NR_WAYS; way++)
	for (int next = 0; next < NR_NEXTS; next++)
	for (unsigned int collected = 0; collected < COUNT(collecteds); collected++)
	for (int threads = 0; threads < NR_THREADS; threads++)
		if (is_of_its_own(&stops[stop], next))
			printf("%s/%s/%s/%s/%s\n", stops[stop].name, ways[way], nexts[next],
			       collecteds[collected], threadings[threads]);
}

static int find(const char *const *names, int count, const char *name)
{
	for (int n = 0; n < count; n++)
		if (!strcmp(names[n], name))
			return n;
	return -1;
}

bool cell_parse(struct cell *cell, const char *name)
{
	static char copy[128];
	int way, next, collected, threads;
	char *parts[5], *rest = copy;

	if (strlen(name) >= sizeof(copy))
		return false;
	strcpy(copy, name);
	for (int n = 0; n < 5; n++)
		parts[n] = strsep(&rest, "/");
	if (!parts[4] || rest)
		return false;
	for (unsigned int s = 0; s < COUNT(stops); s++)
		if (!strcmp(stops[s].name, parts[0]))
			cell->stop = &stops[s];
	way = find(ways, NR_WAYS, parts[1]);
	next = find(nexts, NR_NEXTS, parts[2]);
	collected = find(collecteds, COUNT(collecteds), parts[3]);
	threads = find(threadings, NR_THREADS, parts[4]);
	if (!cell->stop || way < 0 || next < 0 || collected < 0 || threads < 0 ||
	    !is_of_its_own(cell->stop, next))
		return false;
	cell->way = way;
	cell->next = next;
	cell->collected = collected;
	cell->threads = threads;
	return true;
}
