/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_CHECKPOINT_TYPES_H
#define _LINUX_CHECKPOINT_TYPES_H

#include <linux/types.h>

struct ckpt_trigger;

/**
 * struct ckpt_site - the well-defined place at which a task sleeps frozen
 * @kind: one of enum ckpt_site_kind (uapi/linux/checkpoint.h), 0 when none
 * @arg: vfork wait: the child's pid as the system call will return it;
 *	group stop: the stop signal
 * @held: how many checkpoints are reading the task; while any is, the task
 *	does not leave the site, not even to die (ckpt_site_leave())
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
};

#endif /* _LINUX_CHECKPOINT_TYPES_H */
