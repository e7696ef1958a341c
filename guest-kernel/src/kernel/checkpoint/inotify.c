// SPDX-License-Identifier: GPL-2.0-only
/*
 * Inotify instances: their watches and their queued events.
 *
 * A watch refers to an inode; the image names the inode by a path that leads to
 * it at the checkpoint. A restored watch has an empty mask until the tasks are
 * released, so that files opened by the restart itself are not reported.
 */
#include <linux/dcache.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/fsnotify_backend.h>
#include <linux/inotify.h>
#include <linux/list.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/nsproxy.h>
#include <linux/security.h>
#include <linux/slab.h>

#include "ckpt.h"

#define WATCH_MASK	(IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT)

/* A restored inotify instance whose watches have an empty mask. */
struct ckpt_watches {
	struct list_head list;
	struct file *file;	/* reference held */
	u32 nr;
	struct {
		int wd;
		u32 mask;
	} watches[];
};

/* Return a path of a watched file in ctx->page_buf, or ERR_PTR(). */
static char *watch_path(struct ckpt_ctx *ctx, struct dentry *dentry)
{
	char *name = ERR_PTR(-EBUSY);
	struct path path = { .dentry = dentry };
	bool deleted;
	unsigned int n;

	for (n = 0; IS_ERR(name) && name != ERR_PTR(-ENOMEM); n++) {
		path.mnt = ckpt_mount_of(ctx->nsproxy->mnt_ns, dentry, n);
		if (!path.mnt)
			break;
		name = ckpt_path(ctx, &path, ctx->page_buf, &deleted);
		if (!IS_ERR(name) && deleted)
			name = ERR_PTR(-ENOENT);
		/* a mount on the way may hide the file */
		if (!IS_ERR(name)) {
			struct path found;
			int ret = vfs_path_lookup(ctx->root_path.dentry,
						  ctx->root_path.mnt, name, 0,
						  &found);

			if (ret == -ENOMEM)
				name = ERR_PTR(ret);
			else if (ret || d_inode(found.dentry) != d_inode(dentry))
				name = ERR_PTR(-EBUSY);
			if (!ret)
				path_put(&found);
		}
		mntput(path.mnt);
	}
	return name;
}

static int dump_watch(struct ckpt_ctx *ctx, struct inode *inode, int wd, u32 mask)
{
	struct ckpt_watch rec = {
		.wd = wd, .mask = mask, .mode = inode->i_mode & S_IFMT,
		.ino = inode->i_ino,
	};
	struct dentry *dentry;
	char *name;
	int ret;

	if (!ckpt_known_fs(inode->i_sb))
		return ckpt_err(ctx, -EOPNOTSUPP, "inotify watches a file on %s",
				inode->i_sb->s_type->name);
	dentry = d_find_alias(inode);
	name = dentry ? watch_path(ctx, dentry) : ERR_PTR(-ENOENT);
	if (IS_ERR(name)) {
		dput(dentry);
		if (name == ERR_PTR(-ENOMEM))
			return -ENOMEM;
		return ckpt_err(ctx, -EBUSY,
				"inotify watches inode %lu on %s, which has no path",
				inode->i_ino, inode->i_sb->s_type->name);
	}
	rec.path_len = strlen(name);
	ret = ckpt_write(ctx, CKPT_REC_WATCH, 0, &rec, sizeof(rec), name,
			 rec.path_len);
	dput(dentry);
	return ret;
}

static unsigned int count_watches(struct file *file)
{
	struct inode *inode;
	unsigned int n;
	int wd = 1;
	u32 mask;

	for (n = 0; (inode = ckpt_inotify_watch(file, &wd, &mask)); n++, wd++)
		ckpt_inotify_put_watch(inode);
	return n;
}

static int dump_watches(struct ckpt_ctx *ctx, struct file *file, unsigned int nr)
{
	struct inode *inode;
	int wd = 1, ret = 0;
	u32 mask;

	for (; !ret && (inode = ckpt_inotify_watch(file, &wd, &mask)); wd++) {
		ret = nr-- ? dump_watch(ctx, inode, wd, mask) : -EAGAIN;
		ckpt_inotify_put_watch(inode);
		cond_resched();
	}
	/* a task outside may delete a watched file during the checkpoint */
	return ret ?: nr ? -EAGAIN : 0;
}

static int dump_events(struct ckpt_ctx *ctx, const char *buf, size_t len)
{
	size_t at = 0;
	int ret = 0;

	while (at < len && !ret) {
		struct ckpt_inotify_event rec;

		memcpy(&rec, buf + at, sizeof(rec));
		ret = ckpt_write(ctx, CKPT_REC_INOTIFY_EVENT, 0, buf + at,
				 sizeof(rec) + rec.name_len, NULL, 0);
		at += sizeof(rec) + rec.name_len;
	}
	return ret;
}

static u32 count_events(const char *buf, size_t len)
{
	size_t at = 0;
	u32 n;

	for (n = 0; at < len; n++) {
		struct ckpt_inotify_event rec;

		memcpy(&rec, buf + at, sizeof(rec));
		at += sizeof(rec) + rec.name_len;
	}
	return n;
}

int ckpt_dump_inotify(struct ckpt_ctx *ctx, struct file *file)
{
	size_t len = ckpt_inotify_events(file, NULL, 0);
	struct ckpt_inotify rec = {
		.nr_watches = count_watches(file),
		.next_wd = ckpt_inotify_next_wd(file),
	};
	char *buf = kvmalloc(len ?: 1, GFP_KERNEL_ACCOUNT);
	int ret;

	if (!buf)
		return -ENOMEM;
	if (ckpt_inotify_events(file, buf, len) != len) {
		kvfree(buf);
		return ckpt_err(ctx, -EAGAIN,
				"inotify: events arrive during the checkpoint: try again");
	}
	rec.nr_events = count_events(buf, len);
	ret = ckpt_write(ctx, CKPT_REC_INOTIFY, 0, &rec, sizeof(rec), NULL, 0);
	if (!ret)
		ret = dump_watches(ctx, file, rec.nr_watches);
	if (!ret)
		ret = dump_events(ctx, buf, len);
	kvfree(buf);
	return ret;
}

static int read_as(struct ckpt_ctx *ctx, u32 type)
{
	int ret = ckpt_read(ctx);

	if (!ret && ctx->rec.type != type)
		ret = ckpt_err(ctx, -EINVAL, "%s, expected %s",
			       ckpt_rec_name(ctx->rec.type), ckpt_rec_name(type));
	return ret;
}

/* Add a watch with the checks of inotify_add_watch(2). */
static int add_watch(struct ckpt_ctx *ctx, struct file *file)
{
	const struct ckpt_watch *rec = (const void *)ctx->rbuf;
	struct inode *inode;
	struct path path;
	char *name;
	int ret;

	if ((rec->path_len != ctx->rec.len - sizeof(*rec) &&
	     !ckpt_broken(CKPT_BREAK_CHECK_LENGTH)) ||
	    rec->wd < 1 || rec->mask & ~WATCH_MASK)
		return ckpt_err(ctx, -EINVAL, "malformed watch");
	name = kmemdup_nul((const char *)(rec + 1), rec->path_len, GFP_KERNEL);
	if (!name)
		return -ENOMEM;
	ret = -EINVAL;
	if (name[0] == '/' && strlen(name) == rec->path_len)
		ret = kern_path(name, 0, &path);
	if (ret)
		goto out;
	inode = d_inode(path.dentry);
	ret = path_permission(&path, MAY_READ);
	if (!ret)
		ret = security_path_notify(&path, rec->mask & IN_ALL_EVENTS,
					   FSNOTIFY_OBJ_TYPE_INODE);
	if (!ret && ((inode->i_mode & S_IFMT) != rec->mode ||
		     (S_ISREG(inode->i_mode) && inode->i_ino != rec->ino)))
		ret = -ESTALE;
	if (!ret)
		ret = ckpt_inotify_add(file, inode, rec->wd);
	/* two watches of one inode: the image is forged */
	if (ret == -EEXIST)
		ret = -EINVAL;
	path_put(&path);
out:
	if (ret)
		ckpt_err(ctx, ret, "adding an inotify watch of %*pE",
			 rec->path_len, name);
	kfree(name);
	return ret;
}

static int add_watches(struct ckpt_ctx *ctx, struct ckpt_watches *watches, u32 nr)
{
	const struct ckpt_watch *rec;
	u32 i;
	int ret;

	for (i = 0; i < nr; i++) {
		ret = read_as(ctx, CKPT_REC_WATCH);
		if (!ret)
			ret = add_watch(ctx, watches->file);
		if (ret)
			return ret;
		rec = (const void *)ctx->rbuf;
		watches->watches[i].wd = rec->wd;
		watches->watches[i].mask = rec->mask;
		watches->nr++;
		cond_resched();
	}
	return 0;
}

static bool event_ok(const struct ckpt_inotify_event *rec, size_t len)
{
	const char *name = (const char *)(rec + 1);

	if (rec->name_len != len || len > NAME_MAX ||
	    rec->mask & ~ALL_FSNOTIFY_BITS || strnlen(name, len) != len)
		return false;
	if (rec->mask & FS_Q_OVERFLOW)
		return rec->mask == FS_Q_OVERFLOW && rec->wd == -1 && !len &&
		       !rec->cookie;
	return rec->wd >= 1;
}

static int add_events(struct ckpt_ctx *ctx, struct file *file, u32 nr)
{
	const struct ckpt_inotify_event *rec;
	bool overflow = false;
	int ret;

	while (nr--) {
		ret = read_as(ctx, CKPT_REC_INOTIFY_EVENT);
		if (ret)
			return ret;
		rec = (const void *)ctx->rbuf;
		if (!event_ok(rec, ctx->rec.len - sizeof(*rec)) ||
		    (overflow && rec->mask & FS_Q_OVERFLOW))
			return ckpt_err(ctx, -EINVAL, "malformed event");
		overflow |= rec->mask & FS_Q_OVERFLOW;
		ret = ckpt_inotify_queue(file, rec);
		if (ret)
			return ckpt_err(ctx, ret, "queueing an inotify event");
		cond_resched();
	}
	return 0;
}

/* The highest limit of watches per user that inotify sets at boot. */
#define MAX_WATCHES	1048576

struct file *ckpt_open_inotify(struct ckpt_ctx *ctx)
{
	const struct ckpt_inotify rec = *(const struct ckpt_inotify *)ctx->rbuf;
	struct ckpt_watches *watches;
	struct file *file;
	int ret;

	if (rec.nr_watches > MAX_WATCHES || rec.next_wd > INT_MAX || rec.pad)
		return ERR_PTR(ckpt_err(ctx, -EINVAL, "malformed inotify file"));
	watches = kvzalloc(struct_size(watches, watches, rec.nr_watches),
			   GFP_KERNEL_ACCOUNT);
	if (!watches)
		return ERR_PTR(-ENOMEM);
	file = ckpt_inotify_create();
	if (IS_ERR(file)) {
		kvfree(watches);
		return file;
	}
	watches->file = file;
	ret = add_watches(ctx, watches, rec.nr_watches);
	if (!ret)
		ret = add_events(ctx, file, rec.nr_events);
	if (ret) {
		kvfree(watches);
		__fput_sync(file);
		return ERR_PTR(ret);
	}
	ckpt_inotify_set_next_wd(file, rec.next_wd);
	get_file(file);
	list_add_tail(&watches->list, &ctx->inotifies);
	return file;
}

/**
 * ckpt_arm_watches - set the masks of the restored watches
 * @ctx: the restart, about to release its tasks
 */
void ckpt_arm_watches(struct ckpt_ctx *ctx)
{
	struct ckpt_watches *watches;
	u32 i;

	list_for_each_entry(watches, &ctx->inotifies, list)
		for (i = 0; i < watches->nr; i++)
			ckpt_inotify_arm(watches->file, watches->watches[i].wd,
					 watches->watches[i].mask);
}

void ckpt_free_watches(struct ckpt_ctx *ctx)
{
	struct ckpt_watches *watches, *next;

	list_for_each_entry_safe(watches, next, &ctx->inotifies, list) {
		list_del(&watches->list);
		fput(watches->file);
		kvfree(watches);
	}
}
