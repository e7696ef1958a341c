/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _LINUX_CHECKPOINT_TYPES_H
#define _LINUX_CHECKPOINT_TYPES_H

#include <linux/types.h>

struct ckpt_stop;
struct ckpt_trigger;

/* Generations that a trigger can name. Tasks further down have no name. */
#define CKPT_NAME_DEPTH	14

/**
 * struct ckpt_name - position of a task among the tasks of a counted cgroup
 * @depth: entries of @nth in use, 0 for a task without a name
 * @nth: the first entry is the index among the tasks that existed when the
 *	trigger was armed; each further entry is the index of a child or thread
 *	in order of creation. All count from 1
 * @births: children and threads created so far
 * @events: events that the trigger has counted for this task
 *
 * A name is the same in each run, a pid is not. See
 * kernel/checkpoint/trigger.c.
 */
struct ckpt_name {
	u16 depth;
	u16 nth[CKPT_NAME_DEPTH];
	u16 births;
	u32 events;
};

/**
 * struct ckpt_site - the well-defined place at which a frozen task sleeps
 * @kind: one of enum ckpt_site_kind (uapi/linux/checkpoint.h), 0 for none
 * @arg: vfork wait: the child's pid as the system call will return it;
 *	group stop: the stop signal; ptrace stop: as @stop_arg
 * @held: number of checkpoints that are reading the task. The task does not
 *	leave its site, even when killed, until it is 0 (ckpt_site_leave())
 * @stop: the ptrace stop that is entered next or was entered last, one of
 *	enum ckpt_stop_kind
 * @stop_arg: argument of @stop, see enum ckpt_stop_kind
 * @dying: true while a restarted dead thread exits without any notification
 * @resume: the stop or exit that a restarted task has yet to re-enter
 * @pty: index plus 1 of the pty that a restarted task is opening, else 0
 * @restart: number of the restart(2) that the task works for, 0 for none. The
 *	task finds the tasks that this restart hides. Written by the task itself
 * @hidden: number of the restart(2) that is building the task, 0 for none. Only
 *	tasks that work for this restart find the task
 *	(kernel/checkpoint/hide.c)
 * @kept: true for a zombie of an unfinished restart, which stays hidden
 * @name: for triggers
 *
 * Tasks in ptrace_stop(), do_signal_stop(), do_freezer_trap() and
 * wait_for_vfork_done() all count as frozen, and the task state does not
 * distinguish them, so their callers mark the site. The task itself writes it
 * before it sleeps; checkpoint(2) reads it after wait_task_inactive().
 */
struct ckpt_site {
	u32 kind;
	s32 arg;
	atomic_t held;
	u32 stop;
	s32 stop_arg;
	bool dying;
	struct ckpt_stop *resume;
	int pty;
	u64 restart;
	u64 hidden;
	bool kept;
	struct ckpt_name name;
};

#endif /* _LINUX_CHECKPOINT_TYPES_H */
