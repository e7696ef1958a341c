// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pseudo-terminals. A pair is one object: both ends with their buffered input
 * and output, including incomplete lines, and the state of echoing. A restart
 * creates a pair by opening a master with the saved index. Open files and
 * controlling terminals are in tty_files.c.
 *
 *	record:    open the master; only tasks of this restart find the slave
 *	files:     open files of the slave by their paths
 *	fill:      after all have parked: attributes, characters, modes, locks
 *	relink:    sessions and foreground groups
 *	push:      pass on the characters of the flip buffer; all tasks find the
 *		   slave
 */
#include <linux/dcache.h>
#include <linux/file.h>
#include <linux/list.h>
#include <linux/major.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/tty.h>
#include <linux/tty_driver.h>
#include <linux/tty_flip.h>

#include "ckpt.h"
#include "tty.h"

#define FLIP_MAX	(32 * 1024)

#define END_FLAGS	(CKPT_TTY_EXCLUSIVE | CKPT_TTY_STOPPED | \
			 CKPT_TTY_TCO_STOPPED | CKPT_TTY_LNEXT | \
			 CKPT_TTY_ERASING | CKPT_TTY_PUSH)

struct end_bytes {
	struct ckpt_tty_text text;
	u8 flip[FLIP_MAX];
};

struct dump_room {
	struct ckpt_tty rec;
	struct end_bytes bytes;
	/* the variable part of the record */
	size_t len;
	u8 out[2 * sizeof(struct end_bytes) + PATH_MAX];
};

static void put(struct dump_room *room, const void *from, size_t len)
{
	memcpy(room->out + room->len, from, len);
	room->len += len;
}

static int read_attributes(struct tty_struct *tty, struct ckpt_tty_end *end)
{
	const struct ktermios *t = &tty->termios;

	down_read(&tty->termios_rwsem);
	end->iflag = t->c_iflag;
	end->oflag = t->c_oflag;
	end->cflag = t->c_cflag;
	end->lflag = t->c_lflag;
	end->ispeed = t->c_ispeed;
	end->ospeed = t->c_ospeed;
	end->line = t->c_line;
	memcpy(end->cc, t->c_cc, sizeof(end->cc));
	up_read(&tty->termios_rwsem);
	/*
	 * TIOCGWINSZ of a task outside may hold the mutex during a page fault
	 */
	if (mutex_lock_killable(&tty->winsize_mutex))
		return -EINTR;
	end->rows = tty->winsize.ws_row;
	end->cols = tty->winsize.ws_col;
	end->xpixel = tty->winsize.ws_xpixel;
	end->ypixel = tty->winsize.ws_ypixel;
	mutex_unlock(&tty->winsize_mutex);
	if (test_bit(TTY_EXCLUSIVE, &tty->flags))
		end->flags |= CKPT_TTY_EXCLUSIVE;
	spin_lock_irq(&tty->flow.lock);
	if (tty->flow.stopped)
		end->flags |= CKPT_TTY_STOPPED;
	if (tty->flow.tco_stopped)
		end->flags |= CKPT_TTY_TCO_STOPPED;
	spin_unlock_irq(&tty->flow.lock);
	spin_lock_irq(&tty->ctrl.lock);
	end->pktstatus = tty->ctrl.pktstatus;
	spin_unlock_irq(&tty->ctrl.lock);
	return 0;
}

static int read_end(struct ckpt_ctx *ctx, struct tty_struct *tty,
		    struct ckpt_tty_end *end, struct end_bytes *bytes)
{
	ssize_t n;
	int ret;

	if (memchr_inv(&tty->termios_locked, 0, sizeof(tty->termios_locked)))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: attributes locked by TIOCSLCKTRMIOS",
				tty->name);
	n = ckpt_tty_flip_get(tty->port, bytes->flip, sizeof(bytes->flip));
	if (n < 0)
		return ckpt_err(ctx, n, "%s: reading its flip buffer", tty->name);
	end->flip_len = n;
	ret = ckpt_n_tty_get(tty, end, &bytes->text);
	if (ret)
		return ckpt_err(ctx, ret, "%s: reading its line discipline",
				tty->name);
	return read_attributes(tty, end);
}

static void put_end(struct dump_room *room, const struct ckpt_tty_end *end)
{
	put(room, room->bytes.text.read, end->read_len);
	put(room, room->bytes.text.marks, end->read_len);
	put(room, room->bytes.text.echo, end->echo_len);
	put(room, room->bytes.flip, end->flip_len);
}

static void read_pair(struct ckpt_ctx *ctx, struct tty_struct *master,
		      struct ckpt_tty *rec)
{
	struct tty_struct *slave = master->link;
	struct inode *inode = d_inode((struct dentry *)slave->driver_data);
	struct user_namespace *ns = ctx->root->real_cred->user_ns;

	rec->index = master->index;
	if (test_bit(TTY_PTY_LOCK, &master->flags))
		rec->flags |= CKPT_TTY_LOCKED;
	if (master->ctrl.packet)
		rec->flags |= CKPT_TTY_PACKET;
	if (test_bit(TTY_OTHER_CLOSED, &master->flags))
		rec->flags |= CKPT_TTY_CLOSED;
	spin_lock_irq(&slave->ctrl.lock);
	rec->session = pid_nr_ns(slave->ctrl.session, ctx->pidns);
	rec->pgrp = pid_nr_ns(slave->ctrl.pgrp, ctx->pidns);
	spin_unlock_irq(&slave->ctrl.lock);
	rec->uid = from_kuid_munged(ns, inode->i_uid);
	rec->gid = from_kgid_munged(ns, inode->i_gid);
	rec->mode = inode->i_mode & S_IALLUGO;
}

static int dump_pair(struct ckpt_ctx *ctx, struct tty_struct *master,
		     struct file *file, u32 *ref)
{
	struct dump_room *room;
	bool deleted;
	char *name;
	int ret;

	if ((file->f_flags & O_ACCMODE) != O_RDWR)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: a master not open for reading and writing",
				master->name);
	room = kvzalloc(sizeof(*room), GFP_KERNEL_ACCOUNT);
	if (!room)
		return -ENOMEM;
	read_pair(ctx, master, &room->rec);
	ret = ckpt_obj_new(ctx, CKPT_REC_TTY, master, ref);
	/* the slave first: its pending echo becomes input of the master */
	if (!ret)
		ret = read_end(ctx, master->link, &room->rec.slave, &room->bytes);
	if (ret)
		goto out;
	put_end(room, &room->rec.slave);
	ret = read_end(ctx, master, &room->rec.master, &room->bytes);
	if (ret)
		goto out;
	put_end(room, &room->rec.master);
	name = ckpt_path(ctx, &file->f_path, ctx->page_buf, &deleted);
	if (IS_ERR(name) || deleted || strlen(name) >= PATH_MAX) {
		ret = ckpt_err(ctx, IS_ERR(name) ? PTR_ERR(name) : -EBUSY,
			       "%pD: not reachable from the root task's root directory",
			       file);
		goto out;
	}
	room->rec.path_len = strlen(name);
	put(room, name, room->rec.path_len);
	ret = ckpt_write(ctx, CKPT_REC_TTY, *ref, &room->rec, sizeof(room->rec),
			 room->out, room->len);
out:
	kvfree(room);
	return ret;
}

/**
 * ckpt_dump_tty - write the pair that a pseudo-terminal is an end of
 * @ctx: the checkpoint
 * @tty: either end
 * @ref: gets the pair's objref
 *
 * ckpt_check_ttys() detects open files outside the tree.
 *
 * Return: 0, or a negative errno.
 */
int ckpt_dump_tty(struct ckpt_ctx *ctx, struct tty_struct *tty, u32 *ref)
{
	struct tty_struct *master = ckpt_is_ptm(tty) ? tty : tty->link;
	struct file *file;
	int ret;

	if (ckpt_obj_lookup(ctx, CKPT_REC_TTY, master, ref))
		return 0;
	ckpt_tty_files(master, &file);
	if (!file)
		return ckpt_err(ctx, -EBUSY, "pts%d: its master is closed",
				master->index);
	ret = dump_pair(ctx, master, file, ref);
	fput(file);
	return ret;
}

/*
 * Return the next piece of the record's variable part, NULL if that is too
 * short.
 */
static const u8 *take(const u8 **from, size_t *left, size_t len)
{
	const u8 *piece = *from;

	if (len > *left)
		return NULL;
	*from += len;
	*left -= len;
	return piece;
}

static bool end_ok(const struct ckpt_tty_end *end, const u8 **from, size_t *left)
{
	const u8 *marks;
	u32 i;

	if (end->flags & ~END_FLAGS || end->read_len > N_TTY_BUF_SIZE ||
	    end->canon_len > end->read_len || end->echo_len >= N_TTY_BUF_SIZE ||
	    end->echo_commit > end->echo_len || end->echo_mark > end->echo_len ||
	    end->flip_len > FLIP_MAX || end->pktstatus > U8_MAX)
		return false;
	if (!take(from, left, end->read_len))
		return false;
	marks = take(from, left, end->read_len);
	if (!marks)
		return false;
	for (i = 0; i < end->read_len; i++)
		if (marks[i] > 1)
			return false;
	return take(from, left, end->echo_len) && take(from, left, end->flip_len);
}

static bool tty_ok(const struct ckpt_tty *rec, size_t len)
{
	const u8 *from = (const u8 *)(rec + 1);
	size_t left = len - sizeof(*rec);

	return rec->index < NR_UNIX98_PTY_MAX && rec->session >= 0 &&
	       rec->pgrp >= 0 && !rec->session == !rec->pgrp &&
	       !(rec->mode & ~S_IALLUGO) &&
	       !(rec->flags & ~(CKPT_TTY_LOCKED | CKPT_TTY_PACKET |
				CKPT_TTY_CLOSED)) &&
	       end_ok(&rec->slave, &from, &left) &&
	       end_ok(&rec->master, &from, &left) && left == rec->path_len &&
	       left && left < PATH_MAX && from[0] == '/' && !memchr(from, 0, left);
}

static struct file *open_master(struct ckpt_ctx *ctx, u32 index, const char *path)
{
	struct tty_struct *tty;
	struct file *file;

	current->ckpt_site.pty = index + 1;
	file = filp_open(path, O_RDWR | O_NOCTTY, 0);
	current->ckpt_site.pty = 0;
	if (IS_ERR(file))
		return ERR_PTR(ckpt_err(ctx, PTR_ERR(file),
					"opening %*pE for pseudo-terminal %u",
					(int)strlen(path), path, index));
	tty = ckpt_file_tty(file);
	if (!tty || !ckpt_is_ptm(tty) || tty->index != index) {
		__fput_sync(file);
		return ERR_PTR(ckpt_err(ctx, -ESTALE,
					"%*pE does not open pseudo-terminal %u",
					(int)strlen(path), path, index));
	}
	clear_bit(TTY_PTY_LOCK, &tty->flags);
	return file;
}

/* The object table keeps the master open until the release. */
int ckpt_restore_tty(struct ckpt_ctx *ctx)
{
	const struct ckpt_tty *rec = (const void *)ctx->rbuf;
	size_t len = ctx->rec.len - sizeof(*rec);
	struct ckpt_terminal *terminal;
	char *path;
	int ret = -ENOMEM;

	if (!tty_ok(rec, ctx->rec.len))
		return ckpt_err(ctx, -EINVAL, "malformed pseudo-terminal");
	terminal = kzalloc(sizeof(*terminal), GFP_KERNEL_ACCOUNT);
	path = kmemdup_nul((const char *)(rec + 1) + len - rec->path_len,
			   rec->path_len, GFP_KERNEL);
	if (!terminal || !path)
		goto fail;
	terminal->rec = *rec;
	terminal->bytes = kvmemdup(rec + 1, len, GFP_KERNEL_ACCOUNT);
	if (!terminal->bytes)
		goto fail;
	terminal->master = open_master(ctx, rec->index, path);
	if (IS_ERR(terminal->master)) {
		ret = PTR_ERR(terminal->master);
		goto fail;
	}
	ret = ckpt_obj_insert(ctx, CKPT_REC_TTY, ctx->rec.objref,
			      terminal->master);
	if (ret) {
		__fput_sync(terminal->master);
		goto fail;
	}
	list_add_tail(&terminal->list, &ctx->terminals);
	kfree(path);
	return 0;
fail:
	if (terminal)
		kvfree(terminal->bytes);
	kfree(terminal);
	kfree(path);
	return ret;
}

static void set_attributes(struct tty_struct *tty, const struct ckpt_tty_end *end)
{
	struct ktermios t = {
		.c_iflag = end->iflag, .c_oflag = end->oflag,
		.c_cflag = end->cflag, .c_lflag = end->lflag,
		.c_line = end->line,
		.c_ispeed = end->ispeed, .c_ospeed = end->ospeed,
	};

	memcpy(t.c_cc, end->cc, sizeof(t.c_cc));
	/*
	 * a master keeps its initial attributes, because tcsetattr(3) sets
	 * those of the slave
	 */
	if (ckpt_is_pts(tty))
		tty_set_termios(tty, &t);
	mutex_lock(&tty->winsize_mutex);
	tty->winsize = (struct winsize) {
		.ws_row = end->rows, .ws_col = end->cols,
		.ws_xpixel = end->xpixel, .ws_ypixel = end->ypixel,
	};
	mutex_unlock(&tty->winsize_mutex);
}

static int fill_end(struct tty_struct *tty, const struct ckpt_tty_end *end,
		    const u8 **from, struct ckpt_tty_text *text)
{
	size_t flipped;
	int ret;

	set_attributes(tty, end);
	memcpy(text->read, *from, end->read_len);
	*from += end->read_len;
	memcpy(text->marks, *from, end->read_len);
	*from += end->read_len;
	memcpy(text->echo, *from, end->echo_len);
	*from += end->echo_len;
	ret = ckpt_n_tty_set(tty, end, text);
	if (ret)
		return ret;
	spin_lock_irq(&tty->flow.lock);
	tty->flow.stopped = !!(end->flags & CKPT_TTY_STOPPED);
	tty->flow.tco_stopped = !!(end->flags & CKPT_TTY_TCO_STOPPED);
	spin_unlock_irq(&tty->flow.lock);
	spin_lock_irq(&tty->ctrl.lock);
	tty->ctrl.pktstatus = end->pktstatus;
	spin_unlock_irq(&tty->ctrl.lock);
	if (end->flags & CKPT_TTY_EXCLUSIVE)
		set_bit(TTY_EXCLUSIVE, &tty->flags);
	/*
	 * Do not push yet, because characters may cause signals. The lock is
	 * the one that pty_write() takes.
	 */
	spin_lock_irq(&tty->port->lock);
	flipped = tty_insert_flip_string(tty->port, *from, end->flip_len);
	spin_unlock_irq(&tty->port->lock);
	if (flipped != end->flip_len)
		return -ENOMEM;
	*from += end->flip_len;
	return 0;
}

static int set_owner(struct dentry *dentry, const struct ckpt_tty *rec)
{
	struct iattr attr = {
		.ia_valid = ATTR_MODE | ATTR_UID | ATTR_GID,
		.ia_mode = S_IFCHR | rec->mode,
		.ia_uid = make_kuid(current_user_ns(), rec->uid),
		.ia_gid = make_kgid(current_user_ns(), rec->gid),
	};
	int ret;

	if (!uid_valid(attr.ia_uid) || !gid_valid(attr.ia_gid))
		return -EINVAL;
	attr.ia_vfsuid = VFSUIDT_INIT(attr.ia_uid);
	attr.ia_vfsgid = VFSGIDT_INIT(attr.ia_gid);
	inode_lock(d_inode(dentry));
	ret = notify_change(&nop_mnt_idmap, dentry, &attr, NULL);
	inode_unlock(d_inode(dentry));
	return ret;
}

static int fill_pair(struct ckpt_terminal *terminal, struct ckpt_tty_text *text)
{
	struct tty_struct *master = ckpt_file_tty(terminal->master);
	struct tty_struct *slave = master->link;
	const struct ckpt_tty *rec = &terminal->rec;
	const u8 *from = terminal->bytes;
	int ret;

	ret = fill_end(slave, &rec->slave, &from, text);
	if (!ret)
		ret = fill_end(master, &rec->master, &from, text);
	if (!ret)
		ret = set_owner(slave->driver_data, rec);
	if (ret)
		return ret;
	spin_lock_irq(&master->ctrl.lock);
	master->ctrl.packet = !!(rec->flags & CKPT_TTY_PACKET);
	spin_unlock_irq(&master->ctrl.lock);
	if (rec->flags & CKPT_TTY_LOCKED)
		set_bit(TTY_PTY_LOCK, &master->flags);
	if (rec->flags & CKPT_TTY_CLOSED) {
		set_bit(TTY_IO_ERROR, &slave->flags);
		set_bit(TTY_OTHER_CLOSED, &master->flags);
	}
	return 0;
}

/**
 * ckpt_fill_ttys - restore attributes and buffered characters of all terminals
 * @ctx: the restart; all tasks have parked
 *
 * Return: 0, -EINVAL, -ENOMEM, or an errno of chown(2) of the slave.
 */
int ckpt_fill_ttys(struct ckpt_ctx *ctx)
{
	struct ckpt_terminal *terminal;
	struct ckpt_tty_text *text;
	int ret = 0;

	if (list_empty(&ctx->terminals))
		return 0;
	text = kvmalloc(sizeof(*text), GFP_KERNEL_ACCOUNT);
	if (!text)
		return -ENOMEM;
	list_for_each_entry(terminal, &ctx->terminals, list) {
		ret = fill_pair(terminal, text);
		if (ret) {
			ckpt_err(ctx, ret, "filling pseudo-terminal %u",
				 terminal->rec.index);
			break;
		}
	}
	kvfree(text);
	return ret;
}

/**
 * ckpt_push_ttys - process the characters of the flip buffers, publish the
 * slaves
 * @ctx: the restart; sessions and process groups are restored
 *
 * Characters may cause signals to the foreground group. After this, all tasks
 * can open the slaves by their paths.
 */
void ckpt_push_ttys(struct ckpt_ctx *ctx)
{
	struct ckpt_terminal *terminal;

	list_for_each_entry(terminal, &ctx->terminals, list) {
		struct tty_struct *master = ckpt_file_tty(terminal->master);

		if (terminal->rec.master.flip_len)
			tty_flip_buffer_push(master->port);
		if (terminal->rec.slave.flip_len)
			tty_flip_buffer_push(master->link->port);
		WRITE_ONCE(master->link->restart, 0);
	}
}

void ckpt_free_ttys(struct ckpt_ctx *ctx)
{
	struct ckpt_terminal *terminal, *next;

	list_for_each_entry_safe(terminal, next, &ctx->terminals, list) {
		list_del(&terminal->list);
		kvfree(terminal->bytes);
		kfree(terminal);
	}
}
