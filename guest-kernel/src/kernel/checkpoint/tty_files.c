// SPDX-License-Identifier: GPL-2.0-only
/*
 * Open files of pseudo-terminals, and controlling terminals: their sessions and
 * foreground groups. The pairs themselves are in tty.c.
 */
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "ckpt.h"
#include "tty.h"

/* Flags that a master can have after open(2) and F_SETFL. */
#define MASTER_FLAGS	(O_ACCMODE | O_NONBLOCK | O_APPEND | O_NOATIME | \
			 O_LARGEFILE)

/* Return CKPT_FILE_PTY_MASTER, CKPT_FILE_PTY_SLAVE, or 0 for other files. */
u32 ckpt_pty_kind(struct file *file)
{
	struct tty_struct *tty = ckpt_file_tty(file);

	if (tty && ckpt_is_ptm(tty))
		return CKPT_FILE_PTY_MASTER;
	if (tty && ckpt_is_pts(tty))
		return CKPT_FILE_PTY_SLAVE;
	return 0;
}

/*
 * Return true if a process of the tree is in the group and, unless @sid is 0,
 * in session @sid.
 */
static bool group_in_tree(struct ckpt_ctx *ctx, pid_t pgid, pid_t sid)
{
	unsigned int i;

	for (i = 0; i < ctx->nr_tsks; i++)
		if (ctx->tsks[i].tree.pgid == pgid &&
		    (!sid || ctx->tsks[i].tree.sid == sid))
			return pgid;
	return false;
}

/**
 * ckpt_dump_ctty - write the controlling terminal of a process
 * @ctx: the checkpoint
 * @ct: the process
 * @rec: gets its objref, and the foreground group of a lost terminal
 *
 * Return: 0, -EOPNOTSUPP if it is not a pseudo-terminal, -EBUSY.
 */
int ckpt_dump_ctty(struct ckpt_ctx *ctx, struct ckpt_tsk *ct,
		   struct ckpt_signal *rec)
{
	struct task_struct *t = ct->task;
	struct signal_struct *sig = t->signal;
	struct tty_struct *tty;
	bool lost;
	int ret = 0;

	if (!ct->lives)
		return 0;
	spin_lock_irq(&t->sighand->siglock);
	tty = tty_kref_get(sig->tty);
	lost = sig->tty_old_pgrp;
	rec->tty_old_pgrp = pid_nr_ns(sig->tty_old_pgrp, ctx->pidns);
	spin_unlock_irq(&t->sighand->siglock);
	if (lost && !group_in_tree(ctx, rec->tty_old_pgrp, 0))
		ret = ckpt_err(ctx, -EOPNOTSUPP,
			       "%s: lost a terminal whose foreground group has no process in the tree",
			       t->comm);
	else if (tty && !ckpt_is_pts(tty))
		ret = ckpt_err(ctx, -EOPNOTSUPP,
			       "%s: its controlling terminal %s is not a pseudo-terminal",
			       t->comm, tty->name);
	else if (tty)
		ret = ckpt_dump_tty(ctx, tty, &rec->tty);
	tty_kref_put(tty);
	return ret;
}

static int check_files(struct ckpt_ctx *ctx, struct tty_struct *tty)
{
	unsigned int n = 0, all;
	struct ckpt_obj *obj;
	struct file *file;
	unsigned long i;

	all = ckpt_tty_files(tty, &file);
	if (file)
		fput(file);
	xa_for_each(&ctx->objs, i, obj)
		if (obj->type == CKPT_REC_FILE && ckpt_file_tty(obj->ptr) == tty)
			n++;
	if (n == all)
		return 0;
	return ckpt_err(ctx, -EBUSY, "%s is open %u times, %u of them in the tree",
			tty->name, all, n);
}

static int check_session(struct ckpt_ctx *ctx, struct tty_struct *slave)
{
	struct ckpt_tsk *leader;
	pid_t session, pgrp;
	bool any;

	spin_lock_irq(&slave->ctrl.lock);
	any = slave->ctrl.session;
	session = pid_nr_ns(slave->ctrl.session, ctx->pidns);
	pgrp = pid_nr_ns(slave->ctrl.pgrp, ctx->pidns);
	spin_unlock_irq(&slave->ctrl.lock);
	if (!any)
		return 0;
	leader = session ? ckpt_find_pid(ctx, session) : NULL;
	if (!leader || !leader->lives)
		return ckpt_err(ctx, -EBUSY,
				"%s is the controlling terminal of a session outside the tree",
				slave->name);
	if (!group_in_tree(ctx, pgrp, session))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: no process of its foreground group is left in the tree",
				slave->name);
	return 0;
}

/**
 * ckpt_check_ttys - refuse terminals that are open or control outside the tree
 * @ctx: the checkpoint, all its objects known
 *
 * Return: 0, -EBUSY, -EOPNOTSUPP.
 */
int ckpt_check_ttys(struct ckpt_ctx *ctx)
{
	struct ckpt_obj *obj;
	unsigned long i;
	int ret;

	xa_for_each(&ctx->objs, i, obj) {
		struct tty_struct *master = obj->ptr;

		if (obj->type != CKPT_REC_TTY)
			continue;
		ret = check_files(ctx, master);
		if (!ret)
			ret = check_files(ctx, master->link);
		if (!ret)
			ret = check_session(ctx, master->link);
		if (ret)
			return ret;
	}
	return 0;
}

/*
 * Open a slave, perhaps as /dev/tty, the opener's controlling terminal. So
 * current has the terminal while it opens the path; other tasks cannot observe
 * that yet.
 */
static struct file *open_slave(struct tty_struct *slave, const char *path,
			       u32 flags)
{
	struct signal_struct *sig = current->signal;
	struct tty_struct *old;
	struct file *file;

	spin_lock_irq(&current->sighand->siglock);
	old = sig->tty;
	sig->tty = tty_kref_get(slave);
	spin_unlock_irq(&current->sighand->siglock);
	file = filp_open(path, flags | O_NOCTTY, 0);
	spin_lock_irq(&current->sighand->siglock);
	sig->tty = old;
	spin_unlock_irq(&current->sighand->siglock);
	tty_kref_put(slave);
	return file;
}

/**
 * ckpt_open_pty - open a file of a pseudo-terminal
 * @ctx: the restart
 * @rec: the file's record
 * @name: path of a slave
 *
 * A master has one open file, the one by which the pair was created.
 *
 * Return: the file, or ERR_PTR().
 */
struct file *ckpt_open_pty(struct ckpt_ctx *ctx, const struct ckpt_file *rec,
			   const char *name)
{
	struct file *file, *master;
	struct tty_struct *slave;
	char *path;

	master = ckpt_obj_fetch(ctx, CKPT_REC_TTY, rec->inode);
	if (IS_ERR(master))
		return master;
	if (rec->kind == CKPT_FILE_PTY_MASTER) {
		if (rec->path_len || rec->flags & ~MASTER_FLAGS ||
		    (rec->flags & O_ACCMODE) != O_RDWR)
			return ERR_PTR(ckpt_err(ctx, -EINVAL, "malformed file"));
		master->f_flags = rec->flags;
		return get_file(master);
	}
	path = kmemdup_nul(name, rec->path_len, GFP_KERNEL);
	if (!path)
		return ERR_PTR(-ENOMEM);
	slave = ckpt_file_tty(master)->link;
	if (path[0] != '/' || strlen(path) != rec->path_len)
		file = ERR_PTR(ckpt_err(ctx, -EINVAL, "malformed file name"));
	else
		file = open_slave(slave, path, rec->flags);
	if (!IS_ERR(file) && ckpt_file_tty(file) != slave) {
		fput(file);
		file = ERR_PTR(ckpt_err(ctx, -ESTALE, "%*pE is not %s",
					(int)strlen(path), path, slave->name));
	}
	kfree(path);
	return file;
}

/* Check the controlling terminal and keep it for ckpt_relink_ctty(). */
int ckpt_restore_ctty(struct ckpt_ctx *ctx, const struct ckpt_signal *rec)
{
	struct ckpt_tsk *ct = ckpt_current(ctx);
	struct ckpt_terminal *terminal;
	struct file *master;

	if (rec->tty_old_pgrp < 0 ||
	    (!ct->lives && (rec->tty || rec->tty_old_pgrp)))
		return ckpt_err(ctx, -EINVAL, "malformed controlling terminal");
	ct->tty_old_pgrp = rec->tty_old_pgrp;
	if (!rec->tty)
		return 0;
	master = ckpt_obj_fetch(ctx, CKPT_REC_TTY, rec->tty);
	if (IS_ERR(master))
		return PTR_ERR(master);
	list_for_each_entry(terminal, &ctx->terminals, list)
		if (terminal->master == master)
			ct->tty = terminal;
	return 0;
}

static bool ctty_ok(struct ckpt_ctx *ctx, const struct ckpt_tsk *ct)
{
	struct ckpt_tsk *leader;

	if (ct->tty_old_pgrp && !group_in_tree(ctx, ct->tty_old_pgrp, 0))
		return false;
	if (!ct->tty)
		return true;
	if (!ct->tty->rec.session || ct->tree.sid != ct->tty->rec.session)
		return false;
	leader = ckpt_find_pid(ctx, ct->tree.sid);
	return leader && leader->tty == ct->tty;
}

/**
 * ckpt_check_cttys - check sessions, terminals and groups against each other
 * @ctx: the restart; all tasks have parked
 *
 * The leader of a terminal's session must have that terminal.
 *
 * Return: 0, -EINVAL.
 */
int ckpt_check_cttys(struct ckpt_ctx *ctx)
{
	struct ckpt_terminal *terminal;
	struct ckpt_tsk *leader;
	unsigned int i;

	for (i = 0; i < ctx->nr_tsks; i++)
		if (!ctty_ok(ctx, &ctx->tsks[i]))
			return ckpt_err(ctx, -EINVAL,
					"pid %d has the controlling terminal of a different session",
					ctx->tsks[i].tree.pid);
	list_for_each_entry(terminal, &ctx->terminals, list) {
		const struct ckpt_tty *rec = &terminal->rec;

		if (!rec->session)
			continue;
		leader = ckpt_find_pid(ctx, rec->session);
		if (!leader || leader->tty != terminal ||
		    !group_in_tree(ctx, rec->pgrp, rec->session))
			return ckpt_err(ctx, -EINVAL,
					"pseudo-terminal %u does not belong to session %d",
					rec->index, rec->session);
	}
	return 0;
}

/* Get the struct pid of a process group of the tree. */
static struct pid *group(struct ckpt_ctx *ctx, pid_t pgid)
{
	unsigned int i;

	for (i = 0; i < ctx->nr_tsks; i++)
		if (ctx->tsks[i].tree.pgid == pgid && ctx->tsks[i].pgid)
			return get_pid(ctx->tsks[i].pgid);
	return NULL;
}

/**
 * ckpt_relink_ctty - set the controlling terminal of a process
 * @ctx: the restart, tasklist_lock held, all groups and sessions allocated
 * @ct: the process
 *
 * A process in a session of the tree does not keep the caller's terminal.
 */
void ckpt_relink_ctty(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct tty_struct *tty = NULL, *old = NULL;
	struct signal_struct *sig = ct->task->signal;

	if (ckpt_dead_process(ct))
		return;
	if (ct->tty)
		tty = ckpt_file_tty(ct->tty->master)->link;
	spin_lock(&ct->task->sighand->siglock);
	if (ct->sid) {
		old = sig->tty;
		sig->tty = tty_kref_get(tty);
	}
	if (ct->tty_old_pgrp)
		sig->tty_old_pgrp = group(ctx, ct->tty_old_pgrp);
	if (tty && ct->tree.sid == ct->tree.pid) {
		spin_lock(&tty->ctrl.lock);
		/*
		 * the terminal has no session yet: other tasks cannot find the
		 * slave
		 */
		put_pid(tty->ctrl.session);
		put_pid(tty->ctrl.pgrp);
		tty->ctrl.session = get_pid(ct->sid);
		tty->ctrl.pgrp = group(ctx, ct->tty->rec.pgrp);
		spin_unlock(&tty->ctrl.lock);
	}
	spin_unlock(&ct->task->sighand->siglock);
	tty_kref_put(old);
}
