// SPDX-License-Identifier: GPL-2.0
/*
 * Signals: handlers, what is queued, what a process counts about itself, and
 * the stop of a stopped process.
 *
 * A task in the freezer has not dequeued anything: get_signal() comes to the
 * freezer first. So the queues are saved as they are and put back before the
 * task first looks at them.
 */
#include <linux/oom.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/signal.h>
#include <linux/slab.h>

#include "ckpt.h"

#define SIGNAL_FLAGS_KEPT \
	(SIGNAL_STOP_STOPPED | SIGNAL_STOP_CONTINUED | SIGNAL_CLD_MASK)

int ckpt_dump_sighand(struct ckpt_ctx *ctx, struct task_struct *t)
{
	struct ckpt_sigaction *acts;
	int i, ret;

	if (refcount_read(&t->sighand->count) != get_nr_threads(t))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"signal handlers shared with another process (CLONE_SIGHAND)");
	acts = kcalloc(_NSIG, sizeof(*acts), GFP_KERNEL);
	if (!acts)
		return -ENOMEM;
	spin_lock_irq(&t->sighand->siglock);
	for (i = 0; i < _NSIG; i++) {
		const struct sigaction *sa = &t->sighand->action[i].sa;

		acts[i].handler = (unsigned long)sa->sa_handler;
		acts[i].flags = sa->sa_flags;
		acts[i].restorer = (unsigned long)sa->sa_restorer;
		acts[i].mask = sa->sa_mask.sig[0];
	}
	spin_unlock_irq(&t->sighand->siglock);
	ret = ckpt_write(ctx, CKPT_REC_SIGHAND, 0, acts,
			 _NSIG * sizeof(*acts), NULL, 0);
	kfree(acts);
	return ret;
}

int ckpt_restore_sighand(struct ckpt_ctx *ctx)
{
	const struct ckpt_sigaction *acts = (const void *)ctx->rbuf;
	int i;

	for (i = 0; i < _NSIG; i++) {
		bool fixed = i + 1 == SIGKILL || i + 1 == SIGSTOP;

		if (acts[i].handler >= TASK_SIZE_MAX ||
		    acts[i].restorer >= TASK_SIZE_MAX ||
		    acts[i].flags & ~(u64)UAPI_SA_FLAGS ||
		    (fixed && acts[i].handler != (unsigned long)SIG_DFL))
			return ckpt_err(ctx, -EINVAL,
					"malformed handler of signal %d", i + 1);
	}
	spin_lock_irq(&current->sighand->siglock);
	for (i = 0; i < _NSIG; i++) {
		struct sigaction *sa = &current->sighand->action[i].sa;

		sa->sa_handler = (__sighandler_t)acts[i].handler;
		sa->sa_flags = acts[i].flags;
		sa->sa_restorer = (__sigrestore_t)acts[i].restorer;
		sa->sa_mask.sig[0] = acts[i].mask;
		sigdelsetmask(&sa->sa_mask, sigmask(SIGKILL) | sigmask(SIGSTOP));
	}
	spin_unlock_irq(&current->sighand->siglock);
	return 0;
}

int ckpt_dump_signal(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct signal_struct *sig = ct->task->signal;
	struct ckpt_signal rec = { };
	int ret;

	ret = ckpt_dump_ctty(ctx, ct, &rec);
	if (ret)
		return ret;
	rec.flags = sig->flags & SIGNAL_FLAGS_KEPT;
	/* a dead process exits again by itself */
	if (!ckpt_dead_process(ct))
		rec.flags |= sig->flags & SIGNAL_GROUP_EXIT;
	rec.group_exit_code = sig->group_exit_code;
	rec.group_stop_count = sig->group_stop_count;
	rec.is_child_subreaper = sig->is_child_subreaper;
	rec.has_child_subreaper = sig->has_child_subreaper;
	rec.oom_score_adj_min = sig->oom_score_adj_min;
	rec.utime = sig->utime;
	rec.stime = sig->stime;
	rec.cutime = sig->cutime;
	rec.cstime = sig->cstime;
	rec.min_flt = sig->min_flt;
	rec.maj_flt = sig->maj_flt;
	rec.cmin_flt = sig->cmin_flt;
	rec.cmaj_flt = sig->cmaj_flt;
	rec.maxrss = sig->maxrss;
	rec.cmaxrss = sig->cmaxrss;
	return ckpt_write(ctx, CKPT_REC_SIGNAL, 0, &rec, sizeof(rec), NULL, 0);
}

int ckpt_restore_signal(struct ckpt_ctx *ctx)
{
	const struct ckpt_signal *rec = (const void *)ctx->rbuf;
	struct signal_struct *sig = current->signal;
	int ret;

	if (rec->flags & ~(SIGNAL_FLAGS_KEPT | SIGNAL_GROUP_EXIT) ||
	    (rec->flags & SIGNAL_GROUP_EXIT && rec->group_exit_code & ~0xffff) ||
	    rec->is_child_subreaper > 1 || rec->has_child_subreaper > 1 ||
	    (rec->flags & SIGNAL_STOP_STOPPED && rec->group_exit_code &&
	     !valid_signal(rec->group_exit_code)) ||
	    !ckpt_add_cpu_time(ctx, &rec->utime, 4) ||
	    rec->oom_score_adj_min < OOM_SCORE_ADJ_MIN ||
	    rec->oom_score_adj_min > OOM_SCORE_ADJ_MAX)
		return ckpt_err(ctx, -EINVAL, "malformed process state");
	if (rec->oom_score_adj_min < sig->oom_score_adj_min &&
	    !capable(CAP_SYS_RESOURCE))
		return ckpt_err(ctx, -EPERM, "lower oom_score_adj_min");
	ret = ckpt_restore_ctty(ctx, rec);
	if (ret)
		return ret;
	spin_lock_irq(&current->sighand->siglock);
	sig->flags = (sig->flags & ~SIGNAL_FLAGS_KEPT) |
		     (rec->flags & SIGNAL_FLAGS_KEPT);
	if (!ckpt_dead_process(ckpt_current(ctx)))
		sig->group_exit_code = rec->group_exit_code;
	sig->is_child_subreaper = rec->is_child_subreaper;
	sig->has_child_subreaper = rec->has_child_subreaper;
	sig->oom_score_adj_min = rec->oom_score_adj_min;
	sig->utime = rec->utime;
	sig->stime = rec->stime;
	sig->cutime = rec->cutime;
	sig->cstime = rec->cstime;
	sig->min_flt = rec->min_flt;
	sig->maj_flt = rec->maj_flt;
	sig->cmin_flt = rec->cmin_flt;
	sig->cmaj_flt = rec->cmaj_flt;
	sig->maxrss = rec->maxrss;
	sig->cmaxrss = rec->cmaxrss;
	spin_unlock_irq(&current->sighand->siglock);
	/* threads that are created now must not take part in these */
	ckpt_current(ctx)->signal_flags = rec->flags;
	ckpt_current(ctx)->group_stop_count = rec->group_stop_count;
	return 0;
}

/* All threads of the process are there: a stop or an exit under way goes on. */
void ckpt_relink_signal(const struct ckpt_tsk *ct)
{
	struct task_struct *t = ct->task;

	spin_lock(&t->sighand->siglock);
	t->signal->flags |= ct->signal_flags & SIGNAL_GROUP_EXIT;
	t->signal->group_stop_count = ct->group_stop_count;
	spin_unlock(&t->sighand->siglock);
}

/* Copy one queue out of the lock's hold: writing may sleep. */
static int copy_queue(struct task_struct *t, struct sigpending *pending,
		      struct ckpt_siginfo **out, bool shared)
{
	struct ckpt_siginfo *recs;
	unsigned int n = 0, room = _NSIG;
	struct sigqueue *q;
	sigset_t bits;
	int sig;

	BUILD_BUG_ON(sizeof(kernel_siginfo_t) > sizeof(recs->info));

	spin_lock_irq(&t->sighand->siglock);
	list_for_each_entry(q, &pending->list, list)
		room++;
	spin_unlock_irq(&t->sighand->siglock);
	recs = kvcalloc(room, sizeof(*recs), GFP_KERNEL);
	if (!recs)
		return -ENOMEM;
	spin_lock_irq(&t->sighand->siglock);
	bits = pending->signal;
	list_for_each_entry(q, &pending->list, list) {
		if (n >= room) {
			spin_unlock_irq(&t->sighand->siglock);
			kvfree(recs);
			return -EAGAIN;
		}
		recs[n].shared = shared;
		recs[n].signo = q->info.si_signo;
		/* a timer has one of its own; one of a deleted timer is not */
		recs[n].queued = q->flags & SIGQUEUE_PREALLOC ? 2 : 1;
		memcpy(recs[n].info, &q->info, sizeof(q->info));
		sigdelset(&bits, q->info.si_signo);
		n++;
	}
	for (sig = 1; sig <= _NSIG && n < room; sig++) {
		if (!sigismember(&bits, sig))
			continue;
		recs[n].shared = shared;
		recs[n].signo = sig;
		n++;
	}
	spin_unlock_irq(&t->sighand->siglock);
	*out = recs;
	return n;
}

int ckpt_dump_pending(struct ckpt_ctx *ctx, struct task_struct *t, bool shared)
{
	struct ckpt_siginfo *recs;
	int i, n, ret = 0;

	n = copy_queue(t, shared ? &t->signal->shared_pending : &t->pending,
		       &recs, shared);
	if (n < 0)
		return n;
	for (i = 0; i < n && !ret; i++)
		ret = ckpt_write(ctx, CKPT_REC_SIGINFO, 0, &recs[i],
				 sizeof(recs[i]), NULL, 0);
	kvfree(recs);
	return ret;
}

int ckpt_restore_siginfo(struct ckpt_ctx *ctx)
{
	const struct ckpt_siginfo *rec = (const void *)ctx->rbuf;
	struct sigpending *pending = rec->shared ?
		&current->signal->shared_pending : &current->pending;
	kernel_siginfo_t info;
	int ret;

	memcpy(&info, rec->info, sizeof(info));
	if (!valid_signal(rec->signo) || !rec->signo || rec->shared > 1 ||
	    rec->queued > 2 || rec->signo == SIGKILL ||
	    (rec->queued && info.si_signo != rec->signo) ||
	    (rec->queued == 2 && info.si_code != SI_TIMER))
		return ckpt_err(ctx, -EINVAL, "malformed queued signal");
	if (!rec->queued) {
		clear_siginfo(&info);
		info.si_signo = rec->signo;
	}
	if (rec->queued == 2) {
		ret = ckpt_timer_queue(pending, &info);
		return ret ? ckpt_err(ctx, ret, "the signal of POSIX timer %d",
				      info.si_tid) : 0;
	}
	/* a deleted timer's: nothing comes of its being taken */
	if (info.si_code == SI_TIMER)
		info.si_sys_private = 0;
	return ckpt_sigqueue_add(pending, &info, rec->queued);
}
