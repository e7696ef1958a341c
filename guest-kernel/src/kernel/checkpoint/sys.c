// SPDX-License-Identifier: GPL-2.0-only
/*
 * The system calls checkpoint(2) and restart(2).
 */
#include <linux/capability.h>
#include <linux/mm.h>
#include <linux/nsproxy.h>
#include <linux/pid_namespace.h>
#include <linux/slab.h>
#include <linux/syscalls.h>
#include <linux/user_namespace.h>

#include "ckpt.h"
#include "cover.h"
#include "ptrace.h"

/**
 * sys_checkpoint - save a frozen tree of tasks
 * @pid: the root process, in the caller's pid namespace
 * @fd: descriptor that the image is written to; may be a pipe
 * @flags: CHECKPOINT_*
 * @logfd: descriptor that messages are written to, a line each; -1 for none
 *
 * Return: 0; -EBUSY for a task or object that cannot be saved now, or is shared
 * with tasks outside the tree; -EOPNOTSUPP for unsupported state; -EAGAIN if a
 * task is not at rest; -EINVAL, -ESRCH, -EPERM; or an error of writing. The
 * tasks are not changed in any case.
 */
SYSCALL_DEFINE4(checkpoint, pid_t, pid, int, fd, unsigned long, flags,
		int, logfd)
{
	struct ckpt_ctx *ctx;
	bool covered;
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
	ctx->wbuf = kvmalloc(CKPT_WBUF_SIZE, GFP_KERNEL_ACCOUNT);
	if (!ctx->wbuf) {
		ret = ckpt_err(ctx, -ENOMEM, "checkpoint");
		goto out;
	}
	ret = -ESRCH;
	rcu_read_lock();
	ctx->root = find_task_by_vpid(pid);
	if (ctx->root)
		get_task_struct(ctx->root);
	rcu_read_unlock();
	if (!ctx->root)
		goto out;
	covered = ckpt_cover_begin();
	ret = ckpt_dump(ctx);
	ckpt_cover_end(covered);
	if (ret && !ctx->error)
		ckpt_err(ctx, ret, "checkpoint");
	put_task_struct(ctx->root);
out:
	ckpt_log_write(ctx);
	ckpt_ctx_put(ctx);
	return ret;
}

/*
 * Services identify a process by its pid and start time, and restart(2) takes
 * the start time from an image. So setting the start time requires the
 * capability that choosing a pid requires, in each pid namespace in which the
 * restarted tasks have a pid.
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
 * sys_restart - restart the tasks of an image
 * @cgroup_fd: cgroup v2 directory to create them in, -1 for the caller's cgroup
 * @fd: descriptor that the image is read from; may be a pipe
 * @flags: RESTART_*
 * @logfd: descriptor that messages are written to, a line each; -1 for none
 *
 * Return: the pid of the root, a child of the caller, or a negative errno. On
 * error, all created tasks have been killed and reaped.
 */
SYSCALL_DEFINE4(restart, int, cgroup_fd, int, fd, unsigned long, flags,
		int, logfd)
{
	struct pid_namespace *pidns = current->nsproxy->pid_ns_for_children;
	struct ckpt_ctx *ctx;
	bool covered;
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
	ctx->rbuf = kvmalloc(CKPT_REC_MAX, GFP_KERNEL_ACCOUNT);
	ctx->gate = ckpt_gate_alloc();
	if (!ctx->rbuf || !ctx->gate) {
		ret = ckpt_err(ctx, -ENOMEM, "restart");
		goto out;
	}
	ctx->mount_proc = flags & RESTART_MOUNT_PROC;
	ctx->equal_mounts = flags & RESTART_EQUAL_MOUNTS;
	ctx->cgroup_fd = cgroup_fd;
	ctx->pidns = pidns;
	ctx->may_date = may_date(pidns);
	ctx->may_trace = ns_capable_noaudit(pidns->user_ns, CAP_SYS_PTRACE);
	covered = ckpt_cover_begin();
	ret = ckpt_restart(ctx);
	ckpt_cover_end(covered);
	if (ret < 0 && !ctx->error)
		ckpt_err(ctx, ret, "restart");
out:
	ckpt_log_write(ctx);
	ckpt_ctx_put(ctx);
	return ret;
}
