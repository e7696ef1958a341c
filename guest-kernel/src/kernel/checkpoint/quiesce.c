// SPDX-License-Identifier: GPL-2.0-only
/*
 * Collects the tasks that a checkpoint covers, and checks that each sleeps at a
 * site that restart(2) can restore.
 *
 * The line "frozen 1" in cgroup.events is not enough:
 * cgroup_leave_frozen(false) keeps a task counted as frozen while it runs from
 * a vfork wait to the freezer, a frozen task can be woken to run task_work, and
 * a dying task leaves the count before it is a zombie. So every task is checked
 * twice, with its context switch count: before the first byte is written and
 * after the last. In between the cgroup's freezer is held, so that only SIGKILL
 * can wake a task, which increases the count. A killed task also stays at its
 * site (ckpt_site_leave()) until it is no longer held, so that its exit does
 * not free objects while the checkpoint reads them. The checkpoint itself can
 * be killed, and then releases all tasks.
 */
#include <linux/cgroup.h>
#include <linux/kallsyms.h>
#include <linux/nsproxy.h>
#include <linux/pid_namespace.h>
#include <linux/ptrace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>

#include "ckpt.h"

/**
 * ckpt_wait_unheld - wait until no checkpoint holds current
 *
 * Called by a task that is killed at its site while a checkpoint reads it.
 */
void ckpt_wait_unheld(void)
{
	atomic_t *held = &current->ckpt_site.held;

	wait_var_event(held, !atomic_read(held));
}

/**
 * ckpt_hold_tasks - keep all tasks at their sites
 * @ctx: the checkpoint, its tasks collected
 *
 * Sites are checked only after the hold: a task that left its site earlier is
 * running or has no site. Pairs with ckpt_release_tasks().
 */
void ckpt_hold_tasks(struct ckpt_ctx *ctx)
{
	unsigned int i;

	for (i = 0; i < ctx->nr_tsks; i++)
		atomic_inc(&ctx->tsks[i].task->ckpt_site.held);
	ctx->holding = true;
	/* order the hold before wait_task_inactive() and reading the site */
	smp_mb();
}

void ckpt_release_tasks(struct ckpt_ctx *ctx)
{
	unsigned int i;

	if (!ctx->holding)
		return;
	ctx->holding = false;
	for (i = 0; i < ctx->nr_tsks; i++) {
		atomic_t *held = &ctx->tsks[i].task->ckpt_site.held;

		if (atomic_dec_and_test(held))
			wake_up_var(held);
	}
}

/* Set @lives and @last of all entries, whose @tree is filled in. */
void ckpt_mark_processes(struct ckpt_ctx *ctx)
{
	unsigned int first, i, next;

	for (first = 0; first < ctx->nr_tsks; first = next) {
		bool lives = false;

		for (next = first; next < ctx->nr_tsks; next++) {
			const struct ckpt_tree *t = &ctx->tsks[next].tree;

			if (t->tgid != ctx->tsks[first].tree.tgid)
				break;
			lives |= !(t->flags & CKPT_TREE_ZOMBIE);
		}
		for (i = first; i < next; i++) {
			ctx->tsks[i].lives = lives;
			ctx->tsks[i].last = next - first == 1;
		}
	}
}

static void add_task(struct ckpt_ctx *ctx, struct task_struct *t,
		     unsigned int room)
{
	if (ctx->nr_tsks < room) {
		get_task_struct(t);
		ctx->tsks[ctx->nr_tsks].task = t;
	}
	ctx->nr_tsks++;
}

/*
 * Walk the tree breadth first by processes, a process followed by its threads:
 * parents precede their children, and siblings keep their order. Beyond @room,
 * tasks are only counted, and the caller retries with more room. The walk holds
 * tasklist_lock, so it ends early when there are more tasks than fit into an
 * image.
 */
static void walk_tree(struct ckpt_ctx *ctx, unsigned int room)
{
	struct task_struct *p, *t, *child;
	unsigned int next = 0;

	ctx->nr_tsks = 0;
	p = ctx->root;
	add_task(ctx, p, room);
	for_other_threads(p, t)
		add_task(ctx, t, room);
	while (next < ctx->nr_tsks && next < room) {
		p = ctx->tsks[next++].task;
		list_for_each_entry(child, &p->children, sibling) {
			if (ctx->nr_tsks > CKPT_TASKS_MAX)
				return;
			add_task(ctx, child, room);
			for_other_threads(child, t)
				add_task(ctx, t, room);
		}
	}
}

/*
 * Return the number of a group or session, 0 if its leader is outside the tree.
 * The leader may have exited.
 */
static pid_t group_number(struct ckpt_ctx *ctx, struct pid *pid)
{
	struct task_struct *leader = pid_task(pid, PIDTYPE_PID);

	if (leader && !ckpt_find_task(ctx, leader))
		return 0;
	return pid_nr_ns(pid, ctx->pidns);
}

static int fill_tree(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct task_struct *t = ct->task, *parent;
	struct ckpt_tree *tree = &ct->tree;

	/* a task that a restart(2) is still building */
	if (ckpt_task_hidden(t))
		return -EBUSY;
	tree->pid = task_pid_nr_ns(t, ctx->pidns);
	tree->tgid = task_tgid_nr_ns(t, ctx->pidns);
	if (!tree->pid)
		return -ESRCH;
	ckpt_index_pid(ctx, ct);
	tree->pgid = group_number(ctx, task_pgrp(t));
	tree->sid = group_number(ctx, task_session(t));
	parent = rcu_dereference_protected(t->real_parent, 1);
	if (t != ctx->root)
		tree->ppid = task_pid_nr_ns(parent, ctx->pidns);
	tree->exit_signal = thread_group_leader(t) ? t->exit_signal : -1;
	tree->exit_code = 0;
	tree->flags = 0;
	if (thread_group_leader(t)) {
		tree->flags |= CKPT_TREE_LEADER;
		if (t != ctx->root &&
		    t->parent_exec_id != READ_ONCE(parent->self_exec_id))
			tree->flags |= CKPT_TREE_STRANGER;
	}
	if (t->exit_state) {
		tree->flags |= CKPT_TREE_ZOMBIE;
		tree->exit_code = t->exit_code;
	}
	return 0;
}

/**
 * ckpt_collect_tasks - list the tasks of the tree
 * @ctx: the checkpoint, with its root
 *
 * Return: 0; -EINVAL if the root is not a process; -E2BIG if an image cannot
 * hold the tasks; -EBUSY if a restart(2) is building one; -ENOMEM; -ESRCH.
 */
int ckpt_collect_tasks(struct ckpt_ctx *ctx)
{
	unsigned int room = 64, i;
	int ret = 0;

	if (!thread_group_leader(ctx->root) || ctx->root->flags & PF_KTHREAD)
		return ckpt_err(ctx, -EINVAL, "not a process");
	for (;;) {
		ctx->tsks = kvcalloc(room, sizeof(*ctx->tsks),
				     GFP_KERNEL_ACCOUNT);
		if (!ctx->tsks || ckpt_alloc_lookup(ctx, room))
			return -ENOMEM;
		read_lock(&tasklist_lock);
		if (ctx->root->exit_state) {
			read_unlock(&tasklist_lock);
			ctx->nr_tsks = 0;
			return ckpt_err(ctx, -ESRCH, "the root has exited");
		}
		walk_tree(ctx, room);
		if (ctx->nr_tsks <= room)
			break;
		read_unlock(&tasklist_lock);
		for (i = 0; i < room; i++)
			put_task_struct(ctx->tsks[i].task);
		kvfree(ctx->tsks);
		ctx->tsks = NULL;
		room = ctx->nr_tsks + 64;
		ctx->nr_tsks = 0;
		if (room > CKPT_TASKS_MAX + 64)
			return ckpt_err(ctx, -E2BIG,
					"more than %zu tasks: an image holds no more",
					CKPT_TASKS_MAX);
		if (fatal_signal_pending(current))
			return -EINTR;
	}
	for (i = 0; i < ctx->nr_tsks; i++)
		ckpt_index_task(ctx, &ctx->tsks[i]);
	for (i = 0; i < ctx->nr_tsks && !ret; i++)
		ret = fill_tree(ctx, &ctx->tsks[i]);
	read_unlock(&tasklist_lock);
	if (ret == -EBUSY)
		return ckpt_err(ctx, ret,
				"restart(2) is creating tasks in the tree: wait until it returns");
	if (ret)
		return ckpt_err(ctx, ret, "a task has left the pid namespace");
	ckpt_mark_processes(ctx);
	return 0;
}

/* Report a task that is not at rest, with the function in which it sleeps. */
static int not_settled(struct ckpt_ctx *ctx, struct task_struct *t)
{
	char place[KSYM_SYMBOL_LEN];
	unsigned long wchan = get_wchan(t);

	/* not %ps, which prints the address without KALLSYMS */
	if (!wchan || lookup_symbol_name(wchan, place))
		strscpy(place, "the kernel");
	return ckpt_err(ctx, -EAGAIN,
			"%s: not at rest yet (state %#x, in %s): try again",
			t->comm, READ_ONCE(t->__state), place);
}

/* A tracer and its tracees can only be saved together. */
static int check_tracing(struct ckpt_ctx *ctx, struct task_struct *t)
{
	struct task_struct *other = NULL, *tracee;
	int ret = 0;

	read_lock(&tasklist_lock);
	if (t->ptrace && !ckpt_find_task(ctx, t->parent))
		other = t->parent;
	list_for_each_entry(tracee, &t->ptraced, ptrace_entry)
		if (!ckpt_find_task(ctx, tracee))
			other = tracee;
	if (other)
		get_task_struct(other);
	read_unlock(&tasklist_lock);
	if (other) {
		ret = ckpt_err(ctx, -EBUSY, "%s: %s pid %d (%s), which is not in the tree",
			       t->comm, other == t->parent ? "is traced by" : "traces",
			       task_pid_nr_ns(other, ctx->pidns), other->comm);
		put_task_struct(other);
	}
	return ret;
}

static int check_settled(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct task_struct *t = ct->task;
	u32 kind;
	int ret;

	ret = check_tracing(ctx, t);
	if (ret)
		return ret;
	if (READ_ONCE(t->exit_state)) {
		/* a dead thread that is not the leader stays only if traced */
		if (READ_ONCE(t->exit_state) != EXIT_ZOMBIE ||
		    (!thread_group_leader(t) && !t->ptrace))
			return ckpt_err(ctx, -EAGAIN, "%s: being reaped", t->comm);
		return 0;
	}
	if (t->flags & PF_EXITING)
		return ckpt_err(ctx, -EAGAIN, "%s: exiting: try again", t->comm);
	if (t->flags & PF_USER_WORKER)
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: io worker threads", t->comm);
	if (!cgroup_task_frozen(t))
		return not_settled(ctx, t);
	if (!wait_task_inactive(t, TASK_NORMAL | TASK_WAKEKILL | __TASK_STOPPED |
				__TASK_TRACED))
		return not_settled(ctx, t);
	kind = READ_ONCE(t->ckpt_site.kind);
	if (kind != CKPT_SITE_FREEZER && kind != CKPT_SITE_VFORK &&
	    kind != CKPT_SITE_STOPPED && kind != CKPT_SITE_PTRACE &&
	    kind != CKPT_SITE_EXEC)
		return not_settled(ctx, t);
	if (t->signal->flags & SIGNAL_GROUP_EXIT &&
	    (kind != CKPT_SITE_PTRACE || t->ckpt_site.stop != CKPT_STOP_EXIT))
		return not_settled(ctx, t);
	return 0;
}

static unsigned long switches(struct task_struct *t)
{
	return READ_ONCE(t->nvcsw) + READ_ONCE(t->nivcsw);
}

/**
 * ckpt_check_settled - check that every task sleeps at a known site
 * @ctx: the checkpoint, its tasks collected
 *
 * Return: 0, -EBUSY (traced from outside), -EOPNOTSUPP, -EAGAIN (not at rest).
 */
int ckpt_check_settled(struct ckpt_ctx *ctx)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < ctx->nr_tsks && !ret; i++) {
		ctx->cur_pid = ctx->tsks[i].tree.pid;
		ctx->tsks[i].csw = switches(ctx->tsks[i].task);
		ret = check_settled(ctx, &ctx->tsks[i]);
	}
	if (!ret)
		ctx->cur_pid = 0;
	return ret;
}

/**
 * ckpt_recheck_settled - check that no task has run since ckpt_check_settled()
 * @ctx: the checkpoint
 *
 * Also checks for tracers outside the tree: attaching to a task at rest does
 * not make it run.
 *
 * Return: 0, -EBUSY (traced from outside by now) or -EAGAIN.
 */
int ckpt_recheck_settled(struct ckpt_ctx *ctx)
{
	unsigned int i, nr = ctx->nr_tsks, now;
	struct ckpt_tsk *ct;
	int ret;

	for (i = 0; i < nr; i++) {
		ct = &ctx->tsks[i];
		ctx->cur_pid = ct->tree.pid;
		ret = check_tracing(ctx, ct->task);
		if (ret)
			return ret;
		if (ct->csw != switches(ct->task) ||
		    !!ct->task->exit_state !=
		    !!(ct->tree.flags & CKPT_TREE_ZOMBIE)) {
			return ckpt_err(ctx, -EAGAIN,
					"%s: has run during the checkpoint: try again",
					ct->task->comm);
		}
	}
	ctx->cur_pid = 0;
	read_lock(&tasklist_lock);
	now = 0;
	for (i = 0; i < nr; i++) {
		struct task_struct *child;

		if (ctx->tsks[i].tree.flags & CKPT_TREE_LEADER)
			now += get_nr_threads(ctx->tsks[i].task);
		list_for_each_entry(child, &ctx->tsks[i].task->children, sibling)
			if (!ckpt_find_task(ctx, child))
				now = UINT_MAX / 2;
	}
	read_unlock(&tasklist_lock);
	if (now != nr)
		return ckpt_err(ctx, -EAGAIN,
				"tasks have started or ended during the checkpoint: try again");
	return 0;
}
