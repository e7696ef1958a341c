/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _LINUX_CHECKPOINT_TYPES_H
#define _LINUX_CHECKPOINT_TYPES_H

#include <linux/types.h>

struct ckpt_stop;
struct ckpt_trigger;

/* Generations that a trigger can name; those below have no names. */
#define CKPT_NAME_DEPTH	14

/**
 * struct ckpt_name - which task of a counted cgroup this is
 * @depth: how much of @nth is in use, 0 for a task without a name
 * @nth: of the tasks that were there when the trigger was armed, which one;
 *	then, which child (or thread) of that one in the order of their making,
 *	and so on; from 1
 * @births: children so far
 * @events: events that the trigger has counted of this task
 *
 * Pids differ from run to run; this does not. See kernel/checkpoint/trigger.c.
 */
struct ckpt_name {
	u16 depth;
	u16 nth[CKPT_NAME_DEPTH];
	u16 births;
	u32 events;
};

/**
 * struct ckpt_site - the well-defined place at which a task sleeps frozen
 * @kind: one of enum ckpt_site_kind (uapi/linux/checkpoint.h), 0 when none
 * @arg: vfork wait: the child's pid as the system call will return it;
 *	group stop: the stop signal; ptrace stop: as @stop_arg
 * @held: how many checkpoints are reading the task; while any is, the task
 *	does not leave the site, not even to die (ckpt_site_leave())
 * @stop: the ptrace stop that is entered next or was entered last, one of
 *	enum ckpt_stop_kind
 * @stop_arg: what the code behind it needs, see there
 * @dying: a restarted thread that had died: it does so again, without a word
 * @again: a restarted task's stop or death that is still to be entered
 * @pty: of a restarted task that opens a pty, one more than its number; else 0
 * @restart: number of the restart(2) that the task works for, which sees the
 *	tasks that it hides; 0 for none. Written by the task itself
 * @hidden: number of the restart(2) that is building the task, by which alone
 *	it can be found; 0 for none (kernel/checkpoint/hide.c)
 * @kept: a zombie of an unfinished restart, which stays hidden
 * @name: for triggers
 *
 * ptrace_stop(), do_signal_stop(), do_freezer_trap() and
 * wait_for_vfork_done() all count as frozen and cannot be told apart by
 * task state alone: their callers mark them. Written by the task itself
 * before it sleeps, read by checkpoint(2) once wait_task_inactive() holds.
 */
struct ckpt_site {
	u32 kind;
	s32 arg;
	atomic_t held;
	u32 stop;
	s32 stop_arg;
	bool dying;
	struct ckpt_stop *again;
	int pty;
	u64 restart;
	u64 hidden;
	bool kept;
	struct ckpt_name name;
};

#endif /* _LINUX_CHECKPOINT_TYPES_H */
