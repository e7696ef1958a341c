// SPDX-License-Identifier: GPL-2.0-only
/*
 * Timer file descriptors. A timer set to a duration keeps the time left, so it
 * is armed when the restarted tasks are released. A timer set to an absolute
 * time keeps that time, see timers.c.
 */
#include <linux/err.h>
#include <linux/file.h>
#include <linux/list.h>
#include <linux/slab.h>
#include <linux/time64.h>
#include <linux/timerfd.h>

#include "ckpt.h"

#define TIMERFD_FLAGS	(CKPT_TIMERFD_ARMED | CKPT_TIMERFD_EXPIRED | \
			 CKPT_TIMERFD_CANCEL | CKPT_TIMERFD_CANCELED)

/* A restored timer that is not armed yet. */
struct ckpt_timer_file {
	struct list_head list;
	struct file *file;	/* reference held */
	struct ckpt_timerfd rec;
};

int ckpt_dump_timerfd(struct ckpt_ctx *ctx, struct file *file)
{
	struct ckpt_timerfd rec = { };

	ckpt_timerfd_get(file, &rec);
	return ckpt_write(ctx, CKPT_REC_TIMERFD, 0, &rec, sizeof(rec), NULL, 0);
}

static bool timerfd_ok(const struct ckpt_timerfd *rec)
{
	u32 flags = rec->flags;

	if (rec->settime_flags & ~(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) ||
	    rec->interval > KTIME_MAX || flags & ~TIMERFD_FLAGS || rec->pad)
		return false;
	if (flags & CKPT_TIMERFD_ARMED && flags & CKPT_TIMERFD_EXPIRED)
		return false;
	if (flags & CKPT_TIMERFD_CANCELED && !(flags & CKPT_TIMERFD_CANCEL))
		return false;
	/* so that adding the time of a clock does not overflow */
	if (rec->value < -KTIME_MAX / 2)
		return false;
	return rec->value >= 0 || !(rec->settime_flags & TFD_TIMER_ABSTIME);
}

struct file *ckpt_open_timerfd(struct ckpt_ctx *ctx)
{
	const struct ckpt_timerfd *rec = (const void *)ctx->rbuf;
	struct ckpt_timer_file *timer;
	struct file *file;

	if (!timerfd_ok(rec))
		return ERR_PTR(ckpt_err(ctx, -EINVAL, "malformed timerfd"));
	timer = kmalloc(sizeof(*timer), GFP_KERNEL_ACCOUNT);
	if (!timer)
		return ERR_PTR(-ENOMEM);
	file = ckpt_timerfd_create(rec);
	if (IS_ERR(file)) {
		kfree(timer);
		return file;
	}
	timer->file = get_file(file);
	timer->rec = *rec;
	list_add_tail(&timer->list, &ctx->timerfds);
	return file;
}

/**
 * ckpt_arm_timerfds - arm the restored timers
 * @ctx: the restart, about to release its tasks
 */
void ckpt_arm_timerfds(struct ckpt_ctx *ctx)
{
	struct ckpt_timer_file *timer;

	list_for_each_entry(timer, &ctx->timerfds, list)
		if (timer->rec.flags & (CKPT_TIMERFD_ARMED | CKPT_TIMERFD_EXPIRED))
			ckpt_timerfd_arm(timer->file, &timer->rec);
}

void ckpt_free_timerfds(struct ckpt_ctx *ctx)
{
	struct ckpt_timer_file *timer, *next;

	list_for_each_entry_safe(timer, next, &ctx->timerfds, list) {
		list_del(&timer->list);
		fput(timer->file);
		kfree(timer);
	}
}
