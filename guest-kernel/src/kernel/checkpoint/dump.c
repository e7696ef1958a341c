// SPDX-License-Identifier: GPL-2.0
/*
 * checkpoint(2): hold the tasks, look at all of them, write them one by one,
 * look again. Everything that can be refused is refused in a first pass that
 * writes nothing; so an error leaves no half image of something that could
 * never have been saved.
 */
#include <linux/cgroup.h>
#include <linux/fs_struct.h>
#include <linux/nsproxy.h>
#include <linux/pid_namespace.h>
#include <linux/ptrace.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/user_namespace.h>

#include "ckpt.h"
#include "ptrace.h"

/* A thread that has what a process' dead first thread has no more. */
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
		ret = ckpt_dump_posix_timers(ctx, t);
	if (!ret && process)
		ret = ckpt_dump_pending(ctx, t, true);
	if (!ret && process)
		ret = ckpt_dump_timers(ctx, t);
	if (!ret && !zombie)
		ret = ckpt_dump_pending(ctx, t, false);
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

/* The caller may read all of it: as for ptrace, task by task. */
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

static int check_namespaces(struct ckpt_ctx *ctx)
{
	unsigned int i;

	for (i = 0; i < ctx->nr_tsks; i++) {
		struct task_struct *t = ctx->tsks[i].task;
		int ret = 0;

		if (ctx->tsks[i].tree.flags & CKPT_TREE_ZOMBIE)
			continue;
		ctx->cur_pid = ctx->tsks[i].tree.pid;
		task_lock(t);
		if (!t->nsproxy)
			ret = -EAGAIN;
		else if (t->nsproxy != ctx->nsproxy &&
			 (t->nsproxy->mnt_ns != ctx->nsproxy->mnt_ns ||
			  t->nsproxy->net_ns != ctx->nsproxy->net_ns ||
			  t->nsproxy->ipc_ns != ctx->nsproxy->ipc_ns ||
			  t->nsproxy->uts_ns != ctx->nsproxy->uts_ns ||
			  t->nsproxy->time_ns != ctx->nsproxy->time_ns ||
			  t->nsproxy->cgroup_ns != ctx->nsproxy->cgroup_ns))
			ret = -EOPNOTSUPP;
		else if (t->nsproxy->pid_ns_for_children != ctx->pidns ||
			 task_active_pid_ns(t) != ctx->pidns)
			ret = -EOPNOTSUPP;
		task_unlock(t);
		if (!ret && t->real_cred->user_ns != ctx->root->real_cred->user_ns)
			ret = -EOPNOTSUPP;
		if (ret)
			return ckpt_err(ctx, ret,
					"%s: in other namespaces than the root task",
					t->comm);
	}
	ctx->cur_pid = 0;
	return 0;
}

static void release_cgroups(struct ckpt_ctx *ctx)
{
	unsigned int i;

	for (i = 0; i < ctx->nr_tsks; i++) {
		if (!ctx->tsks[i].cgrp)
			continue;
		cgroup_freeze_unhold(ctx->tsks[i].cgrp);
		cgroup_put(ctx->tsks[i].cgrp);
		ctx->tsks[i].cgrp = NULL;
	}
}

/*
 * Hold the freezers of the tasks' cgroups. Holding is counted, so one cgroup
 * may be held several times.
 */
static int hold_cgroups(struct ckpt_ctx *ctx)
{
	unsigned int i;

	for (i = 0; i < ctx->nr_tsks; i++) {
		struct ckpt_tsk *ct = &ctx->tsks[i];
		struct cgroup *cgrp;

		if (ct->tree.flags & CKPT_TREE_ZOMBIE)
			continue;
		rcu_read_lock();
		cgrp = task_dfl_cgroup(ct->task);
		if (!cgroup_tryget(cgrp))
			cgrp = NULL;
		rcu_read_unlock();
		if (cgrp && cgroup_freeze_hold(cgrp)) {
			ct->cgrp = cgrp;
			if (cgrp == ctx->tsks[0].cgrp)
				continue;
			ctx->cur_pid = ct->tree.pid;
			return ckpt_err(ctx, -EOPNOTSUPP,
					"%s: in another cgroup than the root task",
					ct->task->comm);
		}
		if (cgrp)
			cgroup_put(cgrp);
		ctx->cur_pid = ct->tree.pid;
		return ckpt_err(ctx, -EBUSY,
				"%s: its cgroup is not frozen: write 1 to its cgroup.freeze",
				ct->task->comm);
	}
	return 0;
}

int ckpt_dump(struct ckpt_ctx *ctx)
{
	bool check_only = ctx->check_only;
	struct pid *pid;
	int ret;

	task_lock(ctx->root);
	ctx->nsproxy = ctx->root->nsproxy;
	if (ctx->nsproxy)
		get_nsproxy(ctx->nsproxy);
	if (ctx->root->fs)
		get_fs_root(ctx->root->fs, &ctx->root_path);
	task_unlock(ctx->root);
	if (!ctx->nsproxy || !ctx->root_path.mnt) {
		ret = ckpt_err(ctx, -ESRCH, "the root has exited");
		goto out;
	}
	pid = get_task_pid(ctx->root, PIDTYPE_PID);
	if (!pid) {
		ret = ckpt_err(ctx, -ESRCH, "the root has exited");
		goto out;
	}
	ctx->pidns = get_pid_ns(ns_of_pid(pid));
	put_pid(pid);

	ret = ckpt_collect_tasks(ctx);
	if (ret)
		goto out;
	if (ckpt_find_task(ctx, current)) {
		ret = ckpt_err(ctx, -EINVAL,
			       "the caller is itself in the tree");
		goto out;
	}
	ret = check_access(ctx);
	if (ret)
		goto out;
	ret = hold_cgroups(ctx);
	if (!ret) {
		ckpt_hold_tasks(ctx);
		ret = ckpt_check_settled(ctx);
	}
	if (!ret)
		ret = check_namespaces(ctx);
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
out:
	ckpt_release_tasks(ctx);
	release_cgroups(ctx);
	if (ctx->pidns)
		put_pid_ns(ctx->pidns);
	if (ctx->nsproxy)
		put_nsproxy(ctx->nsproxy);
	return ret;
}
