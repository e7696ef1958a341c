// SPDX-License-Identifier: GPL-2.0-only
/*
 * Signals: handlers, queued signals, the counters of a process, and the group
 * stop of a stopped process.
 *
 * A task in the freezer has not dequeued a signal, because get_signal() enters
 * the freezer first. So the queues are saved as they are and restored before
 * the task can dequeue from them.
 */
#include <linux/oom.h>
#include <linux/sched/cputime.h>
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
		if (!ckpt_broken(CKPT_BREAK_HANDLER))
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
	rec.flags = sig->flags & (SIGNAL_FLAGS_KEPT | SIGNAL_GROUP_EXIT);
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
	rec.exec_ns = sig->sum_sched_runtime;
	rec.gtime = sig->gtime;
	rec.cgtime = sig->cgtime;
	thread_group_cputime_adjusted(ct->task, &rec.seen_utime, &rec.seen_stime);
	rec.nvcsw = sig->nvcsw;
	rec.nivcsw = sig->nivcsw;
	rec.cnvcsw = sig->cnvcsw;
	rec.cnivcsw = sig->cnivcsw;
	rec.inblock = sig->inblock;
	rec.oublock = sig->oublock;
	rec.cinblock = sig->cinblock;
	rec.coublock = sig->coublock;
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
	    !ckpt_add_cpu_time(ctx, &rec->exec_ns, 5) ||
	    rec->oom_score_adj_min < OOM_SCORE_ADJ_MIN ||
	    rec->oom_score_adj_min > OOM_SCORE_ADJ_MAX)
		return ckpt_err(ctx, -EINVAL, "malformed process state");
	if (rec->oom_score_adj_min < sig->oom_score_adj_min &&
	    !capable(CAP_SYS_RESOURCE))
		return ckpt_err(ctx, -EPERM,
				"oom_score_adj_min %d: the caller may not lower it",
				rec->oom_score_adj_min);
	ret = ckpt_restore_ctty(ctx, rec);
	if (ret)
		return ret;
	spin_lock_irq(&current->sighand->siglock);
	sig->flags = (sig->flags & ~SIGNAL_FLAGS_KEPT) |
		     (rec->flags & SIGNAL_FLAGS_KEPT);
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
	sig->sum_sched_runtime = rec->exec_ns;
	sig->gtime = rec->gtime;
	sig->cgtime = rec->cgtime;
	sig->nvcsw = rec->nvcsw;
	sig->nivcsw = rec->nivcsw;
	sig->cnvcsw = rec->cnvcsw;
	sig->cnivcsw = rec->cnivcsw;
	sig->inblock = rec->inblock;
	sig->oublock = rec->oublock;
	sig->cinblock = rec->cinblock;
	sig->coublock = rec->coublock;
	raw_spin_lock(&sig->prev_cputime.lock);
	sig->prev_cputime.utime = rec->seen_utime;
	sig->prev_cputime.stime = rec->seen_stime;
	raw_spin_unlock(&sig->prev_cputime.lock);
	spin_unlock_irq(&current->sighand->siglock);
	/*
	 * ckpt_relink_signal() sets them: they would affect threads that are
	 * not built yet
	 */
	ckpt_current(ctx)->signal_flags = rec->flags;
	ckpt_current(ctx)->group_stop_count = rec->group_stop_count;
	return 0;
}

/**
 * ckpt_begin_exit - let current exit as a part of its process's exit
 * @ct: current's entry, a dead process
 *
 * The first thread may have exited earlier, with a status that differs from the
 * process's (/proc/PID/task/PID/stat).
 */
void ckpt_begin_exit(const struct ckpt_tsk *ct)
{
	spin_lock_irq(&current->sighand->siglock);
	current->signal->flags |= ct->signal_flags & SIGNAL_GROUP_EXIT;
	spin_unlock_irq(&current->sighand->siglock);
}

/* Restore a group stop or exit in progress, after all threads are complete. */
void ckpt_relink_signal(const struct ckpt_tsk *ct)
{
	struct task_struct *t = ct->task;

	spin_lock(&t->sighand->siglock);
	t->signal->flags |= ct->signal_flags & SIGNAL_GROUP_EXIT;
	t->signal->group_stop_count = ct->group_stop_count;
	spin_unlock(&t->sighand->siglock);
}

/*
 * Copy a queue under siglock, because writing may sleep. The interval timers
 * are read under the same lock, so that a timer is either still running or its
 * signal is in the queue. Returns the number of signals, or a negative errno.
 */
static int copy_queue(struct task_struct *t, struct sigpending *pending,
		      struct ckpt_siginfo **out, struct ckpt_timers *timers)
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
	if (timers)
		ckpt_look_at_timers(t, timers);
	bits = pending->signal;
	list_for_each_entry(q, &pending->list, list) {
		if (n >= room) {
			spin_unlock_irq(&t->sighand->siglock);
			kvfree(recs);
			return -EAGAIN;
		}
		recs[n].shared = !!timers;
		recs[n].signo = q->info.si_signo;
		/*
		 * the preallocated signal of a timer, unless the timer was
		 * deleted
		 */
		recs[n].queued = q->flags & SIGQUEUE_PREALLOC ? 2 : 1;
		memcpy(recs[n].info, &q->info, sizeof(q->info));
		sigdelset(&bits, q->info.si_signo);
		n++;
	}
	for (sig = 1; sig <= _NSIG && n < room; sig++) {
		if (!sigismember(&bits, sig))
			continue;
		recs[n].shared = !!timers;
		recs[n].signo = sig;
		n++;
	}
	spin_unlock_irq(&t->sighand->siglock);
	*out = recs;
	return n;
}

static int write_queue(struct ckpt_ctx *ctx, const struct ckpt_siginfo *recs,
		       int n)
{
	int i, ret = 0;

	for (i = 0; i < n && !ret; i++)
		ret = ckpt_write(ctx, CKPT_REC_SIGINFO, 0, &recs[i],
				 sizeof(recs[i]), NULL, 0);
	return ret;
}

/* A thread's own queue. */
int ckpt_dump_pending(struct ckpt_ctx *ctx, struct task_struct *t)
{
	struct ckpt_siginfo *recs;
	int n, ret;

	n = copy_queue(t, &t->pending, &recs, NULL);
	if (n < 0)
		return n;
	ret = write_queue(ctx, recs, n);
	kvfree(recs);
	return ret;
}

/* The timers of a process and its queue, all read at the same time. */
struct moment {
	struct ckpt_posix_timer *posix, *later;
	struct ckpt_siginfo *queue;
	struct ckpt_timers timers;
	int nr_posix, nr_queue;
};

static void forget(struct moment *m)
{
	kvfree(m->posix);
	kvfree(m->later);
	kvfree(m->queue);
	memset(m, 0, sizeof(*m));
}

/* Return 1, 0 if a timer has expired in between, or a negative errno. */
static int look(struct ckpt_ctx *ctx, struct task_struct *t, struct moment *m)
{
	int n;

	m->nr_posix = ckpt_look_at_posix_timers(ctx, t, &m->posix);
	if (m->nr_posix < 0)
		return m->nr_posix;
	m->nr_queue = copy_queue(t, &t->signal->shared_pending, &m->queue,
				 &m->timers);
	if (m->nr_queue < 0)
		return m->nr_queue;
	n = ckpt_look_at_posix_timers(ctx, t, &m->later);
	if (n < 0)
		return n;
	return n == m->nr_posix && !ckpt_posix_timers_moved(m->posix, m->later, n);
}

/**
 * ckpt_dump_process_signals - write a process's timers and shared signal queue
 * @ctx: the checkpoint
 * @t: the process
 *
 * Timers run while the process is frozen. Read the timers and the queue again
 * until no timer expires in between. Otherwise the signal of that timer would
 * be lost or duplicated.
 *
 * Return: 0; -EAGAIN if timers expire in every attempt; -EOPNOTSUPP for an
 * unsupported timer; -ENOMEM.
 */
int ckpt_dump_process_signals(struct ckpt_ctx *ctx, struct task_struct *t)
{
	struct moment m = { };
	int i, tries = 100, ret;

	for (;;) {
		ret = look(ctx, t, &m);
		if (ret)
			break;
		forget(&m);
		if (!tries--)
			return ckpt_err(ctx, -EAGAIN,
					"%s: a timer expires continually: try again",
					t->comm);
		cond_resched();
	}
	ret = min(ret, 0);
	for (i = 0; i < m.nr_posix && !ret; i++)
		ret = ckpt_write(ctx, CKPT_REC_POSIX_TIMER, 0, &m.posix[i],
				 sizeof(m.posix[i]), NULL, 0);
	if (!ret)
		ret = write_queue(ctx, m.queue, m.nr_queue);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_TIMERS, 0, &m.timers,
				 sizeof(m.timers), NULL, 0);
	forget(&m);
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
		return ret ? ckpt_err(ctx, ret, "queueing the signal of POSIX timer %d",
				      info.si_tid) : 0;
	}
	/* from a deleted timer: dequeuing it must not rearm a timer */
	if (info.si_code == SI_TIMER)
		info.si_sys_private = 0;
	return ckpt_sigqueue_add(pending, &info, rec->queued &&
				 !ckpt_broken(CKPT_BREAK_SIGNAL_QUEUE));
}
