// SPDX-License-Identifier: GPL-2.0-only
/*
 * Parents, process groups and sessions. Tasks are created as children of the
 * coordinator. This code sets their relations, all at once under tasklist_lock,
 * after the last step that can fail.
 */
#include <linux/nsproxy.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "ckpt.h"
#include "ptrace.h"

static int check_entry(struct ckpt_ctx *ctx, unsigned int i)
{
	const struct ckpt_tree *t = &ctx->tsks[i].tree;
	bool leader = t->flags & CKPT_TREE_LEADER;
	unsigned int j;

	if (t->pid <= 0 || t->tgid <= 0 || t->ppid < 0 || t->pgid < 0 ||
	    t->sid < 0 || t->pid >= PID_MAX_LIMIT || t->pgid >= PID_MAX_LIMIT ||
	    t->sid >= PID_MAX_LIMIT ||
	    t->flags & ~(CKPT_TREE_LEADER | CKPT_TREE_ZOMBIE | CKPT_TREE_STRANGER))
		return -EINVAL;
	if (leader ? t->pid != t->tgid : t->pid == t->tgid)
		return -EINVAL;
	if (t->flags & CKPT_TREE_STRANGER && (!leader || !i))
		return -EINVAL;
	if (leader ? !valid_signal(t->exit_signal) : t->exit_signal != -1)
		return -EINVAL;
	if (t->flags & CKPT_TREE_ZOMBIE && !i)
		return -EINVAL;
	if (t->exit_code & ~0xffff)
		return -EINVAL;
	/*
	 * a session leader leads a group of its session; a group has one
	 * session
	 */
	if (t->sid == t->pid && t->pgid != t->pid)
		return -EINVAL;
	for (j = 0; j < i; j++) {
		const struct ckpt_tree *o = &ctx->tsks[j].tree;

		if (o->pid == t->pid)
			return -EINVAL;
		if ((o->pgid == t->pgid || o->pid == t->pgid) && o->sid != t->sid)
			return -EINVAL;
		if ((o->pid == t->sid && o->sid != t->sid) ||
		    (t->pid == o->sid && t->sid != o->sid) ||
		    (t->pid == o->pgid && t->sid != o->sid))
			return -EINVAL;
	}
	if (!leader) {
		/*
		 * a thread follows its leader or another thread of its process
		 */
		return !i || ctx->tsks[i - 1].tree.tgid != t->tgid ? -EINVAL : 0;
	}
	if (!i)
		return t->ppid ? -EINVAL : 0;
	/* the parent precedes its children and is alive: no cycles */
	for (j = 0; j < i; j++)
		if (ctx->tsks[j].tree.pid == t->ppid)
			return ctx->tsks[j].tree.flags & CKPT_TREE_ZOMBIE ?
			       -EINVAL : 0;
	return -EINVAL;
}

/**
 * ckpt_prepare_relink - check the tree of an image before any task is created
 * @ctx: the restart, its header read
 *
 * Return: 0, -EINVAL, or -ECHILD if the pid namespace has no init process and
 * the image's root was not an init process.
 */
int ckpt_prepare_relink(struct ckpt_ctx *ctx)
{
	unsigned int i;
	int ret;

	/* only an init process reaps the orphans of its namespace */
	if (ctx->nr_tsks && ctx->tsks[0].tree.pid != 1 &&
	    !ctx->pidns->child_reaper)
		return ckpt_err(ctx, -ECHILD,
				"the root is pid %d, which cannot begin a new pid namespace",
				ctx->tsks[0].tree.pid);
	for (i = 0; i < ctx->nr_tsks; i++) {
		ret = check_entry(ctx, i);
		if (!ret && fatal_signal_pending(current))
			ret = -EINTR;
		cond_resched();
		if (ret)
			return ckpt_err(ctx, ret, "malformed tree at entry %u", i);
	}
	ckpt_mark_processes(ctx);
	return 0;
}

/*
 * Get the struct pid of a group or session: the leader's, or a new one if the
 * leader has exited and only other members remain.
 */
static struct pid *take_number(struct ckpt_ctx *ctx, pid_t nr, bool *fresh)
{
	struct ckpt_tsk *ct = ckpt_find_pid(ctx, nr);
	struct pid *pid;
	unsigned int i;

	*fresh = false;
	if (ct)
		return get_pid(task_pid(ct->task));
	for (i = 0; i < ctx->nr_tsks; i++) {
		pid = ctx->tsks[i].sid;
		if (pid && pid_nr_ns(pid, ctx->pidns) == nr)
			return get_pid(pid);
		pid = ctx->tsks[i].pgid;
		if (pid && pid_nr_ns(pid, ctx->pidns) == nr)
			return get_pid(pid);
	}
	pid = alloc_pid(ctx->pidns, &nr, 1);
	if (IS_ERR(pid))
		return pid;
	*fresh = true;
	return get_pid(pid);
}

static int take_numbers(struct ckpt_ctx *ctx)
{
	unsigned int i;

	for (i = 0; i < ctx->nr_tsks; i++) {
		struct ckpt_tsk *ct = &ctx->tsks[i];
		struct pid *pid;

		if (!(ct->tree.flags & CKPT_TREE_LEADER))
			continue;
		if (ct->tree.sid) {
			pid = take_number(ctx, ct->tree.sid, &ct->sid_fresh);
			if (IS_ERR(pid))
				return ckpt_err(ctx, PTR_ERR(pid),
						"allocating session %d",
						ct->tree.sid);
			ct->sid = pid;
		}
		if (ct->tree.pgid) {
			pid = take_number(ctx, ct->tree.pgid, &ct->pgid_fresh);
			if (IS_ERR(pid))
				return ckpt_err(ctx, PTR_ERR(pid),
						"allocating process group %d",
						ct->tree.pgid);
			ct->pgid = pid;
		}
	}
	return 0;
}

/* Drop the references. With @undo, also free the new, unused numbers. */
static void put_numbers(struct ckpt_ctx *ctx, bool undo)
{
	unsigned int i;

	for (i = 0; i < ctx->nr_tsks; i++) {
		struct ckpt_tsk *ct = &ctx->tsks[i];

		if (ct->sid_fresh && undo)
			free_pid(ct->sid);
		if (ct->pgid_fresh && undo)
			free_pid(ct->pgid);
		put_pid(ct->sid);
		put_pid(ct->pgid);
		ct->sid = NULL;
		ct->pgid = NULL;
	}
}

static void set_ids(struct ckpt_tsk *ct)
{
	struct task_struct *p = ct->task;

	if (ct->sid) {
		if (task_session(p) != ct->sid)
			change_pid(p, PIDTYPE_SID, ct->sid);
		p->signal->leader = ct->tree.sid == ct->tree.pid;
	}
	if (ct->pgid && task_pgrp(p) != ct->pgid)
		change_pid(p, PIDTYPE_PGID, ct->pgid);
}

/*
 * Set has_child_subreaper as fork(2) does: the ancestors of a restarted tree
 * may differ from those at the checkpoint. Parents precede children in the
 * tree, so the parent's flag is already set.
 */
static void set_subreaper(struct task_struct *p, struct task_struct *parent)
{
	if (parent->signal->has_child_subreaper ||
	    parent->signal->is_child_subreaper)
		p->signal->has_child_subreaper = 1;
}

static void set_parent(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct ckpt_tsk *parent = ckpt_find_pid(ctx, ct->tree.ppid);
	struct task_struct *p = ct->task, *t;

	set_subreaper(p, parent ? parent->task : ctx->coordinator);
	/*
	 * the image must not choose the signal that is sent to the caller, its
	 * parent
	 */
	p->exit_signal = parent ? ct->tree.exit_signal : SIGCHLD;
	if (!parent)
		return;
	list_move_tail(&p->sibling, &parent->task->children);
	for_each_thread(p, t) {
		RCU_INIT_POINTER(t->real_parent, parent->task);
		RCU_INIT_POINTER(t->parent, parent->task);
		t->parent_exec_id = parent->task->self_exec_id;
		/*
		 * the parent has called execve(2) since: see do_notify_parent()
		 */
		if (ct->tree.flags & CKPT_TREE_STRANGER)
			t->parent_exec_id--;
	}
}

/**
 * ckpt_relink - set the parent, process group and session of every task
 * @ctx: the restart; all tasks are parked
 *
 * Return: 0; on a negative errno nothing has changed.
 */
int ckpt_relink(struct ckpt_ctx *ctx)
{
	struct ckpt_tsk **tracees;
	unsigned int i;
	int ret;

	tracees = ckpt_sort_tracees(ctx);
	if (!tracees)
		return -ENOMEM;
	ret = take_numbers(ctx);
	if (ret)
		goto fail;
	write_lock_irq(&tasklist_lock);
	for (i = 0; i < ctx->nr_tsks; i++) {
		struct ckpt_tsk *ct = &ctx->tsks[i];

		/* killed in the meantime: the coordinator reaps its zombie */
		if (ct->task->exit_state !=
		    (ckpt_dead_process(ct) ? EXIT_ZOMBIE : 0))
			ret = -EINTR;
		/* a tracer from outside is its parent */
		if (ct->task->ptrace)
			ret = -EBUSY;
		if (ret) {
			write_unlock_irq(&tasklist_lock);
			if (ret == -EBUSY)
				ckpt_err(ctx, ret, "pid %d: traced from outside",
					 ct->tree.pid);
			goto fail;
		}
	}
	for (i = 0; i < ctx->nr_tsks; i++) {
		struct ckpt_tsk *ct = &ctx->tsks[i];

		if (!(ct->tree.flags & CKPT_TREE_LEADER))
			continue;
		set_ids(ct);
		set_parent(ctx, ct);
		ckpt_relink_ctty(ctx, ct);
		if (!ckpt_dead_process(ct))
			ckpt_relink_signal(ct);
	}
	ckpt_link_tracees(ctx, tracees);
	write_unlock_irq(&tasklist_lock);
	put_numbers(ctx, false);
	kvfree(tracees);
	return 0;
fail:
	put_numbers(ctx, true);
	kvfree(tracees);
	return ret;
}
