// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tasks that nobody can reach.
 *
 * Until restart(2) lets its tasks go they are half built: they hold the
 * restarter's rights, files and memory, and objects that are not whole. Who got
 * hold of one could take its files (pidfd_getfd(2)), trace it, reap it, or
 * write to a terminal that is being filled. So each restart has a number, its
 * tasks are hidden under it from their creation on, and only tasks that work
 * for the same restart find them:
 *
 *	pid_task()			all look-ups by number: kill(2), ptrace(2),
 *					/proc/PID, pidfds, cgroup.procs, ...
 *	eligible_child()		wait4(2) and its like
 *	__kill_pgrp_info(), kill(-1), SIGIO, SIGURG
 *					signals to many
 *	setpriority(2), ioprio_set(2)	of a group or a user
 *	cgroup.procs, tasks, children	lists of numbers
 *	checkpoint(2)			refuses a tree that has one
 *
 * What ends tasks reaches them all the same: cgroup.kill, the end of their pid
 * namespace, the OOM killer, and the death of the restarter, which takes all
 * that it has created with it. SIGKILL is never blocked in them.
 *
 * A hidden task that dies becomes visible as it does, since it holds nothing
 * any more. The zombies that an image asks for stay hidden (kept), until the
 * restart has put them in their places or has given up.
 */
#include <linux/atomic.h>
#include <linux/sched/task.h>

#include "ckpt.h"

static atomic64_t last_restart;

/* All tasks that current creates from now on are hidden. */
void ckpt_hide_begin(void)
{
	current->ckpt_site.restart = atomic64_inc_return(&last_restart);
}

/* Current does not work for a restart any more. */
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
 * ckpt_unhide_all - let everybody see the tasks of a restart
 * @ctx: the restart; all is as it was at the checkpoint
 */
void ckpt_unhide_all(struct ckpt_ctx *ctx)
{
	unsigned int i;

	/* all at once, for those that walk over many */
	write_lock_irq(&tasklist_lock);
	for (i = 0; i < ctx->nr_tsks; i++)
		ckpt_unhide(ctx->tsks[i].task);
	write_unlock_irq(&tasklist_lock);
}

/* What ckpt_keep_zombie() and ckpt_give_up_zombie() agree on. */
enum { FATE_OPEN, FATE_KEPT, FATE_GIVEN_UP };

/**
 * ckpt_keep_zombie - stay hidden as a zombie
 * @ct: current's entry; current holds nothing of the restart any more, and exits
 */
void ckpt_keep_zombie(struct ckpt_tsk *ct)
{
	if (atomic_cmpxchg(&ct->fate, FATE_OPEN, FATE_KEPT) == FATE_OPEN)
		current->ckpt_site.kept = true;
}

/**
 * ckpt_give_up_zombie - the restart has failed: anybody may reap it
 * @ct: the entry of a process that has died
 */
void ckpt_give_up_zombie(struct ckpt_tsk *ct)
{
	if (atomic_xchg(&ct->fate, FATE_GIVEN_UP) == FATE_KEPT)
		ckpt_unhide(ct->task);
}

/* exit_notify(): nothing can be got at through a task that is dead. */
void ckpt_unhide_dead(struct task_struct *t)
{
	if (unlikely(t->ckpt_site.hidden) && !t->ckpt_site.kept)
		ckpt_unhide(t);
}
