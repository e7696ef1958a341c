// SPDX-License-Identifier: GPL-2.0-only
/*
 * Files in /proc.
 *
 * A restart opens each file by its path when all tasks exist, but before they
 * are complete. Many files look up the task or namespace that they show when
 * they are opened. So they are reopened in place when all tasks have parked.
 *
 * An open /proc/PID/mem is bound to the address space that the process had at
 * open(2), even after the process has called execve(2). So its record names a
 * task that has this address space now. If the address space no longer has a
 * task, reads return end of file, as for a file without an address space.
 *
 * A file of a process that has exited stays open, and reads return -ESRCH. Its
 * path no longer exists. So restart(2) creates a process with that pid and
 * without resources, which exists until the file has been opened.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/magic.h>
#include <linux/ptrace.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <uapi/linux/wait.h>

#include "../../fs/proc/internal.h"
#include "ckpt.h"

/* A file to be reopened, or bound to an address space, by its opener. */
struct ckpt_proc_file {
	struct list_head list;
	struct file *file;	/* reference held */
	struct ckpt_tsk *opener;
	bool mem;
	pid_t pid;		/* @mem: task with this mm, 0 for none */
};

bool ckpt_is_proc(const struct file *file)
{
	return file_inode(file)->i_sb->s_magic == PROC_SUPER_MAGIC;
}

/* The upper half of @rdev is the pid of a process that has exited. */
#define GONE_SHIFT	32

/*
 * Return true if the file belongs to a thread other than the leader. A process
 * of that pid is enough for /proc/PID/task/PID to exist again; the directory of
 * any other thread requires a thread of its process.
 */
static bool of_thread(const char *name, pid_t nr)
{
	const char *dir;
	char first[32];
	int len;

	if (!strstr(name, "/task/"))
		return false;
	len = snprintf(first, sizeof(first), "/%d/task/%d", nr, nr);
	dir = strstr(name, first);
	return !dir || (dir[len] && dir[len] != '/');
}

/* Check and save the pid if the file belongs to a process that has exited. */
static int dump_gone(struct ckpt_ctx *ctx, struct file *file, const char *name,
		     struct ckpt_file *rec)
{
	struct pid *pid = proc_pid(file_inode(file));
	bool gone, taken;
	pid_t nr;

	if (!pid)
		return 0;
	nr = pid_nr_ns(pid, ctx->pidns);
	rcu_read_lock();
	gone = !pid_task_any(pid);
	taken = gone && nr && find_task_by_pid_ns(nr, ctx->pidns);
	rcu_read_unlock();
	if (!gone)
		return 0;
	if (!nr || of_thread(name, nr))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: open file of a thread that has exited", name);
	if (taken)
		return ckpt_err(ctx, -EBUSY,
				"%s: open file of a process that has exited, whose pid is in use again",
				name);
	rec->rdev |= (u64)nr << GONE_SHIFT;
	return 0;
}

/**
 * ckpt_dump_proc - fill in the kind and the process of a file in /proc
 * @ctx: the checkpoint
 * @file: a file in /proc
 * @name: its path
 * @rec: gets the kind; the pid of a task that has the address space, 0 for
 *	none; and the pid of the file's process, if that has exited
 *
 * Return: 0; -EBUSY for the address space of a task outside the tree, or a pid
 * in use again; -EOPNOTSUPP for a thread that has exited.
 */
int ckpt_dump_proc(struct ckpt_ctx *ctx, struct file *file, const char *name,
		   struct ckpt_file *rec)
{
	struct mm_struct *mm;
	unsigned int i;
	int ret;

	rec->kind = ckpt_is_proc_mem(file) ? CKPT_FILE_PROC_MEM : CKPT_FILE_PROC;
	ret = dump_gone(ctx, file, name, rec);
	if (ret)
		return ret;
	if (rec->kind == CKPT_FILE_PROC)
		return 0;
	mm = file->private_data;
	if (!mm || !atomic_read(&mm->mm_users))
		return 0;
	for (i = 0; i < ctx->nr_tsks; i++) {
		if (ctx->tsks[i].task->mm != mm)
			continue;
		rec->rdev |= ctx->tsks[i].tree.pid;
		return 0;
	}
	return ckpt_err(ctx, -EBUSY, "%pD: the memory of a task outside the tree",
			file);
}

/* A temporary process with the pid of one that has exited. */
struct stand_in {
	struct ckpt_ctx *ctx;
	struct completion there;	/* the process exists */
	struct completion leave;	/* the process may exit */
	struct completion left;		/* the process is done with this */
	int ret;
};

static int stand_in_main(void *arg)
{
	struct stand_in *in = arg;
	struct mm_struct *mm;

	ckpt_fail_take(in->ctx);
	mm = mm_alloc();
	/* opened files must not be bound to the opener's address space */
	in->ret = mm ? ckpt_switch_mm(mm, true) : -ENOMEM;
	if (in->ret && mm)
		mmput(mm);
	ckpt_fail_leave(in->ctx);
	complete(&in->there);
	wait_for_completion(&in->leave);
	complete(&in->left);
	do_exit(0);
}

static pid_t create_stand_in(struct stand_in *in, pid_t gone)
{
	struct kernel_clone_args args = {
		.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_UNTRACED,
		.fn = stand_in_main,
		.fn_arg = in,
		.set_tid = &gone,
		.set_tid_size = 1,
		.cgroup = -1,
		.killable = 1,
	};

	return kernel_clone(&args);
}

/**
 * ckpt_open_gone - open a file in /proc whose process may have exited
 * @ctx: the restart
 * @rec: its record
 * @path: its path
 *
 * Return: the file, or ERR_PTR().
 */
struct file *ckpt_open_gone(struct ckpt_ctx *ctx, const struct ckpt_file *rec,
			    const char *path)
{
	pid_t gone = rec->rdev >> GONE_SHIFT, nr;
	struct stand_in in = { .ctx = ctx };
	struct file *file;

	if (!gone)
		return filp_open(path, rec->flags, 0);
	if (gone < 0 || gone >= PID_MAX_LIMIT || ckpt_find_pid(ctx, gone))
		return ERR_PTR(-EINVAL);
	init_completion(&in.there);
	init_completion(&in.leave);
	init_completion(&in.left);
	nr = create_stand_in(&in, gone);
	if (nr < 0)
		return ERR_PTR(ckpt_err(ctx, nr,
					"creating a stand-in for the exited process %d",
					gone));
	ckpt_fail_leave(ctx);
	wait_for_completion(&in.there);
	ckpt_fail_take(ctx);
	file = in.ret ? ERR_PTR(in.ret) : filp_open(path, rec->flags, 0);
	complete(&in.leave);
	wait_for_completion(&in.left);
	/* if current is killed, the reaper of orphans reaps it */
	while (kernel_wait4(nr, NULL, __WALL, NULL) == -ERESTARTSYS &&
	       !__fatal_signal_pending(current)) {
		clear_thread_flag(TIF_SIGPENDING);
		clear_thread_flag(TIF_NOTIFY_SIGNAL);
		cond_resched();
	}
	return file;
}

/**
 * ckpt_open_proc - add a file to those that have to be reopened
 * @ctx: the restart
 * @file: opened by its path
 * @rec: its record
 *
 * Return: 0, -ESTALE if it is not a file of the saved kind, -EINVAL, -ENOMEM.
 */
int ckpt_open_proc(struct ckpt_ctx *ctx, struct file *file,
		   const struct ckpt_file *rec)
{
	bool mem = rec->kind == CKPT_FILE_PROC_MEM;
	u32 holder = rec->rdev;
	struct ckpt_proc_file *pf;

	if (!ckpt_is_proc(file) || ckpt_is_proc_mem(file) != mem)
		return ckpt_err(ctx, -ESTALE,
				"%pD is not in /proc, or not of the saved kind", file);
	if (holder >= PID_MAX_LIMIT || (holder && !mem))
		return ckpt_err(ctx, -EINVAL, "malformed file");
	if (S_ISDIR(file_inode(file)->i_mode))
		return 0;
	/* its process has exited: the file must not be reopened */
	if (rec->rdev >> GONE_SHIFT && !holder)
		return 0;
	pf = kmalloc(sizeof(*pf), GFP_KERNEL_ACCOUNT);
	if (!pf)
		return -ENOMEM;
	pf->file = get_file(file);
	pf->opener = ckpt_current(ctx);
	pf->mem = mem;
	pf->pid = holder;
	list_add_tail(&pf->list, &ctx->proc_files);
	return 0;
}

/* Check access as mm_access() does, with the opener's restored credentials. */
static int bind_mem(struct ckpt_ctx *ctx, struct ckpt_proc_file *pm)
{
	struct ckpt_tsk *ct = pm->pid ? ckpt_find_pid(ctx, pm->pid) : NULL;
	struct mm_struct *mm = NULL, *old = pm->file->private_data;

	if (pm->pid && (!ct || !ct->task ||
			ct->tree.flags & CKPT_TREE_ZOMBIE))
		return ckpt_err(ctx, -EINVAL,
				"the memory of pid %d, which has no address space",
				pm->pid);
	if (ct) {
		if (!ctx->may_trace && ct->task->mm != current->mm &&
		    !ptrace_may_access(ct->task, PTRACE_MODE_ATTACH_FSCREDS))
			return ckpt_err(ctx, -EPERM,
					"pid %d may not open the memory of pid %d",
					pm->opener->tree.pid, pm->pid);
		/* the task has parked, but may have been killed */
		task_lock(ct->task);
		mm = ct->task->mm;
		if (mm)
			mmgrab(mm);
		task_unlock(ct->task);
		if (!mm)
			return -EINTR;
	}
	pm->file->private_data = mm;
	if (old)
		mmdrop(old);
	return 0;
}

/* Operations of a file that could not be reopened: it can only be closed. */
static const struct file_operations closed_operations = { };

static int reopen(struct ckpt_ctx *ctx, struct file *file)
{
	struct inode *inode = file_inode(file);
	int ret = 0;

	if (!file->f_op->open)
		return 0;
	if (file->f_op->release)
		file->f_op->release(inode, file);
	file->private_data = NULL;
	ret = file->f_op->open(inode, file);
	if (!ret)
		return 0;
	file->f_op = &closed_operations;
	return ckpt_err(ctx, ret, "reopening %pD", file);
}

/**
 * ckpt_reopen_procs - reopen current's files in /proc
 * @ctx: the restart; all tasks have parked, with their own address spaces
 * @ct: current's entry
 *
 * Uses the restored credentials of current.
 *
 * Return: 0, -EINVAL, -EPERM, or an error of opening.
 */
int ckpt_reopen_procs(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct ckpt_proc_file *pf;
	int ret = 0;

	list_for_each_entry(pf, &ctx->proc_files, list) {
		if (pf->opener != ct)
			continue;
		ret = pf->mem ? bind_mem(ctx, pf) : reopen(ctx, pf->file);
		if (ret)
			break;
	}
	return ret;
}

void ckpt_free_procs(struct ckpt_ctx *ctx)
{
	struct ckpt_proc_file *pf, *next;

	list_for_each_entry_safe(pf, next, &ctx->proc_files, list) {
		list_del(&pf->list);
		fput(pf->file);
		kfree(pf);
	}
}
