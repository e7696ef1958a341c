// SPDX-License-Identifier: GPL-2.0-only
/*
 * checkpoint(2): hold the tasks, check all of them, write them one by one,
 * check again. A first pass that writes nothing refuses all unsupported state,
 * so that an unsupported tree does not leave a partial image.
 */
#include <linux/cgroup.h>
#include <linux/fs_struct.h>
#include <linux/nsproxy.h>
#include <linux/pid_namespace.h>
#include <linux/ptrace.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "ckpt.h"
#include "ptrace.h"

/*
 * Return a live thread of the process that @ct leads: a dead leader has already
 * released its mm.
 */
static struct ckpt_tsk *living_thread(struct ckpt_tsk *ct)
{
	while (ct->tree.flags & CKPT_TREE_ZOMBIE)
		ct++;
	return ct;
}

static int dump_section(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	bool leader = ct->tree.flags & CKPT_TREE_LEADER;
	bool zombie = ct->tree.flags & CKPT_TREE_ZOMBIE;
	bool process = leader && ct->lives;
	struct task_struct *t = ct->task;
	struct ckpt_task rec = { };
	int ret;

	ctx->cur_pid = ct->tree.pid;
	ret = ckpt_dump_cred(ctx, t->real_cred, &rec.cred);
	if (!ret && !zombie)
		ret = ckpt_dump_fs(ctx, t, &rec.fs);
	if (!ret && !zombie)
		ret = ckpt_dump_files(ctx, t, &rec.files);
	if (!ret && (process || !zombie))
		ret = ckpt_dump_mm(ctx, living_thread(ct), &rec.mm);
	if (!ret && leader)
		ret = ckpt_dump_rlimits(ctx, t);
	if (!ret && leader)
		ret = ckpt_dump_signal(ctx, ct);
	if (!ret && process)
		ret = ckpt_dump_sighand(ctx, t);
	if (!ret && process)
		ret = ckpt_dump_process_signals(ctx, t);
	if (!ret && !zombie)
		ret = ckpt_dump_pending(ctx, t);
	if (!ret && !zombie)
		ret = ckpt_dump_cpu(ctx, t);
	if (!ret)
		ret = ckpt_dump_ptrace(ctx, ct);
	if (!ret && !zombie)
		ret = ckpt_dump_seccomp(ctx, t, &rec);
	if (!ret)
		ret = ckpt_dump_task(ctx, ct, &rec);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_TASK_END, 0, NULL, 0, NULL, 0);
	return ret;
}

static int dump_all(struct ckpt_ctx *ctx)
{
	unsigned int i;
	int ret;

	ctx->seq = 0;
	ctx->nr_objs = 0;
	hash_init(ctx->by_ptr);
	ret = ckpt_write_header(ctx);
	if (!ret)
		ret = ckpt_write_tree(ctx);
	for (i = 0; i < ctx->nr_tsks && !ret; i++)
		ret = dump_section(ctx, &ctx->tsks[i]);
	ctx->cur_pid = 0;
	if (!ret)
		ret = ckpt_write_trailer(ctx);
	return ret;
}

/* Check that the caller may trace each task. */
static int check_access(struct ckpt_ctx *ctx)
{
	unsigned int i;

	for (i = 0; i < ctx->nr_tsks; i++) {
		if (ctx->tsks[i].tree.flags & CKPT_TREE_ZOMBIE)
			continue;
		if (!ptrace_may_access(ctx->tsks[i].task,
				       PTRACE_MODE_ATTACH_REALCREDS)) {
			ctx->cur_pid = ctx->tsks[i].tree.pid;
			return ckpt_err(ctx, -EPERM,
					"%s: the caller may not trace it",
					ctx->tsks[i].task->comm);
		}
	}
	return 0;
}

/*
 * Hold the freezer of the root task's cgroup. Writes to cgroup.freeze have no
 * effect on the tasks until it is released.
 */
static int hold_cgroup(struct ckpt_ctx *ctx)
{
	struct cgroup *cgrp;

	rcu_read_lock();
	cgrp = task_dfl_cgroup(ctx->root);
	if (!cgroup_tryget(cgrp))
		cgrp = NULL;
	rcu_read_unlock();
	if (cgrp && cgroup_freeze_hold(cgrp)) {
		ctx->cgrp = cgrp;
		return 0;
	}
	if (cgrp)
		cgroup_put(cgrp);
	ctx->cur_pid = ctx->tsks[0].tree.pid;
	return ckpt_err(ctx, -EBUSY,
			"%s: its cgroup is not frozen: write 1 to its cgroup.freeze",
			ctx->root->comm);
}

/*
 * Check that all tasks, which are held at their sites, are in the held cgroup.
 */
static int check_cgroup(struct ckpt_ctx *ctx)
{
	unsigned int i;
	bool same;

	for (i = 0; i < ctx->nr_tsks; i++) {
		if (ctx->tsks[i].tree.flags & CKPT_TREE_ZOMBIE)
			continue;
		rcu_read_lock();
		same = task_dfl_cgroup(ctx->tsks[i].task) == ctx->cgrp;
		rcu_read_unlock();
		ctx->cur_pid = ctx->tsks[i].tree.pid;
		if (!same)
			return ckpt_err(ctx, -EOPNOTSUPP,
					"%s: its cgroup differs from the root task's",
					ctx->tsks[i].task->comm);
	}
	ctx->cur_pid = 0;
	return 0;
}

static void release_cgroup(struct ckpt_ctx *ctx)
{
	if (!ctx->cgrp)
		return;
	cgroup_freeze_unhold(ctx->cgrp);
	cgroup_put(ctx->cgrp);
	ctx->cgrp = NULL;
}

/*
 * Collect the tasks and check that all are at rest. The caller's right to trace
 * them is checked three times: for the root before the walk, which takes long
 * for a large tree; for all tasks before any message names one; and for all
 * tasks at rest, because a running task can execute a setuid program.
 */
static int settle(struct ckpt_ctx *ctx)
{
	int ret;

	if (!ptrace_may_access(ctx->root, PTRACE_MODE_ATTACH_REALCREDS))
		return ckpt_err(ctx, -EPERM, "%s: the caller may not trace it",
				ctx->root->comm);
	ret = ckpt_collect_tasks(ctx);
	if (ret)
		return ret;
	if (ckpt_find_task(ctx, current))
		return ckpt_err(ctx, -EINVAL, "the caller is itself in the tree");
	ret = check_access(ctx);
	if (!ret)
		ret = hold_cgroup(ctx);
	if (ret)
		return ret;
	ckpt_hold_tasks(ctx);
	ret = check_cgroup(ctx);
	if (!ret)
		ret = ckpt_check_settled(ctx);
	if (!ret && !ckpt_broken(CKPT_BREAK_GUARD_RECHECK))
		ret = check_access(ctx);
	return ret;
}

/* Get the namespaces and root directory of the root task, which is at rest. */
static int look_at_root(struct ckpt_ctx *ctx)
{
	task_lock(ctx->root);
	ctx->nsproxy = ctx->root->nsproxy;
	if (ctx->nsproxy)
		get_nsproxy(ctx->nsproxy);
	if (ctx->root->fs)
		get_fs_root(ctx->root->fs, &ctx->root_path);
	task_unlock(ctx->root);
	if (!ctx->nsproxy || !ctx->root_path.mnt)
		return ckpt_err(ctx, -EAGAIN, "%s: exiting: try again",
				ctx->root->comm);
	return 0;
}

/*
 * An interrupted checkpoint is not restarted: turn the -ERESTART* codes into
 * -EINTR, and restore the signal flag that continued transfers have cleared.
 */
static int not_repeated(int ret)
{
	spin_lock_irq(&current->sighand->siglock);
	recalc_sigpending();
	spin_unlock_irq(&current->sighand->siglock);
	return ckpt_interrupted(ret) ? -EINTR : ret;
}

int ckpt_dump(struct ckpt_ctx *ctx)
{
	bool check_only = ctx->check_only;
	struct pid *pid;
	int ret;

	pid = get_task_pid(ctx->root, PIDTYPE_PID);
	if (!pid)
		return ckpt_err(ctx, -ESRCH, "the root has exited");
	ctx->pidns = get_pid_ns(ns_of_pid(pid));
	put_pid(pid);

	ret = settle(ctx);
	if (!ret)
		ret = look_at_root(ctx);
	if (!ret)
		ret = ckpt_check_namespaces(ctx);
	if (!ret)
		ret = ckpt_sort_creds(ctx);
	if (!ret)
		ret = ckpt_dump_mounts(ctx);
	if (!ret) {
		ctx->check_only = true;
		ret = dump_all(ctx);
		if (!ret)
			ret = ckpt_check_pipes(ctx);
		if (!ret)
			ret = ckpt_check_ttys(ctx);
		if (!ret)
			ret = ckpt_check_sockets(ctx);
		if (!ret)
			ret = ckpt_check_outside(ctx);
		ckpt_obj_free_all(ctx);
	}
	if (!ret && !check_only) {
		ctx->check_only = false;
		ret = dump_all(ctx);
	}
	if (!ret)
		ret = ckpt_recheck_settled(ctx);
	ckpt_release_tasks(ctx);
	release_cgroup(ctx);
	put_pid_ns(ctx->pidns);
	kvfree(ctx->creds);
	if (ctx->nsproxy)
		put_nsproxy(ctx->nsproxy);
	return not_repeated(ret);
}
