// SPDX-License-Identifier: GPL-2.0-only
/*
 * Contexts of checkpoint(2) and restart(2).
 */
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "ckpt.h"
#include "ptrace.h"

/**
 * ckpt_ctx_put - drop a reference to a context, and free it with the last one
 * @ctx: the checkpoint or restart
 */
void ckpt_ctx_put(struct ckpt_ctx *ctx)
{
	unsigned int i;

	if (!refcount_dec_and_test(&ctx->users))
		return;
	ckpt_obj_free_all(ctx);
	for (i = 0; i < ctx->nr_tsks; i++) {
		if (ctx->tsks[i].task)
			put_task_struct(ctx->tsks[i].task);
		put_cred(ctx->tsks[i].ptracer_cred);
		ckpt_stop_free(ctx->tsks[i].resume);
	}
	ckpt_gate_put(ctx->gate);
	ckpt_free_procs(ctx);
	ckpt_free_timerfds(ctx);
	ckpt_free_watches(ctx);
	ckpt_free_epolls(ctx);
	ckpt_free_posix_timers(ctx);
	ckpt_free_ttys(ctx);
	ckpt_free_pids(ctx);
	ckpt_free_lookup(ctx);
	kvfree(ctx->mounts);
	kvfree(ctx->tsks);
	kvfree(ctx->wbuf);
	if (!ckpt_broken(CKPT_BREAK_FREE))
		kvfree(ctx->rbuf);
	kfree(ctx->page_buf);
	path_put(&ctx->root_path);
	ckpt_log_free(ctx);
	if (ctx->logfile)
		fput(ctx->logfile);
	if (ctx->file)
		fput(ctx->file);
	kfree(ctx);
}

/**
 * ckpt_ctx_alloc - allocate a context with one reference
 * @fd: descriptor of the image; not used with CHECKPOINT_CHECK
 * @logfd: log descriptor, -1 for none
 * @flags: CHECKPOINT_*, 0 for a restart
 *
 * Return: the context, or ERR_PTR (-EBADF, -ENOMEM).
 */
struct ckpt_ctx *ckpt_ctx_alloc(int fd, int logfd, unsigned long flags)
{
	struct ckpt_ctx *ctx;
	int ret = -EBADF;

	ctx = kzalloc(sizeof(*ctx), GFP_KERNEL_ACCOUNT);
	if (!ctx)
		return ERR_PTR(-ENOMEM);
	refcount_set(&ctx->users, 1);
	spin_lock_init(&ctx->log_lock);
	INIT_LIST_HEAD(&ctx->log);
	init_waitqueue_head(&ctx->wait);
	hash_init(ctx->by_ptr);
	xa_init(&ctx->objs);
	xa_init(&ctx->pids);
	INIT_LIST_HEAD(&ctx->proc_files);
	INIT_LIST_HEAD(&ctx->timerfds);
	INIT_LIST_HEAD(&ctx->inotifies);
	INIT_LIST_HEAD(&ctx->epolls);
	INIT_LIST_HEAD(&ctx->posix_timers);
	INIT_LIST_HEAD(&ctx->terminals);
	ctx->flags = flags;
	ctx->cgroup_fd = -1;
	if (!(flags & CHECKPOINT_CHECK)) {
		ctx->file = fget(fd);
		if (!ctx->file)
			goto fail;
	}
	if (logfd >= 0) {
		ctx->logfile = fget(logfd);
		if (!ctx->logfile || !(ctx->logfile->f_mode & FMODE_WRITE))
			goto fail;
	}
	ret = -ENOMEM;
	ctx->page_buf = kmalloc(2 * PATH_MAX, GFP_KERNEL);
	if (!ctx->page_buf)
		goto fail;
	return ctx;
fail:
	ckpt_ctx_put(ctx);
	return ERR_PTR(ret);
}
