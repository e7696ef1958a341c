// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hiding the tasks of an unfinished restart.
 *
 * Until restart(2) releases its tasks they are incomplete: they hold the
 * caller's credentials, files and memory, and incomplete objects. A task that
 * could reach one could take its files (pidfd_getfd(2)), trace it, reap it, or
 * write to a terminal that is being filled. So each restart has a number. Its
 * tasks carry the number from their creation on, and only tasks that work for
 * the same restart find them:
 *
 *	pid_task()			all look-ups by number: kill(2), ptrace(2),
 *					/proc/PID, pidfds, cgroup.procs, ...
 *	eligible_child()		wait4(2) and its like
 *	__kill_pgrp_info(), kill(-1), SIGIO, SIGURG
 *					signals to many
 *	setpriority(2), ioprio_set(2)	of a group or a user
 *	cgroup.procs, tasks, children	lists of numbers
 *	checkpoint(2)			refuses a tree that contains one
 *
 * Hidden tasks can still be killed: by cgroup.kill, the end of their pid
 * namespace, the OOM killer, and the death of the caller, which makes the
 * restart fail. They never block SIGKILL.
 *
 * A hidden task becomes visible when it exits, because it no longer holds
 * resources. The zombies of the image stay hidden (kept) until the restart has
 * set their parents or has failed.
 */
#include <linux/atomic.h>
#include <linux/sched/task.h>

#include "ckpt.h"

static atomic64_t last_restart;

/**
 * ckpt_hide_begin - hide all tasks that current creates from now on
 */
void ckpt_hide_begin(void)
{
	current->ckpt_site.restart = atomic64_inc_return(&last_restart);
}

/**
 * ckpt_hide_end - stop working for a restart
 */
void ckpt_hide_end(void)
{
	current->ckpt_site.restart = 0;
}

static void ckpt_unhide(struct task_struct *t)
{
	/* pairs with ckpt_task_hidden() and ckpt_task_visible() */
	smp_store_release(&t->ckpt_site.hidden, 0);
}

/**
 * ckpt_unhide_all - make the tasks of a restart visible
 * @ctx: the restart; its tasks are complete
 */
void ckpt_unhide_all(struct ckpt_ctx *ctx)
{
	unsigned int i;

	/* all at once, for code that walks over many tasks */
	write_lock_irq(&tasklist_lock);
	for (i = 0; i < ctx->nr_tsks; i++)
		ckpt_unhide(ctx->tsks[i].task);
	write_unlock_irq(&tasklist_lock);
}

/* Orders ckpt_keep_zombie() and ckpt_give_up_zombie(). */
enum { FATE_OPEN, FATE_KEPT, FATE_GIVEN_UP };

/**
 * ckpt_keep_zombie - keep current hidden when it exits
 * @ct: current's entry; current holds no objects of the restart
 */
void ckpt_keep_zombie(struct ckpt_tsk *ct)
{
	if (atomic_cmpxchg(&ct->fate, FATE_OPEN, FATE_KEPT) == FATE_OPEN)
		current->ckpt_site.kept = true;
}

/**
 * ckpt_give_up_zombie - make a zombie visible after the restart has failed
 * @ct: the entry of a dead process
 *
 * The coordinator, or the reaper of orphans, can then reap it.
 */
void ckpt_give_up_zombie(struct ckpt_tsk *ct)
{
	if (atomic_xchg(&ct->fate, FATE_GIVEN_UP) == FATE_KEPT)
		ckpt_unhide(ct->task);
}

/**
 * ckpt_unhide_dead - make an exiting task visible, unless it is a kept zombie
 * @t: the task
 *
 * Called by exit_notify(). A dead task gives no access to files or memory.
 */
void ckpt_unhide_dead(struct task_struct *t)
{
	if (unlikely(t->ckpt_site.hidden) && !t->ckpt_site.kept)
		ckpt_unhide(t);
}
