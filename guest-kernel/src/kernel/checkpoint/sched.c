// SPDX-License-Identifier: GPL-2.0-only
/*
 * Scheduling of a thread: policy, nice value, priority, time slice, and CPU
 * affinity.
 */
#include <linux/cpumask.h>
#include <linux/sched.h>
#include <uapi/linux/sched/types.h>

#include "ckpt.h"

/**
 * ckpt_check_sched - check that a task's scheduling can be restored
 * @ctx: the checkpoint
 * @t: the task
 *
 * Return: 0 or -EOPNOTSUPP.
 */
int ckpt_check_sched(struct ckpt_ctx *ctx, struct task_struct *t)
{
	if (t->policy == SCHED_DEADLINE || t->policy == SCHED_EXT)
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: scheduling policy %u",
				t->comm, t->policy);
#ifdef CONFIG_UCLAMP_TASK
	if (t->uclamp_req[UCLAMP_MIN].user_defined ||
	    t->uclamp_req[UCLAMP_MAX].user_defined)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: utilization clamps (sched_setattr)", t->comm);
#endif
#ifdef CONFIG_SCHED_CORE
	if (t->core_cookie)
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: PR_SCHED_CORE", t->comm);
#endif
	/* the image has room for the first 64 */
	if (t->user_cpus_ptr && !cpumask_subset(cpu_possible_mask, &t->cpus_mask) &&
	    cpumask_last(&t->cpus_mask) >= 64)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: pinned to CPU %u: only the first 64 are saved",
				t->comm, cpumask_last(&t->cpus_mask));
	return 0;
}

void ckpt_dump_sched(struct task_struct *t, struct ckpt_task *rec)
{
	rec->policy = t->policy;
	if (t->sched_reset_on_fork)
		rec->policy |= SCHED_RESET_ON_FORK;
	rec->nice = task_nice(t);
	rec->rt_priority = t->rt_priority;
	rec->cpus = cpumask_bits(&t->cpus_mask)[0];
	/* otherwise the mask comes from the cpuset, also after a restart */
	if (t->user_cpus_ptr)
		rec->flags |= CKPT_TASK_AFFINITY;
	if (t->se.custom_slice)
		rec->slice_ns = t->se.slice;
}

static int apply_affinity(struct ckpt_ctx *ctx, const struct ckpt_task *rec)
{
	struct cpumask cpus;
	int ret;

	cpumask_clear(&cpus);
	cpumask_bits(&cpus)[0] = rec->cpus;
	/* a mask of all CPUs of the old machine becomes all CPUs of this one */
	if (!(rec->flags & CKPT_TASK_AFFINITY) ||
	    !cpumask_intersects(&cpus, cpu_possible_mask) ||
	    hweight64(rec->cpus) >= ctx->hdr.ncpus)
		cpumask_copy(&cpus, cpu_possible_mask);
	ret = sched_setaffinity(0, &cpus);
	/*
	 * no CPU is in the cpuset: use all of it, as after a change of the
	 * cpuset
	 */
	if (ret == -EINVAL)
		ret = sched_setaffinity(0, cpu_possible_mask);
	/* not chosen by the task; no other task can find current yet */
	if (!ret && !(rec->flags & CKPT_TASK_AFFINITY))
		release_user_cpus_ptr(current);
	return ret ? ckpt_err(ctx, ret, "CPU affinity %#llx", rec->cpus) : 0;
}

/*
 * sched_setattr(2) sets the slice only with SCHED_OTHER and SCHED_BATCH. With a
 * different policy a task keeps an earlier slice, here the one inherited from
 * the caller. The scheduler only reads these members, and only of the running
 * task.
 */
static void apply_slice(const struct ckpt_task *rec)
{
	struct sched_entity *se = &current->se;

	if (current->policy == SCHED_NORMAL || current->policy == SCHED_BATCH)
		return;
	se->custom_slice = rec->slice_ns != 0;
	if (rec->slice_ns)
		se->slice = clamp_t(u64, rec->slice_ns, NSEC_PER_MSEC / 10,
				    NSEC_PER_MSEC * 100);
}

/**
 * ckpt_apply_sched - restore the scheduling of current
 * @ctx: the restart
 * @rec: current's record
 *
 * Also sets default values, because current has inherited its creator's values.
 *
 * Return: 0, or the errno of sched_setattr(2) or sched_setaffinity(2).
 */
int ckpt_apply_sched(struct ckpt_ctx *ctx, const struct ckpt_task *rec)
{
	struct sched_attr attr = {
		.size = sizeof(attr),
		.sched_policy = rec->policy & ~SCHED_RESET_ON_FORK,
		.sched_nice = rec->nice,
		.sched_priority = rec->rt_priority,
		.sched_runtime = rec->slice_ns,
	};
	int ret;

	if (rec->policy & SCHED_RESET_ON_FORK)
		attr.sched_flags |= SCHED_FLAG_RESET_ON_FORK;
	ret = sched_setattr(current, &attr);
	if (ret)
		return ckpt_err(ctx, ret,
				"scheduling policy %u, nice %d, priority %u: the caller may not set them",
				attr.sched_policy, rec->nice, rec->rt_priority);
	/* sched_setattr() ignores the nice value of a real-time policy */
	if (rec->nice < task_nice(current) && !can_nice(current, rec->nice))
		return ckpt_err(ctx, -EPERM, "nice %d: the caller may not set it",
				rec->nice);
	set_user_nice(current, rec->nice);
	apply_slice(rec);
	return apply_affinity(ctx, rec);
}
