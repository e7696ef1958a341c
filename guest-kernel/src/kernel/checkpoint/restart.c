// SPDX-License-Identifier: GPL-2.0-only
/*
 * restart(2): the caller, called the coordinator, creates each process of the
 * tree as a child of its own, and the processes create their threads. Then the
 * tasks take turns in the order of the image: a task reads its section,
 * restores its own state from it, and parks. When all are parked, the
 * coordinator sets parents, process groups and sessions, and releases the
 * tasks, and each enters the site at which it was checkpointed.
 *
 *	coordinator:  header, create ... wait ... trailer, relink, release
 *	tasks:        see restart_task.c
 *
 * Before the release, killing the created tasks undoes the restart, because
 * tasks outside cannot find them (hide.c). After the release nothing can fail.
 */
#include <linux/fs_struct.h>
#include <linux/mount.h>
#include <linux/pid_namespace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/task_work.h>
#include <linux/wait.h>
#include <uapi/linux/wait.h>

#include "../../fs/internal.h"
#include "ckpt.h"
#include "ptrace.h"

/**
 * ckpt_abort_restart - make a restart fail
 * @ctx: the restart
 * @err: negative errno, 0 for -EINTR
 *
 * Wakes all tasks that wait. The coordinator then kills and reaps every task
 * that the restart has created.
 */
void ckpt_abort_restart(struct ckpt_ctx *ctx, int err)
{
	spin_lock(&ctx->log_lock);
	if (!ctx->error)
		ctx->error = err ?: -EINTR;
	spin_unlock(&ctx->log_lock);
	WRITE_ONCE(ctx->abort, true);
	wake_up_all(&ctx->wait);
	/* Interrupt a read of the image, which may never return. */
	set_notify_signal(ctx->coordinator);
}

static int create_processes(struct ckpt_ctx *ctx)
{
	unsigned int i;
	int ret;

	for (i = 0; i < ctx->nr_tsks; i++) {
		struct ckpt_tsk *ct = &ctx->tsks[i];

		if (!(ct->tree.flags & CKPT_TREE_LEADER))
			continue;
		ret = ckpt_clone_task(ctx, ct, 0);
		if (ret)
			return ret;
	}
	return 0;
}

/* Wait until all tasks exist. The processes create their threads. */
static int wait_created(struct ckpt_ctx *ctx)
{
	int ret;

	ckpt_fail_leave(ctx);
	ret = wait_event_killable(ctx->wait,
				  atomic_read(&ctx->nr_created) == ctx->nr_tsks ||
				  READ_ONCE(ctx->abort));
	ckpt_fail_take(ctx);
	return ret || READ_ONCE(ctx->abort) ? -EINTR : 0;
}

/* Return true when every task that is not a zombie has parked @times times. */
static bool all_parked(struct ckpt_ctx *ctx, unsigned int times)
{
	unsigned int i, live = 0;

	for (i = 0; i < ctx->nr_tsks; i++)
		if (!ckpt_dead_process(&ctx->tsks[i]))
			live++;
	return READ_ONCE(ctx->turn) == ctx->nr_tsks &&
	       atomic_read(&ctx->nr_parked) == live * times;
}

static int wait_parked(struct ckpt_ctx *ctx, unsigned int times)
{
	int ret;

	ret = wait_event_killable(ctx->wait, all_parked(ctx, times) ||
				  READ_ONCE(ctx->abort));
	ckpt_fail_take(ctx);
	return ret || READ_ONCE(ctx->abort) ? -EINTR : 0;
}

/*
 * A child wakes its parent with TASK_INTERRUPTIBLE, which does not end a
 * killable sleep. Wake the coordinator from any sleep.
 */
static int wake_by_child(struct wait_queue_entry *wait, unsigned int mode,
			 int sync, void *key)
{
	return woken_wake_function(wait, TASK_NORMAL, sync, key);
}

/*
 * Sleep until the exits of children make @done true. The children have no exit
 * signal yet, but exit_notify() wakes the parent.
 */
static int wait_children(struct ckpt_ctx *ctx, bool (*done)(struct ckpt_ctx *ctx))
{
	DEFINE_WAIT_FUNC(wait, wake_by_child);
	int ret = 0;

	ckpt_fail_leave(ctx);
	add_wait_queue(&current->signal->wait_chldexit, &wait);
	while (!done(ctx)) {
		if (fatal_signal_pending(current)) {
			ret = -EINTR;
			break;
		}
		wait_woken(&wait, TASK_KILLABLE, MAX_SCHEDULE_TIMEOUT);
	}
	remove_wait_queue(&current->signal->wait_chldexit, &wait);
	ckpt_fail_take(ctx);
	return ret;
}

static bool zombies_there(struct ckpt_ctx *ctx)
{
	unsigned int i;

	for (i = 0; i < ctx->nr_tsks; i++)
		if (ckpt_dead_process(&ctx->tsks[i]) &&
		    !READ_ONCE(ctx->tsks[i].task->exit_state))
			return false;
	return true;
}

static int read_trailer(struct ckpt_ctx *ctx)
{
	const struct ckpt_trailer *t;
	int ret = ckpt_read(ctx);

	if (ret)
		return ret;
	t = (const void *)ctx->rbuf;
	if (ctx->rec.type != CKPT_REC_TRAILER || t->nr_records != ctx->seq ||
	    t->nr_objects != ctx->nr_objs)
		return ckpt_err(ctx, -EINVAL,
				"no trailer after the last section, or wrong counts in it");
	return 0;
}

/* Reap the dead processes. Returns true when none is left. */
static bool reap_all(struct ckpt_ctx *ctx)
{
	bool left = false;
	unsigned int i;

	/*
	 * The first may be the init of its pid namespace, which waits for the
	 * others.
	 */
	for (i = ctx->nr_tsks; i-- > 0;) {
		struct ckpt_tsk *ct = &ctx->tsks[i];
		pid_t nr;

		if (!ct->started || !(ct->tree.flags & CKPT_TREE_LEADER))
			continue;
		/* 0: reaped already, perhaps by another thread of the caller */
		nr = task_pid_vnr(ct->task);
		if (nr && kernel_wait4(nr, NULL, __WALL | WNOHANG, NULL) == 0)
			left = true;
	}
	return !left;
}

/*
 * Kill and reap all created processes, which are still children of the
 * coordinator. If the coordinator itself is killed, they exit on their own and
 * the reaper of orphans reaps them.
 */
static void undo(struct ckpt_ctx *ctx, int err)
{
	unsigned int i;

	ckpt_abort_restart(ctx, err);
	for (i = 0; i < ctx->nr_tsks; i++) {
		struct ckpt_tsk *ct = &ctx->tsks[i];

		if (!ct->started || !(ct->tree.flags & CKPT_TREE_LEADER))
			continue;
		send_sig_info(SIGKILL, SEND_SIG_PRIV, ct->task);
		if (ckpt_dead_process(ct))
			ckpt_give_up_zombie(ct);
	}
	wait_children(ctx, reap_all);
	if (ctx->proc_mount.mnt) {
		path_umount(&ctx->proc_mount, MNT_DETACH);
		ctx->proc_mount = (struct path) { };
	}
}

static int start_linking(struct ckpt_ctx *ctx)
{
	ckpt_fail_leave(ctx);
	WRITE_ONCE(ctx->linking, true);
	wake_up_all(&ctx->wait);
	return wait_parked(ctx, 2);
}

static long build_and_release(struct ckpt_ctx *ctx)
{
	unsigned int i;
	long ret;

	for (i = 0; i < ctx->nr_tsks; i++)
		ctx->tsks[i].ctx = ctx;
	ret = create_processes(ctx);
	if (!ret)
		ret = wait_created(ctx);
	if (!ret) {
		ckpt_fail_leave(ctx);
		ctx->turn = 0;
		wake_up_all(&ctx->wait);
		ret = wait_parked(ctx, 1);
	}
	if (!ret)
		ret = wait_children(ctx, zombies_there);
	if (!ret)
		ret = read_trailer(ctx);
	if (!ret)
		ret = ckpt_check_links(ctx);
	if (!ret)
		ret = ckpt_check_cttys(ctx);
	if (!ret)
		ret = ckpt_fill_ttys(ctx);
	if (!ret)
		ret = ckpt_settle_sockets(ctx);
	if (!ret)
		ret = start_linking(ctx);
	if (!ret)
		ret = ckpt_relink(ctx);
	if (ret) {
		undo(ctx, ret);
		/*
		 * no code has logged a reason: an unexpected failure, or a
		 * signal from outside
		 */
		if (!ctx->logged)
			ckpt_err(ctx, ctx->error ?: ret, "restart aborted");
		return ctx->error ?: ret;
	}
	path_put(&ctx->proc_mount);
	ckpt_push_ttys(ctx);
	ckpt_order_epolls(ctx);
	ckpt_free_ttys(ctx);
	ckpt_publish_sockets(ctx);
	/* pipe ends in the table would keep readers from seeing end of file */
	ckpt_obj_free_all(ctx);
	ckpt_free_procs(ctx);
	ckpt_arm_timerfds(ctx);
	ckpt_free_timerfds(ctx);
	ckpt_arm_watches(ctx);
	ckpt_free_watches(ctx);
	ckpt_free_epolls(ctx);
	ctx->mono_delta = ktime_get_ns() - ctx->hdr.mono_ns;
	/* the tree's own pid namespace continues numbering where it was */
	if (ctx->tsks[0].tree.pid == 1)
		idr_set_cursor(&ctx->pidns->idr, ctx->hdr.next_pid);
	ret = task_pid_vnr(ctx->tsks[0].task);
	ckpt_unhide_all(ctx);
	WRITE_ONCE(ctx->released, true);
	wake_up_all(&ctx->wait);
	ckpt_gate_count(ctx->gate);
	return ret;
}

long ckpt_restart(struct ckpt_ctx *ctx)
{
	long ret;

	ctx->coordinator = current;
	ctx->turn = -1;
	get_fs_root(current->fs, &ctx->root_path);
	ckpt_hide_begin();
	ret = ckpt_read_header(ctx);
	if (!ret)
		ret = ckpt_prepare_relink(ctx);
	if (!ret)
		ret = build_and_release(ctx);
	ckpt_hide_end();
	/*
	 * interrupted reads that were continued have cleared the flags
	 * (image.c)
	 */
	spin_lock_irq(&current->sighand->siglock);
	recalc_sigpending();
	spin_unlock_irq(&current->sighand->siglock);
	if (task_work_pending(current))
		set_notify_signal(current);
	/* the image has been read: the call cannot be repeated */
	return ckpt_interrupted(ret) ? -EINTR : ret;
}
