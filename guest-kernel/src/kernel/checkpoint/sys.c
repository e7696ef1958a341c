// SPDX-License-Identifier: GPL-2.0-only
/*
 * checkpoint(2) and restart(2): the calls and their contexts.
 */
#include <linux/capability.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/nsproxy.h>
#include <linux/pid_namespace.h>
#include <linux/slab.h>
#include <linux/syscalls.h>
#include <linux/user_namespace.h>

#include "ckpt.h"
#include "ptrace.h"

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
		ckpt_stop_free(ctx->tsks[i].again);
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

/**
 * sys_checkpoint - save a frozen tree of tasks
 * @pid: its root, as the caller sees it
 * @fd: where the image goes; a pipe will do
 * @flags: CHECKPOINT_*
 * @logfd: where findings are told, a line each; -1 for nowhere
 *
 * Return: 0; -EBUSY for a task or object that cannot be saved now, or is shared
 * with tasks outside; -EOPNOTSUPP for a kind that is never saved; -EAGAIN where
 * tasks have moved; -EINVAL, -ESRCH, -EPERM; and what writing gives. An error
 * leaves the tasks as they were.
 */
SYSCALL_DEFINE4(checkpoint, pid_t, pid, int, fd, unsigned long, flags,
		int, logfd)
{
	struct ckpt_ctx *ctx;
	int ret;

	if (flags & ~(CHECKPOINT_CHECK | CHECKPOINT_OWN_MOUNTS))
		return -EINVAL;
	ctx = ckpt_ctx_alloc(fd, logfd, flags);
	if (IS_ERR(ctx))
		return PTR_ERR(ctx);
	ctx->check_only = flags & CHECKPOINT_CHECK;
	ret = -EBADF;
	if (!ctx->check_only && !(ctx->file->f_mode & FMODE_WRITE))
		goto out;
	ret = -ENOMEM;
	ctx->wbuf = kvmalloc(CKPT_WBUF_SIZE, GFP_KERNEL_ACCOUNT);
	if (!ctx->wbuf)
		goto out;
	ret = -ESRCH;
	rcu_read_lock();
	ctx->root = find_task_by_vpid(pid);
	if (ctx->root)
		get_task_struct(ctx->root);
	rcu_read_unlock();
	if (!ctx->root)
		goto out;
	ret = ckpt_dump(ctx);
	if (ret && !ctx->error)
		ckpt_err(ctx, ret, "checkpoint");
	put_task_struct(ctx->root);
out:
	ckpt_log_write(ctx);
	ckpt_ctx_put(ctx);
	return ret;
}

/*
 * Services tell a process from a later one of the same number by its start time,
 * and that restart(2) takes from an image. So the caller needs, over every pid
 * namespace in which a task has a number, what lets him choose that number.
 */
static bool may_date(const struct pid_namespace *ns)
{
	for (; ns; ns = ns->parent)
		if (!ns_capable_noaudit(ns->user_ns, CAP_CHECKPOINT_RESTORE) &&
		    !ns_capable_noaudit(ns->user_ns, CAP_SYS_ADMIN))
			return false;
	return true;
}

/**
 * sys_restart - create the tasks of an image
 * @cgroup_fd: cgroup v2 directory to create them in, -1 for the caller's
 * @fd: where the image comes from; a pipe will do
 * @flags: RESTART_*
 * @logfd: where findings are told, a line each; -1 for nowhere
 *
 * Return: the pid of the root, a child of the caller, or a negative errno; on
 * error everything created is gone.
 */
SYSCALL_DEFINE4(restart, int, cgroup_fd, int, fd, unsigned long, flags,
		int, logfd)
{
	struct pid_namespace *pidns = current->nsproxy->pid_ns_for_children;
	struct ckpt_ctx *ctx;
	long ret;

	if (flags & ~(RESTART_MOUNT_PROC | RESTART_EQUAL_MOUNTS) ||
	    (flags & RESTART_MOUNT_PROC && pidns->child_reaper))
		return -EINVAL;
	if (!checkpoint_restore_ns_capable(pidns->user_ns))
		return -EPERM;
	ctx = ckpt_ctx_alloc(fd, logfd, 0);
	if (IS_ERR(ctx))
		return PTR_ERR(ctx);
	ret = -EBADF;
	if (!(ctx->file->f_mode & FMODE_READ))
		goto out;
	ret = -ENOMEM;
	ctx->rbuf = kvmalloc(CKPT_REC_MAX, GFP_KERNEL_ACCOUNT);
	if (!ctx->rbuf)
		goto out;
	ctx->gate = ckpt_gate_alloc();
	if (!ctx->gate)
		goto out;
	ctx->mount_proc = flags & RESTART_MOUNT_PROC;
	ctx->equal_mounts = flags & RESTART_EQUAL_MOUNTS;
	ctx->cgroup_fd = cgroup_fd;
	ctx->pidns = pidns;
	ctx->may_date = may_date(pidns);
	ctx->may_trace = ns_capable_noaudit(pidns->user_ns, CAP_SYS_PTRACE);
	ret = ckpt_restart(ctx);
	if (ret < 0 && !ctx->error)
		ckpt_err(ctx, ret, "restart");
out:
	ckpt_log_write(ctx);
	ckpt_ctx_put(ctx);
	return ret;
}
