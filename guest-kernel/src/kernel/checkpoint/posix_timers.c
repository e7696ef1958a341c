// SPDX-License-Identifier: GPL-2.0-only
/*
 * POSIX timers, of the clocks that hrtimers run by.
 *
 * A timer has a queued signal of its own, and goes on when that is taken. So
 * timers are made before the queues are filled, which refer to them
 * (CKPT_REC_SIGINFO). The threads that they send to are there when all are
 * parked, and they are set going as their process leaves: of a duration, what
 * was left is left; a time that the program named is kept, as timers.c says.
 */
#include <linux/hrtimer.h>
#include <linux/list.h>
#include <linux/pid.h>
#include <linux/posix-timers.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "ckpt.h"

/* A timer that is to be bound to its thread and set going. */
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
				"%s: POSIX timer %u by clock %d: a CPU's or an alarm's",
				t->comm, rec.id, timer->it_clock);
	if (timer->it_sigev_notify & SIGEV_THREAD_ID) {
		rcu_read_lock();
		if (pid_task(timer->it_pid, PIDTYPE_PID))
			rec.thread = pid_nr_ns(timer->it_pid, ctx->pidns);
		rcu_read_unlock();
		if (!rec.thread)
			return ckpt_err(ctx, -EOPNOTSUPP,
					"%s: POSIX timer %u of a thread that has exited",
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
 * ckpt_look_at_posix_timers - a process' timers as they are now
 * @ctx: the checkpoint; none of its tasks can make or delete any
 * @t: the process
 * @recs: gets them, the caller's to kvfree(), or NULL
 *
 * The last in the list was made first, and will be again.
 *
 * Return: how many; -EOPNOTSUPP for one of a clock or a thread that is not
 * restored, -ENOMEM.
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

/* Whether one of @n timers has expired between two looks. */
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
	/* so that no sum of them and a clock leaves what a time can be */
	if (rec->interval > KTIME_MAX || rec->value < -KTIME_MAX / 2 ||
	    (rec->value < 0 && rec->flags & CKPT_POSIX_TIMER_ABS))
		return false;
	if (rec->overrun < -1 || rec->overrun > S64_MAX / 2 ||
	    rec->overrun_last < -1 || rec->overrun_last > S64_MAX / 2)
		return false;
	/* one that is going does not wait for its signal to be taken */
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
		return ckpt_err(ctx, -EINVAL, "a POSIX timer of a thread's own");
	made = kmalloc(sizeof(*made), GFP_KERNEL_ACCOUNT);
	if (!made)
		return -ENOMEM;
	ret = ckpt_timer_create(rec);
	if (ret) {
		kfree(made);
		return ckpt_err(ctx, ret, "POSIX timer %u", rec->id);
	}
	made->owner = ckpt_current(ctx);
	made->rec = *rec;
	list_add_tail(&made->list, &ctx->posix_timers);
	return 0;
}

/**
 * ckpt_bind_posix_timers - let current's timers send to the threads that they do
 * @ctx: the restart; all are parked
 * @ct: current's entry
 *
 * Return: 0, -EINVAL where there is no such thread in the process.
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
			return ckpt_err(ctx, ret, "POSIX timer %u of thread %u",
					made->rec.id, made->rec.thread);
	}
	return 0;
}

/* As the process leaves the restart: no time is lost to the others. */
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
