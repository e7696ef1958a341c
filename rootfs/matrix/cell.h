/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * One cell of the matrix of ptrace stops: a tracer brings its tracee into a stop, parks, and
 * then makes a request. A checkpoint may happen while it is parked.
 *
 *	pid 1		starts the others, reaps them, logs their ends
 *	tracer		attaches, leads the tracee to the stop, parks, continues
 *	tracee		performs the deed that contains the stop
 *	second		the other thread of its process, which is parked in a read, if the
 *			cell has one
 *	child		the task that the deed creates
 *
 * Each logs its observations under its role, not under its pid, because tasks created after a
 * restart may have different pids. Only lines of the same role are ordered.
 */
#ifndef CELL_H
#define CELL_H

#define _GNU_SOURCE

#include <stdarg.h>
#include <stdbool.h>
#include <sys/types.h>

enum deed {
	DEED_NONE,		/* only exits */
	DEED_STEPS,
	DEED_SYSCALL,
	DEED_READ,		/* blocks until the tracer writes */
	DEED_KILL,		/* SIGUSR1 to the process */
	DEED_TGKILL,		/* SIGUSR1 to the thread */
	DEED_QUEUE,		/* a real-time signal with a value */
	DEED_ALTSTACK,
	DEED_FATAL,
	DEED_SEGV,
	DEED_INT3,
	DEED_IGNORED,
	DEED_TIMER,
	DEED_STOP,		/* SIGSTOP */
	DEED_TSTP,
	DEED_FORK,
	DEED_VFORK,
	DEED_CLONE,
	DEED_EXEC,
	DEED_SECCOMP,
};

/* The way of the tracee from its starting point to the stop. */
enum lead {
	LEAD_SIGNAL,
	LEAD_SENT,		/* the tracer sends the signal into a read */
	LEAD_GROUP,
	LEAD_LISTEN,
	LEAD_INTERRUPT,
	LEAD_INTERRUPT_READ,
	LEAD_EVENT,
	LEAD_NEWBORN,
	LEAD_ENTER,
	LEAD_EXIT,
	LEAD_SYSEMU,
	LEAD_SYSEMU_STEP,
	LEAD_STEP,
	LEAD_BLOCK,
	LEAD_STEP_SYSCALL,
	LEAD_HANDLER,
	LEAD_KILLED,		/* PTRACE_EVENT_EXIT after a fatal signal */
};

struct stop {
	const char *name;
	enum deed deed;
	enum lead lead;
	int arg;		/* the signal, or the event */
	int options;		/* PTRACE_O_* in addition to those of all cells */
	bool plain;		/* without PTRACE_O_TRACESYSGOOD */
	bool restarts;		/* SIGUSR1 has SA_RESTART */
};

enum way { WAY_TRACEME, WAY_ATTACH, WAY_SEIZE, NR_WAYS };

enum next {
	NEXT_CONT,		/* with the signal of the stop */
	NEXT_CONT_0,
	NEXT_CONT_SIG,		/* with a different signal, which has a handler */
	NEXT_CONT_FATAL,
	NEXT_CONT_STOP,
	NEXT_SYSCALL,
	NEXT_STEP,
	NEXT_BLOCK,
	NEXT_SYSEMU,
	NEXT_SYSEMU_STEP,
	NEXT_LISTEN,
	NEXT_INTERRUPT,
	NEXT_CHANGE_NR,
	NEXT_SKIP_NR,
	NEXT_SETREGS,
	NEXT_POKE_AX,
	NEXT_POKE,
	NEXT_SETSIGINFO,
	NEXT_SETSIGMASK,
	NEXT_SETOPTIONS,
	NEXT_QUEUE,		/* sends it a signal, then CONT */
	NEXT_SIGCONT,
	NEXT_DETACH,
	NEXT_DETACH_SIG,
	NEXT_KILL,		/* PTRACE_KILL */
	NEXT_SIGKILL,
	NEXT_EXIT,		/* the tracer exits */
	NEXT_KILLED,
	NEXT_EXITKILL,		/* exits, with PTRACE_O_EXITKILL */
	NR_NEXTS
};

enum threads {
	THREADS_ONE,
	THREADS_TWO,
	THREADS_TWO_TRACED,
	THREADS_OTHER,		/* the tracee is the second thread; the leader parks */
	NR_THREADS
};

struct cell {
	const struct stop *stop;
	enum way way;
	enum next next;
	bool collected;
	enum threads threads;
	/*
	 * use SINGLESTEP instead of SINGLEBLOCK, for CPUs without block steps
	 */
	bool absent;
	const char *program;
};

enum role { ROLE_INIT, ROLE_TRACER, ROLE_TRACEE, ROLE_SECOND, ROLE_CHILD, NR_ROLES };

/* The real-time signal that is queued. */
#define RT_SIGNAL 36

/* A file that all tasks map, so that it outlives each of them. */
struct shared {
	int pids[NR_ROLES];	/* the child's is set by the tracer, after its creation */
	int poked;
	int tracee_waits;	/* for the tracer, to attach or after PTRACE_TRACEME */
	int second_parks;
	int execed;		/* the tracee has called exec, and is the only thread */
	int thread_born;	/* the child is a thread */
	int counter;		/* a descriptor that exec leaves open */
	unsigned int used;
	char text[1 << 14];
};

extern struct shared *shared;

/* Pipes, and a file whose offset counts the system calls that were executed on it. */
struct channels {
	int go[2];		/* tracer to tracee: the tracer has attached */
	int feed[2];		/* tracer to tracee: lets DEED_READ end */
	int park[2];		/* never written to */
	int counter;
};

extern struct channels channels;

/* table.c */
bool cell_parse(struct cell *cell, const char *name);
void cells_list(unsigned int stop);
bool at_signal(const struct stop *stop);

/* look.c */
void die(const char *what);
const char *role_name(pid_t pid);
void map_shared(void);
void observe(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_open(const char *path);
void log_line(const char *role, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void log_end(const char *role, int status);
void log_stop(pid_t pid, int status);
char state_of(pid_t pid);

/* tracee.c */
void tracee(const struct cell *cell) __attribute__((noreturn));
void tracee_after_exec(void) __attribute__((noreturn));
void elsewhere(void) __attribute__((noreturn));
extern const char counted_syscall[];

/* lead.c */
long trace(const char *what, int request, pid_t pid, unsigned long addr, unsigned long data);
void must(const char *what, int request, pid_t pid, unsigned long addr, unsigned long data);
void collect(pid_t pid);
pid_t attach(const struct cell *cell);
pid_t lead(const struct cell *cell, pid_t tracee, pid_t *born);
void give_up(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* tracer.c */
void tracer(const struct cell *cell) __attribute__((noreturn));

#endif
