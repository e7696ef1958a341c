// SPDX-License-Identifier: GPL-2.0
/*
 * Files in /proc.
 *
 * Each is opened again by its path, while all that will be restored exists but
 * is not yet what it was. Many of them look up what they tell of when they are
 * opened; so they are opened once more, in place, when all are parked.
 *
 * /proc/PID/mem, by which debuggers read and write, is bound to the address
 * space that the process had then, and stays so when the process executes
 * something else. So its record names a task that has the address space now,
 * if any has. One that nobody has any more reads as the end of a file, which
 * is what no address space at all does.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/magic.h>
#include <linux/ptrace.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "ckpt.h"

/* A file that waits for what it is about. */
struct ckpt_proc_file {
	struct list_head list;
	struct file *file;	/* reference held */
	struct ckpt_tsk *opener;
	bool mem;
	pid_t pid;		/* @mem: of a task that has it, 0 for nobody */
};

bool ckpt_is_proc(const struct file *file)
{
	return file_inode(file)->i_sb->s_magic == PROC_SUPER_MAGIC;
}

/**
 * ckpt_dump_proc - what kind of file of proc it is, and whose memory
 * @ctx: the checkpoint
 * @file: a file of proc
 * @rec: gets the kind, and the pid of a task that has the address space, 0 where
 *	none has
 *
 * Return: 0; -EBUSY where it is that of a task outside the tree.
 */
int ckpt_dump_proc(struct ckpt_ctx *ctx, struct file *file,
		   struct ckpt_file *rec)
{
	struct mm_struct *mm;
	unsigned int i;

	rec->kind = ckpt_is_proc_mem(file) ? CKPT_FILE_PROC_MEM : CKPT_FILE_PROC;
	if (rec->kind == CKPT_FILE_PROC)
		return 0;
	mm = file->private_data;
	if (!mm || !atomic_read(&mm->mm_users))
		return 0;
	for (i = 0; i < ctx->nr_tsks; i++) {
		if (ctx->tsks[i].task->mm != mm)
			continue;
		rec->rdev = ctx->tsks[i].tree.pid;
		return 0;
	}
	return ckpt_err(ctx, -EBUSY, "%pD: the memory of a task outside the tree",
			file);
}

/**
 * ckpt_open_proc - take note that a file is to be opened once more
 * @ctx: the restart
 * @file: opened by its path
 * @rec: its record
 *
 * Return: 0, -ESTALE where it is no such file, -EINVAL, -ENOMEM.
 */
int ckpt_open_proc(struct ckpt_ctx *ctx, struct file *file,
		   const struct ckpt_file *rec)
{
	bool mem = rec->kind == CKPT_FILE_PROC_MEM;
	struct ckpt_proc_file *pf;

	if (!ckpt_is_proc(file) || ckpt_is_proc_mem(file) != mem)
		return ckpt_err(ctx, -ESTALE, "%pD is no such file of proc", file);
	if (rec->rdev >= PID_MAX_LIMIT || (rec->rdev && !mem))
		return ckpt_err(ctx, -EINVAL, "malformed file");
	if (S_ISDIR(file_inode(file)->i_mode))
		return 0;
	pf = kmalloc(sizeof(*pf), GFP_KERNEL_ACCOUNT);
	if (!pf)
		return -ENOMEM;
	pf->file = get_file(file);
	pf->opener = ckpt_current(ctx);
	pf->mem = mem;
	pf->pid = rec->rdev;
	list_add_tail(&pf->list, &ctx->proc_files);
	return 0;
}

/* As mm_access() would have it, and by the rights that the opener now has. */
static int bind_mem(struct ckpt_ctx *ctx, struct ckpt_proc_file *pm)
{
	struct ckpt_tsk *ct = pm->pid ? ckpt_find_pid(ctx, pm->pid) : NULL;
	struct mm_struct *mm = NULL, *old = pm->file->private_data;

	if (pm->pid && (!ct || !ct->task ||
			ct->tree.flags & CKPT_TREE_ZOMBIE))
		return ckpt_err(ctx, -EINVAL, "the memory of pid %d, which has none",
				pm->pid);
	if (ct) {
		if (!ctx->may_trace && ct->task->mm != current->mm &&
		    !ptrace_may_access(ct->task, PTRACE_MODE_ATTACH_FSCREDS))
			return ckpt_err(ctx, -EPERM,
					"pid %d may not open the memory of pid %d",
					pm->opener->tree.pid, pm->pid);
		/* it is parked, but may be killed there */
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

/* What is left of a file that could not be opened again: it only gets closed. */
static const struct file_operations closed_operations = { };

static int open_again(struct ckpt_ctx *ctx, struct file *file)
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
	return ckpt_err(ctx, ret, "opening %pD again", file);
}

/**
 * ckpt_reopen_procs - give the files that current opened what they are about
 * @ctx: the restart; all are parked, with the memory that they will have
 * @ct: current's entry
 *
 * By the rights that current has now.
 *
 * Return: 0, -EINVAL, -EPERM, or what opening gives.
 */
int ckpt_reopen_procs(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct ckpt_proc_file *pf;
	int ret = 0;

	list_for_each_entry(pf, &ctx->proc_files, list) {
		if (pf->opener != ct)
			continue;
		ret = pf->mem ? bind_mem(ctx, pf) : open_again(ctx, pf->file);
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
