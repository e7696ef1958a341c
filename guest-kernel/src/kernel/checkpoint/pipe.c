// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pipes: size, content, and ends.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/magic.h>
#include <linux/pipe_fs_i.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "ckpt.h"

/*
 * Return true if the page is also mapped or part of a file. Changes to the page
 * would no longer reach a restored copy. A page that several pipes share
 * (tee(2)) is read-only.
 */
static bool is_shared(const struct pipe_buffer *buf)
{
	struct folio *folio = page_folio(buf->page);

	if (folio_test_anon(folio))
		return folio_mapped(folio) || folio_test_swapcache(folio);
	return folio->mapping;
}

/*
 * Copy the buffer in slot @slot, and write the copy with the mutex dropped,
 * because the image may go to a pipe, even to this one. Returns -EAGAIN if
 * @head has moved since, or if a task outside that shares the open file has
 * read the buffer.
 */
static int dump_buf(struct ckpt_ctx *ctx, struct pipe_inode_info *pipe,
		    unsigned int slot, unsigned int head, unsigned long ino,
		    char *data)
{
	struct ckpt_pipe_buf rec = { };
	struct pipe_buffer *buf;
	int ret = -EAGAIN;

	/* a task outside may hold the mutex during a page fault */
	if (mutex_lock_killable(&pipe->mutex))
		return -EINTR;
	if (pipe->head != head || (int)(slot - pipe->tail) < 0)
		goto unlock;
	buf = &pipe->bufs[slot & (pipe->ring_size - 1)];
	rec.len = buf->len;
	if (buf->flags & PIPE_BUF_FLAG_PACKET)
		rec.flags |= CKPT_PIPE_BUF_PACKET;
	if (buf->flags & PIPE_BUF_FLAG_CAN_MERGE)
		rec.flags |= CKPT_PIPE_BUF_MERGE;
	ret = -EOPNOTSUPP;
	if (buf->offset + buf->len > PAGE_SIZE)
		goto unlock;
	ret = pipe_buf_confirm(pipe, buf);
	if (!ret && is_shared(buf))
		ret = ckpt_err(ctx, -EOPNOTSUPP,
			       "pipe:[%lu] holds pages of a program's memory or of a file (vmsplice, splice): a copy would not follow changes to these",
			       ino);
	if (!ret)
		memcpy_from_page(data, buf->page, buf->offset, buf->len);
unlock:
	mutex_unlock(&pipe->mutex);
	if (ret)
		return ret;
	return ckpt_write(ctx, CKPT_REC_PIPE_BUF, 0, &rec, sizeof(rec), data,
			  rec.len);
}

/**
 * ckpt_dump_pipe - write the pipe that a file is an end of
 * @ctx: the checkpoint
 * @file: the end
 * @ref: gets the pipe's objref
 *
 * ckpt_check_pipes() detects ends outside the tree when all ends inside are
 * known.
 *
 * Return: 0 or a negative errno.
 */
int ckpt_dump_pipe(struct ckpt_ctx *ctx, struct file *file, u32 *ref)
{
	struct pipe_inode_info *pipe = get_pipe_info(file, false);
	struct inode *inode = file_inode(file);
	struct ckpt_pipe rec = {
		.ino = inode->i_ino, .mode = inode->i_mode,
	};
	unsigned int head, tail;
	char *data;
	int ret;

	if (!pipe)
		return ckpt_err(ctx, -EOPNOTSUPP, "a notification pipe");
	if (ckpt_obj_lookup(ctx, CKPT_REC_PIPE, inode, ref))
		return 0;
	ret = ckpt_get_owner(ctx, inode, "pipe", &rec.uid, &rec.gid);
	if (!ret)
		ret = ckpt_obj_new(ctx, CKPT_REC_PIPE, inode, ref);
	if (ret)
		return ret;
	ckpt_get_times(inode, &rec.times);
	data = kmalloc(PAGE_SIZE, GFP_KERNEL);
	if (!data)
		return -ENOMEM;
	if (mutex_lock_killable(&pipe->mutex)) {
		kfree(data);
		return -EINTR;
	}
	head = pipe->head;
	tail = pipe->tail;
	rec.ring_size = pipe->max_usage;
	rec.nr_bufs = pipe_occupancy(head, tail);
	mutex_unlock(&pipe->mutex);
	ret = ckpt_write(ctx, CKPT_REC_PIPE, *ref, &rec, sizeof(rec), NULL, 0);
	for (; tail != head && !ret; tail++)
		ret = dump_buf(ctx, pipe, tail, head, rec.ino, data);
	kfree(data);
	if (ret)
		return ckpt_err(ctx, ret, "reading a pipe's content");
	return 0;
}

/**
 * ckpt_check_pipes - refuse pipes with an end outside the tree
 * @ctx: the checkpoint, all its objects known
 *
 * Return: 0 or -EBUSY.
 */
int ckpt_check_pipes(struct ckpt_ctx *ctx)
{
	struct ckpt_obj *obj, *end;
	unsigned long i, j;

	xa_for_each(&ctx->objs, i, obj) {
		struct inode *inode = obj->ptr;
		unsigned int ends = 0;

		if (obj->type != CKPT_REC_PIPE)
			continue;
		xa_for_each(&ctx->objs, j, end)
			if (end->type == CKPT_REC_FILE &&
			    file_inode(end->ptr) == inode)
				ends++;
		if (inode->i_pipe->files != ends)
			return ckpt_err(ctx, -EBUSY,
					"pipe:[%lu] has %u ends, %u of them in the tree",
					inode->i_ino, inode->i_pipe->files, ends);
	}
	return 0;
}

static int fill_pipe(struct ckpt_ctx *ctx, struct pipe_inode_info *pipe,
		     unsigned int nr)
{
	unsigned int i;
	int ret;

	for (i = 0; i < nr; i++) {
		const struct ckpt_pipe_buf *rec;
		struct pipe_buffer *buf;
		struct page *page;

		ret = ckpt_read(ctx);
		if (ret)
			return ret;
		rec = (const void *)ctx->rbuf;
		if (ctx->rec.type != CKPT_REC_PIPE_BUF ||
		    rec->len != ctx->rec.len - sizeof(*rec) ||
		    rec->len > PAGE_SIZE || !rec->len ||
		    rec->flags & ~(CKPT_PIPE_BUF_PACKET | CKPT_PIPE_BUF_MERGE))
			return ckpt_err(ctx, -EINVAL, "malformed pipe content");
		page = alloc_page(GFP_HIGHUSER | __GFP_ACCOUNT);
		if (!page)
			return -ENOMEM;
		memcpy_to_page(page, 0, (const char *)(rec + 1), rec->len);
		buf = &pipe->bufs[pipe->head & (pipe->ring_size - 1)];
		*buf = (struct pipe_buffer) {
			.page = page, .len = rec->len,
			.ops = &nosteal_pipe_buf_ops,
		};
		if (rec->flags & CKPT_PIPE_BUF_PACKET &&
		    !ckpt_broken(CKPT_BREAK_PIPE_FLAG))
			buf->flags |= PIPE_BUF_FLAG_PACKET;
		if (rec->flags & CKPT_PIPE_BUF_MERGE)
			buf->flags |= PIPE_BUF_FLAG_CAN_MERGE;
		pipe->head++;
	}
	return 0;
}

/*
 * The object table keeps one end open, so that other ends can be opened from
 * it.
 */
int ckpt_restore_pipe(struct ckpt_ctx *ctx)
{
	const struct ckpt_pipe p = *(const struct ckpt_pipe *)ctx->rbuf;
	u32 ref = ctx->rec.objref, nr = p.nr_bufs, slots = p.ring_size;
	struct iattr none = { };
	struct pipe_inode_info *pipe;
	struct file *ends[2];
	int ret;

	if (!slots || slots > 1U << 16 || nr > roundup_pow_of_two(slots) ||
	    !S_ISFIFO(p.mode) || p.mode > (S_IFIFO | S_IALLUGO) || p.pad ||
	    !ckpt_times_ok(&p.times))
		return ckpt_err(ctx, -EINVAL, "malformed pipe");
	ret = create_pipe_files(ends, 0);
	if (ret)
		return ret;
	pipe = get_pipe_info(ends[0], false);
	if (slots != pipe->max_usage) {
		ret = pipe_fcntl(ends[0], F_SETPIPE_SZ, slots * PAGE_SIZE);
		ret = ret < 0 ? ckpt_err(ctx, ret, "pipe of %u pages", slots) : 0;
	}
	/* no lock: no other task can reach the pipe yet */
	if (!ret && nr > pipe->ring_size)
		ret = ckpt_err(ctx, -EINVAL, "malformed pipe");
	if (!ret)
		ret = fill_pipe(ctx, pipe, nr);
	if (!ret) {
		ret = ckpt_set_owner(ends[0], p.uid, p.gid, p.mode, &none);
		if (ret)
			ckpt_err(ctx, ret, "setting a pipe's owner: uid %u, gid %u, mode %o",
				 p.uid, p.gid, p.mode);
	}
	if (!ret)
		ckpt_set_times(file_inode(ends[0]), &p.times);
	if (!ret)
		ret = ckpt_obj_insert(ctx, CKPT_REC_PIPE, ref, ends[0]);
	if (!ckpt_broken(CKPT_BREAK_PIPE_END))
		__fput_sync(ends[1]);
	if (ret)
		__fput_sync(ends[0]);
	return ret;
}

struct file *ckpt_open_pipe(struct ckpt_ctx *ctx, const struct ckpt_file *rec)
{
	struct file *end = ckpt_obj_fetch(ctx, CKPT_REC_PIPE, rec->inode), *file;

	if (IS_ERR(end))
		return end;
	/*
	 * O_DIRECT is packet mode for pipe2(2) and F_SETFL, but not for open(2)
	 */
	file = dentry_open(&end->f_path, rec->flags & ~O_DIRECT, current_cred());
	if (!IS_ERR(file) && rec->flags & O_DIRECT) {
		spin_lock(&file->f_lock);
		file->f_flags |= O_DIRECT;
		spin_unlock(&file->f_lock);
	}
	return file;
}
