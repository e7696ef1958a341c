// SPDX-License-Identifier: GPL-2.0
/*
 * restart(2): the caller, the coordinator, creates one kernel-born process an
 * entry of the tree, all as children of its own. Each takes its turn at the
 * image, in the image's order: it reads its section, makes itself what the
 * section says, creates its threads (which take theirs), and parks. When all
 * are parked the coordinator puts families, groups and sessions right, and lets
 * them go, each to the site where it was found.
 *
 *	coordinator:  header, create ... wait ... trailer, relink, release
 *	tasks:        see restart_task.c
 *
 * Until the release everything can be undone by killing what was created:
 * nobody outside has seen it yet. After it nothing can fail any more.
 */
#include <linux/fs_struct.h>
#include <linux/pid_namespace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <uapi/linux/wait.h>

#include "ckpt.h"
#include "ptrace.h"

/* Nobody goes on; the coordinator will undo it all. */
void ckpt_abort_restart(struct ckpt_ctx *ctx, int err)
{
	mutex_lock(&ctx->log_lock);
	if (!ctx->error)
		ctx->error = err ?: -EINTR;
	mutex_unlock(&ctx->log_lock);
	WRITE_ONCE(ctx->abort, true);
	wake_up_all(&ctx->wait);
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

/* All live tasks have parked @times times. */
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
	int ret = wait_event_killable(ctx->wait, all_parked(ctx, times) ||
				      READ_ONCE(ctx->abort));

	return ret || READ_ONCE(ctx->abort) ? -EINTR : 0;
}

/* Their exit signal is still 0, but exit_notify() wakes the parent. */
static int wait_zombies(struct ckpt_ctx *ctx)
{
	unsigned int i;
	int ret;

	for (i = 0; i < ctx->nr_tsks; i++) {
		struct task_struct *t = ctx->tsks[i].task;

		if (!ckpt_dead_process(&ctx->tsks[i]))
			continue;
		ret = wait_event_interruptible(current->signal->wait_chldexit,
					       READ_ONCE(t->exit_state));
		if (ret)
			return -EINTR;
	}
	return 0;
}

static int read_trailer(struct ckpt_ctx *ctx)
{
	const struct ckpt_trailer *t = (const void *)ctx->rbuf;
	int ret = ckpt_read(ctx);

	if (ret)
		return ret;
	if (ctx->rec.type != CKPT_REC_TRAILER || t->nr_records != ctx->seq ||
	    t->nr_objects != ctx->nr_objs)
		return ckpt_err(ctx, -EINVAL, "the image does not end where it should");
	return 0;
}

/* Kill and reap all that was created; they are still our children. */
static void undo(struct ckpt_ctx *ctx)
{
	unsigned int i;

	ckpt_abort_restart(ctx, 0);
	for (i = 0; i < ctx->nr_tsks; i++) {
		struct ckpt_tsk *ct = &ctx->tsks[i];

		if (ct->started && ct->tree.flags & CKPT_TREE_LEADER)
			send_sig_info(SIGKILL, SEND_SIG_PRIV, ct->task);
	}
	/* the first may be its namespace's init, which waits for the others */
	for (i = ctx->nr_tsks; i-- > 0;) {
		struct ckpt_tsk *ct = &ctx->tsks[i];

		if (ct->started && ct->tree.flags & CKPT_TREE_LEADER)
			kernel_wait4(task_pid_vnr(ct->task), NULL, __WALL, NULL);
	}
}

static int start_linking(struct ckpt_ctx *ctx)
{
	WRITE_ONCE(ctx->linking, true);
	wake_up_all(&ctx->wait);
	return wait_parked(ctx, 2);
}

long ckpt_restart(struct ckpt_ctx *ctx)
{
	unsigned int i;
	long ret;

	ctx->coordinator = current;
	ctx->turn = -1;
	get_fs_root(current->fs, &ctx->root_path);
	ret = ckpt_read_header(ctx);
	if (!ret)
		ret = ckpt_prepare_relink(ctx);
	if (ret)
		return ret;
	for (i = 0; i < ctx->nr_tsks; i++)
		ctx->tsks[i].ctx = ctx;
	ret = create_processes(ctx);
	if (!ret) {
		ctx->turn = 0;
		wake_up_all(&ctx->wait);
		ret = wait_parked(ctx, 1);
	}
	if (!ret)
		ret = wait_zombies(ctx);
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
		undo(ctx);
		/* of what does not happen, or comes from outside */
		if (!ctx->told)
			ckpt_err(ctx, ctx->error ?: ret, "given up");
		return ctx->error ?: ret;
	}
	ckpt_push_ttys(ctx);
	ckpt_order_epolls(ctx);
	ckpt_free_ttys(ctx);
	/* the ends of pipes that the table holds must not be seen */
	ckpt_obj_free_all(ctx);
	ckpt_free_procs(ctx);
	ckpt_arm_timerfds(ctx);
	ckpt_free_timerfds(ctx);
	ckpt_arm_watches(ctx);
	ckpt_free_watches(ctx);
	ckpt_free_epolls(ctx);
	ctx->mono_delta = ktime_get_ns() - ctx->hdr.mono_ns;
	/* a namespace of its own goes on numbering where it was */
	if (ctx->tsks[0].tree.pid == 1)
		idr_set_cursor(&ctx->pidns->idr, ctx->hdr.next_pid);
	ret = task_pid_vnr(ctx->tsks[0].task);
	WRITE_ONCE(ctx->released, true);
	wake_up_all(&ctx->wait);
	ckpt_gate_count(ctx->gate);
	return ret;
}
