// SPDX-License-Identifier: GPL-2.0-only
/*
 * Seccomp filters. A task refers to the filter attached last, and each filter
 * to the one before it. Filters that tasks share, by fork(2) or
 * SECCOMP_FILTER_FLAG_TSYNC, are shared after the restart, too.
 */
#include <linux/filter.h>
#include <linux/sched/signal.h>
#include <linux/seccomp.h>

#include "ckpt.h"

static int dump_filter(struct ckpt_ctx *ctx, struct seccomp_filter *filter,
		       u32 prev_ref, u32 *ref)
{
	const struct sock_fprog_kern *prog;
	struct ckpt_seccomp rec = { .prev = prev_ref };
	struct seccomp_filter *prev;
	bool log, wait_killable;
	int ret;

	prog = ckpt_seccomp_look(filter, &log, &wait_killable, &prev);
	if (!prog)
		return ckpt_err(ctx, -EOPNOTSUPP, "a seccomp filter with a listener");
	if (log)
		rec.flags |= CKPT_SECCOMP_LOG;
	if (wait_killable)
		rec.flags |= CKPT_SECCOMP_WAIT_KILLABLE;
	rec.len = prog->len;
	ret = ckpt_obj_new(ctx, CKPT_REC_SECCOMP, filter, ref);
	if (ret)
		return ret;
	return ckpt_write(ctx, CKPT_REC_SECCOMP, *ref, &rec, sizeof(rec),
			  prog->filter, bpf_classic_proglen(prog));
}

/**
 * ckpt_dump_seccomp - write a task's filters in the order of attachment
 * @ctx: the checkpoint
 * @t: the task
 * @rec: gets the objref of the filter attached last, or the strict mode
 *
 * Return: 0, -EOPNOTSUPP for a filter with a listener, -EAGAIN for a task
 * killed by a filter.
 */
int ckpt_dump_seccomp(struct ckpt_ctx *ctx, struct task_struct *t,
		      struct ckpt_task *rec)
{
	struct seccomp_filter *own = t->seccomp.filter, *filter, *prev;
	bool log, wait_killable;
	u32 ref = 0;
	int ret;

	switch (t->seccomp.mode) {
	case SECCOMP_MODE_DISABLED:
		return 0;
	case SECCOMP_MODE_STRICT:
		rec->flags |= CKPT_TASK_STRICT;
		return 0;
	case SECCOMP_MODE_FILTER:
		break;
	default:
		return ckpt_err(ctx, -EAGAIN, "%s: killed by seccomp: try again",
				t->comm);
	}
	/* from the oldest unwritten filter to the one attached last */
	while (!ckpt_obj_lookup(ctx, CKPT_REC_SECCOMP, own, &rec->seccomp)) {
		filter = own;
		for (;;) {
			ckpt_seccomp_look(filter, &log, &wait_killable, &prev);
			if (!prev || ckpt_obj_lookup(ctx, CKPT_REC_SECCOMP, prev,
						     &ref))
				break;
			filter = prev;
		}
		ret = dump_filter(ctx, filter, prev ? ref : 0, &ref);
		if (ret)
			return ret;
	}
	return 0;
}

int ckpt_restore_seccomp(struct ckpt_ctx *ctx)
{
	const struct ckpt_seccomp *rec = (const void *)ctx->rbuf;
	struct sock_fprog_kern prog = {
		.len = rec->len,
		.filter = (struct sock_filter *)(rec + 1),
	};
	struct seccomp_filter *prev = NULL, *filter;
	int ret;

	if (!rec->len || rec->len > BPF_MAXINSNS || rec->pad ||
	    rec->flags & ~(CKPT_SECCOMP_LOG | CKPT_SECCOMP_WAIT_KILLABLE) ||
	    ctx->rec.len != sizeof(*rec) + rec->len * sizeof(struct sock_filter))
		return ckpt_err(ctx, -EINVAL, "malformed seccomp filter");
	if (rec->prev) {
		prev = ckpt_obj_fetch(ctx, CKPT_REC_SECCOMP, rec->prev);
		if (IS_ERR(prev))
			return PTR_ERR(prev);
	}
	filter = ckpt_seccomp_make(prev, &prog, rec->flags & CKPT_SECCOMP_LOG,
				   rec->flags & CKPT_SECCOMP_WAIT_KILLABLE);
	if (IS_ERR(filter))
		return ckpt_err(ctx, PTR_ERR(filter), "seccomp filter");
	ret = ckpt_obj_insert(ctx, CKPT_REC_SECCOMP, ctx->rec.objref, filter);
	if (ret)
		ckpt_seccomp_put(filter);
	return ret;
}

/**
 * ckpt_forget_seccomp - drop current's filters, for fault injection
 *
 * The filters leak, as in an earlier version.
 */
void ckpt_forget_seccomp(void)
{
	spin_lock_irq(&current->sighand->siglock);
	current->seccomp.mode = SECCOMP_MODE_DISABLED;
	current->seccomp.filter = NULL;
	atomic_set(&current->seccomp.filter_count, 0);
	clear_syscall_work(SECCOMP);
	spin_unlock_irq(&current->sighand->siglock);
}

/**
 * ckpt_apply_seccomp - attach the saved filters to current
 * @ctx: the restart
 * @rec: current's record; no_new_privs is set, credentials are still the
 *	caller's
 *
 * Return: 0, or an errno of seccomp(2): -EINVAL, -EACCES.
 */
int ckpt_apply_seccomp(struct ckpt_ctx *ctx, const struct ckpt_task *rec)
{
	struct seccomp_filter *filter = NULL;
	int ret;

	if (!rec->seccomp && !(rec->flags & CKPT_TASK_STRICT))
		return 0;
	if (rec->seccomp) {
		filter = ckpt_obj_fetch(ctx, CKPT_REC_SECCOMP, rec->seccomp);
		if (IS_ERR(filter))
			return PTR_ERR(filter);
	}
	ret = ckpt_seccomp_apply(filter);
	return ret ? ckpt_err(ctx, ret, "seccomp filters") : 0;
}
