// SPDX-License-Identifier: GPL-2.0-only
/*
 * A task that waits in execve(2) for the other threads of its process to die.
 *
 *	execve() -> begin_new_exec() -> de_thread() .... exec_mmap() ... return 0
 *	siblings:	killed by zap_other_threads(); exit stop, or dead and traced
 *
 * Only the tracer of these threads ends that wait: it reaps a dead thread, or
 * resumes one from its exit stop. The kernel's stack and heap contain the
 * unfinished new program: its open file and interpreter, a new address space
 * with the argument strings, new credentials. None of that is saved, because it
 * is the result of the call's arguments, which are still in the old address
 * space, and of files that still have their names. So the restarted task
 * repeats the call while the restart can still fail:
 *
 *	restore own state, park
 *	execve() ... de_thread(): park		relink, release
 *	de_thread() continues: waits for siblings that the tracer has to resume
 *
 * The checkpoint checks that a repeated call would have the same result, and
 * refuses the task otherwise.
 */
#include <linux/binfmts.h>
#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/dcache.h>
#include <linux/elf.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/mm.h>
#include <linux/namei.h>
#include <linux/ptrace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include <linux/uaccess.h>
#include <asm/syscall.h>
#include <asm/unistd.h>

#include "ckpt.h"
#include "exec.h"

/*
 * A task that sleeps in de_thread() or is on its way there; on the task's
 * stack.
 */
struct exec_wait {
	struct list_head list;
	struct task_struct *task;
	struct linux_binprm *bprm;
	/* set if the task is being restarted */
	struct ckpt_ctx *ctx;
	struct ckpt_tsk *ct;
	bool arrived;
};

static LIST_HEAD(exec_waits);
/* nests inside siglock, which de_thread() holds around a look-up */
static DEFINE_SPINLOCK(exec_lock);

static void add_wait_entry(struct exec_wait *wait)
{
	spin_lock_irq(&exec_lock);
	list_add(&wait->list, &exec_waits);
	spin_unlock_irq(&exec_lock);
}

static void del_wait_entry(struct exec_wait *wait)
{
	spin_lock_irq(&exec_lock);
	list_del(&wait->list);
	spin_unlock_irq(&exec_lock);
}

static struct exec_wait *find_wait(const struct task_struct *task)
{
	struct exec_wait *wait, *found = NULL;
	unsigned long flags;

	spin_lock_irqsave(&exec_lock, flags);
	list_for_each_entry(wait, &exec_waits, list) {
		if (wait->task == task) {
			found = wait;
			break;
		}
	}
	spin_unlock_irqrestore(&exec_lock, flags);
	return found;
}

/*
 * fs/exec.c
 */

/* Return true if current repeats an execve(2) for a restart. */
bool __ckpt_resuming_exec(void)
{
	return find_wait(current);
}

/*
 * Return true if current will have a tracer. The tracer is not linked yet, but
 * limits the credentials of the new program.
 */
bool ckpt_exec_traced(void)
{
	struct exec_wait *wait = ckpt_resuming_exec() ? find_wait(current) : NULL;

	return wait && wait->ct->ptrace.tracer;
}

static bool same_ids(const struct cred *a, const struct cred *b)
{
	return uid_eq(a->uid, b->uid) && uid_eq(a->euid, b->euid) &&
	       uid_eq(a->suid, b->suid) && uid_eq(a->fsuid, b->fsuid) &&
	       gid_eq(a->gid, b->gid) && gid_eq(a->egid, b->egid) &&
	       gid_eq(a->sgid, b->sgid) && gid_eq(a->fsgid, b->fsgid) &&
	       a->cap_permitted.val == b->cap_permitted.val &&
	       a->cap_effective.val == b->cap_effective.val &&
	       a->cap_inheritable.val == b->cap_inheritable.val &&
	       a->cap_ambient.val == b->cap_ambient.val &&
	       a->user_ns == b->user_ns;
}

static u64 file_ino(const struct file *file)
{
	return file ? file_inode(file)->i_ino : 0;
}

/* Drop the credentials of the tracer, which is not linked yet. */
static void drop_tracer_cred(void)
{
	const struct cred *cred = current->ptracer_cred;

	current->ptracer_cred = NULL;
	put_cred(cred);
}

/*
 * The repeated call has reached de_thread(). Check that the call executes the
 * same program as before, and wait for the release.
 */
static int arrive(struct exec_wait *wait, struct linux_binprm *bprm)
{
	const struct ckpt_task *rec = &wait->ct->rec;
	int ret;

	drop_tracer_cred();
	wait->arrived = true;
	if (file_ino(bprm->file) != rec->exec_ino ||
	    file_ino(bprm->elf_interpreter) != rec->exec_interp_ino ||
	    !same_ids(bprm->cred, current_cred()))
		return ckpt_err(wait->ctx, -ESTALE,
				"pid %d: %s is a different program than at the checkpoint",
				wait->ct->tree.pid, bprm->filename);
	ret = ckpt_wait_release(wait->ctx);
	if (!ret)
		ckpt_leave_restart(wait->ctx, wait->ct);
	return ret;
}

/**
 * ckpt_exec_begin - count an exec-wait event, or wait for the release
 * @bprm: the new program
 *
 * Called when the other threads have been killed, before the wait for them. A
 * restarted task waits until its restart releases it.
 *
 * Return: 0, or a negative errno if the restart has failed.
 */
int ckpt_exec_begin(struct linux_binprm *bprm)
{
	struct exec_wait *wait = ckpt_resuming_exec() ? find_wait(current) : NULL;

	if (wait)
		return arrive(wait, bprm);
	ckpt_event(CKPT_EVENT_EXEC_WAIT, 0);
	return 0;
}

/**
 * ckpt_exec_sleep - sleep until another thread has died
 * @bprm: the new program
 *
 * The caller has set the task state to TASK_KILLABLE. Current counts as frozen,
 * as in a vfork wait, because perhaps only a tracer can end the sleep.
 */
void ckpt_exec_sleep(struct linux_binprm *bprm)
{
	struct exec_wait wait = { .task = current, .bprm = bprm };

	add_wait_entry(&wait);
	ckpt_site_enter(CKPT_SITE_EXEC, 0);
	cgroup_enter_frozen();
	schedule();
	ckpt_site_leave();
	cgroup_leave_frozen(false);
	del_wait_entry(&wait);
}

/*
 * Checkpoint: check that a repeated call would have the same result
 */

/* The arguments of execve(2) or execveat(2). */
struct exec_args {
	unsigned long name;
	unsigned long argv;
	unsigned long envp;
};

static int get_args(struct ckpt_ctx *ctx, struct task_struct *t,
		    struct exec_args *args)
{
	const struct pt_regs *regs = task_pt_regs(t);

	switch (regs->orig_ax) {
	case __NR_execve:
		args->name = regs->di;
		args->argv = regs->si;
		args->envp = regs->dx;
		return 0;
	case __NR_execveat:
		if ((int)regs->di != AT_FDCWD || regs->r8)
			break;
		args->name = regs->si;
		args->argv = regs->dx;
		args->envp = regs->r10;
		return 0;
	}
	return ckpt_err(ctx, -EOPNOTSUPP,
			"%s: execveat of a descriptor waits for threads to die: let their tracer continue",
			t->comm);
}

#define CHUNK	(PATH_MAX / 2)

/*
 * Compare two strings. Returns their length in bytes with the terminator, or
 * -ESTALE if they differ.
 */
static long same_string(struct ckpt_ctx *ctx, struct mm_struct *mm,
			unsigned long addr, struct mm_struct *new,
			unsigned long at)
{
	char *one = ctx->page_buf, *other = ctx->page_buf + CHUNK;
	long done = 0;

	for (;;) {
		/* not across a page boundary: the next page may be unmapped */
		int n = min_t(unsigned long, CHUNK,
			      PAGE_SIZE - offset_in_page(addr + done));
		int len;

		if (access_remote_vm(mm, addr + done, one, n, FOLL_FORCE) != n)
			return -ESTALE;
		len = strnlen(one, n);
		if (len < n)
			len++;
		if (access_remote_vm(new, at + done, other, len, FOLL_FORCE) != len ||
		    memcmp(one, other, len))
			return -ESTALE;
		done += len;
		if (!one[len - 1])
			return done;
		if (done > MAX_ARG_STRLEN)
			return -ESTALE;
	}
}

/*
 * Compare the @count strings of a vector with those at @at on the new stack.
 * Returns their total length in bytes, or a negative errno.
 */
static long same_strings(struct ckpt_ctx *ctx, struct mm_struct *mm,
			 unsigned long vector, int count,
			 struct mm_struct *new, unsigned long at)
{
	unsigned long addr;
	long n, done = 0;
	int i;

	for (i = 0; i <= count; i++) {
		if (access_remote_vm(mm, vector + i * sizeof(addr), &addr,
				     sizeof(addr), FOLL_FORCE) != sizeof(addr))
			return -ESTALE;
		if (i == count)
			return addr ? -ESTALE : done;
		n = addr ? same_string(ctx, mm, addr, new, at + done) : -ESTALE;
		if (n < 0)
			return n;
		done += n;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return done;
}

static int check_strings(struct ckpt_ctx *ctx, struct task_struct *t,
			 const struct linux_binprm *bprm,
			 const struct exec_args *args)
{
	unsigned long at = bprm->p;
	long n;

	n = same_strings(ctx, t->mm, args->argv, bprm->argc, bprm->mm, at);
	if (n < 0)
		return n;
	at += n;
	n = same_strings(ctx, t->mm, args->envp, bprm->envc, bprm->mm, at);
	if (n < 0)
		return n;
	at += n;
	if (at != bprm->exec)
		return -ESTALE;
	/* the file name is the last string */
	n = same_string(ctx, t->mm, args->name, bprm->mm, at);
	return n < 0 ? n : 0;
}

/* Check that a name still leads @t to @file. Returns -ESTALE if it does not. */
static int check_name(struct task_struct *t, const char *name,
		      const struct file *file)
{
	char *buf = kmalloc(2 * PATH_MAX, GFP_KERNEL), *cwd;
	struct path root, pwd, found;
	int ret = -ESTALE;

	if (!buf)
		return -ENOMEM;
	get_fs_root(t->fs, &root);
	get_fs_pwd(t->fs, &pwd);
	cwd = name[0] == '/' ? "" : __d_path(&pwd, &root, buf + PATH_MAX, PATH_MAX);
	if (cwd && !IS_ERR(cwd)) {
		/* move the directory's path to the front and append the name */
		size_t len = strlen(cwd);

		memmove(buf, cwd, len + 1);
		snprintf(buf + len, 2 * PATH_MAX - len, "/%s", name);
		ret = vfs_path_lookup(root.dentry, root.mnt, buf, LOOKUP_FOLLOW,
				      &found);
	}
	if (!ret) {
		if (d_backing_inode(found.dentry) != file_user_inode(file))
			ret = -ESTALE;
		path_put(&found);
	}
	path_put(&pwd);
	path_put(&root);
	kfree(buf);
	return ret;
}

/* Read the name of a program's ELF interpreter. */
static int read_interp_name(struct file *file, char *name)
{
	struct elfhdr elf;
	struct elf_phdr ph;
	loff_t pos = 0;
	int i;

	if (kernel_read(file, &elf, sizeof(elf), &pos) != sizeof(elf))
		return -EIO;
	for (i = 0; i < elf.e_phnum; i++) {
		pos = elf.e_phoff + i * sizeof(ph);
		if (kernel_read(file, &ph, sizeof(ph), &pos) != sizeof(ph))
			return -EIO;
		if (ph.p_type != PT_INTERP)
			continue;
		pos = ph.p_offset;
		if (ph.p_filesz < 2 || ph.p_filesz > PATH_MAX ||
		    kernel_read(file, name, ph.p_filesz, &pos) != ph.p_filesz ||
		    name[ph.p_filesz - 1])
			return -EIO;
		return 0;
	}
	return -ENOENT;
}

static int check_interp(struct task_struct *t, const struct linux_binprm *bprm)
{
	char *name;
	int ret;

	if (!bprm->elf_interpreter)
		return 0;
	name = kmalloc(PATH_MAX, GFP_KERNEL);
	if (!name)
		return -ENOMEM;
	ret = read_interp_name(bprm->file, name);
	if (!ret)
		ret = check_name(t, name, bprm->elf_interpreter);
	kfree(name);
	return ret;
}

/**
 * ckpt_dump_exec - fill in the site of a task that waits in execve(2)
 * @ctx: the checkpoint
 * @t: the task, which is held in that wait
 * @rec: its record
 *
 * Return: 0; -EOPNOTSUPP or -EBUSY, with a message, if a repeated call would
 * have a different result; -EAGAIN if the task has left the wait.
 */
int ckpt_dump_exec(struct ckpt_ctx *ctx, struct task_struct *t,
		   struct ckpt_task *rec)
{
	struct exec_wait *wait = find_wait(t);
	const struct linux_binprm *bprm;
	struct exec_args args;
	int ret;

	if (!wait)
		return ckpt_err(ctx, -EAGAIN, "%s: has left execve: try again",
				t->comm);
	bprm = wait->bprm;
	ret = get_args(ctx, t, &args);
	if (ret)
		return ret;
	if (bprm->interp != bprm->filename || bprm->executable)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: execve of the script %s waits for threads to die: let their tracer continue",
				t->comm, bprm->filename);
	if (!same_ids(bprm->cred, t->real_cred))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: execve of %s, which changes credentials, waits for threads to die: let their tracer continue",
				t->comm, bprm->filename);
	ret = check_strings(ctx, t, bprm, &args);
	if (ret == -ESTALE)
		return ckpt_err(ctx, -EBUSY,
				"%s: the arguments of its execve of %s have changed since it read them",
				t->comm, bprm->filename);
	if (!ret)
		ret = check_name(t, bprm->filename, bprm->file);
	if (!ret)
		ret = check_interp(t, bprm);
	if (ret)
		return ckpt_err(ctx, ret == -ESTALE || ret == -ENOENT ? -EBUSY : ret,
				"%s: %s, or its interpreter, is a different file than the one that its execve opened",
				t->comm, bprm->filename);
	rec->exec_ino = file_ino(bprm->file);
	rec->exec_interp_ino = file_ino(bprm->elf_interpreter);
	return 0;
}

/**
 * ckpt_enter_exec - repeat the execve(2) in which current was checkpointed
 * @ctx: the restart; all tasks have parked
 * @ct: current's entry
 *
 * Returns after the release, when the new program is loaded or current is
 * killed, or earlier if the call fails.
 *
 * Return: 0 after the release; a negative errno if the restart must fail.
 */
int ckpt_enter_exec(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct exec_wait wait = { .task = current, .ctx = ctx, .ct = ct };
	struct pt_regs *regs = current_pt_regs();
	long nr = regs->orig_ax;

	/* a single thread would not wait in de_thread() */
	if (thread_group_empty(current))
		return ckpt_err(ctx, -EINVAL,
				"waits in execve for other threads, but has none");
	if (nr != __NR_execve && nr != __NR_execveat)
		return ckpt_err(ctx, -EINVAL, "waits in execve, by system call %ld", nr);
	if (ct->ptracer_cred)
		current->ptracer_cred = get_cred(ct->ptracer_cred);
	add_wait_entry(&wait);
	ckpt_do_syscall(regs, nr);
	del_wait_entry(&wait);
	if (wait.arrived)
		return READ_ONCE(current->ckpt_site.restart) ? -EINTR : 0;
	drop_tracer_cred();
	return ckpt_err(ctx, (long)regs->ax < 0 ? (int)regs->ax : -EINVAL,
			"repeating its execve");
}
