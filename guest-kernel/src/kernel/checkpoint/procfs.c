// SPDX-License-Identifier: GPL-2.0-only
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
 *
 * A file of a process that is dead is still there, and says so when it is read.
 * By its path it could not be opened any more; so for as long as that takes
 * there is a process of that number, which holds nothing.
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

/* The upper half of @rdev: the process that a file is of, and that is gone. */
#define GONE_SHIFT	32

/*
 * Is it of a thread other than the first? /proc/PID/task/PID is there again with
 * a process of that number; a thread's directory only with a thread of its process.
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
				"%s is open, of a thread that has exited", name);
	if (taken)
		return ckpt_err(ctx, -EBUSY,
				"%s is open, of a process that has exited and whose number another one has by now",
				name);
	rec->rdev |= (u64)nr << GONE_SHIFT;
	return 0;
}

/**
 * ckpt_dump_proc - what kind of file of proc it is, and of what
 * @ctx: the checkpoint
 * @file: a file of proc
 * @name: its path
 * @rec: gets the kind; the pid of a task that has the address space, 0 where
 *	none has; and the pid of the process that it is of, where that is gone
 *
 * Return: 0; -EBUSY where it is that of a task outside the tree; -EOPNOTSUPP.
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

/* A process that stands for one that is gone. */
struct stand_in {
	struct completion there;
	struct completion leave;
	struct completion left;		/* it does not touch this any more */
	int ret;
};

static int stand_in_main(void *arg)
{
	struct stand_in *in = arg;
	struct mm_struct *mm = mm_alloc();

	/* files are bound to its address space: not to the opener's */
	in->ret = mm ? ckpt_switch_mm(mm, true) : -ENOMEM;
	if (in->ret && mm)
		mmput(mm);
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
	};
	pid_t nr;

	do {
		cgroup_freeze_postpone();
		nr = kernel_clone(&args);
	} while (nr == -ERESTARTNOINTR && !__fatal_signal_pending(current));
	return nr;
}

/**
 * ckpt_open_gone - open a file of proc by its path
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
	struct stand_in in = { };
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
		return ERR_PTR(ckpt_err(ctx, nr, "process %d, which has exited",
					gone));
	wait_for_completion(&in.there);
	file = in.ret ? ERR_PTR(in.ret) : filp_open(path, rec->flags, 0);
	complete(&in.leave);
	wait_for_completion(&in.left);
	/* killed, current leaves it to whoever reaps orphans */
	while (kernel_wait4(nr, NULL, __WALL, NULL) == -ERESTARTSYS &&
	       !__fatal_signal_pending(current)) {
		clear_thread_flag(TIF_SIGPENDING);
		clear_thread_flag(TIF_NOTIFY_SIGNAL);
		cond_resched();
	}
	return file;
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
	u32 holder = rec->rdev;
	struct ckpt_proc_file *pf;

	if (!ckpt_is_proc(file) || ckpt_is_proc_mem(file) != mem)
		return ckpt_err(ctx, -ESTALE, "%pD is no such file of proc", file);
	if (holder >= PID_MAX_LIMIT || (holder && !mem))
		return ckpt_err(ctx, -EINVAL, "malformed file");
	if (S_ISDIR(file_inode(file)->i_mode))
		return 0;
	/* what it was about has gone again */
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
