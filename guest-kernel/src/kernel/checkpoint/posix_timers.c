// SPDX-License-Identifier: GPL-2.0-only
/*
 * POSIX timers on the clocks that hrtimers support.
 *
 * A timer has a preallocated signal, and continues when that signal is
 * dequeued. Queued signals refer to their timers (CKPT_REC_SIGINFO), so the
 * timers are created before the queues are filled. They are bound to their
 * threads when all tasks have parked, and armed when their process leaves the
 * restart. Durations and absolute times are treated as in timers.c.
 */
#include <linux/hrtimer.h>
#include <linux/list.h>
#include <linux/pid.h>
#include <linux/posix-timers.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "ckpt.h"

/* A restored timer that is not yet bound to its thread and armed. */
struct ckpt_made_timer {
	struct list_head list;
	struct ckpt_tsk *owner;
	struct ckpt_posix_timer rec;
};

static bool known_clock(clockid_t clock)
{
	return clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC ||
	       clock == CLOCK_BOOTTIME || clock == CLOCK_TAI;
}

static int look_at_timer(struct ckpt_ctx *ctx, struct task_struct *t,
			 struct k_itimer *timer, struct ckpt_posix_timer *to)
{
	struct ckpt_posix_timer rec = {
		.id = timer->it_id,
		.clockid = timer->it_clock,
		.notify = timer->it_sigev_notify,
		.signo = timer->sigq->info.si_signo,
		.sival = (unsigned long)timer->sigq->info.si_value.sival_ptr,
	};
	struct hrtimer *hrtimer = &timer->it.real.timer;

	if (!known_clock(timer->it_clock))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: POSIX timer %u on clock %d, a CPU-time or alarm clock",
				t->comm, rec.id, timer->it_clock);
	if (timer->it_sigev_notify & SIGEV_THREAD_ID) {
		rcu_read_lock();
		if (pid_task(timer->it_pid, PIDTYPE_PID))
			rec.thread = pid_nr_ns(timer->it_pid, ctx->pidns);
		rcu_read_unlock();
		if (!rec.thread)
			return ckpt_err(ctx, -EOPNOTSUPP,
					"%s: POSIX timer %u for a thread that has exited",
					t->comm, rec.id);
	}
	spin_lock_irq(&timer->it_lock);
	if (timer->it_active)
		rec.flags |= CKPT_POSIX_TIMER_ACTIVE;
	if (timer->it_absolute)
		rec.flags |= CKPT_POSIX_TIMER_ABS;
	rec.interval = ktime_to_ns(timer->it_interval);
	rec.value = ktime_to_ns(hrtimer_get_expires(hrtimer));
	if (!timer->it_absolute)
		rec.value -= ktime_to_ns(hrtimer_cb_get_time(hrtimer));
	rec.overrun = timer->it_overrun;
	rec.overrun_last = timer->it_overrun_last;
	rec.requeue_pending = timer->it_requeue_pending;
	spin_unlock_irq(&timer->it_lock);
	*to = rec;
	return 0;
}

/**
 * ckpt_look_at_posix_timers - read the current state of a process's timers
 * @ctx: the checkpoint; its tasks cannot create or delete timers
 * @t: the process
 * @recs: gets the timers, to be freed by kvfree(), or NULL
 *
 * The records are in the order of creation, the reverse of the list's.
 *
 * Return: the number of timers; -EOPNOTSUPP for an unsupported clock or a
 * thread that has exited; -ENOMEM.
 */
int ckpt_look_at_posix_timers(struct ckpt_ctx *ctx, struct task_struct *t,
			      struct ckpt_posix_timer **recs)
{
	struct k_itimer *timer;
	unsigned int n = 0, at;
	int ret = 0;

	*recs = NULL;
	hlist_for_each_entry(timer, &t->signal->posix_timers, list)
		n++;
	if (!n)
		return 0;
	*recs = kvmalloc_array(n, sizeof(**recs), GFP_KERNEL_ACCOUNT);
	if (!*recs)
		return -ENOMEM;
	at = n;
	hlist_for_each_entry(timer, &t->signal->posix_timers, list) {
		ret = look_at_timer(ctx, t, timer, &(*recs)[--at]);
		if (ret)
			return ret;
	}
	return n;
}

/* Return true if one of @n timers has expired between two reads. */
bool ckpt_posix_timers_moved(const struct ckpt_posix_timer *a,
			     const struct ckpt_posix_timer *b, int n)
{
	for (; n; n--, a++, b++)
		if (a->flags != b->flags || a->overrun != b->overrun ||
		    a->requeue_pending != b->requeue_pending)
			return true;
	return false;
}

static bool timer_ok(const struct ckpt_posix_timer *rec)
{
	bool active = rec->flags & CKPT_POSIX_TIMER_ACTIVE;
	bool thread = rec->notify == (SIGEV_SIGNAL | SIGEV_THREAD_ID);

	if (rec->id > INT_MAX || !known_clock(rec->clockid) || rec->pad ||
	    rec->flags & ~(CKPT_POSIX_TIMER_ACTIVE | CKPT_POSIX_TIMER_ABS))
		return false;
	if (rec->notify == SIGEV_NONE ? active :
	    rec->signo <= 0 || rec->signo > SIGRTMAX)
		return false;
	if (rec->notify != SIGEV_NONE && rec->notify != SIGEV_SIGNAL &&
	    rec->notify != SIGEV_THREAD && !thread)
		return false;
	if (thread != !!rec->thread || rec->thread >= PID_MAX_LIMIT)
		return false;
	/* so that adding the time of a clock does not overflow */
	if (rec->interval > KTIME_MAX || rec->value < -KTIME_MAX / 2 ||
	    (rec->value < 0 && rec->flags & CKPT_POSIX_TIMER_ABS))
		return false;
	if (rec->overrun < -1 || rec->overrun > S64_MAX / 2 ||
	    rec->overrun_last < -1 || rec->overrun_last > S64_MAX / 2)
		return false;
	/* a running timer is not waiting for its signal to be dequeued */
	return rec->requeue_pending >= 0 &&
	       !(active && rec->requeue_pending & REQUEUE_PENDING);
}

int ckpt_restore_posix_timer(struct ckpt_ctx *ctx)
{
	const struct ckpt_posix_timer *rec = (const void *)ctx->rbuf;
	struct ckpt_made_timer *made;
	int ret;

	if (!timer_ok(rec))
		return ckpt_err(ctx, -EINVAL, "malformed POSIX timer");
	if (!(ckpt_current(ctx)->tree.flags & CKPT_TREE_LEADER))
		return ckpt_err(ctx, -EINVAL, "a POSIX timer in a thread's section");
	made = kmalloc(sizeof(*made), GFP_KERNEL_ACCOUNT);
	if (!made)
		return -ENOMEM;
	ret = ckpt_timer_create(rec);
	if (ret) {
		kfree(made);
		return ckpt_err(ctx, ret, "creating POSIX timer %u", rec->id);
	}
	made->owner = ckpt_current(ctx);
	made->rec = *rec;
	list_add_tail(&made->list, &ctx->posix_timers);
	return 0;
}

/**
 * ckpt_bind_posix_timers - bind current's timers to the threads they signal
 * @ctx: the restart; all tasks have parked
 * @ct: current's entry
 *
 * Return: 0, -EINVAL if the process has no such thread.
 */
int ckpt_bind_posix_timers(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct ckpt_made_timer *made;
	int ret;

	list_for_each_entry(made, &ctx->posix_timers, list) {
		if (made->owner != ct || !made->rec.thread)
			continue;
		ret = ckpt_timer_bind(made->rec.id, made->rec.thread);
		if (ret)
			return ckpt_err(ctx, ret, "POSIX timer %u for thread %u",
					made->rec.id, made->rec.thread);
	}
	return 0;
}

/*
 * Arm current's timers. Like ckpt_arm_timers(), called when the process leaves.
 */
void ckpt_arm_posix_timers(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct ckpt_made_timer *made;

	list_for_each_entry(made, &ctx->posix_timers, list)
		if (made->owner == ct)
			ckpt_timer_arm(&made->rec);
}

void ckpt_free_posix_timers(struct ckpt_ctx *ctx)
{
	struct ckpt_made_timer *made, *next;

	list_for_each_entry_safe(made, next, &ctx->posix_timers, list) {
		list_del(&made->list);
		kfree(made);
	}
}
