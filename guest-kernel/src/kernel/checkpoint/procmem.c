// SPDX-License-Identifier: GPL-2.0
/*
 * /proc/PID/mem, by which debuggers read and write.
 *
 * Such a file is bound to the address space that the process had when it was
 * opened, and stays so when the process executes something else. So its record
 * names a task that has the address space now, if any has. It is opened again
 * by its path, while all that will be restored exists but has not yet got its
 * memory; so the address space is put in when all are parked. One that nobody
 * has any more reads as the end of a file, which is what no address space at
 * all does.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/ptrace.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "ckpt.h"

/* A file that waits for its address space. */
struct ckpt_proc_mem {
	struct list_head list;
	struct file *file;	/* reference held */
	struct ckpt_tsk *opener;
	pid_t pid;		/* of a task that has it, 0 for nobody */
};

/**
 * ckpt_dump_proc_mem - find out whose address space a file is bound to
 * @ctx: the checkpoint
 * @file: a /proc/PID/mem
 * @rec: gets the pid of a task that has it, 0 where none has
 *
 * Return: 0; -EBUSY where it is that of a task outside the tree.
 */
int ckpt_dump_proc_mem(struct ckpt_ctx *ctx, struct file *file,
		       struct ckpt_file *rec)
{
	struct mm_struct *mm = file->private_data;
	unsigned int i;

	rec->kind = CKPT_FILE_PROC_MEM;
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
 * ckpt_open_proc_mem - take note that a file needs another address space
 * @ctx: the restart
 * @file: opened by its path
 * @rec: its record
 *
 * Return: 0, -ESTALE where it is no /proc/PID/mem, -EINVAL, -ENOMEM.
 */
int ckpt_open_proc_mem(struct ckpt_ctx *ctx, struct file *file,
		       const struct ckpt_file *rec)
{
	struct ckpt_proc_mem *pm;

	if (!ckpt_is_proc_mem(file))
		return ckpt_err(ctx, -ESTALE, "%pD is no memory of a process", file);
	if (rec->rdev >= PID_MAX_LIMIT)
		return ckpt_err(ctx, -EINVAL, "malformed file");
	pm = kmalloc(sizeof(*pm), GFP_KERNEL_ACCOUNT);
	if (!pm)
		return -ENOMEM;
	pm->file = get_file(file);
	pm->opener = ckpt_current(ctx);
	pm->pid = rec->rdev;
	list_add_tail(&pm->list, &ctx->proc_mems);
	return 0;
}

/* As mm_access() would have it, and by the rights that the opener now has. */
static int bind_mem(struct ckpt_ctx *ctx, struct ckpt_proc_mem *pm)
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
		mm = ct->task->mm;
		mmgrab(mm);
	}
	pm->file->private_data = mm;
	if (old)
		mmdrop(old);
	return 0;
}

/**
 * ckpt_bind_proc_mems - give the files that current opened what they are bound to
 * @ctx: the restart; all are parked, with the memory that they will have
 * @ct: current's entry
 *
 * Return: 0, -EINVAL, -EPERM.
 */
int ckpt_bind_proc_mems(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct ckpt_proc_mem *pm;
	int ret = 0;

	list_for_each_entry(pm, &ctx->proc_mems, list) {
		if (pm->opener == ct)
			ret = bind_mem(ctx, pm);
		if (ret)
			return ret;
	}
	return 0;
}

void ckpt_free_proc_mems(struct ckpt_ctx *ctx)
{
	struct ckpt_proc_mem *pm, *next;

	list_for_each_entry_safe(pm, next, &ctx->proc_mems, list) {
		list_del(&pm->list);
		fput(pm->file);
		kfree(pm);
	}
}
