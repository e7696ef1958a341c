// SPDX-License-Identifier: GPL-2.0-only
/*
 * A parent that waits in vfork(2) for its child to execve or exit.
 *
 * Before the checkpoint the parent sleeps in wait_for_vfork_done() on a
 * completion on its kernel stack, to which child->vfork_done points:
 *
 *	parent: kernel_clone() -> wait_for_vfork_done() .... return nr
 *	child:        \-> user space or exec ... mm_release() -> complete()
 *
 * None of that stack is saved. The parent's record contains the call's return
 * value and the child that it waits for. The restarted parent has a completion
 * on its own stack, points the child at it while the child is still parked, and
 * sleeps in the same function, so that it reacts in the same way:
 *
 *	child execs or exits	-> woken, the call returns nr
 *	parent is killed	-> unlinks itself, exits
 *	parent is frozen	-> counted as frozen where it sleeps
 *	parent gets a signal	-> sleeps on (TASK_KILLABLE), handles it after
 *
 * The saved registers still have the arguments of the clone call and ax =
 * -ENOSYS; ckpt_vfork_wait() sets ax to the child's number.
 */
#include <linux/cgroup.h>
#include <linux/completion.h>
#include <linux/ptrace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>

#include "ckpt.h"
#include "vfork.h"

/* Return true if @t's vfork_done points into the kernel stack of @parent. */
static bool is_vfork_child(struct task_struct *t, struct task_struct *parent)
{
	void *stack = task_stack_page(parent);
	void *done;

	task_lock(t);
	done = t->vfork_done;
	task_unlock(t);
	return done && done >= stack && done < stack + THREAD_SIZE;
}

static struct ckpt_tsk *find_child(struct ckpt_ctx *ctx,
				   struct task_struct *parent)
{
	unsigned int i;

	for (i = 0; i < ctx->nr_tsks; i++)
		if (is_vfork_child(ctx->tsks[i].task, parent))
			return &ctx->tsks[i];
	return NULL;
}

/*
 * Return true if the parent will wait for a child, inside or outside the tree.
 */
static bool has_vfork_child(struct ckpt_ctx *ctx, struct task_struct *parent)
{
	struct task_struct *t;
	bool found;

	rcu_read_lock();
	t = find_task_by_pid_ns(parent->ckpt_site.arg, ctx->pidns);
	found = t && is_vfork_child(t, parent);
	rcu_read_unlock();
	return found;
}

/**
 * ckpt_dump_vfork - fill in the site of a parent that waits in vfork(2)
 * @ctx: the checkpoint
 * @ct: the parent, in the wait or in a ptrace stop before it
 * @rec: its record
 *
 * Return: 0; -EAGAIN if the child is outside the tree or has just ended the
 * wait.
 */
int ckpt_dump_vfork(struct ckpt_ctx *ctx, struct ckpt_tsk *ct,
		    struct ckpt_task *rec)
{
	struct task_struct *t = ct->task;
	struct ckpt_tsk *child = find_child(ctx, t);

	/* in a stop before the wait, the child may be done already */
	if (!child && t->ckpt_site.kind == CKPT_SITE_PTRACE &&
	    !has_vfork_child(ctx, t))
		return 0;
	if (!child)
		return ckpt_err(ctx, -EAGAIN,
				"%s: its vfork child %d is done or outside the tree: try again",
				t->comm, t->ckpt_site.arg);
	rec->site_child = child->tree.pid;
	return 0;
}

/**
 * ckpt_vfork_link - point the child at the parent's new completion
 * @ctx: the restart; all tasks have parked
 * @ct: the parent, current
 * @w: on current's stack
 *
 * Return: 0, -EINVAL if the image does not contain the child or two parents
 * wait for it.
 */
int ckpt_vfork_link(struct ckpt_ctx *ctx, struct ckpt_tsk *ct,
		    struct ckpt_vfork_wait *w)
{
	struct ckpt_tsk *child = ckpt_find_pid(ctx, ct->rec.site_child);

	init_completion(&w->done);
	w->child = NULL;
	w->nr = ct->rec.site_arg;
	if (!child || child == ct || !child->task ||
	    child->tree.flags & CKPT_TREE_ZOMBIE)
		return ckpt_err(ctx, -EINVAL,
				"pid %d waits in vfork for pid %d, which is not a live task of the image",
				ct->tree.pid, ct->rec.site_child);
	task_lock(child->task);
	if (child->task->vfork_done) {
		task_unlock(child->task);
		return ckpt_err(ctx, -EINVAL,
				"two tasks wait in vfork for pid %d",
				ct->rec.site_child);
	}
	get_task_struct(child->task);
	child->task->vfork_done = &w->done;
	task_unlock(child->task);
	w->child = child->task;
	return 0;
}

/* Undo ckpt_vfork_link() after the restart has failed. */
void ckpt_vfork_unlink(struct ckpt_vfork_wait *w)
{
	if (!w->child)
		return;
	task_lock(w->child);
	w->child->vfork_done = NULL;
	task_unlock(w->child);
	put_task_struct(w->child);
	w->child = NULL;
}

/**
 * ckpt_vfork_wait - wait for the vfork child and complete the system call
 * @w: linked by ckpt_vfork_link(); has no child if the wait is over
 * @regs: current's registers, ax gets the return value
 */
void ckpt_vfork_wait(struct ckpt_vfork_wait *w, struct pt_regs *regs)
{
	bool killed = false;

	if (w->child) {
		ckpt_site_enter(CKPT_SITE_VFORK, w->nr);
		killed = wait_for_vfork_done(w->child, &w->done);
		ckpt_site_leave();
	}
	if (!killed) {
		ckpt_stop_at(CKPT_STOP_VFORK_DONE, w->nr);
		ptrace_event(PTRACE_EVENT_VFORK_DONE, w->nr);
	}
	regs->ax = w->nr;
}
