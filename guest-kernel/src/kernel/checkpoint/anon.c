// SPDX-License-Identifier: GPL-2.0-only
/*
 * Files of anon_inodefs. Each has one open file, so its state is not a separate
 * object, but a record right after that of the open file.
 */
#include <linux/err.h>
#include <linux/fcntl.h>
#include <linux/file.h>

#include "ckpt.h"

/* Flags that F_SETFL can change. */
#define ANON_FLAGS	(O_NONBLOCK | O_APPEND | O_NOATIME | O_LARGEFILE)

static int dump_eventfd(struct ckpt_ctx *ctx, struct file *file)
{
	struct ckpt_eventfd rec = { };
	bool semaphore;
	int ret;

	ret = ckpt_eventfd_get(file, &rec.count, &semaphore);
	if (ret)
		return ckpt_err(ctx, ret, "an eventfd that the kernel signals");
	rec.semaphore = semaphore;
	return ckpt_write(ctx, CKPT_REC_EVENTFD, 0, &rec, sizeof(rec), NULL, 0);
}

static struct file *create_eventfd(struct ckpt_ctx *ctx)
{
	const struct ckpt_eventfd *rec = (const void *)ctx->rbuf;

	if (rec->semaphore > 1 || rec->pad)
		return ERR_PTR(ckpt_err(ctx, -EINVAL, "malformed eventfd"));
	return ckpt_eventfd_create(rec->count, rec->semaphore);
}

static int dump_signalfd(struct ckpt_ctx *ctx, struct file *file)
{
	struct ckpt_signalfd rec = { .mask = ckpt_signalfd_mask(file) };

	return ckpt_write(ctx, CKPT_REC_SIGNALFD, 0, &rec, sizeof(rec), NULL, 0);
}

static struct file *create_signalfd(struct ckpt_ctx *ctx)
{
	const struct ckpt_signalfd *rec = (const void *)ctx->rbuf;

	return ckpt_signalfd_create(rec->mask);
}

static const struct anon_kind {
	u32 kind;
	u32 rec;	/* the record that follows, 0 for none */
	u32 access;	/* the only access mode, O_* */
	bool (*is)(const struct file *file);
	int (*dump)(struct ckpt_ctx *ctx, struct file *file);
	struct file *(*create)(struct ckpt_ctx *ctx);
} anon_kinds[] = {
	{ CKPT_FILE_EVENTFD, CKPT_REC_EVENTFD, O_RDWR, ckpt_is_eventfd,
	  dump_eventfd, create_eventfd },
	{ CKPT_FILE_SIGNALFD, CKPT_REC_SIGNALFD, O_RDWR, ckpt_is_signalfd,
	  dump_signalfd, create_signalfd },
	{ CKPT_FILE_TIMERFD, CKPT_REC_TIMERFD, O_RDWR, ckpt_is_timerfd,
	  ckpt_dump_timerfd, ckpt_open_timerfd },
	{ CKPT_FILE_EPOLL, 0, O_RDWR, ckpt_is_epoll, NULL, ckpt_open_epoll },
	{ CKPT_FILE_INOTIFY, CKPT_REC_INOTIFY, O_RDONLY, ckpt_is_inotify,
	  ckpt_dump_inotify, ckpt_open_inotify },
};

/**
 * ckpt_anon_kind - return the kind of a file of anon_inodefs
 * @file: any file
 *
 * Return: CKPT_FILE_*, 0 for an unknown kind.
 */
u32 ckpt_anon_kind(const struct file *file)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(anon_kinds); i++)
		if (anon_kinds[i].is(file))
			return anon_kinds[i].kind;
	return 0;
}

/**
 * ckpt_dump_anon - write the state of a file whose own record is written
 * @ctx: the checkpoint
 * @file: any file; of other kinds nothing is written
 *
 * Return: 0 or a negative errno.
 */
int ckpt_dump_anon(struct ckpt_ctx *ctx, struct file *file)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(anon_kinds); i++)
		if (anon_kinds[i].dump && anon_kinds[i].is(file))
			return anon_kinds[i].dump(ctx, file);
	return 0;
}

static const struct anon_kind *find_kind(u32 kind)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(anon_kinds); i++)
		if (anon_kinds[i].kind == kind)
			return &anon_kinds[i];
	return NULL;
}

/**
 * ckpt_open_anon - read the state of a file and create it
 * @ctx: the restart
 * @rec: a copy of the file's record, since ctx->rbuf is overwritten
 *
 * Return: the file, or ERR_PTR().
 */
struct file *ckpt_open_anon(struct ckpt_ctx *ctx, const struct ckpt_file *rec)
{
	const struct anon_kind *kind = find_kind(rec->kind);
	struct file *file;
	int ret;

	if (!kind)
		return ERR_PTR(ckpt_err(ctx, -EINVAL, "a file of unknown kind %u",
					rec->kind));
	if (rec->flags & ~(ANON_FLAGS | O_ACCMODE) ||
	    (rec->flags & O_ACCMODE) != kind->access || rec->pos ||
	    rec->inode || rec->rdev || rec->path_len)
		return ERR_PTR(ckpt_err(ctx, -EINVAL, "malformed file"));
	if (kind->rec) {
		ret = ckpt_read(ctx);
		if (ret)
			return ERR_PTR(ret);
		if (ctx->rec.type != kind->rec)
			return ERR_PTR(ckpt_err(ctx, -EINVAL, "%s, expected %s",
						ckpt_rec_name(ctx->rec.type),
						ckpt_rec_name(kind->rec)));
	}
	file = kind->create(ctx);
	if (!IS_ERR(file))
		file->f_flags = rec->flags;
	return file;
}
